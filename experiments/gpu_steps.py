"""The steps' part of `experiments.gpu`: both arms of a config, and PyTorch, interleaved."""

import argparse
import collections
import contextlib
import functools
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import random_tokens
from experiments.gpu_kernels import GIB, Found
from experiments.lib import record
from experiments.lib.blocks import block_of, steps_within
from experiments.lib.record import Table
from experiments.peers import task
from experiments.peers.worker import Worker, WorkerError
from ryot_jax.comparison.arms import Arm
from ryot_jax.comparison.interleaving import interleave
from ryot_jax.comparison.statistics import speed_up
from ryot_jax.comparison.variants import check_active
from ryot_jax.config import load
from ryot_jax.kernels.declaration import Spec
from ryot_jax.kernels.resolution import supported
from ryot_jax.machine import peaks
from ryot_jax.machine.devices import describe_devices
from ryot_jax.model.accounting import flops_per_step
from ryot_jax.optimizations import BY_NAME
from ryot_jax.runs import roofline

SHARE_OF_PEAK = {"gpt2_small": 0.55}
BESIDE_TORCH = {"gpt2_small": 1.15}
_MOST_KERNELS = 30
EIGHT_BITS = "optimized, products of 8-bit floats"
SCANNED = ("scaled",)  # so small that a call takes as long as a step


def steps(config_path: str, options: argparse.Namespace) -> Found:
    """Both arms' step times, their share of the measured matrix peak, and the ratio to PyTorch's."""
    config = load(config_path)
    if options.dry_run:
        config.model.update({"vocab_size": 256, "d_model": 64, "d_ff": 64, "n_layers": 2, "n_heads": 1, "max_len": 16})
        config.training.update({"batch_size": 2, "seq_len": 16})
        config.evaluation.update({"sequences": 2, "batch_size": 2})
    notes: list[str] = []
    with contextlib.ExitStack() as stack:
        peer = None
        if options.torch_python and not options.dry_run:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            expected = task.write(folder / "task", config)
            words = ["-m", "experiments.peers.torch_gpt", f"--task={folder / 'task'}", "--device=cuda", "--compile"]
            start = functools.partial(Worker, [options.torch_python, *words], folder / "torch.log")
            peer = stack.enter_context(ThreadPoolExecutor(1)).submit(start)  # it compiles while we do
        setting = random_tokens.setting(config, arms=("baseline", "optimized"))
        arms = _arms(setting, notes)
        for name, (op, wish) in _further(config.name, setting.spec).items():
            changed = config.copy_and_resolve_references()
            changed.optimizations[op] = wish
            other = random_tokens.setting(changed, arms=("baseline", "optimized"))
            arms[name] = other.arm("optimized")
            if "baseline" in arms:
                texts = {"baseline": arms["baseline"].hlo_text(), "optimized": arms[name].hlo_text()}
                check_active(other.variants, texts, other.spec)
        notes += _losses(config.name, {name: arm.run_block(16).losses for name, arm in arms.items()})
        blocks = {name: block_of(arm) for name, arm in arms.items()}
        if peer is not None:
            try:
                worker = stack.enter_context(peer.result())
                worker.run_block(2)
                blocks["PyTorch"] = block_of(worker)
                notes.append(
                    f"{config.name}, PyTorch {worker.ready.versions['torch']}: {worker.ready.notes}; first loss "
                    f"{worker.ready.initial_loss:.4f}, ours {expected['initial_loss']:.4f}."
                )
            except WorkerError as failure:
                notes.append(f"{config.name}: PyTorch was not timed: {str(failure)[-300:]}")
        block_seconds = 0.01 if options.dry_run else options.block_seconds
        counts = {name: steps_within(run, block_seconds) for name, run in blocks.items()}
        rounds = 2 if options.dry_run else options.rounds
        seconds = interleave(blocks, counts, rounds=rounds, on_round=lambda done: record.progress(done, rounds))
    flops = flops_per_step(setting.model, config.training.batch_size, config.training.seq_len)
    tokens = config.training.batch_size * config.training.seq_len
    dtype = setting.model.compute_dtype
    shapes = roofline.product_shapes(setting.model, setting.spec.rows)
    peak = peaks.measure_peaks([dtype], shapes, products=roofline.products(), seconds=0.5 if options.dry_run else 4.0)
    rate = peak.matmul_flops[dtype]
    rows = []
    for name, sample in seconds.items():
        median = float(np.median(sample))
        memory = "" if name not in arms else f"{(arms[name].memory_bytes or 0) / GIB:.1f}"
        share = "" if name == EIGHT_BITS else f"{flops / median / rate:.3f}"  # its peak is another
        rows.append(
            (
                name,
                f"{1e3 * median:.3f}",
                f"{tokens / median:,.0f}",
                f"{flops / median / 1e12:,.1f}",
                share,
                memory,
            )
        )
    header = ("program", "ms a step", "tokens/s", "TFLOP/s", "share of the peak", "GiB")
    batch = f"{config.training.batch_size} x {config.training.seq_len}"
    table = Table(f"training step of {config.name}, {batch}", header, rows)
    plan = setting.variants[-1].plan
    notes += [
        f"{config.name}: the peak is {rate / 1e12:,.0f} TFLOP/s of products of {dtype} ({peak.sources[dtype]}), "
        f"{peak.copy_bytes / 1e9:,.0f} GB/s of memory, on {describe_devices().kind}; optimized: attention "
        f"{plan['attention']}, linear + cross-entropy {plan['linear_cross_entropy']}, norm {plan['norm']}."
    ]
    notes += [
        f"{config.name}: {name} over optimized: {record.in_words(speed_up(seconds[name], seconds['optimized']))}."
        for name in arms
        if name != "optimized"
    ]
    tables = [table, _kernels(config.name, arms["optimized"])]
    if options.dry_run:
        return Found(tables, [], notes)
    criteria = []
    if goal := SHARE_OF_PEAK.get(config.name):
        ideal = [flops / rate] * len(seconds["optimized"])
        of_peak = speed_up(ideal, seconds["optimized"])
        criteria.append(record.at_least(f"{config.name}: share of the matrix peak", of_peak, goal))
    if goal := BESIDE_TORCH.get(config.name):
        name = f"{config.name}: PyTorch's step / ours"
        if "PyTorch" in seconds:
            criteria.append(record.at_least(name, speed_up(seconds["PyTorch"], seconds["optimized"]), goal))
        else:
            criteria.append(record.not_measured(name, f"at least {goal:g}", "no PyTorch here"))
    return Found(tables, criteria, notes)


