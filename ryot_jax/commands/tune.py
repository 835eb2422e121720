"""`ryot tune`: measures kernels and keeps the fastest."""

import dataclasses

from ryot_jax.cli import ConfigCommand, Context


@dataclasses.dataclass(frozen=True)
class Tune(ConfigCommand):
    """Measures the kernels on the sizes of a config and keeps the fastest.

    It takes about a minute for configs/scaled.py, and runs of these sizes use what is kept;
    --config.runtime.tune=ops does the same at the start of a run. It also shows how long the steps of each
    size in the config's schedules take (half a minute more), and whether they repay the compilation of their program.
    """

    name = "tune"
    usage = ("--config=configs/scaled.py [--config.FIELD=VALUE ...]",)

    def run(self, context: Context) -> int:
        """Prints the measurements and returns 0."""
        from ryot_jax.runs import tuning_session

        return tuning_session.measure(self.config, context.console)
