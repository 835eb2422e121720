"""Sources of documents by `data.source` and `data.path`, and the choice of held-out documents.

A `Source` can be read repeatedly in the same order.
"""

import collections
import dataclasses
import hashlib
import itertools
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ryot_jax.data import huggingface, text_files
from ryot_jax.data.rules import wrong_source
from ryot_jax.data.text_files import TextFile
from ryot_jax.runtime.errors import ConfigError, DataError

# Python's own tests and IDLE are unlike the rest of the library. pydoc_data is the language reference as one
# generated file of 0.76 MB: prose, not code, and it would be 44 % of the held-out part. dist-packages is
# Debian's site-packages.
_SKIPPED_STDLIB_FOLDERS = frozenset(
    ("test", "tests", "idlelib", "idle_test", "pydoc_data", "site-packages", "dist-packages", "__pycache__")
)
Tally = collections.Counter[str]  # what was left out and why: 'duplicates', 'empty', 'unreadable'


@dataclasses.dataclass(frozen=True)
class Document:
    """One independent text, in the held-out or the training part of the corpus."""

    text: str
    heldout: bool


@dataclasses.dataclass(frozen=True)
class Source:
    """Documents, with an identity that changes when their texts do.

    Attributes:
      identity: JSON; while it stays equal, so do the documents. Found without reading them.
      read: gives the documents, in the same order each time, and counts in the tally what it leaves out.
      once: reading is expensive (a network), so it should happen only once.
    """

    identity: dict[str, Any]
    read: Callable[[Tally], Iterator[Document]]
    once: bool = False


def open_source(data: ConfigDict) -> Source:
    """The source that `config.data` describes, for all kinds that hold text (not 'tokens').

    Which documents are held out: with `heldout_path`, exactly those found there; else a share of about
    `heldout_fraction`, chosen for each whole document by a hash. What is hashed is the file's name below
    `path` (its name below the library for 'stdlib'), and the text itself for a JSONL or Hugging Face record.
    A single text file is cut in two at a line's end: its last `heldout_fraction` is held out.
    `max_documents` keeps the first documents of `path`, held out or not.

    Texts that repeat an earlier one are left out, and training documents that are held out elsewhere too.

    Raises:
      ConfigError: an unknown source.
      DataError: nothing there, or (later, from `read`) a file that cannot be used.
    """
    fraction = 0.0 if data.heldout_path else data.heldout_fraction
    limit = data.max_documents or None
    if data.source == "stdlib":
        main = _stdlib(fraction, limit)
    elif data.source == "text":
        main = _text("data.path", data.path, data.field, fraction, limit)
    elif data.source.startswith("hf:"):
        main = _huggingface(data, fraction, limit)
    else:
        raise ConfigError(wrong_source(data.source) or f"data.source = {data.source!r} has no documents")
    sources = [main]
    if data.heldout_path:
        # Read first, so that a training document that repeats a held-out one is the one to go.
        sources.insert(0, _text("data.heldout_path", data.heldout_path, data.field, 1.0, None))

    def read(tally: Tally) -> Iterator[Document]:
        return _distinct(itertools.chain.from_iterable(source.read(tally) for source in sources), tally)

    identity = {
        "sources": [source.identity for source in sources],
        "heldout_fraction": fraction,
        "max_documents": limit,
    }
    return Source(identity, read, once=main.once)


def is_heldout(name: str, fraction: float) -> bool:
    """Whether the document of that name is held out; independent of the machine and of other documents."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 2**32 < fraction


def split_text(text: str, fraction: float) -> tuple[str, str]:
    """Cuts `text` in two: the second part is its last `fraction`, from the start of a line on.

    Where no line starts in the last part, the cut is at the last line start before, else in mid-line.
    """
    cut = int(len(text) * (1.0 - fraction))
    line = text.find("\n", max(cut - 1, 0)) + 1
    if not 0 < line < len(text):
        line = text.rfind("\n", 0, cut) + 1 or cut
    return text[:line], text[line:]


def _stdlib(fraction: float, limit: int | None) -> Source:
    root = Path(sysconfig.get_path("stdlib"))
    files = text_files.walk(root, ".py", _SKIPPED_STDLIB_FOLDERS) if root.is_dir() else []
    if not files:
        raise DataError(
            f"Python's library at {root} has no .py files (zipped or stripped); "
            "use another Python, or data.source = 'text' with data.path"
        )

    def documents(tally: Tally) -> Iterator[Document]:
        for file in files:
            try:
                text = text_files.read_text(file.path)
            except DataError:
                tally["unreadable"] += 1
            else:
                yield Document(text, is_heldout(file.name, fraction))

    identity = {
        "kind": "stdlib",
        "python": sys.version,
        "root": str(root),
        "files": text_files.fingerprint(files),
    }
    return Source(identity, lambda tally: itertools.islice(documents(tally), limit))


def _text(config_field: str, path: str, field: str, fraction: float, limit: int | None) -> Source:
    files = text_files.find(config_field, path)
    root = str(Path(path).expanduser().absolute())
    identity = {"kind": "text", "root": root, "field": field, "files": text_files.fingerprint(files)}
    if len(files) == 1 and not files[0].is_jsonl and 0.0 < fraction < 1.0:
        return Source(identity, lambda tally: _halves(files[0], fraction))

    def documents() -> Iterator[Document]:
        for file in files:
            if file.is_jsonl:
                for _, text in text_files.read_jsonl(file.path, field):
                    yield Document(text, is_heldout(text, fraction))
            else:
                yield Document(text_files.read_text(file.path), is_heldout(file.name, fraction))

    return Source(identity, lambda tally: itertools.islice(documents(), limit))


def _halves(file: TextFile, fraction: float) -> Iterator[Document]:
    first, last = split_text(text_files.read_text(file.path), fraction)
    yield Document(first, heldout=False)
    yield Document(last, heldout=True)


def _huggingface(data: ConfigDict, fraction: float, limit: int | None) -> Source:
    name = data.source.removeprefix("hf:")
    rows = huggingface.Rows(name, data.hf_config, data.hf_split, data.path, data.field)

    def documents() -> Iterator[Document]:
        for text in rows.texts():
            text = text_files.normalized(text)
            yield Document(text, is_heldout(text, fraction))

    return Source(rows.identity(), lambda tally: itertools.islice(documents(), limit), once=True)


def _distinct(documents: Iterable[Document], tally: Tally) -> Iterator[Document]:
    seen = set()
    for document in documents:
        digest = hashlib.sha256(document.text.encode()).digest()[:16]
        if not document.text.strip():
            tally["empty"] += 1
        elif digest in seen:
            tally["duplicates"] += 1
        else:
            seen.add(digest)
            yield document
