"""The manifest of a run: machine, software and inputs, enough to explain why two runs differ, and nothing private.

It records named environment variables only; no user name, no host name, no path outside of the run.
"""

import dataclasses
import datetime
import hashlib
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ryot_jax

if TYPE_CHECKING:  # `machine` imports `runtime`, which only stores its records
    from ryot_jax.machine.allocator import AllocatorRecord
    from ryot_jax.machine.devices import Devices
    from ryot_jax.machine.processor import Processor

SCHEMA_VERSION = 1

_PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain"),
    *("tokenizers", "ml-collections", "numpy", "scipy"),
)
_ENVIRONMENT = (
    "XLA_FLAGS",
    "JAX_PLATFORMS",
    "JAX_ENABLE_X64",
    "GLIBC_TUNABLES",
    "MALLOC_CONF",
    "OMP_NUM_THREADS",
)
_GIT_SECONDS = 10.0


def collect(
    *,
    config_json: str,
    devices: "Devices",
    processor: "Processor",
    allocator: "AllocatorRecord",
    data_hash: str,
    tokenizer_hash: str,
    end_of_document: int,
    kernel_plans: Mapping[str, Mapping[str, str]],
    kernel_reasons: Mapping[str, Mapping[str, str]],
) -> dict[str, Any]:
    """Collects the manifest as a JSON value.

    Args:
      config_json: the resolved config, as `config.to_json` writes it.
      devices: the devices of this process.
      processor: the processor of this host.
      allocator: the allocator settings of this process.
      data_hash: sha256 of the token files.
      tokenizer_hash: sha256 of the tokenizer.
      end_of_document: the token id that ends a document; -1 if not known.
      kernel_plans: kernel plan of each arm, op -> implementation.
      kernel_reasons: for each arm, op -> reason for its implementation.
    """
    return {
        **machine(devices, processor),
        "config_hash": hashlib.sha256(config_json.encode()).hexdigest(),
        "data_hash": data_hash,
        "tokenizer_hash": tokenizer_hash,
        "end_of_document": end_of_document,
        "allocator": dataclasses.asdict(allocator),
        "kernels": {
            arm: {op: {"implementation": name, "reason": kernel_reasons[arm][op]} for op, name in plan.items()}
            for arm, plan in kernel_plans.items()
        },
    }


def machine(devices: "Devices", processor: "Processor") -> dict[str, Any]:
    """The part of a manifest that needs no config: time, software and machine."""
    return {
        "schema_version": SCHEMA_VERSION,
        "started_utc": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "versions": versions(),
        "git": git_state(Path(ryot_jax.__file__).parent),
        "devices": dataclasses.asdict(devices),
        "processor": dataclasses.asdict(processor),
        "system": {"os": platform.system(), "release": platform.release(), "load_1min": _load()},
        "environment": {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
    }


def versions() -> dict[str, str | None]:
    """The versions of Python, of this package and of the libraries that affect the numbers; None if not installed."""
    installed: dict[str, str | None] = {"python": platform.python_version(), "ryot_jax": ryot_jax.__version__}
    for package in _PACKAGES:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            installed[package] = None
    return installed


def git_state(package: Path) -> dict[str, Any]:
    """The git revision of the package's source tree, and whether it has uncommitted changes.

    Both are None if the package is not at the top of a git work tree (a wheel), or git is not installed.
    """
    unknown = {"revision": None, "dirty": None}
    top = _git(package, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != package.parent.resolve():
        return unknown
    revision = _git(package, "rev-parse", "HEAD")
    changes = _git(package, "status", "--porcelain")
    return {"revision": revision, "dirty": None if changes is None else bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _load() -> float | None:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None