def _arms(setting: random_tokens.Setting, notes: list[str]) -> dict[str, Arm]:
    """Both arms, or only the optimized one, with a note, if this GPU's memory is too small for the baseline."""
    arms = {}
    for variant in setting.variants:
        try:
            arms[variant.name] = setting.arm(variant.name)
        except jax.errors.JaxRuntimeError as failure:
            if variant.name == "optimized" or "RESOURCE_EXHAUSTED" not in str(failure):
                raise
            notes.append(
                f"{setting.setup.config.name}: the baseline does not fit into the memory of this GPU, so the "
                "optimizations of the other programs are not proven from these by comparison with it."
            )
    if "baseline" in arms:
        check_active(setting.variants, {name: arm.hlo_text() for name, arm in arms.items()}, setting.spec)
    return arms


def _further(config_name: str, spec: Spec) -> dict[str, tuple[str, str]]:
    """Variants of the optimized arm to time as well: name -> (op, implementation)."""
    found = {}
    if config_name in SCANNED:
        found["optimized, several steps a call"] = "dispatch", "scan"
    if "fp8" in supported(BY_NAME["dense"], spec):
        found[EIGHT_BITS] = "dense", "fp8"
    return found


def _losses(config_name: str, losses: Mapping[str, Sequence[float]]) -> list[str]:
    """A sentence on the losses of the first steps, and on each program's distance from the first one's."""
    (first, start), *others = losses.items()
    apart = {name: max(abs(a - b) for a, b in zip(start, loss, strict=True)) for name, loss in others}
    return [
        f"{config_name}: in the first {len(start)} steps losses fell from {start[0]:.4f} to {start[-1]:.4f} nats "
        f"({first}); at most so far from these: "
        + ", ".join(f"{name} {difference:.4f}" for name, difference in apart.items())
        + "."
    ]


def _kernels(name: str, arm: Arm) -> Table:
    """The kernels in which an arm's step spends most of its time on a GPU, by JAX's profiler."""
    steps = 4
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            arm.run_block(steps)
        files = sorted(Path(folder).rglob("*.xplane.pb"))
        nanoseconds: collections.Counter[str] = collections.Counter()
        calls: collections.Counter[str] = collections.Counter()
        for line in (line for file in files for line in _streams(file)):
            for event in line.events:
                nanoseconds[event.name] += event.duration_ns
                calls[event.name] += 1
    rows = [
        (kernel[:100], f"{total / steps / 1e6:.3f}", f"{calls[kernel] / steps:g}")
        for kernel, total in nanoseconds.most_common(_MOST_KERNELS)
    ]
    rows.append(("all kernels", f"{sum(nanoseconds.values()) / steps / 1e6:.3f}", f"{sum(calls.values()) / steps:g}"))
    return Table(f"kernels of the optimized step of {name}", ("kernel", "ms a step", "calls a step"), rows)


def _streams(file: Path) -> list[Any]:
    """The GPU streams of a profile, without CPU lines."""
    planes = jax.profiler.ProfileData.from_file(str(file)).planes
    return [line for plane in planes if "GPU" in plane.name for line in plane.lines if "Stream" in line.name]
