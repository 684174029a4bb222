"""SIGTERM and Ctrl-C as requests, so that a run ends between two steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequests:
    """Notes SIGTERM and Ctrl-C while it listens; a second one ends the process as the first would have otherwise.

    Attributes:
        number: of the signal that came, None before.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, Any] = {}

    @property
    def name(self) -> str:
        """The signal as a person calls it."""
        return "Ctrl-C" if self.number == signal.SIGINT else "SIGTERM"

    def listen(self) -> None:
        """Takes the place of the present handlers; nothing outside the main thread, which alone gets signals."""
        if threading.current_thread() is threading.main_thread() and not self._before:
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}

    def release(self) -> None:
        """Puts the earlier handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.number is not None:
            self.release()
            signal.raise_signal(number)
        self.number = number
