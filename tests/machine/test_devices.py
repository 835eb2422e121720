import dataclasses
import json

import jax

from ryot_jax.machine import devices, processor

COMPILE = """
import sys, json
from pathlib import Path
from ryot_jax.machine.devices import enable_compilation_cache
folder = enable_compilation_cache(Path(sys.argv[1]))
import jax, jax.numpy as jnp
jax.jit(lambda x: x + 1)(jnp.ones(3))
print(json.dumps(sorted(path.name for path in folder.glob("*-cache"))))
"""


def test_every_program_is_kept_on_disk_and_found_again(run_python, tmp_path):
    first = json.loads(run_python("-c", COMPILE, str(tmp_path)).stdout)
    assert first, "the smallest program of all was not kept"
    assert json.loads(run_python("-c", COMPILE, str(tmp_path)).stdout) == first


def test_programs_of_other_machines_are_kept_apart(monkeypatch, tmp_path):
    updates = []
    monkeypatch.setattr(devices.jax.config, "update", lambda name, value: updates.append(name))
    folders = set()
    for info in ({"model name": "A", "flags": "avx2"}, {"model name": "A", "flags": "avx2 avx512f"}):
        monkeypatch.setattr(processor, "_cpuinfo", lambda info=info: info)
        folders.add(devices.enable_compilation_cache(tmp_path))
    assert len(folders) == 2
    assert "jax_compilation_cache_dir" in updates


def test_devices_are_those_of_jax():
    found = devices.describe_devices()
    assert found.platform == jax.default_backend()
    assert (found.local_count, found.process_count) == (jax.local_device_count(), 1)


def test_simulated_devices_of_one_cpu_share_its_peaks():
    simulated = devices.Devices("cpu", "cpu", local_count=8, global_count=8, process_index=0, process_count=1)
    assert simulated.independent_count == 1
    assert dataclasses.replace(simulated, platform="gpu").independent_count == 8
