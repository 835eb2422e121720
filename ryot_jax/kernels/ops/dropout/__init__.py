"""Implementations of dropout."""
