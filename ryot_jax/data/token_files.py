"""User-supplied token files: nanoGPT's uint16 `.bin`, checked once and then used in place.

The result of a check is kept in the cache's index, so that a second start does not read the files.
"""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ryot_jax.data import cache as caches
from ryot_jax.data.rules import ID_TYPE
from ryot_jax.runtime.errors import ConfigError, DataError

_CHUNK = 2**24  # ids that are checked at once (32 MiB)


@dataclasses.dataclass(frozen=True)
class TokenParts:
    """Both parts of a corpus as read-only memmaps (uint16), and the files that they map."""

    train: np.ndarray
    heldout: np.ndarray
    files: tuple[Path, ...]

    def identity(self) -> list[tuple[str, int, int, int]]:
        """A JSON value that stays equal as long as the files do: path, size, time of change, number of training ids."""
        stats = [(str(file.absolute()), file.stat()) for file in self.files]
        return [(name, stat.st_size, stat.st_mtime_ns, len(self.train)) for name, stat in stats]


def open_parts(data: ConfigDict) -> TokenParts:
    """Maps the files that `data.path` and `data.heldout_path` name.

    `path` is a folder with `train.bin` and `val.bin`; or one file, with `heldout_path` the other; or one file
    whose last `heldout_fraction` is held out.

    Raises:
      ConfigError: `max_documents` is set, which has no meaning for ids.
      DataError: a file is missing, empty, or of an odd number of bytes; or one part has no ids.
    """
    if data.max_documents:
        raise ConfigError(
            f"data.max_documents = {data.max_documents} has no meaning for data.source = 'tokens'; set it to 0"
        )
    path = Path(data.path).expanduser()
    files: tuple[Path, ...]
    if data.path and path.is_dir():
        heldout = Path(data.heldout_path).expanduser() if data.heldout_path else path / "val.bin"
        files = (path / "train.bin", heldout)
    elif data.heldout_path:
        files = (path, Path(data.heldout_path).expanduser())
    else:
        files = (path,)
    parts = [_map(file) for file in files]
    if len(parts) == 1:
        cut = len(parts[0]) - int(len(parts[0]) * data.heldout_fraction)
        parts = [parts[0][:cut], parts[0][cut:]]
    for name, part in zip(("training", "held-out"), parts, strict=True):
        if not len(part):
            raise DataError(
                f"{path}: the {name} part is empty at data.heldout_fraction = {data.heldout_fraction}; "
                "change it, or name the held-out file with data.heldout_path"
            )
    return TokenParts(parts[0], parts[1], files)


def data_hash(parts: TokenParts, vocab_size: int, cache: Path) -> tuple[str, bool]:
    """The data hash of checked ids, and whether it came from the index.

    Raises:
      DataError: an id is beyond the vocabulary (with its byte offset).
    """
    fingerprint = caches.key_of({"tokens": parts.identity(), "vocab_size": vocab_size})
    entry = caches.read_index(cache, fingerprint)
    if entry and isinstance(entry.get("data_hash"), str):
        return entry["data_hash"], True
    files = [parts.files[0], parts.files[-1]]
    starts = [0, len(parts.train) if len(parts.files) == 1 else 0]
    hashes = [
        _check(ids, file, start, vocab_size)
        for ids, file, start in zip((parts.train, parts.heldout), files, starts, strict=True)
    ]
    found = caches.hash_parts(*hashes)
    caches.write_index(cache, fingerprint, {"data_hash": found})
    return found, False


def map_ids(file: Path) -> np.ndarray:
    """A read-only memmap (uint16) of a file that has at least one id."""
    return np.memmap(file, ID_TYPE, mode="r")


def describe(parts: TokenParts) -> dict[str, Any]:
    """The known counts of token files, in the form of `Corpus.description`."""
    return {
        name: {"files": 1, "bytes": ids.nbytes, "tokens": len(ids)}
        for name, ids in (("train", parts.train), ("heldout", parts.heldout))
    }


def _map(file: Path) -> np.ndarray:
    if not file.is_file():
        raise DataError(
            f"{file} is not a file; data.source = 'tokens' needs data.path = a folder with train.bin and "
            "val.bin, or a .bin file of uint16 ids"
        )
    size = file.stat().st_size
    if size == 0:
        raise DataError(f"{file} is empty; write the ids again")
    if size % 2:
        raise DataError(
            f"{file} has {size} bytes, an odd number, so it is cut or not uint16 (the last id would start at "
            f"byte {size - 1}); write it again as little-endian uint16"
        )
    return map_ids(file)


def _check(ids: np.ndarray, file: Path, start: int, vocab_size: int) -> str:
    hasher = hashlib.sha256()
    for first in range(0, len(ids), _CHUNK):
        chunk = ids[first : first + _CHUNK]
        beyond = chunk >= vocab_size
        if beyond.any():
            position = int(beyond.argmax())
            offset = (start + first + position) * ID_TYPE.itemsize
            raise DataError(
                f"{file}: id {int(chunk[position])} at byte {offset} is beyond model.vocab_size = "
                f"{vocab_size}; set model.vocab_size to that of the tokenizer that made the file (or it "
                "is not a plain file of uint16 ids)"
            )
        hasher.update(chunk.tobytes())
    return hasher.hexdigest()
