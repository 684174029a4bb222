"""Errors that the person at the keyboard can mend, and how they are shown."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from types import TracebackType

MAX_NAMED = 5
"""Names that one message lists."""


class InputError(ValueError):
    """Bad input: the message names the case, file or key, says what was expected and what to do.

    Our commands show it as one line without a traceback.
    """


def first_names(names: Sequence[str]) -> str:
    """Returns the first names of a list, for a message."""
    return ", ".join(names[:MAX_NAMED]) + (", ..." if len(names) > MAX_NAMED else "")


def find_input_error(error: BaseException | None) -> str | None:
    """Returns the message of the InputError that an exception is or was raised from, None where there is none.

    MONAI wraps what a config or a transform raises in errors of its own; a loader's worker process hands over its
    traceback as text alone.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        in_worker = re.search(rf"^{InputError.__module__}\.{InputError.__name__}: (.*)$", str(error), re.MULTILINE)
        if in_worker:
            return in_worker[1]
        if isinstance(error, InputError):
            return str(error)
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def show_input_errors() -> None:
    """Makes this process end on bad input with one line, not a traceback; called by each bundle's `initialize`."""

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        message = find_input_error(error)
        if message is None:
            sys.__excepthook__(kind, error, trace)
        else:
            print(f"error: {message}", file=sys.stderr)

    sys.excepthook = show
