"""Tokenizers: text to ids and back, with one id that ends a document.

Every kind is a `tokenizers.Tokenizer` inside one class, so that all of them are kept as `tokenizer.json`.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from ryot_jax.data.rules import LARGEST_VOCABULARY, SMALLEST_VOCABULARY, TOKENIZER_KINDS
from ryot_jax.runtime.errors import ConfigError, DataError

END_OF_DOCUMENT = "<|endoftext|>"
# The names under which the tokenizers in use know the end of a document, in the order of preference.
_END_NAMES = (END_OF_DOCUMENT, "<|end_of_text|>", "</s>", "<eos>", "[EOS]", "<|im_end|>", "[SEP]")


class Tokenizer(Protocol):
    """The interface of a tokenizer that the rest of the package uses."""

    @property
    def vocab_size(self) -> int:
        """Number of ids, every one below it; at most the model's vocabulary."""
        ...

    @property
    def hash(self) -> str:
        """The sha256 (hex) of the serialised tokenizer, or 'none'."""
        ...

    @property
    def eod(self) -> int:
        """The id that ends each document, or -1 if it is not known."""
        ...

    def encode(self, text: str) -> list[int]:
        """Encodes `text` as ids, without any special id."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Decodes `ids` to text; special ids are left out."""
        ...


class JsonTokenizer:
    """A tokenizer that `tokenizer.json` describes.

    Text is data: the name of a special token inside of it is encoded as the letters that it has, never as
    the special id. `decode` leaves special ids, and ids without a meaning, out.
    """

    def __init__(self, inner: tokenizers.Tokenizer, eod: int):
        # A tokenizer.json may carry the truncation and padding of the model that it was made for.
        inner.no_truncation()
        inner.no_padding()
        inner.encode_special_tokens = True
        self._inner = inner
        self.eod = eod
        self.vocab_size = 1 + max(inner.get_vocab(with_added_tokens=True).values())
        self.hash = hashlib.sha256(self.to_json().encode()).hexdigest()

    @property
    def eod_name(self) -> str:
        """The token whose id is `eod`."""
        return str(self._inner.id_to_token(self.eod))

    def to_json(self) -> str:
        """The tokenizer as the content of a `tokenizer.json`."""
        return self._inner.to_str()

    def encode(self, text: str) -> list[int]:
        """Encodes `text` as ids, without any special id."""
        return self._inner.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Encodes each text as ids (uint16), on all cores."""
        encodings = self._inner.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.asarray(encoding.ids, np.uint16) for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`; bytes that are not UTF-8 become U+FFFD."""
        return self._inner.decode([int(i) for i in ids], skip_special_tokens=True)


