"""The training step: one pure function from (state, batch) to (state, metrics).

It runs unchanged under `jit` with sharded arrays, under `shard_map` and under `pmap`; `parallel`
compiles it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ryot_jax.training.optimizer import DirectOptimizer, Optimizer
from ryot_jax.training.state import State

Batch = dict[str, jax.Array]
Params = Any
# (params, batch, key) -> (sum of the losses of all targets in nats f32[], number of targets f32[])
LossFn = Callable[[Params, Batch, jax.Array], tuple[jax.Array, jax.Array]]
# (params, number of the step i32[]) -> params of the same shapes
ParamsFn = Callable[[Params, jax.Array], Params]
Metrics = dict[str, jax.Array]


def train_step(
    state: State,
    batch: Batch,
    *,
    loss_fn: LossFn,
    optimizer: Optimizer,
    params_fn: ParamsFn | None = None,
    accumulation: int = 1,
    axis_name: str | None = None,
) -> tuple[State, Metrics]:
    """Takes one optimizer step on the mean loss over the targets of the whole batch.

    Every target has the same weight, whatever its microbatch and device: sums of losses, gradients and targets are
    added up first and divided once.

    Args:
      state: the state before the step.
      batch: arrays with the sequences on axis 0, `[B, ...]`; under a named axis, this device's part of them.
      loss_fn: `(params, batch, key) -> (loss_sum, n_targets)`, pure.
      optimizer: the optimizer of the mean gradient.
      params_fn: maps the parameters to those of the loss, such as rounded ones, once for all microbatches. The gradient
        at the mapped parameters goes to the optimizer unchanged (straight through).
      accumulation: number of microbatches of the batch; divides B.
      axis_name: the mapped axis to sum over (`shard_map`, `pmap`); None for global arrays.

    Returns:
      The next state and f32 scalars: `loss` (nats per target), `n_targets`, `grad_norm` (before clipping).
    """
    key = jax.random.fold_in(state.key, state.step)
    if axis_name is not None:
        key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
    seen = state.params if params_fn is None else params_fn(state.params, state.step)
    sums = _accumulated_sums(seen, batch, key, loss_fn, accumulation)
    if axis_name is not None:
        sums = jax.lax.psum(sums, axis_name)
    loss_sum, n_targets, grad_sum = sums

    per_target = 1.0 / jnp.maximum(n_targets, 1.0)
    if isinstance(optimizer, DirectOptimizer):
        params, opt_state, grad_norm = optimizer.apply(grad_sum, per_target, state.opt_state, state.params)
    else:
        grads = jax.tree.map(lambda g: g * per_target.astype(g.dtype), grad_sum)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params, grad_norm = optax.apply_updates(state.params, updates), optax.tree.norm(grads)
    metrics = {"loss": loss_sum * per_target, "n_targets": n_targets, "grad_norm": grad_norm}
    return State(params=params, opt_state=opt_state, step=state.step + 1, key=state.key), metrics


def _accumulated_sums(
    params: Params, batch: Batch, key: jax.Array, loss_fn: LossFn, accumulation: int
) -> tuple[jax.Array, jax.Array, Params]:
    """Sums of losses, targets and gradients over the batch, one microbatch in memory at a time."""

    def sums(microbatch: Batch, key: jax.Array) -> tuple[jax.Array, jax.Array, Params]:
        (loss_sum, n_targets), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, microbatch, key)
        return loss_sum, n_targets.astype(jnp.float32), grads

    if accumulation == 1:
        return sums(batch, key)

    def add(total: Any, indexed_microbatch: tuple[jax.Array, Batch]) -> tuple[Any, None]:
        index, microbatch = indexed_microbatch
        return jax.tree.map(jnp.add, total, sums(microbatch, jax.random.fold_in(key, index))), None

    microbatches = jax.tree.map(lambda x: _interleave(x, accumulation), batch)
    indices = jnp.arange(accumulation)
    shapes = jax.eval_shape(sums, jax.tree.map(lambda x: x[0], microbatches), key)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    total, _ = jax.lax.scan(add, zeros, (indices, microbatches))
    return total


def _interleave(x: jax.Array, accumulation: int) -> jax.Array:
    """[B, ...] -> [accumulation, B / accumulation, ...]; microbatch a holds the rows a, a + accumulation, ...

    Strided and not contiguous, so that a batch that is sharded over axis 0 needs no exchange between devices:
    each has its share of every microbatch.
    """
    return jnp.swapaxes(x.reshape(x.shape[0] // accumulation, accumulation, *x.shape[1:]), 0, 1)
