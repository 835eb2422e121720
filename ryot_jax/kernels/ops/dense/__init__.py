"""Implementations of dense."""
