"""Ctrl-C and SIGTERM, deferred until nothing is lost."""

import signal
import threading
from types import FrameType, TracebackType

from tutelage.distributed import world

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop, has saved its state, and ends."""


class DeferredInterrupt:
    """While open, the first Ctrl-C or SIGTERM only sets `requested`; a second one interrupts."""

    def __init__(self) -> None:
        """Start without a request."""
        self.requested = False
        self._before: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> "DeferredInterrupt":
        """Install the signal handlers, if this is the main thread."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Restore the signal handlers."""
        self._restore()

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.requested = True
        if not world().is_distributed:  # launchers pass on what every process has had already
            self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
