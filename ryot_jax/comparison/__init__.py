"""The comparison of compiled variants of one training step: variants, paired protocol, statistics, verdicts.

`compare` does the same for user-supplied step functions, `compare_losses` for loss functions. `training` takes the
steps of an arm, `report` presents the results.
"""

from ryot_jax.comparison.comparison import Comparison
from ryot_jax.comparison.library import compare
from ryot_jax.comparison.losses import compare_losses

__all__ = ["Comparison", "compare", "compare_losses"]
