"""Implementations of decoding."""
