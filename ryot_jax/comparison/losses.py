"""Compares two loss functions of any JAX program by training with each of them.

from ryot_jax import optimize
from ryot_jax.comparison import compare_losses

result = compare_losses(loss, optimize(loss), params, batches, optimizer=optax.adamw(3e-4))
print(result.summary())
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax

from ryot_jax.comparison.comparison import Comparison
from ryot_jax.comparison.library import compare

Loss = Callable[..., Any]
"""(params, batch) -> scalar, or (params, *batch) -> scalar where a batch is a tuple."""


def compare_losses(
    baseline: Loss,
    optimized: Loss,
    params: Any,
    batches: Callable[[int], Any] | Sequence[Any],
    *,
    optimizer: optax.GradientTransformation | None = None,
    has_aux: bool = False,
    same_numerics: bool = True,
    **options: Any,
) -> Comparison:
    """Makes a training step of each of two loss functions, trains with both in turns and judges the second.

    Args:
      baseline: `(params, batch) -> loss`, a scalar; or `(params, *batch) -> loss` where a batch is a tuple.
      optimized: another function of the same arguments, such as `optimize(baseline)`.
      params: the initial parameters of both arms, a pytree of arrays; not modified.
      batches: `step -> batch`, or a sequence that is repeated in a cycle; the same for both arms.
      optimizer: the optimizer of both arms; None: Adam with a rate of 1e-3.
      has_aux: whether the losses come with other results, as in `jax.grad`; these are dropped.
      same_numerics: whether the second promises the first's numbers to rounding; False for `precision="bfloat16"`.
      **options: as in `compare`: `steps`, `block_steps`, `items_per_step`, controls, margins and others. `evaluate`
        takes parameters.

    Raises:
      ConfigError: an argument is invalid, or both steps compile to the same program: nothing was optimized.
      NonFiniteLossError: a loss is not finite.
    """
    update = optimizer if optimizer is not None else optax.adam(1e-3)

    def step(loss: Loss) -> Callable[[Any, Any], tuple[Any, Any]]:
        gradient = jax.value_and_grad(loss, has_aux=has_aux)

        def train(state: tuple[Any, Any], batch: Any) -> tuple[Any, Any]:
            params, moments = state
            value, gradients = gradient(params, *(batch if isinstance(batch, tuple) else (batch,)))
            updates, moments = update.update(gradients, moments, params)
            return (optax.apply_updates(params, updates), moments), value[0] if has_aux else value

        return train

    if (evaluate := options.pop("evaluate", None)) is not None:
        options["evaluate"] = lambda state: evaluate(state[0])
    state = (params, update.init(params))
    return compare(step(baseline), step(optimized), state, batches, same_numerics=same_numerics, **options)
