"""Atomic writes of files and folders: a reader sees the old version or the whole new one, never a part.

Every JSON file of a run directory but the append-only `metrics.jsonl` is written here.
"""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Writes a text as UTF-8 by `write_bytes`, with its line ends unchanged."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Replaces a file's content in one step: readers and a crash see the old content or the new one.

    Args:
      path: the file; its folder exists.
      content: all of it.

    Raises:
      OSError: the folder cannot be written; the old file is untouched.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yields a folder to write files into, which appears at `path`, whole, once the block has ended.

    Args:
      path: is not there yet, or is an empty folder; what it lies in is made if need be.

    Raises:
      OSError: there is something already, or the place cannot be written; no file is left behind.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
    try:
        yield folder
        for file in folder.iterdir():
            file.chmod(0o644)
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        folder.chmod(0o755)
        folder.replace(path)  # which refuses a file, and a folder with something in it
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def display_path(path: Path) -> Path:
    """Shortens a path for messages: relative to the working directory if below it, else unchanged."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON value with sorted keys by `write_text`; non-finite numbers are refused, as JSON has none."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")
