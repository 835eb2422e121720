"""Operations with several implementations, and the choice between them.

Every op is a pure function usable in any JAX program; `resolve` turns wishes into a `KernelPlan`.
Nothing here knows of the model, of training or of the other optimizations.
"""

from ryot_jax.kernels.attention import attention
from ryot_jax.kernels.dense import dense
from ryot_jax.kernels.linear_cross_entropy import linear_cross_entropy
from ryot_jax.kernels.plan import KernelPlan, Resolution, Spec, resolve

__all__ = ["KernelPlan", "Resolution", "Spec", "attention", "dense", "linear_cross_entropy", "resolve"]
