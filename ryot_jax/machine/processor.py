"""The host's processor: name, instruction sets, cores, memory and caches. Does not import JAX."""

import dataclasses
import functools
import os
import platform
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Processor:
    """The CPU of this host; fields that the system does not report are None or empty."""

    model: str
    architecture: str
    usable_cores: int
    memory_bytes: int | None
    vector_flags: tuple[str, ...]


@functools.cache
def describe_processor() -> Processor:
    """Describes the host's CPU, from /proc if it exists."""
    interesting = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "asimd", "bf16", "sve")
    flags = _flags()
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        memory = None
    return Processor(
        model=_cpuinfo().get("model name") or platform.processor() or "unknown",
        architecture=platform.machine(),
        usable_cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_bytes=memory,
        vector_flags=tuple(flag for flag in interesting if flag in flags),
    )


@functools.cache
def cpu_flags() -> frozenset[str]:
    """Instruction-set flags of this machine's CPU as Linux names them; empty if they cannot be read."""
    return frozenset(_flags())


def fingerprint() -> str:
    """Architecture, model and instruction sets as one text, to separate caches of programs by processor."""
    info = _cpuinfo()
    return "|".join([platform.machine(), info.get("model name", ""), info.get("flags", "")])


def data_cache_bytes(cpus: Path = Path("/sys/devices/system/cpu")) -> int | None:
    """Bytes of all data caches of the cores usable by this process, each cache counted once; None if unknown.

    Args:
      cpus: the sysfs folder that describes the cores.
    """
    if not hasattr(os, "sched_getaffinity"):
        return None
    sizes: dict[tuple[str, str, str], int] = {}
    try:
        for core in os.sched_getaffinity(0):
            for cache in (cpus / f"cpu{core}" / "cache").glob("index*"):
                level, kind, size, cores = (
                    (cache / field).read_text(encoding="ascii").strip()
                    for field in ("level", "type", "size", "shared_cpu_list")
                )
                if kind != "Instruction":
                    sizes[level, kind, cores] = int(size.removesuffix("K")) * 1024
    except (OSError, ValueError):
        return None
    return sum(sizes.values()) or None


def _flags() -> list[str]:
    info = _cpuinfo()
    return info.get("flags", info.get("Features", "")).split()


@functools.cache
def _cpuinfo() -> dict[str, str]:
    """The fields of /proc/cpuinfo for the first processor; empty on systems without that file."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    lines = text.split("\n\n", 1)[0].splitlines()
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
