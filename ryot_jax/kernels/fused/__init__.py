"""Sequences of ops that one implementation runs as one kernel; each follows the choices of its ops."""
