"""AdamW in C++: one pass over all arrays, where XLA reads some of them several times."""

import jax
import jax.numpy as jnp
import numpy as np

from ryot_jax.kernels import cpu
from ryot_jax.kernels.declaration import Implementation
from ryot_jax.kernels.ops.optimizer._step import Leaves, Numbers
from ryot_jax.kernels.probes import custom_call
from ryot_jax.kernels.requirements import cpp_dtypes, cpp_weights_refusal


def _cpu(
    numbers: Numbers, decays: list[float], params: Leaves, grads: Leaves, firsts: Leaves, seconds: Leaves
) -> tuple[Leaves, Leaves, Leaves, jax.Array]:
    if others := sorted({str(x.dtype) for x in (*params, *grads, *firsts, *seconds)} - {"float32"}):
        raise TypeError(f"implementation='cpu' takes parameters of float32; got {others}")
    n = len(params)
    scalars = numbers.gradient_scale, numbers.learning_rate, numbers.first_correction, numbers.second_correction
    out = [jax.ShapeDtypeStruct((1,), jnp.float32)]
    out += [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (*params, *firsts, *seconds)]
    donors = [*range(n), *range(2 * n, 4 * n)]  # parameters, first and second moments, but not gradients
    grad_norm, *updated = cpu.call(
        "ryot_adamw",
        out,
        jnp.stack([jnp.asarray(number, jnp.float32) for number in scalars]),
        jnp.asarray(decays, jnp.float32).reshape(n),
        *params,
        *grads,
        *firsts,
        *seconds,
        aliases={f"arrays[{donor}]": f"updated[{i}]" for i, donor in enumerate(donors)},
        clip_norm=np.float32(numbers.clip_norm),
        b1=np.float32(numbers.b1),
        b2=np.float32(numbers.b2),
        epsilon=np.float32(numbers.epsilon),
    )
    return updated[:n], updated[n : 2 * n], updated[2 * n :], grad_norm[0]


IMPLEMENTATION = Implementation(
    function=_cpu,
    equivalence="allclose",
    probe=custom_call("ryot_adamw"),
    refusal=cpp_weights_refusal,
    require=cpp_dtypes,
    where="C++",
)
