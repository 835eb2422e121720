"""People's functions are written for JAX as it ships, where arrays of fewer axes are repeated."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(autouse=True)
def ranks_promoted() -> Iterator[None]:
    """Allows what the rest of the suite forbids."""
    with jax.numpy_rank_promotion("allow"):
        yield
