"""Output of lines on a terminal, a file, or a pipe whose reader may have gone.

Printing never ends a run: characters that the encoding lacks become '?', and a closed output is dropped. Every line
also goes to the run's log file, if one is set.
"""

import codecs
import contextlib
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

import rich.console


class Console:
    """An output stream for lines of text.

    Args:
      stream: the stream; None: standard output.
      environment: environment variables; None: those of this process. NO_COLOR turns off colours, TERM=dumb the moving
        display too.

    Attributes:
      display: a `rich` console if the stream is a UTF-8 terminal; None: plain lines only.
    """

    def __init__(self, stream: IO[str] | None = None, environment: Mapping[str, str] | None = None) -> None:
        self._stream = sys.stdout if stream is None else stream
        self._log: IO[str] | None = None
        self._gone = False
        self._encoding = getattr(self._stream, "encoding", None) or "ascii"
        environment = os.environ if environment is None else environment
        self.display: rich.console.Console | None = None
        if _is_rich_terminal(self._stream, self._encoding, environment):
            self.display = rich.console.Console(
                file=self._stream,
                force_terminal=True,
                no_color=bool(environment.get("NO_COLOR")),
                highlight=False,
                legacy_windows=False,
            )

    def line(self, text: str = "") -> None:
        """Prints text and a newline. Control characters, which could move the cursor, become '?'."""
        text = printable(text)
        if self._log is not None:
            self._log.write(text + "\n")
            self._log.flush()
        self.attempt(lambda: self._print(text))

    def log_to(self, path: Path) -> None:
        """Also appends every later line to this file."""
        self.close()
        self._log = path.open("a", encoding="utf-8", newline="")

    def close(self) -> None:
        """Closes the log file, if there is one."""
        if self._log is not None:
            self._log.close()
            self._log = None

    def attempt(self, write: Callable[[], object]) -> None:
        """Calls a function that writes to the stream; does nothing once the stream has gone."""
        if self._gone:
            return
        try:
            write()
        except (OSError, ValueError):
            self._forget_stream()

    def _print(self, text: str) -> None:
        if self.display is not None:
            self.display.print(text, markup=False, soft_wrap=True)
            return
        encodable = text.encode(self._encoding, "replace").decode(self._encoding)
        self._stream.write(encodable + "\n")
        self._stream.flush()

    def _forget_stream(self) -> None:
        self._gone = True
        self.display = None
        # Buffered text would fail again when Python flushes standard output at exit.
        with contextlib.suppress(OSError, ValueError):
            if self._stream is sys.stdout:
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


def printable(text: str) -> str:
    """The text with everything but printable characters, line ends and tabs replaced by '?'."""
    return "".join(char if char in "\n\t" or char.isprintable() else "?" for char in text)


def _is_rich_terminal(stream: IO[str], encoding: str, environment: Mapping[str, str]) -> bool:
    try:
        terminal = stream.isatty()
        utf8 = codecs.lookup(encoding).name == "utf-8"
    except (AttributeError, ValueError, LookupError):
        return False
    return terminal and utf8 and environment.get("TERM") != "dumb"
