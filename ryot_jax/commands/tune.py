"""`ryot tune`: measure kernels and scheduled steps on the shapes of a config, and keep the fastest kernels."""

from collections.abc import Sequence

from ml_collections import ConfigDict

from ryot_jax.config import validate
from ryot_jax.machine.devices import describe_devices
from ryot_jax.model.config import from_config
from ryot_jax.optimizations import resolve
from ryot_jax.runs import tuning
from ryot_jax.runs.caches import open_tuning_cache, use_compilation_cache
from ryot_jax.runs.scheduled_arm import Kind, Plan, plans, saved_seconds, step_times
from ryot_jax.runtime.console import Console
from ryot_jax.runtime.errors import ConfigError
from ryot_jax.training.setup import kernel_spec


def run(config: ConfigDict, console: Console) -> int:
    """Prints what was measured and returns 0; nothing is trained."""
    use_compilation_cache(config)
    devices = describe_devices()
    validate(config, device_count=devices.local_count)
    model = from_config(config.model, devices.platform)
    spec = kernel_spec(config, model, devices)
    cache = open_tuning_cache(config, console.line)
    outcome = tuning.tune(config, model, spec, cache, log=console.line)
    console.line()
    for line in outcome.table():
        console.line(line)
    if config.scaling.enabled:
        kernels = resolve(config.optimizations, spec=spec, lookup=cache.lookup).plan
        for plan in plans(config):
            try:
                _print_step_times(plan, step_times(plan, config, kernels), console)
            except ConfigError as error:  # as the end of a run, which goes on without
                console.line(f"{plan.name}: cannot be trained: {error}")
    return 0


def _print_step_times(plan: Plan, kinds: Sequence[Kind], console: Console) -> None:
    """One line for each kind of steps: what it takes, and whether it is worth a program of its own."""
    console.line()
    console.line(f"{plan.name}: {plan.phases}")
    for kind in kinds:
        saved, static = saved_seconds(kind, kinds), kind.static
        worth = ""
        if saved is not None:
            repays = "repays" if saved > kind.compile_seconds else "does NOT repay"
            worth = f"; saves {saved:.1f} s of as many tokens in the largest steps, which {repays} its compilation"
        console.line(
            f"  {kind.steps:,} steps of {static.batch_size} x {static.seq_len}, {static.depth or 'all'} layers: "
            f"{1e3 * kind.seconds / kind.steps:.2f} ms each, {kind.compile_seconds:.1f} s compiling{worth}"
        )