@dataclasses.dataclass(frozen=True)
class NoTokenizer:
    """Takes the place of a tokenizer for token files that came without one: both ways raise `DataError`."""

    vocab_size: int
    hash: str = "none"
    eod: int = -1

    def encode(self, text: str) -> list[int]:
        """Always raises `DataError` with the remedy."""
        self._refuse()

    def decode(self, ids: Sequence[int]) -> str:
        """Always raises `DataError` with the remedy."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise DataError(
            "data.source = 'tokens' came without a tokenizer, so text cannot be turned into ids or back; "
            "set tokenizer.kind = 'file' and tokenizer.path to the tokenizer.json that made the ids"
        )


def train_bpe(texts: Iterable[str], vocab_size: int) -> JsonTokenizer:
    """Trains a byte-level BPE (Sennrich et al. 2016, with the byte alphabet of GPT-2, Radford et al. 2019).

    Id 0 ends a document, ids 1 to 256 are the bytes, the rest are merges. The result depends on the texts
    alone, not on the number of threads. A small text may give fewer ids than `vocab_size`.

    Raises:
      ConfigError: `vocab_size` leaves no room for the bytes and the end of a document.
    """
    _check_vocabulary("bpe", vocab_size)
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        show_progress=False,
        special_tokens=[END_OF_DOCUMENT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    inner.train_from_iterator(texts, trainer)
    return JsonTokenizer(inner, eod=0)


def byte_tokenizer(vocab_size: int) -> JsonTokenizer:
    """A tokenizer whose ids are the bytes of UTF-8, with 256 as the end of a document.

    Raises:
      ConfigError: `vocab_size` is below 257.
    """
    _check_vocabulary("byte", vocab_size)
    vocabulary = {letter: byte for byte, letter in _byte_letters().items()}
    inner = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([END_OF_DOCUMENT])
    return JsonTokenizer(inner, eod=256)


def from_json(text: str, eod: int) -> JsonTokenizer:
    """Restores a tokenizer from the text of `JsonTokenizer.to_json`."""
    return JsonTokenizer(tokenizers.Tokenizer.from_str(text), eod)


def from_file(path: str, vocab_size: int) -> JsonTokenizer:
    """Loads a `tokenizer.json`.

    Raises:
      DataError: the file is missing or damaged, or it has no token that ends a document.
      ConfigError: it has ids that `model.vocab_size` does not reach.
    """
    file = Path(path).expanduser()
    if not path or not file.is_file():
        raise DataError(
            f"tokenizer.path = {path!r} is not a file; give the path of a tokenizer.json, "
            "or set tokenizer.kind to 'bpe' or 'byte'"
        )
    tokenizer = read(file)
    _check_vocabulary("file", vocab_size)
    if tokenizer.vocab_size > vocab_size:
        raise ConfigError(
            f"model.vocab_size = {vocab_size}, but {file} has {tokenizer.vocab_size} ids; "
            f"set model.vocab_size to at least {tokenizer.vocab_size}"
        )
    return tokenizer


def read(file: Path, eod: int | None = None) -> JsonTokenizer:
    """Reads an existing `tokenizer.json` with a vocabulary of any size.

    Args:
      file: the file.
      eod: the id that ends a document, where it is known; one that the file does not have, and None: that of the
        first of the usual names.

    Raises:
      DataError: the file is damaged, or it has no token that ends a document.
    """
    try:
        inner = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises plain Exception for whatever is wrong
        raise DataError(
            f"{file}: not a tokenizer.json that this version of `tokenizers` reads ({error}); "
            "save it again with Tokenizer.save()"
        ) from error
    return JsonTokenizer(inner, _end(inner, file, eod))


def read_gpt2(vocab: Path, merges: Path, eod: int | None = None) -> JsonTokenizer:
    """Reads the two files in which GPT-2's tokenizer was published: `vocab.json` and `merges.txt`.

    Args:
      vocab: token to id, JSON.
      merges: a pair of tokens a line, in the order of their merging.
      eod: as in `read`.

    Raises:
      DataError: a file is damaged, or there is no token that ends a document.
    """
    try:
        inner = tokenizers.Tokenizer(models.BPE.from_file(str(vocab), str(merges)))
    except Exception as error:
        raise DataError(f"{vocab} and {merges.name} cannot be read ({error}); fetch them again") from error
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    end = _end(inner, vocab, eod)
    inner.add_special_tokens([inner.id_to_token(end)])  # which keeps its id
    return JsonTokenizer(inner, end)


def _end(inner: tokenizers.Tokenizer, file: Path, eod: int | None) -> int:
    if eod is not None and inner.id_to_token(eod) is not None:
        return eod
    vocabulary = inner.get_vocab(with_added_tokens=True)
    ends = [int(vocabulary[name]) for name in _END_NAMES if name in vocabulary]
    if not ends:
        raise DataError(
            f"{file}: no token ends a document (looked for {', '.join(_END_NAMES)}); "
            f"add one: tokenizer.add_special_tokens(['{END_OF_DOCUMENT}'])"
        )
    return ends[0]


def settings(kind: str, path: str, vocab_size: int) -> dict[str, Any]:
    """The settings that determine the tokenizer trained on a given text; a JSON value, for cache keys.

    Raises:
      ConfigError: unknown kind.
      DataError: as `from_file`.
    """
    if kind not in TOKENIZER_KINDS:
        raise ConfigError(f"tokenizer.kind = {kind!r} is unknown; choose one of {', '.join(TOKENIZER_KINDS)}")
    found = {"kind": kind, "vocab_size": vocab_size, "tokenizers": tokenizers.__version__}
    if kind == "file":
        found["hash"] = from_file(path, vocab_size).hash
    return found


def _check_vocabulary(kind: str, vocab_size: int) -> None:
    smallest = 1 if kind == "file" else SMALLEST_VOCABULARY
    if not smallest <= vocab_size <= LARGEST_VOCABULARY:
        raise ConfigError(
            f"model.vocab_size = {vocab_size} does not fit tokenizer.kind = {kind!r}; "
            f"set it to between {smallest} and {LARGEST_VOCABULARY}"
        )


def _byte_letters() -> dict[int, str]:
    """GPT-2's printable stand-in for each byte, which `pre_tokenizers.ByteLevel` writes."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    letters = {byte: chr(byte) for byte in visible}
    return letters | {byte: chr(256 + n) for n, byte in enumerate(hidden)}
