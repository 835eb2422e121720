"""The processor's instruction sets, as the operating system names them. Imports no JAX."""

import functools
import pathlib


@functools.cache
def cpu_flags() -> frozenset[str]:
    """Instruction-set flags of this machine's CPU as Linux names them; empty where they cannot be read."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    return next((frozenset(line.split(":", 1)[1].split()) for line in lines if line.startswith("flags")), frozenset())
