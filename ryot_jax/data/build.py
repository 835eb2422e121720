"""Builds a corpus folder from documents: counts and hashes them, trains the tokenizer, writes the token files.

Documents are read three times (survey, tokenizer, tokens) rather than held, so memory does not grow with
the corpus.
"""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ryot_jax.data import cache as caches
from ryot_jax.data import tokenizer as tokenizers
from ryot_jax.data.documents import Document, Source, Tally
from ryot_jax.data.rules import ID_TYPE
from ryot_jax.data.tokenizer import JsonTokenizer
from ryot_jax.runtime.errors import DataError

Log = Callable[[str], None]
# Characters: the piece of a document that is encoded at once, and of pieces that are encoded together. They
# bound the memory (about 100 bytes a token inside of `tokenizers`) and let the cores share the work.
_PIECE = 2**20
_TOGETHER = 2**22


@dataclasses.dataclass(frozen=True)
class Survey:
    """Counts and hashes from a first reading of all documents.

    Attributes:
      content: sha256 (hex) over the documents' bytes, order and split.
      parts: for 'train' and 'heldout' the number of documents and of bytes (UTF-8, line ends as one byte).
      left_out: number of documents that were left out, by reason.
    """

    content: str
    parts: dict[str, dict[str, int]]
    left_out: dict[str, int]


def survey(source: Source) -> Survey:
    """Reads all documents once, to count, hash and split them.

    Raises:
      DataError: a document is invalid, or one of the two parts is empty.
    """
    hasher = hashlib.sha256()
    tally = Tally()
    parts = {part: {"documents": 0, "bytes": 0} for part in caches.PARTS}
    for document in source.read(tally):
        part = parts[_part(document)]
        part["documents"] += 1
        part["bytes"] += _add(hasher, document)
    if not parts["train"]["documents"]:
        raise DataError(
            f"no training document is left ({_found(parts, tally)}); give more text in data.path, "
            "or lower data.heldout_fraction"
        )
    if not parts["heldout"]["documents"]:
        raise DataError(
            f"the held-out part is empty ({_found(parts, tally)}); raise data.heldout_fraction, "
            "give more documents, or name held-out text with data.heldout_path"
        )
    return Survey(hasher.hexdigest(), parts, dict(sorted(tally.items())))


def make_tokenizer(source: Source, settings: ConfigDict, vocab_size: int, log: Log) -> JsonTokenizer:
    """Makes the tokenizer that the config names; a BPE is trained on the training documents only."""
    if settings.kind == "byte":
        return tokenizers.byte_tokenizer(vocab_size)
    if settings.kind == "file":
        return tokenizers.from_file(settings.path, vocab_size)
    training_texts = (document.text for document in source.read(Tally()) if not document.heldout)
    made = tokenizers.train_bpe(training_texts, vocab_size)
    if made.vocab_size < vocab_size:
        log(
            f"the text gives a vocabulary of {made.vocab_size}, fewer than model.vocab_size = {vocab_size}; "
            "the other ids stay unused"
        )
    return made


def write_corpus(folder: Path, source: Source, found: Survey, tokenizer: JsonTokenizer) -> None:
    """Writes the token files, `tokenizer.json` and `meta.json` into an empty folder.

    Each document ends with the end-of-document id.

    Raises:
      DataError: the documents are no longer those of the survey.
      OSError: the folder cannot be written.
    """
    hashers = {part: hashlib.sha256() for part in caches.PARTS}
    tokens = dict.fromkeys(caches.PARTS, 0)
    content = hashlib.sha256()

    def reread() -> Iterator[Document]:
        for document in source.read(Tally()):
            _add(content, document)
            yield document

    with contextlib.ExitStack() as stack:
        files = {part: stack.enter_context((folder / f"{part}.bin").open("wb")) for part in caches.PARTS}
        for part, ids in _encode(reread(), tokenizer):
            files[part].write(ids)
            hashers[part].update(ids)
            tokens[part] += len(ids) // ID_TYPE.itemsize
    if content.hexdigest() != found.content:
        raise DataError("the source's files changed while they were read; run the same command again")

    encoded_tokenizer = tokenizer.to_json().encode()
    (folder / "tokenizer.json").write_bytes(encoded_tokenizer)
    hashes = {f"{part}.bin": hashers[part].hexdigest() for part in caches.PARTS}
    hashes["tokenizer.json"] = hashlib.sha256(encoded_tokenizer).hexdigest()
    meta = {
        "version": caches.VERSION,
        "files": {name: {"bytes": (folder / name).stat().st_size, "sha256": digest} for name, digest in hashes.items()},
        "data_hash": caches.hash_parts(hashes["train.bin"], hashes["heldout.bin"]),
        "eod": tokenizer.eod,
        "parts": {part: {**found.parts[part], "tokens": tokens[part]} for part in caches.PARTS},
        "left_out": found.left_out,
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=1), "utf-8")


@contextlib.contextmanager
def spooled(source: Source, folder: Path) -> Iterator[Source]:
    """Reads `source` once into a file in `folder`, and returns a source that reads from that file.

    Raises:
      DataError: as `source.read`.
      OSError: the folder cannot be written.
    """
    file = folder / "documents.jsonl"
    tally = Tally()
    with file.open("w", encoding="ascii") as lines:
        for document in source.read(tally):
            lines.write(json.dumps(dataclasses.asdict(document)) + "\n")

    def read(again: Tally) -> Iterator[Document]:
        again.update(tally)
        with file.open(encoding="ascii") as lines:
            for line in lines:
                yield Document(**json.loads(line))

    try:
        yield Source(source.identity, read)
    finally:
        file.unlink(missing_ok=True)


def _encode(documents: Iterable[Document], tokenizer: JsonTokenizer) -> Iterator[tuple[str, bytes]]:
    """Part and little-endian uint16 ids of piece after piece, in the documents' order."""
    end = ID_TYPE.type(tokenizer.eod).tobytes()
    batch: list[tuple[str, str, bool]] = []  # part, piece of text, whether the document ends with it
    waiting = 0

    def flush() -> Iterator[tuple[str, bytes]]:
        encoded = tokenizer.encode_batch([piece for _, piece, _ in batch])
        for (part, _, is_last), ids in zip(batch, encoded, strict=True):
            yield part, ids.astype(ID_TYPE).tobytes() + (end if is_last else b"")

    for document in documents:
        for piece, is_last in pieces(document.text):
            batch.append((_part(document), piece, is_last))
            waiting += len(piece)
            if waiting >= _TOGETHER:
                yield from flush()
                batch, waiting = [], 0
    yield from flush()


def pieces(text: str, size: int = _PIECE) -> Iterator[tuple[str, bool]]:
    """Cuts a text into pieces of at most `size` characters, before a line end if there is one.

    Yields:
      The piece, and whether it is the text's last; at least one.
    """
    start = 0
    while len(text) - start > size:
        line = text.rfind("\n", start + 1, start + size)
        end = line if line > start else start + size
        yield text[start:end], False
        start = end
    yield text[start:], True


def _part(document: Document) -> str:
    return "heldout" if document.heldout else "train"


def _add(hasher: Any, document: Document) -> int:
    """Updates the hash with a document, delimited by its length and part; returns its bytes."""
    data = document.text.encode()
    hasher.update(f"{_part(document)} {len(data)}\n".encode())
    hasher.update(data)
    return len(data)


def _found(parts: dict[str, dict[str, int]], tally: Tally) -> str:
    left_out = "".join(f", {count} {reason} left out" for reason, count in sorted(tally.items()))
    return f"{parts['train']['documents']} for training, {parts['heldout']['documents']} held out{left_out}"
