"""The lock of a run directory, which one process at a time may hold.

The operating system releases the lock when the process ends, also by a crash; the text of the file only names the
owner.
"""

import contextlib
import json
import os
import socket
import sys
from collections.abc import Iterator
from typing import IO

from ryot_jax.runtime.errors import ConfigError
from ryot_jax.runtime.run_directory import RunDirectory


@contextlib.contextmanager
def locked(run: RunDirectory) -> Iterator[str | None]:
    """Holds the lock of a run for the duration of the `with` block.

    Yields:
      A sentence about a previous owner that ended without releasing the lock, or None.

    Raises:
      ConfigError: another process holds the lock, or one on another machine has not released it, which may be alive or
        dead.
    """
    with run.lock.open("a+", encoding="utf-8") as file:
        if not _try_lock(file):
            raise ConfigError(f"{run.path} is in use by {_describe(_owner(file))}; wait for it, or use another run")
        previous = _owner(file)
        if previous and previous.get("host") != socket.gethostname():
            raise ConfigError(
                f"{run.path} was in use by {_describe(previous)} and never given back; "
                f"if that process is gone, delete {run.lock}"
            )
        _rewrite(file, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        try:
            yield f"{_describe(previous)} left the run without giving it back" if previous else None
        finally:
            # Emptied, not deleted, as a waiting process may have this file open.
            _rewrite(file, "")


def _owner(file: IO[str]) -> dict[str, object]:
    file.seek(0)
    try:
        owner = json.loads(file.read() or "{}")
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _describe(owner: dict[str, object]) -> str:
    if not owner:
        return "another process"
    return f"process {owner.get('pid', '?')} on host {owner.get('host', '?')}"


def _rewrite(file: IO[str], text: str) -> None:
    file.seek(0)
    file.truncate()
    file.write(text)
    file.flush()


if sys.platform == "win32":
    import msvcrt

    # Locks one byte far beyond the text, as Windows prevents others from reading a locked range.
    _LOCKED_BYTE = 1 << 20

    def _try_lock(file: IO[str]) -> bool:
        os.lseek(file.fileno(), _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
else:
    import fcntl

    def _try_lock(file: IO[str]) -> bool:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
