"""`ryot compress`: compresses a checkpoint into one file."""

import dataclasses

from ryot_jax.cli import CheckpointCommand, Context, option


@dataclasses.dataclass(frozen=True)
class Compress(CheckpointCommand):
    """Makes one small file of a checkpoint, in the run's compressed/, and measures it on the held-out text.

    Training does the same at its end (one to two minutes for configs/scaled.py).
    """

    name = "compress"
    usage = ("[--run=RUN] [--budget=BUDGET]",)
    budget: str | None = option(
        "BUDGET",
        "'perplexity<=1%', 'loss<=0.01' (nats), 'ratio>=8' or 'bytes<=500000'",
        default_text="the run's compression.budget",
    )

    def run(self, context: Context) -> int:
        """Compresses and measures; returns 0 if the file keeps the budget on the held-out text, else 3."""
        from ryot_jax.runs import compression
        from ryot_jax.runs.session import open_session

        session = open_session(self.config, context.console.line)
        return compression.compress_run(session, self.chosen, self.budget, context.console)
