"""SIGTERM as a request to stop at the next step from which the run can be resumed."""

import signal
import threading
from types import FrameType, TracebackType


class Preemption:
    """A context in which the first SIGTERM only sets `requested`, and a second one ends the process.

    It has no effect outside of the main thread, where Python handles no signals.
    """

    def __init__(self) -> None:
        """Creates the context with nothing requested."""
        self.requested = False
        self._before: signal.Handlers | object = signal.SIG_DFL

    def __enter__(self) -> "Preemption":
        """Installs the handler of SIGTERM."""
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restores the previous handler of SIGTERM."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._before)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
