"""The decoder-only transformer: its config, its Flax NNX module, and its pure functions of pytrees.

Training, decoding and evaluation call `ryot_jax.model.functional`; how an operation is computed is left to
`ryot_jax.kernels`, and how weights change to `ryot_jax.training`.

Arrays carry their shape as a suffix (`x_BTD`), one letter a dimension, here and in every package above:

    B  batch (sequences)        T  positions of a sequence, or of a cache     S  positions fed to one decode call
    D  d_model                  H  attention heads                            K  width of a head (H * K = D)
    F  d_ff                     V  vocabulary                                 N  rows (B * T)
    L  layers (scanned parameters carry it in front)                          E, O  any input or output width
"""

from ryot_jax.model.config import ModelConfig
from ryot_jax.model.transformer import Transformer

__all__ = ["ModelConfig", "Transformer"]
