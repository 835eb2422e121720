"""The stage that counts the work of a training step and places the arms under the roofline of this machine.

Operations and bytes are the closed forms of `model.accounting`; peaks and the roofline itself are in `machine`.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ryot_jax.comparison.outcomes import TrainingPair
from ryot_jax.comparison.record import Record
from ryot_jax.comparison.variants import Variant
from ryot_jax.kernels import dense
from ryot_jax.machine import roofline
from ryot_jax.machine.devices import Devices, describe_devices
from ryot_jax.machine.peaks import SECONDS, Peaks, measure_peaks
from ryot_jax.machine.roofline import StepWork
from ryot_jax.machine.roofline_records import Roofline
from ryot_jax.machine.workloads import XLA, Product, Shape
from ryot_jax.model.accounting import batch_bytes, least_flops_per_step, least_state_bytes_per_step
from ryot_jax.model.config import ModelConfig
from ryot_jax.optimizations import KernelPlan, activations_dtype, products_rounding
from ryot_jax.runs.compiled_arms import CompiledArms
from ryot_jax.runs.run import Run
from ryot_jax.runs.stage import Stage, StageResult
from ryot_jax.runtime.errors import RyotError
from ryot_jax.training.setup import TrainingSetup

# Weights are float32, rounded and packed within the call, and the result is of x's dtype.
_CPP = Product("C++", lambda x_NK, w_KM: dense(x_NK, w_KM, implementation="cpu"), weights_dtype="float32")


def place_arms(
    setup: TrainingSetup, variants: Sequence[Variant], record: Record, *, seconds: float = SECONDS
) -> tuple[Roofline | None, list[str]]:
    """Measures the machine's peaks and places the arms of a finished run under them.

    Measuring takes `seconds`, and up to three times as long where an arm seems to be above its roof, as other work on
    the machine may have been the reason.

    Returns:
      The field `roofline` of `results.json`, and sentences for its reader. Where peaks cannot be measured the field is
      None and a sentence says why; nothing is raised, so that a finished run is not lost.
    """
    if not record.blocks:
        return None, ["Roofline: not drawn, as no step was timed."]
    devices = describe_devices()
    steps = training_steps(setup, variants, seconds_per_step(record), devices)
    shapes = product_shapes(setup.model, setup.tokens_per_step // setup.config.training.accumulation)
    units = devices.independent_count

    def nothing_above(peaks: Peaks) -> bool:
        return not roofline.warnings(roofline.place(steps, peaks, units=units))

    try:
        dtypes = products_dtypes(setup.model, variants)
        peaks = measure_peaks(dtypes, shapes, products=products(), seconds=seconds, plausible=nothing_above)
    except (RyotError, jax.errors.JaxRuntimeError) as error:
        return None, [f"Roofline: not drawn, as the machine's peaks could not be measured: {error}"]
    placed = roofline.place(steps, peaks, units=units)
    return placed, roofline.warnings(placed)


def products() -> tuple[Product, ...]:
    """The implementations of the matrix product whose best is the default device's peak."""
    return (XLA, _CPP) if jax.default_backend() == "cpu" else (XLA,)


def training_steps(
    setup: TrainingSetup, variants: Sequence[Variant], seconds: Mapping[str, float], devices: Devices
) -> dict[str, StepWork]:
    """The least work of one training step of each variant on the given devices, by the variant's name.

    Args:
      setup: model, config and state of the run.
      variants: the arms.
      seconds: seconds of one step, by the variant's name.
      devices: the devices that share the batch.
    """
    training = setup.config.training
    size = training.batch_size, training.seq_len
    # The batch is divided among the devices, but every device holds the whole state and updates it.
    state_bytes = devices.local_count * least_state_bytes_per_step(
        setup.model,
        *size,
        optimizer_bytes=sum(leaf.nbytes for leaf in jax.tree.leaves(setup.state.opt_state)),
        clipped=training.clip_norm > 0,
    )
    return {
        variant.name: StepWork(
            products_dtype(setup.model, variant.plan),
            least_flops_per_step(setup.model, *size),
            state_bytes,
            batch_bytes(*size),
            seconds[variant.name],
        )
        for variant in variants
    }


def products_dtype(model: ModelConfig, plan: KernelPlan) -> str:
    """The dtype of the operands of a kernel plan's matrix products; the narrowest where there are several."""
    return products_rounding(plan) or activations_dtype(plan, model.compute_dtype)


def product_shapes(model: ModelConfig, rows: int) -> tuple[Shape, ...]:
    """Shapes (rows, inner size, columns) of the matrix products of a model's MLP and logits, for `rows` = B * T."""
    hidden = 2 * model.d_ff if model.mlp == "swiglu" else model.d_ff
    pairs = ((model.d_model, hidden), (model.d_ff, model.d_model), (model.d_model, model.vocab_size))
    return tuple(dict.fromkeys((rows, inner, columns) for inner, columns in pairs))


def products_dtypes(model: ModelConfig, variants: Sequence[Variant]) -> tuple[str, ...]:
    """The dtypes whose peaks `place` needs: float32, those of the variants, and the model's if one is narrower."""
    narrowest = {products_dtype(model, variant.plan) for variant in variants}
    is_narrower = any(jnp.dtype(dtype).itemsize < jnp.dtype(model.compute_dtype).itemsize for dtype in narrowest)
    return tuple(sorted({"float32", *narrowest, *([model.compute_dtype] if is_narrower else [])}))


def seconds_per_step(record: Record) -> dict[str, float]:
    """Median over the blocks of a run of the seconds per step, by arm."""
    return {
        name: float(np.median([block.seconds[name] / block.steps for block in record.blocks])) for name in record.arms
    }


def _place(run: Run, compiled: CompiledArms, pairs: Sequence[TrainingPair]) -> StageResult[Roofline | None]:
    placed, warnings = place_arms(run.setup, compiled.variants, pairs[0].record)
    return StageResult(placed, tuple(warnings))


STAGE = Stage("roofline", _place)
