"""The cache of tokenized corpora on disk: folders found by content, and an index from cheap fingerprints.

    <root>/corpora/<content key>/{train.bin, heldout.bin, tokenizer.json, meta.json}
    <root>/index/<fingerprint>.json

Folders appear atomically: they are written under another name and renamed. `build.py` fills them.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ryot_jax.runtime.errors import DataError
from ryot_jax.runtime.files import write_text

VERSION = 1  # part of every key: raise it when the same text would give other tokens or other files
PARTS = ("train", "heldout")
# Token files up to this size (bytes) are hashed at each start, which takes about 0.1 s; of larger ones
# only the size is compared.
_ALWAYS_HASHED = 64 * 2**20


class Damaged(Exception):
    """A cache folder differs from what was written; the message says how."""


def root(cache_dir: str) -> Path:
    """Returns the cache's folder: `cache_dir`, or ryot_jax in $XDG_CACHE_HOME or ~/.cache; created if missing.

    Raises:
      DataError: it cannot be made or written.
    """
    if cache_dir:
        folder = Path(cache_dir).expanduser()
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME", ""))
        folder = (base if base.is_absolute() else Path.home() / ".cache") / "ryot_jax"
    with writing(folder):
        for name in ("corpora", "index"):
            (folder / name).mkdir(parents=True, exist_ok=True)
    return folder.absolute()


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns an `OSError` while writing below `folder` into a `DataError` with the remedy."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"the cache at {folder} cannot be written ({error.strerror or error}); free some space, or set "
            "data.cache_dir to a folder that you may write"
        ) from error


def key_of(identity: Any) -> str:
    """A name for a JSON value, equal for equal values."""
    return hashlib.sha256(json.dumps([VERSION, identity], sort_keys=True).encode()).hexdigest()[:32]


def read_index(cache: Path, fingerprint: str) -> dict[str, Any] | None:
    """The entry stored for `fingerprint`, or None where there is no readable one."""
    try:
        entry = json.loads((cache / "index" / f"{fingerprint}.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return entry if isinstance(entry, dict) else None


def write_index(cache: Path, fingerprint: str, entry: dict[str, Any]) -> None:
    """Stores `entry` for `fingerprint` atomically.

    Raises:
      DataError: the cache cannot be written.
    """
    with writing(cache):
        write_text(cache / "index" / f"{fingerprint}.json", json.dumps(entry))


def folder_of(cache: Path, key: str) -> Path:
    """The folder of the corpus with a content key; it may not exist."""
    return cache / "corpora" / key


@contextlib.contextmanager
def new_folder(cache: Path, key: str) -> Iterator[Path]:
    """Yields a folder to fill, which becomes the corpus `key` at the end and is removed on an error.

    A corpus that another process stored in the meantime is kept, as the contents are the same.

    Raises:
      DataError: the cache cannot be written.
    """
    with temporary_folder(cache) as made:
        yield made
        with contextlib.suppress(FileExistsError):
            _rename_folder(made, folder_of(cache, key))


@contextlib.contextmanager
def temporary_folder(cache: Path) -> Iterator[Path]:
    """Yields a folder inside the cache that is removed at the end.

    Raises:
      DataError: the cache cannot be written.
    """
    with writing(cache):
        made = Path(tempfile.mkdtemp(dir=cache / "corpora", prefix=".building-"))
        try:
            yield made
        finally:
            shutil.rmtree(made, ignore_errors=True)


def discard(cache: Path, key: str) -> None:
    """Removes the corpus `key`; it is renamed first, so that no other process reads half of it."""
    with writing(cache):
        aside = Path(tempfile.mkdtemp(dir=cache / "corpora", prefix=".damaged-"))
        with contextlib.suppress(FileNotFoundError):
            folder_of(cache, key).rename(aside / "corpus")
        shutil.rmtree(aside, ignore_errors=True)


def read_meta(folder: Path) -> dict[str, Any] | None:
    """The checked `meta.json` of a corpus folder; None if there is no such folder.

    Raises:
      Damaged: a file is missing, cut, or changed.
    """
    if not folder.is_dir():
        return None
    try:
        meta = json.loads((folder / "meta.json").read_text("utf-8"))
        if meta["version"] != VERSION:
            raise Damaged(f"meta.json is of version {meta['version']}, not {VERSION}")
        for name, wanted in meta["files"].items():
            size = (folder / name).stat().st_size
            if size != wanted["bytes"]:
                raise Damaged(f"{name} has {size} bytes, not {wanted['bytes']}")
            if size <= _ALWAYS_HASHED and hash_file(folder / name) != wanted["sha256"]:
                raise Damaged(f"the bytes of {name} have changed")
    except OSError as error:
        raise Damaged(f"{Path(str(error.filename)).name}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"meta.json is not what was written ({error!r})") from error
    return meta


def hash_file(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_parts(train_sha256: str, heldout_sha256: str) -> str:
    """The data hash: sha256 (hex) over the sha256 of both token files."""
    return hashlib.sha256(bytes.fromhex(train_sha256) + bytes.fromhex(heldout_sha256)).hexdigest()


def _rename_folder(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError as error:
        if target.is_dir():
            raise FileExistsError(str(target)) from error
        raise
