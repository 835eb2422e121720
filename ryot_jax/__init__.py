"""Train a transformer language model, make optimizations real, and compare them honestly."""

__version__ = "0.1.0"
