"""`ryot compress`: a run's checkpoint as one small file, measured on the held-out text; also the end of every run."""

import dataclasses
import functools
import textwrap
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ryot_jax import decoding
from ryot_jax.cli import CheckpointOptions, CompressOptions
from ryot_jax.comparison.arms import kernel_spec
from ryot_jax.comparison.interleaving import interleave
from ryot_jax.comparison.schema import CompressionResult, Measured, TradeOffPoint
from ryot_jax.comparison.statistics import speed_up
from ryot_jax.compression import FileSize, Judge, compress, load, save
from ryot_jax.compression.budget import Budget, parse
from ryot_jax.compression.lossless import smallest
from ryot_jax.compression.quality import Quality
from ryot_jax.data.batches import heldout_batches
from ryot_jax.data.pipeline import Corpus, prepare
from ryot_jax.kernels import KernelPlan, resolve
from ryot_jax.machine.devices import describe_devices
from ryot_jax.model import functional
from ryot_jax.model.config import ModelConfig
from ryot_jax.report.topics.compression import size_and_cost
from ryot_jax.runs import checkpoint_of_run, pareto
from ryot_jax.runs.caches import use_compilation_cache
from ryot_jax.runs.checkpoint_of_run import CheckpointOfRun
from ryot_jax.runtime.console import Console
from ryot_jax.runtime.errors import EXIT_CRITERION, EXIT_PASS, CheckpointError, ConfigError
from ryot_jax.runtime.files import shown
from ryot_jax.training.evaluation import Evaluator, make_evaluator

ALL = 2**31 - 1  # sequences: as many as the text has
_PARETO_SEQUENCES = 512  # that a point is measured on
_SPEED_ROUNDS = 8


def run(config: ConfigDict, options: CompressOptions, console: Console) -> int:
    """Compresses, measures, prints; returns 0 where the budget holds on the held-out text, 3 where it does not.

    Raises:
      ConfigError: the budget cannot be read or kept.
      CheckpointError: there is no such checkpoint, or the text here is not the one that its tokenizer made.
    """
    budget = parse_budget(options.budget or config.compression.budget)
    use_compilation_cache(config)
    checkpoint = checkpoint_of_run.restore(config, options)
    corpus = prepare(config.data, config.tokenizer, config.model.vocab_size, console.line)
    if checkpoint.tokenizer is not None and corpus.tokenizer.hash != checkpoint.tokenizer.hash:
        raise CheckpointError(
            f"the text here has another tokenizer than {checkpoint.directory.tokenizer}: it is not the text that the "
            "run was trained on; restore it, or give data.cache_dir of the machine that has it"
        )
    found = compress_checkpoint(checkpoint, options, corpus, budget, console)
    console.line()
    console.line(textwrap.fill(f"{size_and_cost(found)} {_generating(found)}", 100))
    console.line(
        f"next: ryot generate --run={shown(checkpoint.directory.path)} --arm={options.arm} "
        f"--checkpoint={options.checkpoint} --compressed --prompt='def '"
    )
    return EXIT_PASS if found.kept else EXIT_CRITERION


def parse_budget(text: str) -> Budget:
    """The budget of a flag or a config.

    Raises:
      ConfigError: it cannot be read.
    """
    try:
        return parse(text)
    except ValueError as error:
        raise ConfigError(f"compression.budget: {error}") from error


