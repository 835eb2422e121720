"""Rules of data and tokenizers for every config: choices, limits of vocabularies, and the id type."""

import re

import numpy as np

from ryot_jax.runtime.field_rules import broken
from ryot_jax.runtime.suggestions import did_you_mean

ID_TYPE = np.dtype("<u2")  # of every token file: little-endian uint16
LARGEST_VOCABULARY = int(np.iinfo(ID_TYPE).max) + 1  # ids count from 0, so 65,536 of them fit
SMALLEST_VOCABULARY = 257  # of a tokenizer made here: 256 bytes and the end of a document
TOKENIZER_KINDS = ("bpe", "byte", "file")
SOURCES = ("stdlib", "text", "tokens")  # and hf:NAME


def wrong_source(source: str) -> str | None:
    """One line that refuses a `data.source` which is neither in `SOURCES` nor 'hf:NAME', or None."""
    if source in SOURCES or re.fullmatch(r"hf:\S+", source):
        return None
    return broken("data.source", source, f"must be one of {', '.join(SOURCES)}, hf:NAME{did_you_mean(source, SOURCES)}")
