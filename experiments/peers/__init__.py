"""Other people's trainers beside ours, each in a process of its own; `compare` starts them all.

Nothing here but `compare` and the workers of our own programs imports `ryot_jax` or JAX: a peer runs in its own
environment.
"""
