"""Implementations of adamw."""
