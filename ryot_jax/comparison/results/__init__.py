"""`results.json`: assembled from the measurements of a run, written, and read back."""

from ryot_jax.comparison.results.assembling import ArmFacts, Measurements, assemble
from ryot_jax.comparison.results.file import convert, decode, read, settled, to_text, write
from ryot_jax.comparison.schema import SCHEMA_VERSION, Results

__all__ = [
    "SCHEMA_VERSION",
    "ArmFacts",
    "Measurements",
    "Results",
    "assemble",
    "convert",
    "decode",
    "read",
    "settled",
    "to_text",
    "write",
]
