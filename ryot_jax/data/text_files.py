"""Text from files on disk: the files that a path names, and their checked text or JSONL records.

Every error names the file, the byte and the remedy.
"""

import dataclasses
import json
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from ryot_jax.runtime.errors import DataError

JSONL_SUFFIXES = (".jsonl", ".ndjson")
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_GZIP_MAGIC = b"\x1f\x8b"


@dataclasses.dataclass(frozen=True)
class TextFile:
    """A regular file: its path, and its name below the requested folder ('/' between parts)."""

    path: Path
    name: str

    @property
    def is_jsonl(self) -> bool:
        """Whether the file's name says that each line is a JSON object."""
        return self.path.suffix.lower() in JSONL_SUFFIXES


def find(field: str, path: str) -> list[TextFile]:
    """The files that `path` names: a file, all files below a folder, or a glob; sorted by name.

    Hidden files and folders (a leading dot) are left out, links to folders are not followed (so that a loop
    of links ends), and what is no regular file is left out.

    Args:
      field: the config field that `path` came from, for the messages.
      path: `~` is expanded.

    Raises:
      DataError: nothing is there.
    """
    if not path:
        raise DataError(f"{field} is empty; set it to a file, a folder or a glob such as 'corpus/**/*.txt'")
    start = Path(path).expanduser()
    if start.is_file():
        files = [TextFile(start, start.name)]
    elif start.is_dir():
        files = walk(start)
    elif re.search(r"[*?\[]", path):
        files = _glob(start)
    elif start.exists() or start.is_symlink():
        raise DataError(f"{field} = {path!r} is neither a regular file nor a folder; point it at one")
    else:
        raise DataError(f"{field} = {path!r} does not exist; check the path (working folder: {Path.cwd()})")
    if not files:
        raise DataError(f"{field} = {path!r} names no file; hidden files and links to folders do not count")
    return files


def walk(root: Path, suffix: str = "", skip_folders: Collection[str] = ()) -> list[TextFile]:
    """All regular, unhidden files below `root` that end with `suffix`, sorted by name."""
    files = []
    for folder, subfolders, names in os.walk(root, onerror=_refuse_folder):
        subfolders[:] = [name for name in subfolders if name not in skip_folders and name[0] != "."]
        for name in names:
            path = Path(folder, name)
            if name.endswith(suffix) and name[0] != "." and path.is_file():
                files.append(TextFile(path, path.relative_to(root).as_posix()))
    return sorted(files, key=lambda file: file.name)


def fingerprint(files: list[TextFile]) -> list[tuple[str, int, int]]:
    """Name, size (bytes) and time of change (ns) of each file: equal means unchanged, without reading."""
    return [(file.name, (stat := file.path.stat()).st_size, stat.st_mtime_ns) for file in files]


def read_text(path: Path) -> str:
    """The text of a UTF-8 file; a byte-order mark is dropped and line ends become line feeds.

    Raises:
      DataError: not readable, binary, or not UTF-8 (with the byte offset).
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    return normalized(decode(data, path))


def read_jsonl(path: Path, field: str) -> Iterator[tuple[int, str]]:
    """Line number (from 1) and the text in `field` of each line of a JSONL file; blank lines are skipped.

    Raises:
      DataError: a line is not UTF-8, not a JSON object, or has no text in `field`.
    """
    offset = 0
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                text = decode(line, path, offset)
                if text.strip():
                    where = f"{path}: line {number}, byte {offset}"
                    yield number, normalized(_record_text(text, field, where))
                offset += len(line)
    except OSError as error:
        raise _unreadable(path, error) from error


def decode(data: bytes, path: Path, offset: int = 0) -> str:
    """Strict UTF-8; `offset` is where `data` starts in the file `path`, for the messages.

    Raises:
      DataError: UTF-16, gzip, a NUL byte, or bytes that are not UTF-8.
    """
    if offset == 0 and data.startswith(_UTF16_MARKS):
        raise DataError(f"{path}: UTF-16 (by its first two bytes); convert it: iconv -f UTF-16 -t UTF-8")
    if offset == 0 and data.startswith(_GZIP_MAGIC):
        raise DataError(f"{path}: compressed with gzip; unpack it first: gunzip --keep")
    nul = data.find(b"\0")
    if nul >= 0:
        raise DataError(
            f"{path}: binary, not text (NUL byte at byte {offset + nul}); leave it out, "
            "for example with a glob such as 'folder/**/*.txt'"
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 at byte {offset + error.start} (0x{data[error.start]:02x}); convert it, "
            "for example iconv -f LATIN1 -t UTF-8, or leave it out"
        ) from error


def normalized(text: str) -> str:
    """`text` without a byte-order mark, with a line feed for every line end (CRLF and CR)."""
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def _record_text(line: str, field: str, where: str) -> str:
    try:
        record = json.loads(line.removeprefix("\ufeff"))
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error}); each line has to be one JSON object") from error
    if not isinstance(record, dict):
        raise DataError(f"{where}: a JSON {type(record).__name__}, but each line has to be one JSON object")
    return field_text(record, field, where)


def field_text(record: dict, field: str, where: str) -> str:
    """The text in `field` of a record.

    Raises:
      DataError: the field is missing, is no string, or holds a lone surrogate (which no UTF-8 can hold).
    """
    if field not in record:
        names = ", ".join(map(repr, list(record)[:8])) or "none"
        raise DataError(f"{where}: no field {field!r} (fields: {names}); set data.field to the one with the text")
    text = record[field]
    if not isinstance(text, str):
        raise DataError(
            f"{where}: field {field!r} holds a {type(text).__name__}, not a string; "
            "set data.field to the one with the text"
        )
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: field {field!r} has half of a surrogate pair at character {error.start}; "
            "write the file again with whole characters"
        ) from error
    return text


def _glob(pattern: Path) -> list[TextFile]:
    parts = pattern.parts
    first = next(n for n, part in enumerate(parts) if re.search(r"[*?\[]", part))
    root = Path(*parts[:first]) if first else Path()
    found = []
    # Path.glob does not follow links to folders for '**', unlike glob.glob.
    for path in root.glob(str(Path(*parts[first:]))):
        name = path.relative_to(root)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            found.append(TextFile(path, name.as_posix()))
    return sorted(set(found), key=lambda file: file.name)


def _refuse_folder(error: OSError) -> None:
    raise _unreadable(Path(str(error.filename)), error) from error


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"{path}: cannot be read ({error.strerror}); check its permissions")
