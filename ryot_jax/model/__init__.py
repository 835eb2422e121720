"""The decoder-only transformer: its config, its Flax NNX module, and its pure functions of pytrees.

Training, decoding and evaluation call `ryot_jax.model.functional`; `ryot_jax.kernels` computes the operations,
`ryot_jax.training` changes the weights.

Arrays carry their shape as a suffix (`x_BTD`), one letter a dimension, here and in every package above:

    B  batch (sequences)        T  positions of a sequence, or of a cache     S  positions fed to one decode call
    D  d_model                  H  attention heads                            K  width of a head (H * K = D)
    F  d_ff                     V  vocabulary                                 N  rows (B * T)
    L  layers (scanned parameters carry it in front)                          E, O  any input or output width
"""

from typing import TYPE_CHECKING, Any

from ryot_jax.model.config import ModelConfig

if TYPE_CHECKING:
    from ryot_jax.model.transformer import Transformer

__all__ = ["ModelConfig", "Transformer"]


def __getattr__(name: str) -> Any:
    # Imported at first use: `ryot_jax.config` reads the model's rules before JAX may start.
    if name == "Transformer":
        from ryot_jax.model.transformer import Transformer

        return Transformer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
