"""The record of an inference: which cases were asked for and on which grids, so that results can be checked later."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from custom_nets.datasets.validation import read_image_header
from custom_nets.errors import InputError
from custom_nets.io.files import atomic_file

CASE_RECORD = "cases.json"
"""The record's name in a folder of results."""


class RecordedCase(NamedTuple):
    """One case and the grid of its image.

    Args:
        case: its name.
        shape: `(x, y, z)` in voxels; None when no file of the image could be read.
        affine: voxel indices to millimetres `[4, 4]`; None likewise.
    """

    case: str
    shape: tuple[int, int, int] | None
    affine: np.ndarray | None


def record_cases(items: Iterable[Mapping[str, Any]]) -> list[RecordedCase]:
    """Reads the grids of cases from the headers of their images.

    Args:
        items: as `datalist` gives them; an entry of `image` may be None (an absent modality).

    Returns:
        The cases, in their order; also those whose image cannot be read.
    """
    with ThreadPoolExecutor(max_workers=8) as pool:
        return list(pool.map(_record_case, items))


def save_case_record(path: str | os.PathLike, items: Iterable[Mapping[str, Any]]) -> None:
    """Writes cases and their grids as JSON, whole or not at all.

    Args:
        path: the file, usually `CASE_RECORD` in the folder of results; folders above it are made.
        items: see `record_cases`.

    Raises:
        InputError: when the file cannot be written.
    """
    cases = [
        {"case": case, "shape": shape, "affine": None if affine is None else affine.tolist()}
        for case, shape, affine in record_cases(items)
    ]
    target = Path(path).expanduser()
    try:
        with atomic_file(target) as temporary:
            temporary.write_text(json.dumps({"cases": cases}, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        msg = f"case record {target} cannot be written ({error.strerror}); give an output folder that can"
        raise InputError(msg) from error


def load_case_record(path: str | os.PathLike) -> list[RecordedCase]:
    """Reads what `save_case_record` wrote.

    Raises:
        InputError: when the file is absent, damaged, or names a case twice.
    """
    advice = "infer the cases again, or give the folder of the cases instead (dataset_dir)"
    try:
        record = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"case record {path}: cannot be read ({error}); {advice}"
        raise InputError(msg) from error
    listed = record.get("cases") if isinstance(record, dict) else None
    if not isinstance(listed, list):
        msg = f"case record {path}: expected a JSON object with a list 'cases'; {advice}"
        raise InputError(msg)
    cases: dict[str, RecordedCase] = {}
    for number, entry in enumerate(listed, start=1):
        read = _parse_case(entry)
        if read is None:
            msg = (
                f"case record {path}: entry {number} of 'cases' is {str(entry)[:80]!r}; "
                f"expected a case, its shape (3 numbers or null) and its affine (4 x 4 or null); {advice}"
            )
            raise InputError(msg)
        if read.case in cases:
            msg = f"case record {path}: case {read.case} is there twice; {advice}"
            raise InputError(msg)
        cases[read.case] = read
    return list(cases.values())


def _record_case(item: Mapping[str, Any]) -> RecordedCase:
    """Reads the grid of a case from the first file of its image that can be read."""
    case, image = str(item["case"]), item["image"]
    files = [image] if isinstance(image, str | os.PathLike) else [file for file in image if file is not None]
    for file in files:
        try:
            header = read_image_header(file, case)
        except InputError:
            continue
        x, y, z = header.shape[:3]
        return RecordedCase(case, (int(x), int(y), int(z)), header.affine)
    return RecordedCase(case, None, None)


def _parse_case(entry: Any) -> RecordedCase | None:
    """Returns one entry of a record, None when it is damaged."""
    if not isinstance(entry, dict):
        return None
    case, shape, affine = entry.get("case"), entry.get("shape"), entry.get("affine")
    if not isinstance(case, str) or not case or (shape is None) != (affine is None):
        return None
    if shape is None:
        return RecordedCase(case, None, None)
    if not isinstance(shape, list) or len(shape) != 3 or not all(type(size) is int and size > 0 for size in shape):
        return None
    try:
        matrix = np.array(affine, dtype=np.float64)
    except (TypeError, ValueError):
        return None
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        return None
    return RecordedCase(case, (shape[0], shape[1], shape[2]), matrix)
