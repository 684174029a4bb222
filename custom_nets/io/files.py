"""Writing files whole or not at all, and reading JSON objects."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from custom_nets.errors import InputError

_PART = re.compile(r"\.part-(?P<host>\w+)-(?P<process>\d+)-\w+")
_HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]
_DAY = 24 * 3600
"""Seconds after which what another machine has not finished counts as left over."""
_UNFINISHED: set[str] = set()
"""Names of the folders in which this process is writing."""


@contextmanager
def atomic_file(path: str | os.PathLike, before: Callable[[], None] | None = None) -> Iterator[Path]:
    """Gives a temporary place for a file, and moves it to `path` when the block ends well.

    A reader, a killed run or a machine that loses its power never meets half a file: the content is on the disk before
    it has its name. What killed runs left unfinished in the folder is removed. Folders above `path` are made.

    Args:
        path: the file to be written; the temporary one has the same name, in a hidden folder beside it.
        before: called when the content is complete, before it has its name.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(target.parent)
    folder = target.with_name(f".part-{_HOST}-{os.getpid()}-{uuid.uuid4().hex[:12]}")
    _UNFINISHED.add(folder.name)
    try:
        folder.mkdir()
        yield folder / target.name
        _to_disk(folder / target.name)
        if before is not None:
            before()
        (folder / target.name).replace(target)
        _to_disk(target.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _UNFINISHED.discard(folder.name)


def remove_unfinished(folder: str | os.PathLike) -> None:
    """Removes what `atomic_file` left in a folder whose process is no more; nothing where the folder is none."""
    with suppress(OSError):  # another process may remove the same ones
        for entry in list(os.scandir(os.fspath(folder))):
            match = _PART.fullmatch(entry.name)
            if match and _is_left_over(entry, match["host"], int(match["process"])):
                shutil.rmtree(entry.path, ignore_errors=True)


def keep_as(path: str | os.PathLike, target: str | os.PathLike) -> None:
    """Keeps a file under a second name as well, in place of what has it; it must be replaced afterwards, not changed.

    Args:
        path: the file; nothing happens where there is none.
        target: the second name, on the same file system; where that cannot link files, it becomes a copy.
    """
    if not Path(path).is_file():
        return
    with atomic_file(target) as temporary:
        try:
            os.link(path, temporary)
        except OSError:
            shutil.copy2(path, temporary)


def parse_json_object(text: str | bytes, place: object, advice: str) -> dict[str, Any]:
    """Returns the JSON object that a text holds.

    Args:
        text: what was read.
        place: file or address that a message names.
        advice: what the person should do, the end of the message.

    Raises:
        InputError: when the text is no JSON, or no object.
    """
    try:
        content = json.loads(text)
    except ValueError as error:
        msg = f"{place}: cannot be read as JSON ({error}); {advice}"
        raise InputError(msg) from error
    if not isinstance(content, dict):
        msg = f"{place}: expected a JSON object, found a {type(content).__name__}; {advice}"
        raise InputError(msg)
    return content


def _to_disk(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk; where a file system cannot tell, nothing."""
    with suppress(FileNotFoundError, PermissionError, IsADirectoryError):
        handle = os.open(path, os.O_RDONLY)
        try:
            if path.is_dir():
                with suppress(OSError):
                    os.fsync(handle)
            else:
                os.fsync(handle)
        finally:
            os.close(handle)


def _is_left_over(entry: os.DirEntry, host: str, process: int) -> bool:
    if host != _HOST:  # in containers machines change their names, so that nobody would ever come back
        return entry.stat().st_mtime < time.time() - _DAY
    if process == os.getpid():
        return entry.name not in _UNFINISHED  # in a container the next process has the same number
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
