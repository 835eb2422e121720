"""One step of AdamW over a pytree of parameters, with clipping by the global gradient norm.

The learning rate's schedule and what is decayed are the caller's. `cpu` is one pass over all arrays in C++, where XLA
makes a program of its own for each of them and reads some arrays several times.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ryot_jax.kernels import cpu
from ryot_jax.kernels.operands import choose


class AdamWStep(NamedTuple):
    """What a step leads to: three trees like the parameters', and the gradients' global norm before clipping, f32[]."""

    params: Any
    first_moment: Any
    second_moment: Any
    grad_norm: jax.Array


class _Numbers(NamedTuple):
    gradient_scale: jax.Array | float
    clip_norm: float
    learning_rate: jax.Array | float
    b1: float
    b2: float
    epsilon: float
    first_correction: jax.Array
    second_correction: jax.Array


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
    """AdamW (Loshchilov & Hutter, arXiv:1711.05101), the same numbers as `optax.adamw` behind a clip.

    With g = gradient_scale grads, scaled down so that its global norm is at most `clip_norm`, and t = count + 1:
    m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2,
    p = p - learning_rate (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + epsilon) + weight_decay p).

    Args:
      params: pytree of float arrays.
      grads: their gradients, a tree of the same shapes and dtypes, as are the two below.
      first_moment: m; zeros before the first step.
      second_moment: v; zeros before the first step.
      count: int32[], number of steps taken before.
      learning_rate: f32[], of this step.
      b1: decay of m.
      b2: decay of v.
      epsilon: see above.
      weight_decay: a number for all, or a tree of numbers like `params`.
      clip_norm: largest global norm of g; 0: no clipping.
      gradient_scale: f32[], what grads are multiplied with first, e.g. one over the number of targets.
      implementation: 'reference', or 'cpu' (C++, float32; takes the memory of donated arrays for the new ones).

    Raises:
      ValueError: the trees do not fit together, or the implementation is not known.
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
    apply = choose(_IMPLEMENTATIONS, implementation, *leaves, *(x for other in others for x in other))
    t = jnp.asarray(count, jnp.int32) + 1
    numbers = _Numbers(gradient_scale, clip_norm, learning_rate, b1, b2, epsilon, 1 / (1 - b1**t), 1 / (1 - b2**t))
    *updated, grad_norm = apply(numbers, decays, leaves, *others)
    new_params, new_first, new_second = (jax.tree.unflatten(tree, arrays) for arrays in updated)
    return AdamWStep(new_params, new_first, new_second, grad_norm)


_Leaves = list[jax.Array]


def _reference(
    numbers: _Numbers, decays: list[float], params: _Leaves, grads: _Leaves, firsts: _Leaves, seconds: _Leaves
) -> tuple[_Leaves, _Leaves, _Leaves, jax.Array]:
    grads = [g * jnp.asarray(numbers.gradient_scale, g.dtype) for g in grads]
    grad_norm = jnp.sqrt(sum((jnp.sum(jnp.square(g)) for g in grads), jnp.zeros(())))
    if numbers.clip_norm > 0:
        grads = [jnp.where(grad_norm < numbers.clip_norm, g, g / grad_norm * numbers.clip_norm) for g in grads]
    firsts = [numbers.b1 * m + (1 - numbers.b1) * g for m, g in zip(firsts, grads, strict=True)]
    seconds = [numbers.b2 * v + (1 - numbers.b2) * jnp.square(g) for v, g in zip(seconds, grads, strict=True)]
    new = []
    for p, m, v, decay in zip(params, firsts, seconds, decays, strict=True):
        update = m * numbers.first_correction / (jnp.sqrt(v * numbers.second_correction) + numbers.epsilon) + decay * p
        new.append((p - numbers.learning_rate * update).astype(p.dtype))
    return new, firsts, seconds, grad_norm


def _cpu(
    numbers: _Numbers, decays: list[float], params: _Leaves, grads: _Leaves, firsts: _Leaves, seconds: _Leaves
) -> tuple[_Leaves, _Leaves, _Leaves, jax.Array]:
    if others := sorted({str(x.dtype) for x in (*params, *grads, *firsts, *seconds)} - {"float32"}):
        raise TypeError(f"implementation='cpu' takes parameters of float32; got {others}")
    n = len(params)
    scalars = numbers.gradient_scale, numbers.learning_rate, numbers.first_correction, numbers.second_correction
    out = [jax.ShapeDtypeStruct((1,), jnp.float32)]
    out += [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (*params, *firsts, *seconds)]
    first_operand = 2 + np.repeat([0, 2, 3], n) * n + np.tile(np.arange(n), 3)  # of params, first and second moments
    grad_norm, *updated = cpu.call_in_place(
        "ryot_adamw",
        out,
        {int(operand): 1 + i for i, operand in enumerate(first_operand)},
        jnp.stack([jnp.asarray(number, jnp.float32) for number in scalars]),
        jnp.asarray(decays, jnp.float32).reshape(n),
        *params,
        *grads,
        *firsts,
        *seconds,
        clip_norm=np.float32(numbers.clip_norm),
        b1=np.float32(numbers.b1),
        b2=np.float32(numbers.b2),
        epsilon=np.float32(numbers.epsilon),
    )
    return updated[:n], updated[n : 2 * n], updated[2 * n :], grad_norm[0]


_Apply = Callable[
    [_Numbers, list[float], _Leaves, _Leaves, _Leaves, _Leaves], tuple[_Leaves, _Leaves, _Leaves, jax.Array]
]
_IMPLEMENTATIONS: dict[str, _Apply] = {"reference": _reference, "cpu": _cpu}
