"""The kernels' part of `experiments.gpu`: errors against float64, and times."""

import dataclasses
import functools
import json
import subprocess
from collections.abc import Sequence
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lib import record
from experiments.lib.record import Table
from experiments.peers import tokamax_kernels
from experiments.peers.worker import REPOSITORY
from ryot_jax.comparison.criteria import Criterion
from ryot_jax.comparison.statistics import speed_up
from ryot_jax.kernels import catalogue
from ryot_jax.kernels.choice import benchmark as benchmarking
from ryot_jax.kernels.choice import tuning
from ryot_jax.kernels.declaration import Benchmark, Spec
from ryot_jax.kernels.resolution import supported
from ryot_jax.machine.devices import describe_devices

OPS = ("linear_cross_entropy", "attention", "norm")
GIB = 2**30


class Sizes(TypedDict):
    """The sizes of the work, as fields of `Spec`."""

    rows: int
    d_model: int
    d_ff: int
    vocab_size: int
    seq_len: int
    n_heads: int


# Sizes that no tile divides, and timed sizes: the ops of gpt2_small's step with 32 sequences, a wide vocabulary
# (marin-community/marin#6596), and long sequences (tokamax's published H100 times).
_ODD = Sizes(rows=1_002, d_model=384, d_ff=512, vocab_size=5_003, seq_len=334, n_heads=6)
_GPT2 = Sizes(rows=32_768, d_model=768, d_ff=3_072, vocab_size=50_304, seq_len=1_024, n_heads=12)
_WIDE = Sizes(rows=32_768, d_model=2_560, d_ff=10_240, vocab_size=128_256, seq_len=4_096, n_heads=20)
_LONG = Sizes(rows=16_384, d_model=2_048, d_ff=8_192, vocab_size=50_304, seq_len=4_096, n_heads=16)
_TINY = Sizes(rows=40, d_model=128, d_ff=128, vocab_size=300, seq_len=20, n_heads=2)
_TIMED: dict[str, dict[str, Sizes]] = {
    "linear_cross_entropy": {"gpt2_small": _GPT2, "wide vocabulary": _WIDE},
    "attention": {"gpt2_small": _GPT2, "4,096 tokens": _LONG},
    "norm": {"gpt2_small": _GPT2, "2,560 wide": _WIDE},
}


@dataclasses.dataclass(frozen=True)
class Found:
    """Tables, criteria and notes of one part of the study."""

    tables: list[Table]
    criteria: list[Criterion]
    notes: list[str]

    def __add__(self, other: "Found") -> "Found":
        return Found(self.tables + other.tables, self.criteria + other.criteria, self.notes + other.notes)


def spec(sizes: Sizes, *, dry_run: bool = False) -> Spec:
    """The work on this device; in a dry run, on an interpreted Hopper GPU."""
    devices = describe_devices()
    platform, capability = ("gpu", "9.0") if dry_run else (devices.platform, devices.compute_capability)
    return Spec(platform, 1, "bfloat16", compute_capability=capability, **sizes)


def implementations(op: str, work: Spec, *, dry_run: bool = False) -> list[str]:
    """The implementations that can take the work; in a dry run without cuDNN, a library that cannot be interpreted."""
    return [name for name in supported(catalogue.op(op), work) if not (dry_run and name == "cudnn")]


def _contenders(op: str, benchmark: Benchmark, work: Spec, *, dry_run: bool = False) -> dict[str, Benchmark]:
    """The benchmarks to compare, by name: our implementations, and tokamax's if it is installed."""
    ours = dict.fromkeys(implementations(op, work, dry_run=dry_run), benchmark)
    other = tokamax_kernels.functions().get(op)
    return ours if other is None else ours | {"tokamax": dataclasses.replace(benchmark, function=other)}


