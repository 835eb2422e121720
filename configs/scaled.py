"""The scaled run: 1.1M parameters, 8 epochs of 100 steps, on the source of Python's standard library.

    python -m ryot_jax.main --config=configs/scaled.py

Expected: two arms of 800 steps each within 3 minutes, a minute of controls, a minute and a quarter of compression,
as much of trainings by schedule and recipe, on 2 cores of an AMD EPYC with AVX512-BF16 (baseline 23,000 to 26,100 and
optimized 88,900 to 103,400 tokens/s), set-up apart; a final held-out loss of 3.46 to 3.48 nats/token, 0.37 under the
bigram entropy of the same text (jax 0.10.2; the sweep of the learning rate is in
experiments/results/learning_rate_scaled.md).
"""

from ml_collections import ConfigDict

from ryot_jax.config import get_default


def get_config() -> ConfigDict:
    """The default tree as it is: this run is what the defaults describe."""
    return get_default()
