"""The prototype's dimensions: d_model 512, d_ff 1024, 4 heads, 4 layers; 9.5M parameters in truth.

    python -m ryot_jax.main --config=configs/wide.py

Expected, on 2 cores of an AMD EPYC with AVX512-BF16 (jax 0.10.2): steps of 785 to 815 ms (baseline) and 282 to 305 ms
(optimized), so 15 minutes for both arms, 7 for the controls and 2 for the schedule; a final held-out loss of 3.174
nats/token (seen with the optimized arm alone).
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
    # With one seed: a loss 0.14 nats below that of the config's 800 steps, in 0.46 of their time. No recipe was found
    # that pays: Muon with rotary positions ends 0.19 above it after 0.41 of that time, by a schedule 0.18 after 0.70.
    config.scaling.schedule = "31.25% of B x T/4 depth L/4, 18.75% of B/2 x T/2 depth L/2, 23.75% of B x T"
    config.scaling.recipe = ""
    return config
