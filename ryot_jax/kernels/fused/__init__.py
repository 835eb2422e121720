"""Sequences of ops that run as one kernel in some implementation; each follows the choices of its ops."""
