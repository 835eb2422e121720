"""SIGTERM as a request: the machine wants its processor back, and the run is to stop where it can be gone on with."""

import signal
import threading
from types import FrameType, TracebackType


class Preemption:
    """While it is entered, the first SIGTERM is noted and nothing more; the second ends the process as always.

    In another thread than the main one, where Python takes no signals, it notes nothing.
    """

    def __init__(self) -> None:
        """Nothing is requested yet."""
        self.requested = False
        self._before: signal.Handlers | object = signal.SIG_DFL

    def __enter__(self) -> "Preemption":
        """Begins to listen."""
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leaves SIGTERM as it was."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._before)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
