"""Paths as they were given: MONAI's config language reads `#` and `@` in any text."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from monai.bundle import ConfigParser
from monai.bundle.utils import EXPR_KEY, ID_REF_KEY, ID_SEP_KEY, MACRO_KEY

_MARKS = (EXPR_KEY, ID_REF_KEY, MACRO_KEY)
_OLD_SEPARATOR = "#"


def keep_paths(parser: ConfigParser, typed: Mapping[str, Any] | None = None) -> None:
    """Keeps what MONAI would change in texts of top-level keys, such as a folder `scans#2`, which it makes `scans::2`.

    A text that begins with `$`, `@` or `%` is MONAI's, unless it names a file or folder that exists.

    Args:
        parser: with the configs of a run, and all keys set; it is parsed anew.
        typed: keys as they came from a command line; in others `::` counts as `#` unless it is there so on the disk.
    """
    config = parser.get()
    for key, value in config.items():
        given = (typed or {}).get(key)
        text = given if isinstance(given, str) else value
        if not isinstance(text, str) or (text.startswith(_MARKS) and not os.path.exists(text)):
            continue
        if text is value and not os.path.exists(text):
            text = text.replace(ID_SEP_KEY, _OLD_SEPARATOR)
        if re.search(f"[{_OLD_SEPARATOR}{''.join(_MARKS)}]|{ID_SEP_KEY}", text):
            config[key] = EXPR_KEY + re.sub("[#@:]", lambda found: f"\\x{ord(found[0]):02x}", ascii(text))
    parser.parse(reset=True)
