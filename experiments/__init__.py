"""Studies that use the package; run each from the repository's root with `python -m experiments.NAME`."""
