"""Comparison with other trainers, each in a separate process; `compare` starts them all.

Only `compare` and the workers of our own programs import `ryot_jax` or JAX: a peer runs in its own environment.
"""