def compress_checkpoint(
    checkpoint: CheckpointOfRun, chosen: CheckpointOptions, corpus: Corpus, budget: Budget, console: Console
) -> CompressionResult:
    """Compresses a checkpoint into the run's `compressed/` and measures the file: `compression` of `results.json`.

    Everything that is reported is measured with what was read back from the file.

    Raises:
      ConfigError: the budget cannot be kept.
    """
    start = time.perf_counter()
    config = checkpoint.config
    model, params = functional.unstack_layers(checkpoint.model, checkpoint.params)
    subject = Subject.of(config, model)
    console.line(f"compressing the {chosen.checkpoint} checkpoint of {chosen.arm}: {budget.text}")
    metadata = {"model": dataclasses.asdict(model), "arm": chosen.arm, "step": checkpoint.step}
    try:
        found = compress(
            params,
            subject.loss,
            batches(corpus.train, config, config.compression.calibration_sequences),
            budget,
            targets=config.training.seq_len,
            measure=subject.fast_loss,
            metadata=metadata,
            log=console.line,
        )
    except ValueError as error:
        raise ConfigError(f"compression.budget: {error}") from error
    path = checkpoint.directory.compressed(chosen.arm, chosen.checkpoint)
    path.parent.mkdir(exist_ok=True)
    size = save(path, found.params, metadata)
    small, _ = load(path)
    heldout = batches(corpus.heldout, config, ALL)
    quality = Judge(subject.logits, params, heldout)(small)
    lossless_bytes, coder = smallest(params)
    points: tuple[TradeOffPoint, ...] = ()
    if config.compression.pareto:
        losses = subject.evaluator(corpus.heldout, config, _PARETO_SEQUENCES, params)
        points = pareto.points(params, found, losses, (lossless_bytes, coder))
    interval = quality.loss_change.ci95
    return CompressionResult(
        arm=chosen.arm,
        step=checkpoint.step,
        budget=budget.text,
        kept=budget.kept(size.total, found.n_parameters, None if interval is None else interval[1]),
        file=str(path.relative_to(checkpoint.directory.path)),
        parameters=found.n_parameters,
        training_tokens=checkpoint.step * config.training.batch_size * config.training.seq_len,
        **_sizes(size, found.n_parameters),
        lossless_bytes=lossless_bytes,
        lossless_coder=coder,
        **_quality(quality),
        **_speed(model, params, small, heldout),
        arrays=pareto.arrays(params, found),
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


@dataclasses.dataclass(frozen=True)
class Subject:
    """The model as functions of parameters and batch.

    Attributes:
      graphdef: the module.
      loss: mean cross-entropy, with the reference kernels, which work under every transformation.
      fast_loss: the same with the kernels that this machine has.
      logits: float32[B, T, V].
      sequence_losses: sums of cross-entropies and numbers of targets by sequence.
    """

    graphdef: functional.GraphDef
    loss: Callable[[Any, Any], jax.Array]
    fast_loss: Callable[[Any, Any], jax.Array]
    logits: Callable[[Any, Any], jax.Array]
    sequence_losses: Callable[[Any, Any], tuple[jax.Array, jax.Array]]

    @classmethod
    def of(cls, config: ConfigDict, model: ModelConfig) -> "Subject":
        """The model of a checkpoint of this run, whose layers are not stacked."""
        graphdef = functional.graph(model)
        spec = kernel_spec(config, model, describe_devices())
        # Rounding to bfloat16 would drown the small rises that are measured.
        wanted = {**config.optimizations, "activations": "off", "dropout": "off", "dispatch": "off"}
        fast = resolve(wanted, spec=spec).plan

        def mean_loss(plan: KernelPlan, params: Any, batch: Any) -> jax.Array:
            loss_sum, n_targets = functional.loss(graphdef, params, batch, plan=plan)
            return loss_sum / jnp.maximum(n_targets, 1.0)

        def logits(params: Any, batch: Any) -> jax.Array:
            x_BTD = functional.hidden(graphdef, params, batch["inputs"], plan=KernelPlan())
            return jnp.einsum(
                "btd,vd->btv", x_BTD, functional.unembedding(graphdef, params), preferred_element_type=jnp.float32
            )

        return cls(
            graphdef,
            functools.partial(mean_loss, KernelPlan()),
            functools.partial(mean_loss, fast),
            logits,
            functools.partial(functional.sequence_losses, graphdef),
        )

    def evaluator(self, ids: np.ndarray, config: ConfigDict, sequences: int, params: Any) -> Evaluator:
        """Losses of trees like `params` on windows of the text, evenly spread over it; at most `sequences`."""
        return make_evaluator(self.sequence_losses, _windows(ids, config, sequences), params)


def batches(ids: np.ndarray, config: ConfigDict, sequences: int) -> list[dict[str, np.ndarray]]:
    """Windows of the text in batches of `evaluation.batch_size`, evenly spread over it; at most `sequences`."""
    stacked = _windows(ids, config, sequences)
    return [{name: array[i] for name, array in stacked.items()} for i in range(len(stacked["targets"]))]


def _windows(ids: np.ndarray, config: ConfigDict, sequences: int) -> dict[str, np.ndarray]:
    return heldout_batches(
        ids, seq_len=config.training.seq_len, batch_size=config.evaluation.batch_size, sequences=sequences
    )


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
    """Tokens per second of generating at batch 1, the float model and the file in turns, each made ready every time."""
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
    found = speed_up(seconds["float"], seconds["compressed"])
    return {
        "tokens_per_second": float(new_tokens / np.median(seconds["compressed"])),
        "float_tokens_per_second": float(new_tokens / np.median(seconds["float"])),
        "speed": Measured(estimate=found.estimate, ci95=found.ci95),
    }


def _generating(found: CompressionResult) -> str:
    speed = found.speed
    if speed is None or speed.ci95 is None:
        return ""
    return (
        f"It generates {found.tokens_per_second:,.0f} tokens/s at batch 1, {speed.estimate:.2f} times as many as "
        f"in float32 (95 % interval {speed.ci95[0]:.2f} to {speed.ci95[1]:.2f})."
    )
