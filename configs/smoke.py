"""First contact: every part of the program once, on a model too small to learn much.

    python -m ryot_jax.main --config=configs/smoke.py

Expected: done within a minute on a 2-core CPU, compilation included. Its steps are too few and too short for
its speed and its losses to mean anything.
"""

from ml_collections import ConfigDict

from ryot_jax.config import get_default


def get_config() -> ConfigDict:
    """0.1M parameters, two epochs of 100 steps, 64 files of the standard library."""
    config = get_default()
    config.name = "smoke"
    config.data.max_documents = 64
    config.model.vocab_size = 512
    config.model.d_model = 64
    config.model.n_layers = 2
    config.model.n_heads = 2
    config.model.d_ff = 256
    config.model.max_len = 64
    config.training.epochs = 2
    config.training.steps_per_epoch = 100
    config.training.batch_size = 16
    config.training.seq_len = 64
    config.training.learning_rate = 3e-3
    config.training.warmup_steps = 20
    config.evaluation.sequences = 64
    config.evaluation.batch_size = 16
    config.comparison.block_steps = 10
    config.comparison.beat = "unigram"
    config.compression.calibration_sequences = 256
    config.compression.pareto = False
    config.scaling.recipe = ""
    config.metrics.every_steps = 10
    config.runtime.tune = "off"
    return config
