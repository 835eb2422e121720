"""The machine under a run: its devices and processor, and JAX's compilation cache on disk.

Which kernel suits a device is left to `kernels`, how work is divided over devices to `training`.
"""

import dataclasses
import functools
import hashlib
import os
import platform
from pathlib import Path

import jax
import jaxlib


@dataclasses.dataclass(frozen=True)
class Devices:
    """What JAX computes on.

    `kind` is the vendor's name, such as 'cpu' or 'NVIDIA H100 80GB HBM3'; `compute_capability` that of an NVIDIA GPU,
    such as '9.0', for others what JAX says, or ''.
    """

    platform: str
    kind: str
    local_count: int
    global_count: int
    process_index: int
    process_count: int
    compute_capability: str = ""


@dataclasses.dataclass(frozen=True)
class Processor:
    """The CPU of this host; fields that the system does not tell are None or empty."""

    model: str
    architecture: str
    usable_cores: int
    memory_bytes: int | None
    vector_flags: tuple[str, ...]


def describe_devices() -> Devices:
    """The devices of JAX's default backend, which this starts."""
    device = jax.local_devices()[0]
    return Devices(
        platform=device.platform,
        kind=device.device_kind,
        local_count=jax.local_device_count(),
        global_count=jax.device_count(),
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        compute_capability=str(getattr(device, "compute_capability", "")),
    )


@functools.cache
def describe_processor() -> Processor:
    """The host's CPU, from /proc where there is one."""
    info = _cpuinfo()
    flags = info.get("flags", info.get("Features", "")).split()
    interesting = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "asimd", "bf16", "sve")
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        memory = None
    return Processor(
        model=info.get("model name") or platform.processor() or "unknown",
        architecture=platform.machine(),
        usable_cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_bytes=memory,
        vector_flags=tuple(flag for flag in interesting if flag in flags),
    )


def enable_compilation_cache(cache_root: Path) -> Path:
    """Keep every compiled program on disk, so that a second start compiles nothing. Call it before any array.

    Args:
      cache_root: the folder of all caches. Programs go into a folder of their own for each jaxlib and
        processor, as a CPU program may use instructions that another machine lacks.

    Returns:
      The folder in use; JAX makes it at the first write, and only warns where it cannot.
    """
    info = _cpuinfo()
    machine = "|".join([platform.machine(), info.get("model name", ""), info.get("flags", "")])
    folder = cache_root / "xla" / f"{jaxlib.__version__}-{hashlib.sha256(machine.encode()).hexdigest()[:12]}"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    return folder


@functools.cache
def _cpuinfo() -> dict[str, str]:
    """The first processor's lines of /proc/cpuinfo; empty on systems without it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    lines = text.split("\n\n", 1)[0].splitlines()
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
