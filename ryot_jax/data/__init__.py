"""Text to token ids to batches: `pipeline.prepare`, `batches` and `entropy` are what the others use.

Nothing here knows of models or devices; arrays are NumPy's, and JAX is never imported by this package itself.
"""
