"""`prepare`: the `Corpus` of token ids of a config, through the cache.

The single entry point to the data for other packages; `batches.py` makes batches of it.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ryot_jax.data import build, documents, token_files
from ryot_jax.data import cache as caches
from ryot_jax.data import tokenizer as tokenizers
from ryot_jax.data.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Text as token ids, in two parts that share no document.

    Attributes:
      train: uint16[n], read-only memmap; each document ends with the end-of-document id.
      heldout: uint16[m], likewise.
      tokenizer: the tokenizer of the ids.
      data_hash: sha256 (hex) over the sha256 of both token files.
      description: 'source', 'cache' ('hit' or 'built'), 'seconds', 'left_out' (documents by reason), and for
        'train' and 'heldout' the number of 'documents', 'bytes' (of text) and 'tokens' ('files', 'bytes' and
        'tokens' where the source is 'tokens').
    """

    train: np.ndarray
    heldout: np.ndarray
    tokenizer: Tokenizer
    data_hash: str
    description: dict[str, Any]


def prepare(data: ConfigDict, tokenizer: ConfigDict, vocab_size: int, log: Callable[[str], None]) -> Corpus:
    """Prepares the token ids of the text that the config names; they are built once, then read from the cache.

    Unchanged files are known by name, size and time of change, and are not read again. A damaged cache is
    rebuilt, and that is logged.

    Args:
      data: `config.data`.
      tokenizer: `config.tokenizer`.
      vocab_size: `config.model.vocab_size`; every id is below it.
      log: called with one line of progress.

    Raises:
      DataError: the text is missing, unreadable or damaged, a part is left empty, or the cache cannot be
        written.
      ConfigError: an unknown source or kind of tokenizer, or a vocabulary that does not fit.
    """
    start = time.perf_counter()
    cache = caches.root(data.cache_dir)
    if data.source == "tokens":
        corpus = _from_token_files(data, tokenizer, vocab_size, cache)
    else:
        corpus = _from_documents(data, tokenizer, vocab_size, cache, log)
    corpus.description["seconds"] = time.perf_counter() - start
    return corpus


def _from_token_files(data: ConfigDict, settings: ConfigDict, vocab_size: int, cache: Path) -> Corpus:
    made: Tokenizer
    if settings.kind == "file":
        made = tokenizers.from_file(settings.path, vocab_size)
    elif settings.kind == "byte":
        made = tokenizers.byte_tokenizer(vocab_size)
    else:
        made = tokenizers.NoTokenizer(vocab_size)
    parts = token_files.open_parts(data)
    data_hash, known = token_files.data_hash(parts, vocab_size, cache)
    description = {"source": data.source, "cache": "hit" if known else "built", **token_files.describe(parts)}
    return Corpus(parts.train, parts.heldout, made, data_hash, description)


def _from_documents(
    data: ConfigDict, settings: ConfigDict, vocab_size: int, cache: Path, log: Callable[[str], None]
) -> Corpus:
    recipe = tokenizers.settings(settings.kind, settings.path, vocab_size)
    source = documents.open_source(data)
    fingerprint = caches.key_of({"source": source.identity, "tokenizer": recipe})
    entry = caches.read_index(cache, fingerprint)
    if entry and (corpus := _load(cache, str(entry.get("corpus")), data.source, log)):
        return corpus
    with contextlib.ExitStack() as stack:
        if source.once:
            log(f"reading {data.source}")
            source = stack.enter_context(build.spooled(source, stack.enter_context(caches.temporary_folder(cache))))
        found = build.survey(source)
        key = caches.key_of({"content": found.content, "tokenizer": recipe})
        corpus = _load(cache, key, data.source, log)
        if not corpus:
            counts = found.parts["train"]
            log(
                f"tokenizing {data.source} once: {counts['documents']} training documents, "
                f"{counts['bytes'] / 1e6:.1f} MB (tokenizer: {settings.kind}, vocabulary {vocab_size})"
            )
            made = build.make_tokenizer(source, settings, vocab_size, log)
            with caches.new_folder(cache, key) as folder:
                build.write_corpus(folder, source, found, made)
            corpus = _load(cache, key, data.source, log)
            assert corpus is not None, f"the cache folder {key} was just written"
            corpus.description["cache"] = "built"
    caches.write_index(cache, fingerprint, {"corpus": key})
    return corpus


def _load(cache: Path, key: str, source: str, log: Callable[[str], None]) -> Corpus | None:
    """The corpus of that key, or None where there is none or it is damaged (then it is removed)."""
    folder = caches.folder_of(cache, key)
    try:
        meta = caches.read_meta(folder)
    except caches.Damaged as error:
        log(f"the cache at {folder} is damaged ({error}); it is rebuilt")
        caches.discard(cache, key)
        return None
    if meta is None:
        return None
    made = tokenizers.from_json((folder / "tokenizer.json").read_text("utf-8"), meta["eod"])
    description = {"source": source, "cache": "hit", **meta["parts"], "left_out": meta["left_out"]}
    train, heldout = (token_files.map_ids(folder / f"{part}.bin") for part in caches.PARTS)
    return Corpus(train, heldout, made, meta["data_hash"], description)
