"""Text out of a trained model: sampling rules and the compiled decoding loop.

The KV cache and the step over it belong to `ryot_jax.model`; tokenizers to `ryot_jax.data`.
"""

from ryot_jax.decoding.generate import generate

__all__ = ["generate"]
