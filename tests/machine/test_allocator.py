import dataclasses
import json

import pytest

from ryot_jax.machine import allocator
from ryot_jax.machine.allocator import configure_allocator

# Page faults of 20 runs of a step with 66 MiB of temporary memory, after 10 runs in which the heap settles.
# glibc learns to keep blocks of up to 32 MiB by itself, so a smaller step would show nothing.
COUNT_FAULTS = """
import json, resource, sys
from dataclasses import asdict
from ryot_jax.machine.allocator import configure_allocator
record = configure_allocator(sys.argv[1] == "on")
import jax, jax.numpy as jnp
import numpy as np

def step(x_NM):
    for _ in range(2):
        x_NM = jnp.sin(x_NM @ x_NM.T @ x_NM)
    return x_NM.sum()

x_NM = np.ones((4096, 64), np.float32)
compiled = jax.jit(step).lower(x_NM).compile()
for _ in range(10):
    compiled(x_NM).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    compiled(x_NM).block_until_ready()
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
temporary = compiled.memory_analysis().temp_size_in_bytes
print(json.dumps({"faults": faults, "temporary": temporary, "record": asdict(record)}))
"""


def is_plain_glibc() -> bool:
    return allocator._obstacle() is None


@pytest.mark.skipif(not is_plain_glibc(), reason="only glibc's own allocator is set")
def test_a_repeated_step_no_longer_faults_its_memory_in(run_python):
    measured = {
        setting: json.loads(run_python("-c", COUNT_FAULTS, setting, environment={"JAX_PLATFORMS": "cpu"}).stdout)
        for setting in ("off", "on")
    }
    assert measured["on"]["temporary"] > 32 * 2**20
    assert measured["on"]["record"]["applied"]
    assert not measured["off"]["record"]["applied"]
    # Without the setting each run faults all its pages in; with it none, but for a rare move of the block.
    assert measured["on"]["faults"] < 0.3 * measured["off"]["faults"]


def test_off_changes_nothing_and_says_so(monkeypatch):
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: pytest.fail("the C library was called"))
    record = configure_allocator(enabled=False)
    assert (record.applied, record.settings) == (False, {})
    assert "runtime.allocator" in record.reason


@pytest.mark.parametrize("libc", ["", None, "musl 1.2"])
def test_other_c_libraries_are_left_alone(monkeypatch, libc):
    monkeypatch.setattr(allocator.os, "confstr", lambda _: libc)
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: pytest.fail("the C library was called"))
    assert configure_allocator().reason == "the C library is not glibc"


def test_what_the_user_set_is_left_alone(monkeypatch):
    monkeypatch.setattr(allocator.os, "confstr", lambda _: "glibc 2.36")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: pytest.fail("the C library was called"))
    assert "GLIBC_TUNABLES" in configure_allocator().reason


def test_a_refused_setting_is_named(monkeypatch):
    class Library:
        @staticmethod
        def mallopt(parameter, value):
            return 0 if parameter == -8 else 1

    monkeypatch.setattr(allocator, "_obstacle", lambda: None)
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: Library)
    monkeypatch.setattr(allocator, "_arenas", lambda: 1)
    record = configure_allocator()
    assert not record.applied
    assert record.reason == "glibc refused M_ARENA_MAX"
    assert "M_ARENA_MAX" not in record.settings


def test_record_goes_into_json():
    json.dumps(dataclasses.asdict(configure_allocator(enabled=False)))


TOO_LATE = """
import ctypes, threading
from ryot_jax.machine.allocator import configure_allocator
malloc = ctypes.CDLL(None).malloc
thread = threading.Thread(target=malloc, args=(1000,))
thread.start()
thread.join()
print(configure_allocator())
"""


@pytest.mark.skipif(not is_plain_glibc(), reason="only glibc's own allocator is set")
def test_a_thread_that_came_first_is_noticed(run_python):
    told = run_python("-c", TOO_LATE).stdout
    assert "applied=False" in told
    assert "set too late" in told


@pytest.mark.skipif(not is_plain_glibc(), reason="only glibc's own allocator is set")
def test_the_command_line_sets_it_before_anything_starts_a_thread(run_python):
    program = (
        "import sys, threading\n"
        "from ryot_jax import main\n"
        "from ryot_jax.machine import allocator\n"
        "seen = []\n"
        "real = allocator.configure_allocator\n"
        "main.configure_allocator = lambda enabled: (seen.append((threading.active_count(), 'jax' in sys.modules, "
        "'matplotlib' in sys.modules)), real(enabled))[1]\n"
        "sys.argv = ['ryot', 'doctor']\n"
        "main.console()\n"
        "print(seen)\n"
    )
    told = run_python("-c", program, environment={"JAX_PLATFORMS": "cpu"}).stdout
    assert "allocator:  glibc keeps freed memory" in told
    assert "[(1, False, False)]" in told
