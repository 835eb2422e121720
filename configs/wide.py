"""The prototype's dimensions: d_model 512, d_ff 1024, 4 heads, 4 layers; 9.5M parameters in truth.

    python -m ryot_jax.main --config=configs/wide.py

Expected: the scaled run's 800 steps for each arm at about eight times its work per step, so about an hour on
a 2-core CPU, and a few minutes on a GPU.
"""

from ml_collections import ConfigDict

from ryot_jax.config import get_default


def get_config() -> ConfigDict:
    """The scaled run with a wider model and, as wider models need, a lower learning rate."""
    config = get_default()
    config.name = "wide"
    config.model.d_model = 512
    config.model.d_ff = 1024
    config.training.learning_rate = 2e-3
    return config
