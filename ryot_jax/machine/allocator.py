"""Keeps freed memory in the process, where the C library is glibc.

XLA's CPU backend takes one slab of temporary memory for each step and frees it. glibc hands blocks of that
size back to the kernel, so each step maps and clears its pages again: about 100,000 page faults and a third
of the time of the scaled run's step. It does not limit memory, and changes no computed number.
"""

import ctypes
import dataclasses
import os
import tempfile
from pathlib import Path

# Parameters of mallopt(3), from glibc's <malloc.h>.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8

_SETTINGS = {
    "M_MMAP_MAX": (_M_MMAP_MAX, 0),  # large blocks come from the heap too, not from separate mappings
    "M_TRIM_THRESHOLD": (_M_TRIM_THRESHOLD, -1),  # the free top of the heap is never returned
    "M_TOP_PAD": (_M_TOP_PAD, 64 * 2**20),  # smallest growth of the heap in bytes
    "M_ARENA_MAX": (_M_ARENA_MAX, 1),  # only the main arena can grow without mappings
}
_OTHER_ALLOCATORS = ("jemalloc", "tcmalloc", "mimalloc")


@dataclasses.dataclass(frozen=True)
class AllocatorRecord:
    """The allocator settings of this process: `settings` by mallopt name, and the reason why they apply or not."""

    applied: bool
    settings: dict[str, int]
    reason: str


def configure_allocator(enabled: bool = True) -> AllocatorRecord:
    """Applies the settings to this process; call it before anything else, and before JAX is imported.

    A thread that has allocated before may have its own arena. Such an arena returns memory whatever is set here, and
    glibc may reuse it for XLA's threads: steps then take a third longer.

    Args:
      enabled: whether to apply the settings.

    Returns:
      The applied settings. It never raises, as a machine without glibc works too, only slower.
    """
    reason = None if enabled else "off by runtime.allocator"
    reason = reason or _obstacle()
    if reason:
        return AllocatorRecord(applied=False, settings={}, reason=reason)
    mallopt = ctypes.CDLL(None).mallopt
    refused = [name for name, (parameter, value) in _SETTINGS.items() if mallopt(parameter, value) != 1]
    settings = {name: value for name, (_, value) in _SETTINGS.items() if name not in refused}
    arenas = _arenas()
    if refused:
        reason = f"glibc refused {', '.join(refused)}"
    elif arenas > 1:
        reason = f"set too late: threads had {arenas - 1} more arenas already, from which memory is still given back"
    else:
        reason = "glibc keeps freed memory"
    return AllocatorRecord(applied=not refused and arenas <= 1, settings=settings, reason=reason)


def _arenas() -> int:
    """Number of arenas of the process; 0 if glibc does not report it."""
    libc = ctypes.CDLL(None)
    libc.fopen.restype = ctypes.c_void_p
    with tempfile.NamedTemporaryFile(suffix=".xml") as file:
        stream = ctypes.c_void_p(libc.fopen(file.name.encode(), b"w"))
        if not stream:
            return 0
        is_reported = libc.malloc_info(0, stream) == 0
        libc.fclose(stream)
        return file.read().count(b"<heap nr=") if is_reported else 0


def _obstacle() -> str | None:
    try:
        libc = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, ValueError, OSError):
        libc = ""
    if not libc.startswith("glibc"):
        return "the C library is not glibc"
    if "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return "GLIBC_TUNABLES sets the allocator already"
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        maps = ""
    for name in _OTHER_ALLOCATORS:
        if name in maps:
            return f"the process uses {name}"
    return None
