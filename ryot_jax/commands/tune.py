"""`ryot tune`: measure the kernels on the shapes of a config, and keep the fastest for the runs to come."""

from ml_collections import ConfigDict

from ryot_jax.commands.caches import open_tuning_cache, use_compilation_cache
from ryot_jax.comparison import tuning
from ryot_jax.comparison.arms import kernel_spec
from ryot_jax.config import validate
from ryot_jax.model.config import from_config
from ryot_jax.runtime.console import Console
from ryot_jax.runtime.devices import describe_devices


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
    return 0
