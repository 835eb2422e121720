"""Advice about criteria that did not pass."""

from ryot_jax.comparison.verdict.declaration import Advice

LOWER_THE_RATE = Advice(
    "Lower training.learning_rate or lengthen training.warmup_steps, and look at metrics.jsonl.",
    "Lower the learning rate, or warm it up for longer.",
)
TRAIN_LONGER = Advice(*["Train longer (training.epochs): counting words still predicts better than the model."] * 2)
MORE_PAIRS = Advice(
    "Run more block pairs on a quiet machine (more epochs or a smaller comparison.block_steps).",
    "Run more block pairs on a quiet machine (more steps, or a smaller block_steps).",
)
FIND_WHAT_COSTS = Advice(
    "Find the optimization that costs: ryot ablate --config=FILE tries each alone and left out.",
    "Look for what the second step does beside the first: it costs time.",
)
LOSSES_APART = Advice(
    "Turn off the optimizations of class statistical first: they change the rounding.",
    "Look for what the second step computes otherwise, before a margin is widened.",
)
NO_DRAFT = Advice(*["Generate without a draft (ryot generate --draft=none), and report that one changed a token."] * 2)
