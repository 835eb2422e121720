"""Fixtures that every test may use, and the settings that hold for all tests.

JAX runs as it ships: one CPU device, default flags. What needs several devices starts a process of its own
with `run_python`, so that the rest is tested in the configuration that people use. Rank promotion raises.

All processes of a session (xdist's workers, and what tests start) share one cache of compiled programs, as most of the
suite's time is XLA's. It is kept between sessions, for each version of jaxlib and processor apart, in the user's folder
of caches or in the one that RYOT_TEST_PROGRAMS names; RYOT_TEST_PROGRAMS=none begins with an empty one.
"""

import collections
import contextlib
import gc
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jaxlib
import pytest

from ryot_jax.machine.processor import fingerprint

REPOSITORY = Path(__file__).parents[1]

# With no YNN fusion at all, XLA's own emitters compute: jaxlib 0.10.2 and 0.11.0 get some fusions wrong. The rest
# spares half of the time of compiling what runs once.
ORACLE_OPTIONS = {
    "xla_cpu_experimental_ynn_fusion_type": "",
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}


# Linux gives a process 65,530 memory mappings (vm.max_map_count). A compiled program holds some of them as long as its
# function lives: 3 for a sine, 54 for the gradient of three small layers. At the limit XLA ends the process with a
# segmentation fault, mostly where JAX writes a program to its cache.
MAPPINGS_KEPT = 10_000

PROGRAMS_KEPT_BYTES = 1 << 30  # beyond, the kept programs are those of many revisions: they are dropped

# Files that take a minute of a core or more, the longest first: they are begun first, so that no worker is left with
# one at the end, and are marked `slow`.
SLOW_FILES = (
    "test_main.py",
    "experiments/test_notebooks.py",
    "kernels/cpu/test_sanitizers.py",
    "test_exit_codes.py",
    "decoding/test_speculation.py",
    "runs/test_time_to_loss.py",
    "comparison/test_variants.py",
    "decoding/test_generate.py",
    "kernels/ops/test_mosaic_attention.py",
    "comparison/test_ablation.py",
    "runs/test_tuning.py",
    "model/test_kernel_plans.py",
    "runs/test_scheduled_arm.py",
    "training/test_program_check.py",
    "experiments/test_gpu.py",
    "commands/test_compress.py",
    "training/test_qat.py",
    "experiments/test_peers.py",
    "rewriting/test_mutations.py",
    "rewriting/test_transformations.py",
    "model/test_cache.py",
    "comparison/test_arms.py",
    "commands/test_generate.py",
    "comparison/test_attribution.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]):
    """Slow files first, each file in its own order."""
    place = {Path(__file__).parent / name: number for number, name in enumerate(SLOW_FILES)}
    for item in items:
        if item.path in place:
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: place.get(item.path, len(place)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter):
    """How many tests did not run for each reason: no instruction set, library or tool goes missing in silence."""
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if isinstance(report.longrepr, tuple)]
    reasons = collections.Counter(report.longrepr[2].removeprefix("Skipped: ") for report in skipped)
    if reasons:
        terminalreporter.section(f"{reasons.total()} tests that this machine did not run")
        for reason, count in reasons.most_common():
            terminalreporter.line(f"{count:5d}  {reason}")


def kept_programs() -> Path | None:
    """The folder of compiled programs that sessions share; None: each begins with an empty one."""
    named = os.environ.get("RYOT_TEST_PROGRAMS")
    if named == "none":
        return None
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    compiler = hashlib.sha256(f"{jaxlib.__version__}|{fingerprint()}".encode()).hexdigest()[:16]
    return (Path(named) if named else caches / "ryot_jax-tests") / compiler


def pytest_sessionstart(session: pytest.Session):
    """Bounds the kept programs, and drops those that a killed process had begun to write."""
    folder = kept_programs()
    if folder is None or hasattr(session.config, "workerinput") or not folder.is_dir():
        return
    sizes = {path: path.stat().st_size for path in folder.iterdir()}
    if sum(sizes.values()) > PROGRAMS_KEPT_BYTES:
        shutil.rmtree(folder)
        return
    for path in (path for path, size in sizes.items() if size == 0):
        path.unlink()


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of the session have in common; who writes there must expect another to do so too."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session", autouse=True)
def _private_caches(shared_folder: Path):
    """No test reads or writes the caches of the person who runs it."""
    # JAX takes the folder that is set when it compiles its first program, in this process for good.
    programs = {
        "jax_compilation_cache_dir": str(kept_programs() or shared_folder / "programs"),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(shared_folder / "cache"))
        patch.delenv("NO_COLOR", raising=False)
        for name, value in programs.items():
            jax.config.update(name, value)
            patch.setenv(name.upper(), str(value))
        yield


@contextlib.contextmanager
def _most_optimizations_disabled() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # of processes that the test starts
        jax.config.update("jax_disable_most_optimizations", True)
        yield
        jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def quick_compilation():
    """XLA without most of its optimizations, for a test of what is computed and not of a program's own numbers."""
    with _most_optimizations_disabled():
        yield


@pytest.fixture(scope="module")
def file_compiled_quickly():
    """The same for all tests and fixtures of a file, whose `pytestmark` names it: of how programs are used."""
    with _most_optimizations_disabled():
        yield


@pytest.fixture(scope="module", autouse=True)
def _few_mappings():
    """After a file, compiled programs are dropped where there are many: a long session would end at Linux's limit."""
    yield
    if mappings() > MAPPINGS_KEPT:
        jax.clear_caches()
        gc.collect()


def mappings() -> int:
    """Memory mappings of this process; 0 where /proc does not tell."""
    try:
        return Path("/proc/self/maps").read_bytes().count(b"\n")
    except OSError:
        return 0


@pytest.fixture(autouse=True)
def _strict_ranks():
    """Arrays of different rank never meet by accident."""
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(scope="session")
def oracle_jit() -> Callable[..., Any]:
    """`jax.jit` for the side of a comparison that has to be right: compiled without YNN fusions on CPU."""

    def jit(function: Callable[..., Any], **arguments: Any) -> Any:
        options = ORACLE_OPTIONS if jax.default_backend() == "cpu" else None
        return jax.jit(function, compiler_options=options, **arguments)

    return jit


@pytest.fixture(scope="session")
def run_python(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs Python code (or `-m module ...`) in a process of its own, with `devices` simulated CPU devices.

    The process must end with exit code `expect`; its output is shown where it does not.
    """

    def run(
        *words: str,
        devices: int | None = None,
        environment: dict[str, str] | None = None,
        cwd: Path = REPOSITORY,
        expect: int = 0,
        timeout: float = 240.0,
    ) -> subprocess.CompletedProcess[str]:
        if not words[0].startswith("-"):
            words = ("-c", *words)
        variables = dict(os.environ) | {"PYTHONPATH": str(REPOSITORY)} | (environment or {})
        if devices is not None:
            flags = variables.get("XLA_FLAGS", "")
            variables["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={devices}".strip()
            variables["JAX_PLATFORMS"] = "cpu"
        done = subprocess.run(
            [sys.executable, *words], capture_output=True, text=True, timeout=timeout, cwd=cwd, env=variables
        )
        assert done.returncode == expect, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run
