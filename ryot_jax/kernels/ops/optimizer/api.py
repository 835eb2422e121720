"""The public function of the op: `adamw`."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ryot_jax.kernels.operands import choose
from ryot_jax.kernels.ops.optimizer import OP
from ryot_jax.kernels.ops.optimizer._step import Numbers


class AdamWStep(NamedTuple):
    """The result of a step: three trees like the parameters', and the gradients' norm before clipping, f32[]."""

    params: Any
    first_moment: Any
    second_moment: Any
    grad_norm: jax.Array


def adamw(
    params: Any,
    grads: Any,
    first_moment: Any,
    second_moment: Any,
    *,
    count: jax.Array | int,
    learning_rate: jax.Array | float,
    b1: float = 0.9,
    b2: float = 0.999,
    epsilon: float = 1e-8,
    weight_decay: Any = 0.0,
    clip_norm: float = 0.0,
    gradient_scale: jax.Array | float = 1.0,
    implementation: str = "reference",
) -> AdamWStep:
    """One step of AdamW (Loshchilov & Hutter, arXiv:1711.05101), equal to `optax.adamw` after a clip.

    With g = gradient_scale grads, scaled down so that its global norm is at most `clip_norm`, and t = count + 1:
    m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2,
    p = p - learning_rate (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + epsilon) + weight_decay p).

    Args:
      params: pytree of float arrays.
      grads: their gradients, a tree of the same shapes and dtypes, as are the two below.
      first_moment: m; zeros before the first step.
      second_moment: v; zeros before the first step.
      count: int32[], number of earlier steps.
      learning_rate: f32[], the rate of this step.
      b1: decay of m.
      b2: decay of v.
      epsilon: see above.
      weight_decay: a number for all, or a tree of numbers like `params`.
      clip_norm: largest global norm of g; 0: no clipping.
      gradient_scale: f32[], first factor of the gradients, such as one over the number of targets.
      implementation: 'reference', or 'cpu' (C++, float32; reuses the memory of donated arrays for the new ones).

    Raises:
      ValueError: the trees do not match, or the implementation is unknown.
      TypeError: the implementation cannot take the dtypes.
      NotImplementedError: the C++ kernels cannot run here.
    """
    leaves = jax.tree.leaves(params)
    tree: Any = jax.tree.structure(params)
    others = []
    for name, other in (("grads", grads), ("first_moment", first_moment), ("second_moment", second_moment)):
        others.append(jax.tree.leaves(other))
        if jax.tree.structure(other) != tree or [x.shape for x in others[-1]] != [x.shape for x in leaves]:
            raise ValueError(f"{name} is no tree of the shapes of params")
    if jax.tree.structure(weight_decay) == tree:
        decays = [float(decay) for decay in jax.tree.leaves(weight_decay)]
    else:
        decays = [float(weight_decay)] * len(leaves)
    apply = choose(OP, implementation, *leaves, *(x for other in others for x in other))
    t = jnp.asarray(count, jnp.int32) + 1
    numbers = Numbers(gradient_scale, clip_norm, learning_rate, b1, b2, epsilon, 1 / (1 - b1**t), 1 / (1 - b2**t))
    *updated, grad_norm = apply(numbers, decays, leaves, *others)
    new_params, new_first, new_second = (jax.tree.unflatten(tree, arrays) for arrays in updated)
    return AdamWStep(new_params, new_first, new_second, grad_norm)
