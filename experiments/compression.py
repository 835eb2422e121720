"""Size of compressed models, and the gains from measuring, feedback and nesting, on checkpoints of runs.

    ryot --config=configs/scaled.py --config.seed=1        # and one of seed 0, say
    python -m experiments.compression --runs runs/A runs/B --write

For the best checkpoint of each run's last arm:

    the file       compressed to --budget and judged on the whole held-out text, as by the main command
    allocation     at the size of matrices with equal bits, with the same quantizer: the rise of the loss with equal
                   bits for all matrices, with the steps that theory gives, and with measured ones
    nesting        every prefix of 2, 4 and 8 bits beside a model quantized for that width alone
    first token    seconds from the start of a process to the end of `ryot generate` of one token, interleaved

Goals: at most 1/8 of float32 with the upper end of the perplexity's interval at most 1 %; file at most 1.05 times its
entropy and side information; allocation at least 15 % less rise than equal bits at 3 and 4 bits; prefixes at most 2 %
more perplexity; generation at least 0.8 times as fast, the first token at most 2 s later. Exit code 0: all reached, 3:
one missed, 4: one not decided. About 10 minutes for two runs of configs/scaled.py.
"""

import argparse
import dataclasses
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.lib import record
from experiments.lib.record import Table
from ryot_jax.comparison.criteria import Criterion
from ryot_jax.comparison.schema import CompressionResult, Measured
from ryot_jax.comparison.statistics import SpeedUp, paired_difference
from ryot_jax.compression import balanced, calibrate, chain, compress, decode, matryoshka, prefix, quantize
from ryot_jax.compression.compress import Compression, allocated, code_bits
from ryot_jax.compression.compressed import named_leaves
from ryot_jax.compression.file import to_bytes
from ryot_jax.config import load
from ryot_jax.data.pipeline import Corpus, prepare
from ryot_jax.machine.allocator import configure_allocator
from ryot_jax.model import functional
from ryot_jax.runs import checkpoint_of_run
from ryot_jax.runs.checkpoint_of_run import CheckpointOfRun
from ryot_jax.runs.chosen_checkpoint import ChosenCheckpoint, best_of
from ryot_jax.runs.compression import compress_checkpoint, parse_budget
from ryot_jax.runs.model_functions import ModelFunctions, batches
from ryot_jax.runs.session import open_session
from ryot_jax.runtime.console import Console
from ryot_jax.runtime.run_directory import find_run
from ryot_jax.training.evaluation import Evaluator

WIDTHS = (3, 4)  # bits per parameter at which allocations are compared
NESTED = (2, 4, 8)
SEQUENCES = 2048  # held-out sequences that allocations and prefixes are judged on
LEAST_RATIO, TARGET_RATIO, MOST_RISE = 8.0, 10.0, 0.01
MOST_OVERHEAD, LESS_RISE, MOST_NESTED, LEAST_SPEED, MOST_DELAY = 1.05, 0.15, 0.02, 0.8, 2.0
STARTS = 5


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", required=True, help="run directories with checkpoints")
    parser.add_argument("--budget", default="perplexity<=1%")
    parser.add_argument("--write", action="store_true", help="write experiments/results/compression_NAME.md")
    options = parser.parse_args(words)
    budget, quiet = parse_budget(options.budget), record.others_at_work()
    tables: list[Table] = []
    criteria: list[Criterion] = []
    notes = [quiet]
    for name in options.runs:
        directory = find_run(Path("runs"), name)
        config = load(str(directory.config), ())
        chosen = best_of(directory, config.comparison.arms[-1])
        checkpoint = checkpoint_of_run.restore(open_session(config, print), chosen)
        corpus = prepare(config.data, config.tokenizer, config.model.vocab_size, print)
        title = f"seed {config.seed}"
        found = compress_checkpoint(checkpoint, chosen, corpus, budget, Console(sys.stderr))
        tables += [_file_table(title, found), _pareto_table(title, found)]
        criteria += _file_criteria(title, found)
        study = _Study.of(checkpoint, corpus)
        for part in (_allocation, _nesting):
            table, judged = part(title, study)
            tables.append(table)
            criteria += judged
        table, judged = _first_token(title, chosen)
        tables.append(table)
        criteria += judged
        notes.append(
            f"{title}: {found.training_tokens / found.parameters:.1f} training tokens a parameter; models that "
            "were trained on more compress less well (arXiv:2411.17691)."
        )
    return record.conclude(
        f"compression_{config.name}",
        f"Compression of trained models, {config.name}",
        command=record.command("experiments.compression", words),
        tables=tables,
        criteria=criteria,
        notes=notes,
        write=options.write,
    )


class _Change(NamedTuple):
    """The change of the loss (nats/token), and that of perplexity with its interval."""

    loss: float
    estimate: float
    ci95: tuple[float, float]


