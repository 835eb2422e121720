"""Operations with several implementations, and the choice between them.

Every op is a pure function usable in any JAX program; `resolve` turns wishes into a `KernelPlan`.
Nothing here knows of the model, of training or of the other optimizations.
"""

from ryot_jax.kernels.ops.adamw.api import AdamWStep, adamw
from ryot_jax.kernels.ops.attention.api import attention, packed_attention
from ryot_jax.kernels.ops.dense.api import dense
from ryot_jax.kernels.ops.dense.mlp import mlp
from ryot_jax.kernels.ops.dense.norm_dense import NormOf, norm_dense, norm_mlp
from ryot_jax.kernels.ops.dropout.api import dropout
from ryot_jax.kernels.ops.embedding.api import embedding
from ryot_jax.kernels.ops.linear_cross_entropy.api import linear_cross_entropy
from ryot_jax.kernels.ops.norm.api import layer_norm, rms_norm
from ryot_jax.kernels.plan import KernelPlan, Resolution, Spec, resolve

__all__ = [
    "AdamWStep",
    "KernelPlan",
    "NormOf",
    "Resolution",
    "Spec",
    "adamw",
    "attention",
    "dense",
    "dropout",
    "embedding",
    "layer_norm",
    "linear_cross_entropy",
    "mlp",
    "norm_dense",
    "norm_mlp",
    "packed_attention",
    "resolve",
    "rms_norm",
]
