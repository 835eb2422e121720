"""`optimize`: the kernels in a JAX function that knows nothing of them.

A function is traced, what ops of `ryot_jax.kernels` compute is found in it, and the ops take its place. Nothing global
changes, and every place that was found, taken or left alone is told by `explain`.
"""

from ryot_jax.rewriting.api import Optimized, optimize

__all__ = ("Optimized", "optimize")