def _file_table(title: str, found: CompressionResult) -> Table:
    change = found.perplexity_change
    assert found.speed is not None  # the model has positions for new tokens
    rows = [
        ("bytes of the file", f"{found.bytes:,}"),
        ("times smaller than float32", f"{found.ratio:.2f}"),
        (f"times smaller than {found.lossless_coder} of float32", f"{found.lossless_bytes / found.bytes:.2f}"),
        ("bits a parameter, all included", f"{found.bits_per_parameter:.3f}"),
        ("side information (bytes)", f"{found.side_bytes:,}"),
        ("file / (entropy of codes given classes + side information)", f"{found.overhead:.4f}"),
        ("codes / their entropy without classes", f"{found.codes_bytes / found.order0_entropy_bytes:.4f}"),
        ("held-out loss of float32 (nats/token)", f"{found.float_loss:.4f}"),
        ("held-out loss (nats/token)", f"{found.loss:.4f}"),
        ("perplexity", _percent(change)),
        ("KL from float32 (nats/token)", f"{found.kl.estimate:.5f}"),
        ("same likeliest token", f"{found.agreement.estimate:.2%}"),
        ("tokens/s at batch 1 / float32's", f"{found.speed.estimate:.3f}"),
        ("seconds to compress and measure", f"{found.seconds:.0f}"),
    ]
    return Table(f"{title}: {found.budget}, {found.sequences:,} held-out sequences", ("", "found"), rows)


def _pareto_table(title: str, found: CompressionResult) -> Table:
    rows = [
        (
            f"{p.method}: {p.setting}",
            f"{p.bytes:,}",
            f"{found.float_bytes / p.bytes:.2f}",
            _percent(p.perplexity_change),
        )
        for p in sorted(found.pareto, key=lambda p: (p.method, -p.bytes))
    ]
    return Table(
        f"{title}: bytes against perplexity", ("method: setting", "bytes", "times smaller", "perplexity"), rows
    )


def _file_criteria(title: str, found: CompressionResult) -> list[Criterion]:
    interval, speed = found.perplexity_change.ci95, found.speed
    assert interval is not None and speed is not None and found.overhead is not None
    upper = interval[1]
    small = Criterion(
        f"{title}: times smaller than float32 at {MOST_RISE:.0%} perplexity",
        f"at least {LEAST_RATIO:g} (target {TARGET_RATIO:g})",
        f"{found.ratio:.2f}, upper end {upper:+.2%}",
        "PASS" if found.ratio >= LEAST_RATIO and upper <= MOST_RISE else "FAIL",
    )
    ratio = SpeedUp(speed.estimate, speed.ci95, 8, None, None, None)
    return [
        small,
        record.at_most(f"{title}: file / entropy and side information", found.overhead, MOST_OVERHEAD, ".4f"),
        record.at_least(f"{title}: tokens/s / float32's", ratio, LEAST_SPEED),
    ]


@dataclasses.dataclass(frozen=True)
class _Study:
    """A checkpoint, with the data to compress it and to judge the result."""

    params: Any
    functions: ModelFunctions
    calibration: list[dict[str, np.ndarray]]
    stats: Any
    targets: int
    evaluator: Evaluator
    before: np.ndarray

    @classmethod
    def of(cls, checkpoint: CheckpointOfRun, corpus: Corpus) -> "_Study":
        config = checkpoint.config
        model, params = functional.unstack_layers(checkpoint.model, checkpoint.params)
        functions = ModelFunctions.of(checkpoint.session, model)
        calibration = batches(corpus.train, config, config.compression.calibration_sequences)
        evaluator = functions.evaluator(corpus.heldout, config, SEQUENCES, params)
        stats = calibrate(functions.loss, params, calibration[::2], targets=config.training.seq_len)
        return cls(
            params, functions, calibration, stats, config.training.seq_len, evaluator, evaluator(params).sequence_losses
        )

    def change(self, compressed: Any) -> "_Change":
        """The change of the loss and of perplexity by compression."""
        found = paired_difference(self.before, self.evaluator(decode(compressed)).sequence_losses)
        assert found.estimate is not None and found.ci95 is not None
        low, high = np.expm1(found.ci95)
        return _Change(found.estimate, float(np.expm1(found.estimate)), (low, high))

    def compress(self, budget: str) -> Compression:
        """Compress to a budget as the main command does."""
        return compress(
            self.params,
            self.functions.loss,
            self.calibration,
            budget,
            targets=self.targets,
            measure=self.functions.fast_loss,
        )


