"""Generating text with a model: a compiled loop over a cache, sampling, speculative decoding, candidates.

`prepare` makes a decoder of a model; `generate` and `stream` continue prompts with it. Caches belong to
`ryot_jax.model`, the kernels of a step to `ryot_jax.kernels`, tokenizers to `ryot_jax.data`.
"""

from ryot_jax.decoding.candidates import Candidates, best_of, compiles, growing_budget, majority
from ryot_jax.decoding.draft_length import ByAcceptance, DraftLength, Observed, fixed
from ryot_jax.decoding.drafts import DRAFT_LENGTH, Draft, Text, bigram_draft, bigrams, lookup_draft, model_draft
from ryot_jax.decoding.engine import Decoder, prepare
from ryot_jax.decoding.generate import generate, stream
from ryot_jax.decoding.loop import Generated
from ryot_jax.decoding.request import Speculation
from ryot_jax.decoding.sampling import Sampling

__all__ = [
    "DRAFT_LENGTH",
    "ByAcceptance",
    "Candidates",
    "Decoder",
    "Draft",
    "DraftLength",
    "Generated",
    "Observed",
    "Sampling",
    "Speculation",
    "Text",
    "best_of",
    "bigram_draft",
    "bigrams",
    "compiles",
    "fixed",
    "generate",
    "growing_budget",
    "lookup_draft",
    "majority",
    "model_draft",
    "prepare",
    "stream",
]
