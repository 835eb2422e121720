"""`ryot doctor`: what this machine offers, and what it lacks."""

from ryot_jax.commands.train import open_tuning_cache
from ryot_jax.config import get_default
from ryot_jax.kernels import cpu
from ryot_jax.machine.allocator import AllocatorRecord
from ryot_jax.machine.devices import describe_devices
from ryot_jax.machine.processor import describe_processor
from ryot_jax.model.config import from_config
from ryot_jax.optimizations import resolve
from ryot_jax.runtime.console import Console
from ryot_jax.runtime.manifest import versions
from ryot_jax.training.setup import kernel_spec


def run(allocator: AllocatorRecord, console: Console) -> int:
    """Prints devices, versions, and the kernels that the scaled run would use here with their reasons."""
    devices, processor = describe_devices(), describe_processor()
    console.line(f"devices:    {devices.local_count} x {devices.kind} ({devices.platform})")
    memory = "" if processor.memory_bytes is None else f", {processor.memory_bytes / 2**30:.0f} GiB"
    console.line(
        f"processor:  {processor.model}, {processor.usable_cores} cores{memory}; "
        f"{' '.join(processor.vector_flags) or 'vector instructions not known'}"
    )
    console.line("versions:   " + ", ".join(f"{name} {version}" for name, version in versions().items()))
    console.line(f"allocator:  {allocator.reason}")
    console.line(f"C++:        {cpu.unavailable_reason() or _instruction_sets()}")
    config = get_default()
    model = from_config(config.model, devices.platform)
    lookup = open_tuning_cache(config, console.line).lookup
    resolution = resolve(config.optimizations, spec=kernel_spec(config, model, devices), lookup=lookup)
    for line in resolution.lines():
        console.line(line)
    return 0


def _instruction_sets() -> str:
    bfloat16 = cpu.instruction_set("bfloat16")
    return f"kernels for {cpu.instruction_set()}" + (f" and, in bfloat16, {bfloat16}" if bfloat16 else "")
