"""`ryot train --dry_run`: the resolved config of a run and its cost, without training or writing."""

import time

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ryot_jax.config import to_json, total_steps
from ryot_jax.model import ModelConfig, functional
from ryot_jax.model.accounting import flops_per_step, memory_by_part, parameters_by_part
from ryot_jax.runs.planned_training import planned_trainings, schedule_of
from ryot_jax.runs.session import open_session
from ryot_jax.runtime.console import Console
from ryot_jax.runtime.progress import format_duration

# Seconds of a step over seconds of its matrix products alone, as measured with configs/scaled.py and configs/wide.py
# on 2-core CPUs; softmax, norms and memory traffic are the rest.
_STEP_OVER_PRODUCTS = (1.4, 2.4)


def estimate(config: ConfigDict, console: Console) -> int:
    """Prints config, parameters by part, FLOPs, memory and the expected time; returns 0."""
    session, training = open_session(config, console.line), config.training
    devices, model = session.devices, session.model
    shapes = jax.eval_shape(lambda: functional.init(model, 0)[1])
    parts = parameters_by_part(shapes)
    flops = flops_per_step(model, training.batch_size, training.seq_len)
    microbatch = training.batch_size // training.accumulation // devices.local_count
    memory = memory_by_part(model, max(microbatch, 1), training.seq_len)
    _, resolutions = session.variants

    console.line(to_json(config).rstrip())
    console.line()
    console.line(f"parameters  {sum(parts.values()):>16,}")
    for part, count in parts.items():
        console.line(f"  {part:<10}{count:>16,}")
    console.line(f"FLOPs       {flops:>16,} a step ({flops / 1e9:.1f} GFLOP), {model.compute_dtype}")
    console.line(f"memory      {sum(memory.values()) / 2**20:>16,.0f} MiB a device and arm, estimated")
    for part, size in memory.items():
        console.line(f"  {part:<12}{size / 2**20:>14,.1f}")
    for arm, resolution in resolutions.items():
        for line in resolution.lines():
            console.line(f"{arm}: {line}")
    for planned in planned_trainings(config) if config.scaling.enabled and len(resolutions) == 2 else []:
        schedule, parts_of_recipe = schedule_of(planned, config), ", ".join(planned.parts) or "none"
        share = schedule.total_tokens / (total_steps(config) * training.batch_size)
        console.line(
            f"{planned.name}: {schedule.total_steps:,} steps of {len(schedule.programs())} kinds, "
            f"{share / training.seq_len:.0%} of the tokens; recipe: {parts_of_recipe}"
        )
    rate = _product_rate(model, max(microbatch, 1) * training.seq_len) * devices.local_count
    steps = total_steps(config) * len(resolutions)
    low, high = (factor * flops / rate for factor in _STEP_OVER_PRODUCTS)
    console.line(
        f"time        {format_duration(low * steps)} to {format_duration(high * steps)} for {steps} steps of "
        f"{low * 1e3:.0f} to {high * 1e3:.0f} ms: the MLP's product runs at {rate / 1e9:,.0f} GFLOP/s here now, and a "
        f"baseline step takes {_STEP_OVER_PRODUCTS[0]} to {_STEP_OVER_PRODUCTS[1]} times its products; compilation "
        "and evaluation come on top"
    )
    return 0


def _product_rate(model: ModelConfig, rows: int) -> float:
    """FLOP/s of the MLP's first matrix product on one device, the fastest of a few runs."""
    x_ND = jnp.ones((rows, model.d_model), model.dtype)
    w_DF = jnp.ones((model.d_model, model.d_ff), model.dtype)
    product = jax.jit(lambda x, w: jnp.matmul(x, w, preferred_element_type=jnp.float32))
    jax.block_until_ready(product(x_ND, w_DF))
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        jax.block_until_ready(product(x_ND, w_DF))
        seconds.append(time.perf_counter() - start)
    return 2 * rows * model.d_model * model.d_ff / min(seconds)
