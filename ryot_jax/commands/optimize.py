"""`ryot optimize`: the kernels in a person's own loss function."""

import dataclasses

from ryot_jax.cli import Command, Context, option
from ryot_jax.runtime.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Optimize(Command):
    """Shows what kernels take over in a JAX loss function, and compares it with the original in training."""

    name = "optimize"
    usage = ("--function=FILE.py:NAME [--example=FILE.py:NAME] [--precision=bfloat16] [--steps=0]",)
    function: str | None = option("MODULE:NAME", "the loss, (params, batch) -> scalar: in a file or a module")
    example: str | None = option(
        "MODULE:NAME",
        "a function without arguments that returns params and a batch, or a list of batches",
        default_text='"example" beside the loss',
    )
    precision: str = option("DTYPE", "bfloat16 rounds operands to it", default="")
    steps: int = option("N", "steps of each arm of the comparison, a multiple of 8; 0: no comparison", default=64)

    def check(self) -> None:
        """Checks that a function is named.

        Raises:
          ConfigError: an option is missing or not valid.
        """
        if self.function is None:
            raise ConfigError("--function is missing: name the loss, as in --function=model.py:loss")
        if self.steps < 0 or self.steps % 8:
            raise ConfigError(f"--steps={self.steps}: must be a multiple of 8, or 0")

    def run(self, context: Context) -> int:
        """Prints the explanation and the verdict; returns the exit code of the comparison."""
        from ryot_jax.runs import optimize_function

        assert self.function is not None
        return optimize_function.optimize_function(
            self.function,
            self.example or f"{self.function.rpartition(':')[0]}:example",
            precision=self.precision,
            steps=self.steps,
            console=context.console,
        )
