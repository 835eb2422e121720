"""GPT-2 small: 124M parameters, 1,024 tokens, for one GPU with at least 40 GiB.

    pip install -e '.[cuda13,datasets]'
    python -m ryot_jax.main --config=configs/gpt2_small.py

The text is WikiText-103, which the `datasets` package downloads; --config.data.source=text with
--config.data.path=... takes a text of yours. The vocabulary is trained on that text, which must be large
enough to give 50,304 tokens. Expected: 10,000 steps of 32,768 tokens for each arm; in bfloat16 where the GPU
has it.
"""

from ml_collections import ConfigDict

from ryot_jax.config import get_default


def get_config() -> ConfigDict:
    """The dimensions of GPT-2 small, with its vocabulary of 50,257 rounded up to a multiple of 128."""
    config = get_default()
    config.name = "gpt2_small"
    config.data.source = "hf:Salesforce/wikitext"
    config.data.hf_config = "wikitext-103-raw-v1"
    config.data.heldout_fraction = 0.005
    config.model.vocab_size = 50_304
    config.model.d_model = 768
    config.model.n_layers = 12
    config.model.n_heads = 12
    config.model.d_ff = 3072
    config.model.max_len = 1024
    config.training.epochs = 10
    config.training.steps_per_epoch = 1000
    config.training.batch_size = 32
    config.training.seq_len = 1024
    config.training.learning_rate = 6e-4
    config.training.warmup_steps = 500
    config.evaluation.sequences = 256
    config.evaluation.batch_size = 16
    config.scaling.enabled = False  # its plans were found for scaled.py
    return config
