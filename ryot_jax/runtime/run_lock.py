"""One process at a time works in a run directory.

The operating system holds the lock and drops it when the process ends, however it ends, so a crash leaves no
lock behind; the file's text only tells who has it.
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
    """Holds the lock of a run for the time of the `with` block.

    Yields:
      A sentence about the process that had the run before and ended without giving it back, or None.

    Raises:
      ConfigError: another process has the run; or one on another machine had it last and never gave it back,
        which cannot be told apart from here.
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
            # Emptied, not deleted: a waiting process may have opened this very file.
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

    # One byte far behind the text, as Windows would keep others from reading the locked part.
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
