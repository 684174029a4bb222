"""Errors that the person at the keyboard can mend, and how they are shown."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

MAX_NAMED = 5
"""Names that one message lists."""

LOST = ("Connection closed by peer", "Connection reset by peer", "remote process exited")
"""What gloo and NCCL say in a process when another has died."""


class InputError(ValueError):
    """Bad input: the message names the case, file or key, says what was expected and what to do.

    Our commands show it as one line without a traceback.
    """


def first_names(names: Sequence[str]) -> str:
    """Returns the first names of a list, for a message."""
    return ", ".join(names[:MAX_NAMED]) + (", ..." if len(names) > MAX_NAMED else "")


def find_input_error(error: BaseException) -> str | None:
    """Returns the message of the InputError that an exception is or was raised from, None where there is none.

    MONAI wraps what a config or a transform raises in errors of its own; a loader's worker process hands over its
    traceback as text alone.
    """
    for cause in _causes(error):
        in_worker = re.search(rf"^{InputError.__module__}\.{InputError.__name__}: (.*)$", str(cause), re.MULTILINE)
        if in_worker:
            return in_worker[1]
        if isinstance(cause, InputError):
            return str(cause)
    return None


def show_input_errors() -> None:
    """Makes this process end on bad input with one line, not a traceback; called by each bundle's `initialize`.

    Of several processes that torchrun started, the one that fails leaves its error for torchrun's summary, and those
    that lose it say so in a line, so that the first error is not buried.
    """

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        message, causes = find_input_error(error), _causes(error)
        if any(text in str(cause) for cause in causes for text in LOST):
            print("ended, because another process of this job did", file=sys.stderr)
            return
        _tell_torchrun(message or f"{type(causes[-1]).__name__}: {causes[-1]}")
        if message is None:
            sys.__excepthook__(kind, error, trace)
        else:
            print(f"error: {message}", file=sys.stderr)

    sys.excepthook = show


def _causes(error: BaseException) -> list[BaseException]:
    """Returns an exception and what it was raised from, the origin last."""
    causes = [error]
    while (earlier := causes[-1].__cause__ or causes[-1].__context__) is not None and earlier not in causes:
        causes.append(earlier)
    return causes


def _tell_torchrun(message: str) -> None:
    """Writes what ended this process where torchrun looks for it, when torchrun started it."""
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if file:
        record = {"message": {"message": message, "extraInfo": {"timestamp": str(int(time.time()))}}}
        Path(file).write_text(json.dumps(record), encoding="utf-8")
