"""The patterns of `optimize`: one module for each op, with the spellings of it as reference functions in JAX."""
