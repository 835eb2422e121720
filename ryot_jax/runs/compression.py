"""A run's checkpoint as one small file, measured on the held-out text: a stage of every run, and `ryot compress`.

The model as functions of parameters is in `model_functions`, other methods beside the file in `pareto`.
"""

import dataclasses
import functools
import textwrap
import time
from typing import Any

import jax
import numpy as np

from ryot_jax import decoding
from ryot_jax.comparison.interleaving import interleave
from ryot_jax.comparison.schema import CompressionResult, Measured, TradeOffPoint
from ryot_jax.comparison.statistics import speed_up
from ryot_jax.compression import FileSize, Judge, compress, load, save
from ryot_jax.compression.budget import Budget, parse
from ryot_jax.compression.lossless import smallest
from ryot_jax.compression.quality import Quality
from ryot_jax.data.pipeline import Corpus, prepare
from ryot_jax.model import functional
from ryot_jax.report.topics.compression import size_and_cost
from ryot_jax.runs import pareto
from ryot_jax.runs.checkpoint_of_run import CheckpointOfRun, restore
from ryot_jax.runs.chosen_checkpoint import ChosenCheckpoint, best_of
from ryot_jax.runs.model_functions import ALL_SEQUENCES, ModelFunctions, batches
from ryot_jax.runs.run import Run
from ryot_jax.runs.session import Session
from ryot_jax.runs.stage import Failure, Stage, StageResult
from ryot_jax.runtime.console import Console
from ryot_jax.runtime.errors import EXIT_CRITERION, EXIT_PASS, CheckpointError, ConfigError
from ryot_jax.runtime.files import display_path

_PARETO_SEQUENCES = 512  # held-out sequences that a point is measured on
_SPEED_ROUNDS = 8


def compress_run(session: Session, chosen: ChosenCheckpoint, budget_text: str | None, console: Console) -> int:
    """Compresses a checkpoint, prints size and cost, and returns 0 if the file keeps the budget, else 3.

    Args:
      session: session of the run's config.
      chosen: the checkpoint.
      budget_text: the budget; None: that of the run's config.
      console: receives size and cost.

    Raises:
      ConfigError: the budget is malformed or cannot be kept.
      CheckpointError: the checkpoint does not exist, or the text here was not encoded by its tokenizer.
    """
    config = session.config
    budget = parse_budget(budget_text or config.compression.budget)
    checkpoint = restore(session, chosen)
    corpus = prepare(config.data, config.tokenizer, config.model.vocab_size, console.line)
    if checkpoint.tokenizer is not None and corpus.tokenizer.hash != checkpoint.tokenizer.hash:
        raise CheckpointError(
            f"the text here has another tokenizer than {checkpoint.directory.tokenizer}: it is not the text that the "
            "run was trained on; restore it, or give data.cache_dir of the machine that has it"
        )
    result = compress_checkpoint(checkpoint, chosen, corpus, budget, console)
    console.line()
    console.line(textwrap.fill(f"{size_and_cost(result)} {_generating(result)}", 100))
    console.line(
        f"next: ryot generate --run={display_path(checkpoint.directory.path)} --arm={chosen.arm} "
        f"--checkpoint={chosen.checkpoint} --compressed --prompt='def '"
    )
    return EXIT_PASS if result.kept else EXIT_CRITERION


def parse_budget(text: str) -> Budget:
    """Parses the budget of a flag or a config.

    Raises:
      ConfigError: the budget is malformed.
    """
    try:
        return parse(text)
    except ValueError as error:
        raise ConfigError(f"compression.budget: {error}") from error


