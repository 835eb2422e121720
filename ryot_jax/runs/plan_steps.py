"""Training steps of several kernel plans, compiled and checked against each other, for timing."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ryot_jax.kernels.choice.benchmark import described, zipf_tokens
from ryot_jax.kernels.choice.tuning import Measurement
from ryot_jax.model import ModelConfig
from ryot_jax.optimizations import KernelPlan
from ryot_jax.training.optimizer import make_optimizer
from ryot_jax.training.parallel import CompiledStep, compile_step
from ryot_jax.training.state import init_state
from ryot_jax.training.step_programs import step_function

# Largest relative difference of the first step's loss and gradient norm from the reference's: bfloat16 between the ops
# makes about 0.001 (scaled run), a wrong kernel far more.
STEP_TOLERANCE = 0.05
_COMPILERS = 2  # programs compiled at a time; XLA uses further threads by itself


def compiled_steps(
    config: ConfigDict, model: ModelConfig, plans: Mapping[str, KernelPlan]
) -> tuple[dict[str, Measurement], dict[str, Callable[[], Any]]]:
    """A step of each plan on random text of the config's sizes.

    Args:
      config: the config.
      model: its model config.
      plans: plans by name, that of the reference first.

    Returns:
      What is known of each plan: its memory and its error against the reference, or why it failed.
      A call for each plan that passed, which takes one step from where the last call of any of them stopped.

    Raises:
      Exception: whatever the reference raises.
    """
    training, (reference, *_) = config.training, plans
    optimizer = make_optimizer(training, training.epochs * training.steps_per_epoch)
    graphdef, state = init_state(model, optimizer, config.seed)
    shape = (training.batch_size, training.seq_len + 1)
    tokens = zipf_tokens(np.random.default_rng(config.seed), model.vocab_size, shape)
    batch = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:]}

    def compiled(plan: KernelPlan) -> CompiledStep:
        step_fn = step_function(config, model, graphdef, optimizer, plan)
        return compile_step(step_fn, state, batch, parallelism=training.parallelism)

    measured: dict[str, Measurement] = {}
    programs: dict[str, CompiledStep] = {}
    metrics_of_reference: dict[str, float] = {}
    with ThreadPoolExecutor(_COMPILERS) as compilers:
        pending = {name: compilers.submit(compiled, plan) for name, plan in plans.items()}
    for name, program_to_be in pending.items():
        try:
            program = program_to_be.result()
            metrics = jax.device_get(program(jax.tree.map(jnp.copy, state), batch)[1])
        except Exception as failure:  # any error of the compiler, the runtime or a kernel
            if name == reference:
                raise
            measured[name] = Measurement(failure=described(failure))
            continue
        metrics_of_reference = metrics_of_reference or metrics
        measured[name] = Measurement(None, STEP_TOLERANCE, memory_bytes=program.memory_bytes)
        if model.dropout == 0:  # with dropout the masks, and so the numbers, differ
            error = max(abs(float(metrics[key] / metrics_of_reference[key]) - 1) for key in ("loss", "grad_norm"))
            measured[name] = dataclasses.replace(measured[name], error=error)
            if not error <= STEP_TOLERANCE:
                failed = f"loss or gradient norm is off by {error:.1e}, above {STEP_TOLERANCE:.0e}"
                measured[name] = dataclasses.replace(measured[name], failure=failed)
                continue
        programs[name] = program

    current = state  # passed from program to program, each of which continues where the one before stopped

    def step(program: CompiledStep) -> Any:
        nonlocal current
        current, metrics = program(current, batch)
        return metrics

    return measured, {name: functools.partial(step, program) for name, program in programs.items()}
