"""Moments for tests that need some: of gradients whose rows and columns are correlated."""

from collections.abc import Callable

import numpy as np
import pytest

from ryot_jax.compression.calibration import Moments


@pytest.fixture
def correlated() -> Callable[..., Moments]:
    """`correlated(rows, columns, seed)`: moments of 300 rank-one gradients that lie near a few directions."""

    def moments(rows: int, columns: int, seed: int = 0) -> Moments:
        rng = np.random.default_rng(seed)

        def side(n: int) -> np.ndarray:
            return rng.normal(size=(300, 3)) @ rng.normal(size=(3, n)) + 0.3 * rng.normal(size=(300, n))

        gradients = np.einsum("nr,nc->nrc", side(rows), side(columns))
        return Moments(
            np.einsum("nrc,nsc->rs", gradients, gradients) / 300, np.einsum("nrc,nrd->cd", gradients, gradients) / 300
        )

    return moments
