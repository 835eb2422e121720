"""Train a transformer language model, make optimizations real, and compare them honestly."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ryot_jax.rewriting import optimize as optimize

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Return `optimize`; imports JAX, which the version alone does not need."""
    if name == "optimize":
        from ryot_jax.rewriting import optimize

        return optimize
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
