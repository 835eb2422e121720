"""The compiled programs of a training step with a plan's kernels, and their start-up checks."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from ryot_jax.model import ModelConfig, functional
from ryot_jax.optimizations import KernelPlan, activations_dtype, is_on_activations_in, products_rounding
from ryot_jax.optimizations.dispatch import steps_per_call
from ryot_jax.training import program_check
from ryot_jax.training.optimizer import Optimizer, with_adamw_kernel
from ryot_jax.training.parallel import CompiledStep, StepFn, compile_step, stack
from ryot_jax.training.program_check import ProgramCheck, checked, checked_scan
from ryot_jax.training.qat import rounded_from
from ryot_jax.training.state import State
from ryot_jax.training.step import train_step
from ryot_jax.training.steps import rounded_steps, total_steps


def step_function(
    config: ConfigDict,
    model: ModelConfig,
    graphdef: functional.GraphDef,
    optimizer: optax.GradientTransformation,
    plan: KernelPlan,
    rate: optax.Schedule | None = None,
    depth: int = 0,
) -> StepFn:
    """The training step of a model with the kernels of `plan`; `optimizer` is that of the config, with this rate.

    `depth` is the number of first layers that the loss uses; 0: all.
    """
    training = config.training

    def loss_fn(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        dropout_key = key if model.dropout > 0 else None
        return functional.loss(graphdef, params, batch, plan=plan, key=dropout_key, depth=depth)

    n_steps = total_steps(config)
    step_optimizer: Optimizer = optimizer
    if plan["optimizer"] != "reference":
        step_optimizer = with_adamw_kernel(optimizer, training, n_steps, plan["optimizer"], rate)
    params_fn = None
    if plan["qat"] == "round":
        params_fn = rounded_from(_first_rounded_step(config), config.compression.qat_bits)
    return functools.partial(
        train_step,
        loss_fn=loss_fn,
        optimizer=step_optimizer,
        params_fn=params_fn,
        accumulation=training.accumulation,
    )


def advance_to_first_step_with_everything_on(state: State, config: ConfigDict, plan: KernelPlan) -> State:
    """Renumbers a state as the first one whose step uses everything that the plan switches on.

    For start-up checks, warm-ups and the times of an ablation, which must execute the whole program.
    """
    if plan["qat"] != "round":
        return state
    return dataclasses.replace(state, step=jnp.asarray(_first_rounded_step(config), state.step.dtype))


def _first_rounded_step(config: ConfigDict) -> int:
    return total_steps(config) - rounded_steps(config)


def compile_programs(
    step_fn: StepFn, state: State, batches: Sequence[Any], *, config: ConfigDict, model: ModelConfig, plan: KernelPlan
) -> tuple[dict[str, CompiledStep], dict[str, ProgramCheck]]:
    """Compiles and checks the programs of a step; both results by name: 'step', and 'scan' if the plan scans steps.

    Args:
      step_fn: the step with the kernels of `plan`.
      state: see `advance_to_first_step_with_everything_on`.
      batches: the first `STEPS_PER_CALL` batches.
      config: the config; without `runtime.check_programs` nothing is checked.
      model: its model section.
      plan: the kernel plan.
    """
    parallelism = config.training.parallelism
    if not config.runtime.check_programs:
        programs = {"step": compile_step(step_fn, state, batches[0], parallelism=parallelism)}
        if steps_per_call(plan) > 1:
            programs["scan"] = compile_step(step_fn, state, stack(batches), steps=len(batches), parallelism=parallelism)
        return programs, {}
    tolerance = _tolerance(model, plan)
    step, step_check = checked(step_fn, state, batches[0], parallelism=parallelism, tolerance=tolerance)
    programs, checks = {"step": step}, {"step": step_check}
    if steps_per_call(plan) > 1:
        programs["scan"], checks["scan"] = checked_scan(step_fn, state, batches, step=step, tolerance=tolerance)
    return programs, checks


def _tolerance(model: ModelConfig, plan: KernelPlan) -> float:
    """The largest relative difference that rounding alone makes between two compilations of one step."""
    in_cpp = is_on_activations_in(plan, "cpu")
    if activations_dtype(plan, model.compute_dtype) != "float32" and not in_cpp:
        return program_check.BFLOAT16_TOLERANCE
    # The C++ kernels are the same in both compilations; what XLA computes around them may round to bfloat16.
    if in_cpp or products_rounding(plan):
        return program_check.BFLOAT16_PRODUCTS_TOLERANCE
    return program_check.FLOAT32_TOLERANCE
