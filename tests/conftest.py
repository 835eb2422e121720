"""Fixtures that every test may use, and the settings that hold for all tests.

JAX runs as it ships: one CPU device, default flags. What needs several devices starts a process of its own
with `run_python`, so that the rest is tested in the configuration that people use. Rank promotion raises.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest

REPOSITORY = Path(__file__).parents[1]

# With no YNN fusion at all, XLA's own emitters compute: jaxlib 0.10.2 and 0.11.0 get some fusions wrong.
ORACLE_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": ""}


@pytest.fixture(scope="session", autouse=True)
def _private_caches(tmp_path_factory: pytest.TempPathFactory):
    """No test reads or writes the caches of the person who runs it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("NO_COLOR", raising=False)
        yield


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
