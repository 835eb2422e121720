"""Implementations of norm."""
