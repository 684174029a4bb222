"""Notes on the geometry of cases that are not faulty: orientation unknown, two forms that differ."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from custom_nets.datasets.validation import read_image_header
from custom_nets.errors import InputError, first_names
from custom_nets.io.nifti import VolumeHeader

FORMS_TOLERANCE = 1.0
"""Two forms of a header that place a corner of the volume so far apart (mm) are two places."""


def geometry_notes(items: Sequence[dict[str, Any]]) -> list[str]:
    """Returns what headers leave open; cases that cannot be read are passed over.

    Args:
        items: as `brats_datalist` or `lits_datalist` gives them.
    """
    with ThreadPoolExecutor(max_workers=8) as pool:
        headers = list(pool.map(_first_header, items))
    found = [(item["case"], header) for item, header in zip(items, headers, strict=True) if header is not None]
    unknown = [case for case, header in found if header.orientation == "unknown"]
    apart = {case: header.forms_apart for case, header in found if header.forms_apart > FORMS_TOLERANCE}
    notes = []
    if unknown:
        notes.append(
            f"{len(unknown)} of {len(items)} cases state no orientation (qform and sform codes are 0), left and right "
            f"cannot be told: {first_names(unknown)}; they are taken as nibabel takes them, and results say no more: "
            "repair their headers"
        )
    if apart:
        notes.append(
            f"{len(apart)} of {len(items)} cases have a qform and an sform that differ, by up to "
            f"{max(apart.values()):.1f} mm: {first_names(list(apart))}; the sform is taken, and results carry both"
        )
    return notes


def _first_header(item: dict[str, Any]) -> VolumeHeader | None:
    """Returns the header of the first file of a case's image."""
    image = item["image"]
    files = [image] if isinstance(image, str | os.PathLike) else [file for file in image if file is not None]
    try:
        return read_image_header(files[0], item["case"])
    except (InputError, IndexError):
        return None  # the check of the case says what is wrong with it
