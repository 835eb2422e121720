"""Atomic writes of files and folders: a reader sees the old version or the complete new one.

All JSON files of a run directory except the append-only `metrics.jsonl` are written here.
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
    """Writes text as UTF-8 atomically, with its line ends unchanged."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Replaces a file atomically: readers, also after a crash, see the old content or the new one.

    Args:
      path: the file, in an existing folder.
      content: the complete content.

    Raises:
      OSError: the folder cannot be written; the old file is unchanged.
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
    """Yields a temporary folder to write files into, which is moved to `path` when the block ends.

    Args:
      path: a path that does not exist, or an empty folder; parent folders are created.

    Raises:
      OSError: `path` exists and is not an empty folder, or it cannot be written; no file is left behind.
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
        folder.replace(path)  # raises if `path` is a file or a folder that is not empty
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def display_path(path: Path) -> Path:
    """Shortens a path for messages: relative to the working directory if below it, else unchanged."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON value atomically, with sorted keys.

    Raises:
      ValueError: a number is not finite, which JSON cannot express.
    """
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")
