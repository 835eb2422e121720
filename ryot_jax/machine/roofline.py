"""Where each arm's training step stands below the roof of this machine, and what it means to stand above it.

The roofline model: Williams, Waterman & Patterson 2009, doi:10.1145/1498765.1498785. Peaks are measured by `peaks`,
operations and bytes are the closed forms of `model.accounting`.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ryot_jax.comparison.arms import Shared
from ryot_jax.comparison.record import Record
from ryot_jax.comparison.schema import ArmUnderRoof, MeasuredPeaks, Roofline
from ryot_jax.comparison.variants import Variant
from ryot_jax.kernels import KernelPlan
from ryot_jax.kernels.ops.dense import fp8
from ryot_jax.machine.devices import Devices, describe_devices
from ryot_jax.machine.peaks import SECONDS, Peaks, Shape, measure_peaks
from ryot_jax.model.accounting import batch_bytes, least_flops_per_step, least_state_bytes_per_step
from ryot_jax.model.config import ModelConfig
from ryot_jax.runtime.errors import RyotError

_FP8 = str(jnp.dtype(fp8.FORWARD))


@dataclasses.dataclass(frozen=True)
class Step:
    """What a training step must do at least, and what it took.

    Attributes:
      dtype: of the operands of its products; where there are several, the one that the machine is fastest with.
      flops: operations of its products, over all devices.
      state_bytes: traffic of weights, gradients and optimizer state, over all devices, if no cache keeps any.
      batch_bytes: of the token ids, which are new in every step.
      seconds: of a step once everything is compiled.
    """

    dtype: str
    flops: int
    state_bytes: int
    batch_bytes: int
    seconds: float


def of_run(
    shared: Shared, variants: Sequence[Variant], record: Record, *, seconds: float = SECONDS
) -> tuple[Roofline | None, list[str]]:
    """The roofline of a finished run, and sentences for its reader.

    Measures the peaks now, which takes `seconds`, and up to three times as long where an arm seems to be above its
    roof: work of others in the wrong moment is no bug of ours. Where it fails there is no roofline, and a sentence
    says why: a run is not lost for it.
    """
    if not record.blocks:
        return None, ["Roofline: not drawn, as no step was timed."]
    devices = describe_devices()
    steps = training_steps(shared, variants, seconds_per_step(record), devices)
    shapes = product_shapes(shared.model, shared.tokens_per_step // shared.config.training.accumulation)
    units = computing_units(devices)

    def nothing_above(peaks: Peaks) -> bool:
        return not warnings(place(steps, peaks, units=units))

    try:
        peaks = measure_peaks(products_dtypes(shared.model, variants), shapes, seconds=seconds, plausible=nothing_above)
    except (RyotError, jax.errors.JaxRuntimeError) as error:
        return None, [f"Roofline: not drawn, as the machine's peaks could not be measured: {error}"]
    found = place(steps, peaks, units=units)
    return found, warnings(found)


def place(steps: Mapping[str, Step], peaks: Peaks, *, units: int = 1) -> Roofline:
    """Arms under the roof: the field `roofline` of `results.json`.

    No step can take less than max(flops / peak, traffic / bandwidth); the roof is its flops over that. Traffic is the
    state's and the batch's without `cached_bytes`: what caches can at best keep of the state from one step to the
    next, each of their bytes being spared a write and a read. Nothing is spared where their size is not known.

    Args:
      steps: by arm.
      peaks: of one device.
      units: how many devices share the work, each with such peaks.
    """
    arms = {}
    for name, step in steps.items():
        cached = min(2 * units * (peaks.cache_bytes or 0), step.state_bytes)
        in_compute = step.flops / (units * _peak(peaks, step.dtype))
        in_memory = (step.state_bytes + step.batch_bytes - cached) / (units * peaks.copy_bytes)
        least_seconds = max(in_compute, in_memory)
        arms[name] = ArmUnderRoof(
            dtype=step.dtype,
            flops=step.flops,
            bytes=step.state_bytes + step.batch_bytes,
            cached_bytes=cached,
            seconds=step.seconds,
            flops_per_second=step.flops / step.seconds,
            roof=step.flops / least_seconds,
            bound="compute" if in_compute >= in_memory else "memory",
            share=least_seconds / step.seconds,
            above_roof=step.seconds < least_seconds,
        )
    return Roofline(
        peaks=MeasuredPeaks(
            matmul_flops={dtype: units * rate for dtype, rate in peaks.matmul_flops.items()},
            copy_bytes=units * peaks.copy_bytes,
            sources=dict(peaks.sources),
            cache_bytes=None if peaks.cache_bytes is None else units * peaks.cache_bytes,
        ),
        arms=arms,
    )


def warnings(roofline: Roofline) -> list[str]:
    """A sentence for each arm above its roof."""
    return [_warning(name, arm, roofline.peaks) for name, arm in roofline.arms.items() if arm.above_roof]


def _warning(name: str, arm: ArmUnderRoof, peaks: MeasuredPeaks) -> str:
    assert arm.flops_per_second is not None and arm.share is not None and arm.roof is not None  # `place` gives them
    faults = "the clock is wrong, or a step does fewer operations than the closed form counts"
    limit = f"the machine's {arm.dtype} products"
    if arm.bound == "memory":
        faults = "the clock is wrong, or a step moves fewer bytes than the closed form counts"
        limit = "the machine's memory traffic"
        if peaks.cache_bytes is None:
            faults += " (a cache whose size is not known may keep the state)"
    return (
        f"Roofline: the {name} arm is above the roof, which no program can be. It attained "
        f"{arm.flops_per_second / 1e9:,.1f} GFLOP/s, {arm.share:.2f} times the {arm.roof / 1e9:,.1f} that "
        f"{limit} as measured here allow. This is a bug: {faults}, or the peak was measured too low, as on a machine "
        "with other work. Until it is found, rely on no speed of this run."
    )


def training_steps(
    shared: Shared, variants: Sequence[Variant], seconds: Mapping[str, float], devices: Devices
) -> dict[str, Step]:
    """What a step of each variant must do at least on these devices; `seconds` of a step, by the variant's name."""
    training = shared.config.training
    size = training.batch_size, training.seq_len
    # The batch is shared out, but every device holds the whole state and updates it.
    state_bytes = devices.local_count * least_state_bytes_per_step(
        shared.model,
        *size,
        optimizer_bytes=sum(leaf.nbytes for leaf in jax.tree.leaves(shared.state.opt_state)),
        clipped=training.clip_norm > 0,
    )
    return {
        variant.name: Step(
            products_dtype(shared.model, variant.plan),
            least_flops_per_step(shared.model, *size),
            state_bytes,
            batch_bytes(*size),
            seconds[variant.name],
        )
        for variant in variants
    }


