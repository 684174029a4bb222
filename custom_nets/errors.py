"""Errors that the person at the keyboard can mend, and how they are shown."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType, TracebackType

MAX_NAMED = 5
"""Names that one message lists."""

MAX_LINES = 9
"""Lines of a message that lists faults."""

MAX_CHARACTERS = 300
"""Of the message of an exception that nobody foresaw."""

REMEDIES = {
    r"CUDA out of memory|CUBLAS_STATUS_ALLOC_FAILED": (
        "out of memory on the GPU; give a smaller --batch_size in training, a --memory_limit of GiB in inference, or "
        "--device cpu"
    ),
    r"torch_\w*>?: No space left on device|shared memory|Bus error": (
        "no room in the shared memory for the loader's processes (/dev/shm); give --num_workers 0, or a container "
        "more of it (docker run --shm-size 8g)"
    ),
    r"can't allocate memory|Cannot allocate memory|bad_alloc|MemoryError|killed by signal: Killed": (
        "out of memory; give a smaller --batch_size, fewer --num_workers, or in inference a --memory_limit of GiB"
    ),
    r"DataLoader worker .*exited unexpectedly": (
        "a process of the loader died; most often memory ran out: give fewer --num_workers, or 0"
    ),
    r"Too many open files|0 items of ancdata": (
        "too many open files; give fewer --num_workers, or allow more (ulimit -n)"
    ),
    r"(?:No space left on device|Disk quota exceeded): '([^']*)'": (
        "{0}: the disk is full; free some space, or give another --output_dir or --ckpt_dir"
    ),
    r"No space left on device|Disk quota exceeded|PytorchStreamWriter failed": (
        "the disk is full; free some space, or give another --output_dir or --ckpt_dir"
    ),
    r"(?:Permission denied|Read-only file system|Operation not permitted): '([^']*)'": (
        "{0}: permission denied; change who may use it, or give another folder"
    ),
    r"File name too long: '([^']*)'": "{0}: the name is too long; give a shorter one",
    r"(?:Not a directory|File exists): '([^']*)'": "{0}: a file is where a folder is needed; move it, or give another",
    r"Expected more than 1 value per channel when training": (
        "the images are so small that the network's coarsest level has one voxel; give a larger --image_size, "
        "--crop_size or --grid_size, a smaller --spacing, or a network of fewer levels (channels)"
    ),
    r"No module named '([\w.]+)'|OptionalImportError: .*import (\w+)": (
        "the Python package {0}{1} is not installed; install it with pip"
    ),
    r"the referring item `@([^`]*)` is not defined": (
        "a config refers to @{0}, which no config defines; correct the name"
    ),
    r"No CUDA GPUs are available|Found no NVIDIA driver|not compiled with CUDA": (
        "PyTorch finds no GPU; give --device cpu, or install a PyTorch and a driver that fit the GPU"
    ),
}
"""Messages for exceptions by patterns of their type and message; the first that matches counts."""

_IN_WORKER = "Original Traceback"  # of what a loader's process hands over

LOST = ("Connection closed by peer", "Connection reset by peer", "remote process exited")
"""Messages of gloo and NCCL in a process when another one has died."""


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


def explain(error: BaseException) -> str:
    """Returns what a person should read of an exception: the message of an InputError, a remedy, or type and place.

    Args:
        error: as it arrived, with what it was raised from.
    """
    message = find_input_error(error)
    if message is not None:
        lines = message.splitlines()
        more = [f"... and {len(lines) - MAX_LINES} more"] if len(lines) > MAX_LINES else []
        return "\n".join([*lines[:MAX_LINES], *more])
    remedy = _find_remedy(error)
    if remedy is not None:
        return remedy
    place = _place(_causes(error)[-1])
    return f"{describe(error)} ({place}); this is a fault of the program: --debug true shows more"


def _find_remedy(error: BaseException) -> str | None:
    for cause in _causes(error):
        for pattern, remedy in REMEDIES.items():
            found = re.search(pattern, f"{type(cause).__name__}: {cause}")
            if found:
                return remedy.format(*(group or "" for group in found.groups()))
    return None


def describe(error: BaseException) -> str:
    """Returns an exception's origin in one line: an InputError's message, a remedy, or the type and the message."""
    message = find_input_error(error) or _find_remedy(error)
    if message is not None:
        return " ".join(message.split())
    origin = _causes(error)[-1]
    text = str(origin).strip()
    text = text.splitlines()[-1 if _IN_WORKER in text else 0] if text else ""
    name = type(origin).__name__
    text = text if text.startswith(name) else f"{name}: {text}" if text else name
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}..."


def show_errors(debug: bool = False) -> None:
    """Makes this process end on an error with what a person should read, not a traceback; called by each bundle.

    Of several processes that torchrun started, the one that fails leaves its error for torchrun's summary, and those
    that lose it say so in a line, so that the first error is not buried.

    Args:
        debug: whether to show the traceback before it.
    """

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if debug:
            sys.__excepthook__(kind, error, trace)
        if issubclass(kind, KeyboardInterrupt):
            print("interrupted", file=sys.stderr)
        elif any(text in str(cause) for cause in _causes(error) for text in LOST):
            print("ended, because another process of this job did", file=sys.stderr)
        else:
            message = explain(error)
            tell_torchrun(message)
            print(f"error: {message}", file=sys.stderr)

    def show_of_thread(raised: threading.ExceptHookArgs) -> None:
        if raised.exc_value is not None:  # of TensorBoard's writer, which raises it in the main thread, too
            show(raised.exc_type, raised.exc_value, raised.exc_traceback)

    sys.excepthook = show
    threading.excepthook = show_of_thread
    for handler in logging.getLogger().handlers:
        (handler.removeFilter if debug else handler.addFilter)(_shorten)


def _shorten(record: logging.LogRecord) -> bool:
    """Cuts what ignite logs of an error to its first line: a loader's process hands over its traceback as text."""
    if record.name.startswith("ignite") and record.levelno >= logging.ERROR:
        record.msg, record.args = record.getMessage().partition("\n")[0], ()
    return True


def end_at_sigterm() -> None:
    """Makes SIGTERM end this process with a line and as an exception does, so that unfinished files are removed.

    Nothing outside the main thread, which alone gets signals. A training that has begun saves its state instead.
    """

    def end(number: int, _frame: FrameType | None) -> None:
        print("stopped by SIGTERM; what was finished is kept", file=sys.stderr)
        logging.disable(logging.ERROR)  # ignite would tell the exit status as an error
        raise SystemExit(128 + number)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, end)


def _place(error: BaseException) -> str:
    """Returns the file and line that raised an exception."""
    frames = re.findall(r'File "([^"]+)", line (\d+)', str(error)) if _IN_WORKER in str(error) else []
    frames = frames or [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    return f"{Path(frames[-1][0]).name}:{frames[-1][1]}" if frames else "unknown place"


def _causes(error: BaseException) -> list[BaseException]:
    """Returns an exception and what it was raised from, the origin last."""
    causes = [error]
    while (earlier := causes[-1].__cause__ or causes[-1].__context__) is not None and earlier not in causes:
        causes.append(earlier)
    return causes


def tell_torchrun(message: str) -> None:
    """Writes what ended this process where torchrun looks for it, when torchrun started it."""
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if file:
        record = {"message": {"message": message, "extraInfo": {"timestamp": str(int(time.time()))}}}
        Path(file).write_text(json.dumps(record), encoding="utf-8")
