"""Measured choices between the implementations of an op, and their cache on disk."""
