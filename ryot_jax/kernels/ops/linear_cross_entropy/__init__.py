"""Implementations of linear cross entropy."""
