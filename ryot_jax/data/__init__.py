"""Text to token ids to batches. Other packages use `pipeline.prepare`, `batches` and `entropy`.

It is independent of models and devices; arrays are NumPy's, and the package itself does not import JAX.
"""
