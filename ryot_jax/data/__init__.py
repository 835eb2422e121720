"""Text to token ids to batches. Other packages use `pipeline.prepare`, `batches` and `entropy`.

Nothing here knows of models or devices; arrays are NumPy's, and JAX is never imported by this package itself.
"""
