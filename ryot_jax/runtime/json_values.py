"""Conversion of records, dataclasses, arrays and NaN to plain JSON values."""

import math
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np


def plain(value: Any, *, keep_non_finite: bool = False) -> Any:
    """Converts a value to strict JSON values.

    Records and dataclasses become objects, NumPy and JAX scalars Python numbers, arrays and tuples lists, NaN and
    infinities None. With `keep_non_finite` these stay, which is Python's JSON and not strict.
    """

    def inner(part: Any) -> Any:
        return plain(part, keep_non_finite=keep_non_finite)

    if isinstance(value, Mapping):
        return {str(key): inner(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [inner(v) for v in value]
    if isinstance(value, np.ndarray | np.generic):
        return inner(value.tolist())
    if isinstance(value, float):
        return value if keep_non_finite or math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, msgspec.Struct) or hasattr(value, "__dataclass_fields__"):
        return inner({name: getattr(value, name) for name in _fields(value)})
    return inner(np.asarray(value)) if hasattr(value, "__array__") else value


def _fields(record: Any) -> list[str]:
    return list(getattr(record, "__struct_fields__", None) or record.__dataclass_fields__)
