"""`ryot generate`: continues prompts."""

import dataclasses

from ryot_jax.cli import CheckpointCommand, Context, option
from ryot_jax.runtime.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Generate(CheckpointCommand):
    """Continues prompts with a run's checkpoint."""

    name = "generate"
    usage = ("[--run=RUN] --prompt=TEXT",)
    prompt: tuple[str, ...] = option("TEXT", "the text to continue; several are continued together", default=())
    max_new_tokens: int | None = option(
        "N", "tokens to write", lower=1, default_text="as many as the model has positions for"
    )
    temperature: float = option("X", "0 takes the likeliest token each time", default=0.0, lower=0.0)
    top_k: int = option("N", "sample among the N likeliest tokens; 0: among all", default=0, lower=0)
    top_p: float = option("P", "among the likeliest tokens that together have probability P", default=1.0)
    min_p: float = option("P", "among tokens at least P times as likely as the likeliest one", default=0.0)
    seed: int = option("N", "of the sampling", default=0, lower=0, upper=2**32 - 1)
    compressed: bool = option(
        "", "write with the checkpoint's compressed file, which compress and train make", default=False
    )
    draft: str = option(
        "KIND",
        "lookup, bigram or none: guesses at the next tokens, of which the model checks several at a time, which is "
        "faster and changes no token",
        default="lookup",
        choices=("lookup", "bigram", "none"),
    )
    draft_length: int = option(
        "N", "tokens of a guess; 0: up to 6, by how many were right so far", default=0, lower=0, upper=64
    )
    candidates: int = option(
        "N", "sample up to N texts for each prompt until one is Python that parses", default=1, lower=1, upper=1024
    )
    engine: str = option(
        "NAME",
        "cpu (C++), reference, or auto: cpu where it can run",
        default="auto",
        choices=("auto", "cpu", "reference"),
    )

    def check(self) -> None:
        """Finds the checkpoint and checks the options of sampling and drafts."""
        super().check()
        if not self.prompt:
            raise ConfigError("--prompt is missing, such as --prompt='def '")
        if self.candidates > 1 and self.temperature == 0.0:
            raise ConfigError(
                f"--candidates={self.candidates} with --temperature=0: they would all be the same; give "
                "--temperature=0.8"
            )

    def run(self, context: Context) -> int:
        """Prints each prompt and streams its continuation; returns 0."""
        from ryot_jax import decoding
        from ryot_jax.runs import generation
        from ryot_jax.runs.session import open_session

        options = generation.Options(
            prompts=self.prompt,
            max_new_tokens=self.max_new_tokens,
            sampling=decoding.Sampling(self.temperature, self.top_k, self.top_p, self.min_p),
            seed=self.seed,
            draft=self.draft,
            draft_length=self.draft_length,
            candidates=self.candidates,
            engine=self.engine,
            compressed=self.compressed,
        )
        session = open_session(self.config, context.console.line)
        return generation.generate(session, self.chosen, options, context.console)
