"""Operations with several implementations, and the choice between them.

Every op is a pure function usable in any JAX program; `resolve` turns wishes into a `KernelPlan`.
Nothing here knows of the model, of training or of the other optimizations.
"""

from ryot_jax.kernels.adamw import AdamWStep, adamw
from ryot_jax.kernels.attention import attention, packed_attention
from ryot_jax.kernels.dense import dense
from ryot_jax.kernels.dropout import dropout
from ryot_jax.kernels.embedding import embedding
from ryot_jax.kernels.linear_cross_entropy import linear_cross_entropy
from ryot_jax.kernels.mlp import mlp
from ryot_jax.kernels.norm import layer_norm, rms_norm
from ryot_jax.kernels.norm_dense import NormOf, norm_dense, norm_mlp
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
