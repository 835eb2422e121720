"""`ryot doctor`: the devices, libraries and kernels of this machine."""

from ryot_jax.config import get_default
from ryot_jax.kernels import cpu
from ryot_jax.machine.allocator import AllocatorRecord
from ryot_jax.machine.processor import describe_processor
from ryot_jax.runs.session import open_session
from ryot_jax.runtime.console import Console
from ryot_jax.runtime.manifest import versions


def describe_machine(allocator: AllocatorRecord, console: Console) -> int:
    """Prints devices, versions, and the kernels of the scaled run on this machine with their reasons; returns 0."""
    session, processor = open_session(get_default(), console.line), describe_processor()
    devices = session.devices
    console.line(f"devices:    {devices.local_count} x {devices.kind} ({devices.platform})")
    memory = "" if processor.memory_bytes is None else f", {processor.memory_bytes / 2**30:.0f} GiB"
    console.line(
        f"processor:  {processor.model}, {processor.usable_cores} cores{memory}; "
        f"{' '.join(processor.vector_flags) or 'vector instructions not known'}"
    )
    console.line("versions:   " + ", ".join(f"{name} {version}" for name, version in versions().items()))
    console.line(f"allocator:  {allocator.reason}")
    console.line(f"C++:        {cpu.unavailable_reason() or _instruction_sets()}")
    if cpu.unavailable_reason() is None:
        console.line(f"rates:      {_rates()}")
    if missing := cpu.missing_instruction_sets():
        console.line("not here:   " + "; ".join(f"{name} needs {what}" for name, what in missing.items()))
    for line in session.resolve().lines():
        console.line(line)
    return 0


def _rates() -> str:
    """The products of one thread, as the C++ kernels compute them."""
    rates = ((dtype, cpu.product_rate(dtype) / 1e9) for dtype in ("float32", "bfloat16"))
    return "products of " + ", of ".join(f"{dtype} {rate:,.0f}" for dtype, rate in rates) + " GFLOP/s a thread"


def _instruction_sets() -> str:
    bfloat16, cap = cpu.instruction_set("bfloat16"), cpu.cap()
    used = f"kernels for {cpu.instruction_set()}" + (f" and, in bfloat16, {bfloat16}" if bfloat16 else "")
    usable = f"this machine can use {', '.join(cpu.instruction_sets())}"
    return f"{used}; {usable}" + (f", capped at {cap} by RYOT_CPU_ISA" if cap else "")
