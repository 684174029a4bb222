"""Names of the result files of a case."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from custom_nets.errors import InputError
from custom_nets.io.nifti import stem

MAX_NAME = 160
"""Bytes of a case's name in the name of a file: a file system takes 255, and endings need some."""

_KEPT = 40
_DIGITS = 12
_MADE = re.compile(rf"~[0-9a-f]{{{_DIGITS}}}$")


def case_id(item: Mapping[Hashable, Any], key: Hashable, case_key: str = "case") -> str:
    """Returns the name of an item's case: `item[case_key]`, else the file name of `item[key]` without its suffixes.

    Args:
        item: a data item.
        key: an entry of the item that was read from a file (MONAI Label gives its items no case).
        case_key: where a datalist writes the case.

    Raises:
        InputError: when the item has neither, or the name is no text.
    """
    name = item.get(case_key)
    if name is None:
        source = getattr(item.get(key), "meta", {}).get("filename_or_obj")
        name = stem(str(source)) if source else None
    if not name:
        msg = f"the item names no case: expected '{case_key}' with the case's name; found {sorted(map(str, item))}"
        raise InputError(msg)
    if not isinstance(name, str):
        msg = f"case {name!r} cannot name a folder: expected a text; rename it in the datalist"
        raise InputError(msg)
    return name


def file_name(case: str) -> str:
    r"""Returns what a case is called in names of files and folders: its own name, where that may name a file anywhere.

    Of others (slashes, line breaks, too long, letters that Unicode writes in two ways, ...) the beginning is kept, and
    a hash tells them apart: no two cases share files. Names that differ in capitals alone meet on some file systems;
    see `cases_to_infer`.

    >>> file_name("TCGA-02-0006_1996.08.23")
    'TCGA-02-0006_1996.08.23'
    >>> file_name("a/b")
    'a_b~c14cddc033f6'
    """
    plain = not any(unicodedata.category(letter).startswith(("C", "Z")) and letter != " " for letter in case)
    encoded = case.encode("utf-8", "surrogateescape")  # names that are no UTF-8 come as surrogates
    plain = plain and unicodedata.is_normalized("NFC", case)  # macOS takes both ways for one name
    plain = plain and not re.search(r"[/\\]|^\.|^ | $", case) and not _MADE.search(case)
    if plain and len(encoded) <= MAX_NAME:
        return case
    kept = re.sub(r"[^\w. -]", "_", case, flags=re.ASCII)[:_KEPT].strip(". ")
    return f"{kept}~{hashlib.sha256(encoded).hexdigest()[:_DIGITS]}"


def result_file(output_dir: str | os.PathLike, case: str, ending: str) -> Path:
    """Returns the place of a result, `<output_dir>/<case>/<case><ending>`, see `file_name`."""
    name = file_name(case)
    return Path(output_dir, name, name + ending)


def case_name(meta: Mapping[str, Any], _transform: Any = None) -> dict[str, str | None]:
    """Names the files of MONAI's `SaveImaged` after the case: for its `output_name_formatter`.

    Args:
        meta: metadata of an image read by `LoadCased`.
    """
    # MONAI takes what follows the last dot away; of this name, that is not the case's.
    return {"subject": f"{file_name(str(meta['case']))}.nii.gz", "idx": None}