def products_dtype(model: ModelConfig, plan: KernelPlan) -> str:
    """Dtype of the operands of a plan's matrix products; the narrowest where there are several."""
    of_dense = {"xla": "bfloat16", "fp8": _FP8}
    return of_dense.get(plan.dense) or plan.activations or model.compute_dtype


def product_shapes(model: ModelConfig, rows: int) -> tuple[Shape, ...]:
    """The products of a model's MLP and of its logits, on so many rows (batch times length)."""
    hidden = 2 * model.d_ff if model.mlp == "swiglu" else model.d_ff
    pairs = ((model.d_model, hidden), (model.d_ff, model.d_model), (model.d_model, model.vocab_size))
    return tuple(dict.fromkeys((rows, inner, columns) for inner, columns in pairs))


def products_dtypes(model: ModelConfig, variants: Sequence[Variant]) -> tuple[str, ...]:
    """The dtypes whose peaks `place` needs: float32, those of the variants, and the model's beside a narrower one."""
    narrowest = {products_dtype(model, variant.plan) for variant in variants}
    return tuple(sorted({"float32", *narrowest, *([model.compute_dtype] if _FP8 in narrowest else [])}))


def computing_units(devices: Devices) -> int:
    """How many devices have peaks of their own: simulated devices of one CPU share them."""
    return 1 if devices.platform == "cpu" else devices.local_count


def seconds_per_step(record: Record) -> dict[str, float]:
    """Median over the blocks of a run, by arm."""
    return {
        name: float(np.median([block.seconds[name] / block.steps for block in record.blocks])) for name in record.arms
    }


def _peak(peaks: Peaks, dtype: str) -> float:
    """FLOP/s of one device: what narrow operands attain, or wide ones that they are converted to."""
    width = jnp.dtype(dtype).itemsize
    return max(rate for of, rate in peaks.matmul_flops.items() if of == dtype or jnp.dtype(of).itemsize > width)
