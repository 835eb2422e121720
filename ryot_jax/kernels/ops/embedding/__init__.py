"""Implementations of embedding."""
