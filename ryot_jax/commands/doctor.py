"""`ryot doctor`: describes this machine."""

import dataclasses

from ryot_jax.cli import Command, Context


@dataclasses.dataclass(frozen=True)
class Doctor(Command):
    """Shows the devices, libraries and kernels of this machine."""

    name = "doctor"

    def run(self, context: Context) -> int:
        """Prints devices, libraries and kernels; returns 0."""
        from ryot_jax.runs import doctor

        return doctor.describe_machine(context.allocator, context.console)