def compress_checkpoint(
    checkpoint: CheckpointOfRun, chosen: ChosenCheckpoint, corpus: Corpus, budget: Budget, console: Console
) -> CompressionResult:
    """Compresses a checkpoint into the run's `compressed/` and measures the file: `compression` of `results.json`.

    All reported numbers are measured on the parameters read back from the file.

    Raises:
      ConfigError: the budget cannot be kept.
    """
    start = time.perf_counter()
    config = checkpoint.config
    model, params = functional.unstack_layers(checkpoint.model, checkpoint.params)
    functions = ModelFunctions.of(checkpoint.session, model)
    console.line(f"compressing the {chosen.checkpoint} checkpoint of {chosen.arm}: {budget.text}")
    metadata = {"model": dataclasses.asdict(model), "arm": chosen.arm, "step": checkpoint.step}
    try:
        compression = compress(
            params,
            functions.loss,
            batches(corpus.train, config, config.compression.calibration_sequences),
            budget,
            targets=config.training.seq_len,
            measure=functions.fast_loss,
            metadata=metadata,
            log=console.line,
        )
    except ValueError as error:
        raise ConfigError(f"compression.budget: {error}") from error
    path = checkpoint.directory.compressed(chosen.arm, chosen.checkpoint)
    path.parent.mkdir(exist_ok=True)
    size = save(path, compression.params, metadata)
    small, _ = load(path)
    heldout = batches(corpus.heldout, config, ALL_SEQUENCES)
    quality = Judge(functions.logits, params, heldout)(small)
    lossless_bytes, coder = smallest(params)
    points: tuple[TradeOffPoint, ...] = ()
    if config.compression.pareto:
        losses = functions.evaluator(corpus.heldout, config, _PARETO_SEQUENCES, params)
        points = pareto.points(params, compression, losses, (lossless_bytes, coder))
    interval = quality.loss_change.ci95
    return CompressionResult(
        arm=chosen.arm,
        step=checkpoint.step,
        budget=budget.text,
        kept=budget.kept(size.total, compression.n_parameters, None if interval is None else interval[1]),
        file=str(path.relative_to(checkpoint.directory.path)),
        parameters=compression.n_parameters,
        training_tokens=checkpoint.step * config.training.batch_size * config.training.seq_len,
        **_sizes(size, compression.n_parameters),
        lossless_bytes=lossless_bytes,
        lossless_coder=coder,
        **_quality(quality),
        **_speed(model, params, small, heldout),
        arrays=pareto.arrays(params, compression),
        pareto=points,
        seconds=time.perf_counter() - start,
    )


def _quality(quality: Quality) -> dict[str, Any]:
    changes = {name: getattr(quality, name) for name in ("loss_change", "perplexity_change", "kl", "agreement")}
    return {
        "sequences": quality.sequences,
        "float_loss": quality.float_loss,
        "loss": quality.loss,
        **{name: Measured(estimate=one.estimate, ci95=one.ci95) for name, one in changes.items()},
    }


def _sizes(size: FileSize, n_parameters: int) -> dict[str, Any]:
    return {
        "bytes": size.total,
        "float_bytes": 4 * n_parameters,
        "ratio": 4 * n_parameters / size.total,
        "bits_per_parameter": 8 * size.total / n_parameters,
        "entropy_bytes": size.code_entropy,
        "order0_entropy_bytes": size.order0_entropy,
        "codes_bytes": size.codes,
        "side_bytes": size.side,
        "plain_bytes": size.plain,
        "header_bytes": size.header,
        "overhead": size.overhead,
    }


def _speed(model: Any, params: Any, small: Any, heldout: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    """Tokens per second of generating at batch 1, float model and compressed model in turns."""
    prompt = heldout[0]["inputs"][:1, : max(1, model.max_len // 4)]
    new_tokens = model.max_len - prompt.shape[1]
    if new_tokens < 1:
        return {"tokens_per_second": None, "float_tokens_per_second": None, "speed": None}

    def block(params: Any, calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            jax.block_until_ready(decoding.generate(decoding.prepare(params, model), prompt, max_new_tokens=new_tokens))
        return time.perf_counter() - start

    blocks = {"float": functools.partial(block, params), "compressed": functools.partial(block, small)}
    for each in blocks.values():
        each(1)  # compilation
    seconds = interleave(blocks, dict.fromkeys(blocks, 2), rounds=_SPEED_ROUNDS)
    ratio = speed_up(seconds["float"], seconds["compressed"])
    return {
        "tokens_per_second": float(new_tokens / np.median(seconds["compressed"])),
        "float_tokens_per_second": float(new_tokens / np.median(seconds["float"])),
        "speed": Measured(estimate=ratio.estimate, ci95=ratio.ci95),
    }


def _generating(result: CompressionResult) -> str:
    speed = result.speed
    if speed is None or speed.ci95 is None:
        return ""
    return (
        f"It generates {result.tokens_per_second:,.0f} tokens/s at batch 1, {speed.estimate:.2f} times as many as "
        f"in float32 (95 % interval {speed.ci95[0]:.2f} to {speed.ci95[1]:.2f})."
    )


def _applies(run: Run, arm: str) -> bool:
    return bool(run.config.compression.enabled and run.config.checkpoint.enabled)


def _compress_best(run: Run, arm: str) -> StageResult[CompressionResult | None]:
    chosen, budget = best_of(run.directory, arm), parse_budget(run.config.compression.budget)
    return StageResult(compress_checkpoint(restore(run.session, chosen), chosen, run.corpus, budget, run.console))


STAGE = Stage(
    "compression",
    _compress_best,
    applies=_applies,
    failure=Failure("not compressed", "The best checkpoint was not compressed"),
)
