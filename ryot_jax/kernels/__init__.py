"""Operations with several implementations, and the choice between them.

Every op is a pure function usable in any JAX program. Nothing here depends on the model, on training or on the other
optimizations. Importing this package imports no JAX: a function is looked up in its op on first use, so that a new op
is exported by its declaration; the functions below are named for the type checker.
"""

from typing import TYPE_CHECKING, Any

from ryot_jax.kernels.declaration import Spec as Spec

if TYPE_CHECKING:
    from ryot_jax.kernels.fused.mlp import mlp as mlp
    from ryot_jax.kernels.fused.norm_dense import NormSpec as NormSpec
    from ryot_jax.kernels.fused.norm_dense import norm_dense as norm_dense
    from ryot_jax.kernels.fused.norm_dense import norm_mlp as norm_mlp
    from ryot_jax.kernels.ops.attention.api import attention as attention
    from ryot_jax.kernels.ops.attention.api import packed_attention as packed_attention
    from ryot_jax.kernels.ops.attention.api import reads_packed as reads_packed
    from ryot_jax.kernels.ops.dense.api import dense as dense
    from ryot_jax.kernels.ops.dropout.api import dropout as dropout
    from ryot_jax.kernels.ops.embedding.api import embedding as embedding
    from ryot_jax.kernels.ops.linear_cross_entropy.api import linear_cross_entropy as linear_cross_entropy
    from ryot_jax.kernels.ops.norm.api import layer_norm as layer_norm
    from ryot_jax.kernels.ops.norm.api import rms_norm as rms_norm
    from ryot_jax.kernels.ops.optimizer.api import AdamWStep as AdamWStep
    from ryot_jax.kernels.ops.optimizer.api import adamw as adamw

_FUSED = {"mlp": "mlp", "NormSpec": "norm_dense", "norm_dense": "norm_dense", "norm_mlp": "norm_dense"}


def __getattr__(name: str) -> Any:
    """Return a public function of an op, or a fused one; imports JAX."""
    import importlib

    from ryot_jax.kernels.catalogue import ops

    if name in _FUSED:
        return getattr(importlib.import_module(f"{__name__}.fused.{_FUSED[name]}"), name)
    for op in ops():
        if name in op.functions:
            return getattr(op.api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