def _allocation(title: str, study: _Study) -> tuple[Table, list[Criterion]]:
    rows, criteria = [], []
    for bits in WIDTHS:
        equal = _equal_bits(study, bits)
        n_bytes = to_bytes(equal)[1].total
        measured = study.compress(f"bytes<={n_bytes}")
        theory = _by_theory(study, n_bytes, measured)
        gptq = chain(quantize(bits, feedback="both"), balanced(min(measured.settings.values())))(
            study.params, study.stats
        )
        ways = {
            "equal bits, this quantizer": equal,
            "equal bits, GPTQ on a clipped grid": gptq,
            "equal expected rise, not measured": theory,
            "measured": measured.params,
        }
        changes = {way: study.change(compressed) for way, compressed in ways.items()}
        rows += [
            (f"{bits} bits: {way}", f"{to_bytes(ways[way])[1].total:,}", f"{found.loss:+.5f}", _percent(found))
            for way, found in changes.items()
        ]
        less = 1 - changes["measured"].loss / changes["equal bits, this quantizer"].loss
        criteria.append(
            Criterion(
                f"{title}: rise less than with equal bits, {bits} bits",
                f"at least {LESS_RISE:.0%}",
                f"{less:.0%}",
                "PASS" if less >= LESS_RISE else "FAIL",
            )
        )
    header = ("bits shared out by", "bytes", "rise (nats/token)", "perplexity")
    return Table(f"{title}: how bits are shared out, at equal bytes", header, rows), criteria


def _equal_bits(study: _Study, bits: float) -> Any:
    """Every matrix at the same entropy per parameter, by its own setting; vectors at that of the finest matrix."""
    settings = {}
    for name, leaf in named_leaves(study.params).items():
        if leaf.ndim < 2:
            continue
        low, high = -50.0, 0.0
        for _ in range(12):
            middle = (low + high) / 2
            taken = code_bits(balanced(2.0**middle)({name: leaf}, study.stats)) / leaf.size
            low, high = (middle, high) if taken > bits else (low, middle)
        settings[name] = 2.0**high
    groups = {name: [name] for name in settings}
    matrices = allocated(groups, settings)
    return chain(matrices, balanced(min(settings.values())))(study.params, study.stats)


def _by_theory(study: _Study, n_bytes: int, measured: Compression) -> Any:
    """The same expected rise for every parameter, within `n_bytes`."""
    low, high = -50.0, 0.0
    for _ in range(14):
        middle = (low + high) / 2
        fits = to_bytes(balanced(2.0**middle)(study.params, measured.stats))[1].total <= n_bytes
        low, high = (low, middle) if fits else (middle, high)
    return balanced(2.0**high)(study.params, measured.stats)


def _nesting(title: str, study: _Study) -> tuple[Table, list[Criterion]]:
    vectors = balanced(1e-3 / sum(leaf.size for leaf in named_leaves(study.params).values()))
    nested = chain(matryoshka(NESTED, feedback="both"), vectors)(study.params, study.stats)
    rows, criteria = [], []
    for stages, bits in enumerate(NESTED, start=1):
        alone = study.change(chain(quantize(bits, feedback="both"), vectors)(study.params, study.stats))
        part = study.change(prefix(nested, stages))
        more = (1 + part.estimate) / (1 + alone.estimate) - 1
        rows.append((f"{bits} bits", _percent(alone), _percent(part), f"{more:+.2%}"))
        criteria.append(
            record.at_most(f"{title}: prefix of {bits} bits over that width alone", more, MOST_NESTED, "+.2%")
        )
    header = ("width", "alone", "prefix of the nested file", "more perplexity")
    return Table(f"{title}: nested codes, perplexity over float32's", header, rows), criteria


def _first_token(title: str, chosen: ChosenCheckpoint) -> tuple[Table, list[Criterion]]:
    words = ["generate", f"--run={chosen.run}", "--prompt=def ", "--max_new_tokens=1"]
    seconds: dict[str, list[float]] = {"float32": [], "compressed": []}
    for start in range(STARTS + 1):
        for name, more in (("float32", []), ("compressed", ["--compressed"])):
            began = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "ryot_jax.main", *words, *more], check=True, capture_output=True, timeout=300
            )
            if start:  # the first run fills the cache of compiled programs
                seconds[name].append(time.perf_counter() - began)
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    later = medians["compressed"] - medians["float32"]
    rows = [(name, f"{median:.2f}", f"{min(seconds[name]):.2f}") for name, median in medians.items()]
    table = Table(f"{title}: `ryot generate` of one token, whole process", ("", "median (s)", "least (s)"), rows)
    return table, [record.at_most(f"{title}: seconds later than float32", later, MOST_DELAY, ".2f")]


def _percent(change: "Measured | _Change") -> str:
    assert change.ci95 is not None
    low, high = change.ci95
    return f"{change.estimate:+.2%} ({low:+.2%} to {high:+.2%})"


if __name__ == "__main__":
    configure_allocator(True)
    sys.exit(record.exit_code(main))