def correctness(ops: Sequence[str], *, dry_run: bool = False) -> Found:
    """Relative errors of outputs and gradients; none may exceed twice the reference's in bfloat16."""
    rows, criteria, notes = [], [], []
    work = spec(_TINY if dry_run else _ODD, dry_run=dry_run)
    for op in ops:
        benchmark = benchmarking.benchmark(catalogue.op(op), work)
        truth = truth_in_float64(benchmark)
        limit = 0.0
        for name, given in _contenders(op, benchmark, work, dry_run=dry_run).items():
            try:
                program, _ = benchmarking.compiled(given, name)
                error = tuning.relative_error(program(), truth)
            except Exception as failure:  # of any kind: a compiler's, the runtime's
                if name == "tokamax":
                    notes.append(f"{op}, tokamax: {benchmarking.described(failure)[:200]}.")
                    continue
                criteria.append(
                    Criterion(f"{op}, {name}: error", "runs", benchmarking.described(failure)[:200], "FAIL")
                )
                continue
            if name == "reference":
                limit = 2 * error + 1e-4
            rows.append((f"{op}, {name}", f"{error:.2e}"))
            if name != "tokamax":
                criteria.append(record.at_most(f"{op}, {name}: error against float64", error, limit, ".2e"))
    table = Table("largest relative error, outputs and gradients", ("implementation", "error"), rows)
    return Found([table], criteria, notes)


def eight_bit_products(*, dry_run: bool = False) -> Found:
    """The error of dense products of 8-bit floats, with rounding errors up to 6 % in operands and 12 % in gradients."""
    work = spec(Sizes(rows=1_008, d_model=384, d_ff=528, vocab_size=64, seq_len=336, n_heads=6), dry_run=dry_run)
    name = "dense, fp8: error against float64"
    if "fp8" not in supported(catalogue.op("dense"), work):
        return Found([], [], [f"{name}: not on this GPU."])
    benchmark = benchmarking.benchmark(catalogue.op("dense"), work)
    program, _ = benchmarking.compiled(benchmark, "fp8")
    error = tuning.relative_error(program(), truth_in_float64(benchmark))
    return Found([], [record.at_most(name, error, 0.1, ".2e")], [])


def truth_in_float64(benchmark: Benchmark) -> Any:
    """Outputs and gradients of the reference on the same numbers in float64."""
    given = benchmarking.cotangents(benchmark)

    def exact(x: jax.Array) -> np.ndarray:
        floating = jnp.issubdtype(x.dtype, jnp.floating)
        return np.asarray(x.astype(jnp.float32), np.float64) if floating else np.asarray(x)

    operands = jax.tree.map(exact, (benchmark.differentiable, benchmark.others))
    with jax.enable_x64(True):
        function = functools.partial(benchmark.function, "reference")
        shapes = jax.eval_shape(function, *operands[0], *operands[1])
        cotangents = jax.tree.map(lambda c, s: np.asarray(exact(c), s.dtype), given, shapes)
        program = jax.jit(functools.partial(benchmarking.forward_and_backward, function))
        return jax.tree.map(np.asarray, program(*operands, cotangents))


def times(ops: Sequence[str], seconds: float, torch_python: str, *, dry_run: bool = False) -> Found:
    """Interleaved times of all implementations, followed by PyTorch's."""
    found = Found([], [], [])
    sizes = {f"{op}, {name}": (op, s) for op in ops for name, s in _TIMED[op].items()}
    for title, (op, size) in sizes.items():
        found += told(_timed(title, op, spec(_TINY if dry_run else size, dry_run=dry_run), seconds, dry_run))
    if torch_python and not dry_run:
        found += told(_torch(sizes, torch_python))
    return found


