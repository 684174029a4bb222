"""Writing files whole or not at all, and reading JSON objects."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from custom_nets.errors import InputError


@contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a temporary name beside `path` to write to, and renames it to `path` when the block ends well.

    A reader (or an interrupted run) never meets half a file. Folders above `path` are made.

    Args:
        path: the file to be written.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.part")
    try:
        yield temporary
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


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
