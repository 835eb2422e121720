"""The catalogue of ops: every folder of `kernels.ops`, by the declaration in its `__init__.py`. Imports no JAX."""

import functools
import importlib
import pkgutil

from ryot_jax.kernels.declaration import Op

_FOLDERS = "ryot_jax.kernels.ops"


@functools.cache
def ops() -> tuple[Op, ...]:
    """All ops, in the order of plans and tables.

    Raises:
      ValueError: an op's name differs from its folder's.
    """
    found: list[Op] = []
    for module in pkgutil.iter_modules(importlib.import_module(_FOLDERS).__path__):
        op: Op = importlib.import_module(f"{_FOLDERS}.{module.name}").OP
        if op.name != module.name:
            raise ValueError(f"the op in the folder {module.name} calls itself {op.name}")
        found.append(op)
    return tuple(sorted(found, key=lambda op: (op.place, op.name)))


def op(name: str) -> Op:
    """The op called `name`.

    Raises:
      KeyError: no op has this name.
    """
    return {op.name: op for op in ops()}[name]
