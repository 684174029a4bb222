"""What the result files of a case are called."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from custom_nets.errors import InputError
from custom_nets.io.nifti import stem


def case_id(item: Mapping[Hashable, Any], key: Hashable, case_key: str = "case") -> str:
    """Returns the name of an item's case: `item[case_key]`, else the file name of `item[key]` without its suffixes.

    Args:
        item: a data item.
        key: an entry of the item that was read from a file (MONAI Label gives its items no case).
        case_key: where a datalist writes the case.

    Raises:
        InputError: when the item has neither, or when the name would lead out of the output folder.
    """
    name = item.get(case_key)
    if name is None:
        source = getattr(item.get(key), "meta", {}).get("filename_or_obj")
        name = stem(str(source)) if source else None
    if not name:
        msg = f"the item names no case: expected '{case_key}' with the case's name; found {sorted(map(str, item))}"
        raise InputError(msg)
    if not isinstance(name, str) or Path(name).name != name or name in {".", ".."} or "\\" in name:
        msg = f"case {name!r} cannot name a folder: expected a text without '/' or '\\'; rename it in the datalist"
        raise InputError(msg)
    return name


def case_name(meta: Mapping[str, Any], _transform: Any = None) -> dict[str, str | None]:
    """Names the files of MONAI's `SaveImaged` after the case: for its `output_name_formatter`.

    Args:
        meta: metadata of an image read by `LoadCased`.
    """
    return {"subject": str(meta["case"]), "idx": None}
