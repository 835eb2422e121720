"""The comparison of compiled variants of one training step: variants, paired protocol, statistics, verdicts.

It knows arms, blocks and programs. How an arm trains is left to `training`, how results look to `report`.
For step functions of another program than ours there is `compare`.
"""

from ryot_jax.comparison.comparison import Comparison
from ryot_jax.comparison.library import compare

__all__ = ["Comparison", "compare"]
