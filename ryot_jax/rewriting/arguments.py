"""Arguments of a call: arrays to trace, and anything else, which is a constant of the traced function."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp


class Arguments:
    """Positional and named arguments of a call."""

    def __init__(self, args: Sequence[Any], kwargs: dict[str, Any]):
        self._leaves, self._tree = jax.tree.flatten((tuple(args), kwargs))
        self._places = [i for i, leaf in enumerate(self._leaves) if hasattr(leaf, "shape") and hasattr(leaf, "dtype")]

    @property
    def arrays(self) -> list[Any]:
        """The arrays among them, in order."""
        return [self._leaves[i] for i in self._places]

    @property
    def are_concrete(self) -> bool:
        """Whether all arrays have values that are known now."""
        kinds = (jax.core.Tracer, jax.ShapeDtypeStruct)
        # Within a transformation even a constant is traced.
        return not any(isinstance(array, kinds) for array in (*self.arrays, jnp.zeros(()) + 0))

    @property
    def shapes(self) -> Any:
        """Shapes, dtypes and structure: equal for calls that are traced alike."""
        others = tuple(repr(leaf) for i, leaf in enumerate(self._leaves) if i not in set(self._places))
        return self._tree, tuple((array.shape, str(array.dtype)) for array in self.arrays), others

    def bind(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function as one of the arrays alone."""

        def bound(*arrays: Any) -> Any:
            leaves = list(self._leaves)
            for i, array in zip(self._places, arrays, strict=True):
                leaves[i] = array
            args, kwargs = jax.tree.unflatten(self._tree, leaves)
            return function(*args, **kwargs)

        return bound