def _timed(title: str, op: str, work: Spec, seconds: float, dry_run: bool) -> Found:
    benchmark = benchmarking.benchmark(catalogue.op(op), work)
    programs, memory, notes = {}, {}, []
    for name, given in _contenders(op, benchmark, work, dry_run=dry_run).items():
        if dry_run and name in ("mosaic", "triton"):
            continue  # interpreted, they are run by `correctness` only
        try:
            program, memory[name] = benchmarking.compiled(given, name)
            jax.block_until_ready(program())
            programs[name] = program
        except Exception as failure:
            notes.append(f"{title}, {name}: {benchmarking.described(failure)[:300]}")
    measured = tuning.race(programs, seconds=0.01 if dry_run else seconds)
    rows = []
    for name, sample in measured.items():
        median, base = float(np.median(sample)), measured.get("reference")  # full logits may be too large for a GPU
        ratio = "" if name == "reference" or base is None else record.in_words(speed_up(base, sample))
        rows.append((name, f"{1e3 * median:.3f}", ratio, f"{(memory[name] or 0) / GIB:.2f}", _rate(op, work, median)))
    header = ("implementation", "median ms", "reference / this", "temporary GiB", "rate")
    criteria = [] if dry_run else _goals(title, op, measured, memory)
    return Found([Table(f"{title}: forward and backward", header, rows)], criteria, notes)


def _rate(op: str, work: Spec, seconds: float) -> str:
    """Useful operations or bytes per second, as text."""
    N, D, V, T = work.rows, work.d_model, work.vocab_size, work.seq_len
    if op == "norm":  # forward reads x and writes y; backward reads dy, x and the other gradient and writes dx
        return f"{6 * 2 * N * D / seconds / 1e9:,.0f} GB/s"
    # Three products of logits' size; attention has two products forward and five backward over half the scores.
    flops = 3 * 2 * N * D * V if op == "linear_cross_entropy" else 7 * N * T * D
    return f"{flops / seconds / 1e12:,.0f} TFLOP/s"


def _goals(title: str, op: str, measured: dict[str, Any], memory: dict[str, int | None]) -> list[Criterion]:
    """Criteria of the fastest implementation other than the reference."""
    ours = [name for name in measured if name not in ("reference", "tokamax")]
    best = min(ours, key=lambda name: np.median(measured[name]), default="")
    if not best:
        return [record.not_measured(title, "an implementation of ours", "none runs here")]
    if best == "cudnn":
        return [Criterion(title, "within 1.05 of cuDNN's time", "cuDNN itself is the fastest", "PASS")]
    base, whose, goal = {
        "linear_cross_entropy": ("reference", "full logits'", 1 / 1.05),
        "attention": ("cudnn", "cuDNN's", 1 / 1.05),
        "norm": ("reference", "XLA's", 1.8),
    }[op]
    if base not in measured:
        return [record.not_measured(title, f"{whose} time", "it does not run here")]
    faster = speed_up(measured[base], measured[best])
    criteria = [record.at_least(f"{title}, {best}: {whose} time / its time", faster, goal)]
    if op == "linear_cross_entropy":
        share = (memory[best] or 0) / (memory["reference"] or 1)
        criteria.append(record.at_most(f"{title}, {best}: its memory / full logits'", share, 1 / 8))
    return criteria


def _torch(sizes: dict[str, tuple[str, Sizes]], torch_python: str) -> Found:
    """PyTorch's median times."""
    asked = {
        title: {
            "op": op,
            **size,
            "batch": size["rows"] // size["seq_len"],
            "head_width": size["d_model"] // size["n_heads"],
        }
        for title, (op, size) in sizes.items()
    }
    command = [torch_python, "-m", "experiments.peers.torch_kernels", json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=300, check=False)
    if done.returncode:
        why = (done.stderr.splitlines() or ["no message"])[-1]
        return Found([], [], [f"PyTorch's kernels were not timed: {why}"])
    answer = json.loads(done.stdout.splitlines()[-1])
    rows = [
        (title, f"{ms:.3f}", _rate(sizes[title][0], spec(sizes[title][1]), ms / 1e3))
        for title, ms in answer["milliseconds"].items()
    ]
    return Found(
        [Table(f"PyTorch {answer['version']}, forward and backward", ("op", "median ms", "rate"), rows)], [], []
    )


def told(found: Found) -> Found:
    """Print the findings and return them, so that a later failure does not lose them."""
    for table in found.tables:
        print(f"\n{record.ascii_table(table)}", flush=True)
    for criterion in found.criteria:
        print(f"{criterion.verdict}: {criterion.name}: {criterion.actual}", flush=True)
    for note in found.notes:
        print(note, flush=True)
    return found
