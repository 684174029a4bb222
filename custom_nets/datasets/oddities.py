"""Notes on cases that are not faulty: identity affines, labels stored as floats, odd headers, copies."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple, get_args

import numpy as np

from custom_nets.datasets.duplicates import duplicate_notes
from custom_nets.datasets.geometry_notes import geometry_notes
from custom_nets.datasets.validation import Item
from custom_nets.errors import InputError, first_names
from custom_nets.io.nifti import read_header

logger = logging.getLogger(__name__)

IdentityAffines = Literal["keep", "leave_out"]


class _Oddities(NamedTuple):
    """Names of the cases whose affine is the identity, and of those whose label holds floats."""

    identity: list[str]
    floats: list[str]


def check_identity_option(identity_affines: str) -> None:
    """Checks the argument `identity_affines` of a data list.

    Raises:
        InputError: when it is none of `IdentityAffines`.
    """
    if identity_affines not in get_args(IdentityAffines):
        msg = f"identity_affines={identity_affines!r} is unknown; expected {' or '.join(get_args(IdentityAffines))}"
        raise InputError(msg)


def describe_cases(items: Sequence[Item], sums_of_voxels: Iterable[tuple[str, bytes]] = ()) -> list[str]:
    """Returns a line for each oddity.

    Args:
        items: as `datalist` gives them; files that cannot be read are passed over.
        sums_of_voxels: see `duplicate_notes`.
    """
    oddities = _read_oddities(items)
    notes = [
        _identity_note(oddities, items),
        _float_note(oddities, items),
        *geometry_notes(items),
        *duplicate_notes(items, sums_of_voxels),
    ]
    return [note for note in notes if note]


def settle_identity_affines(items: list[Item], identity_affines: IdentityAffines, report: bool) -> list[Item]:
    """Leaves cases with identity affines out when told so, and logs oddities.

    Args:
        items: a data list.
        identity_affines: see `datalist`.
        report: whether oddities are logged.

    Raises:
        InputError: when no case is left.
    """
    leave_out = identity_affines == "leave_out"
    if not (report or leave_out):
        return items
    oddities = _read_oddities(items)
    if oddities.identity and leave_out:
        named = first_names(oddities.identity)
        if len(oddities.identity) == len(items):
            msg = (
                f"all {len(items)} cases have the identity as affine ({named}) and identity_affines='leave_out' leaves "
                "none; give identity_affines='keep', or repair their headers"
            )
            raise InputError(msg)
        logger.warning("left out %d of %d cases, whose affine is the identity: %s", len(oddities[0]), len(items), named)
        items = [item for item in items if item["case"] not in set(oddities.identity)]
    elif note := _identity_note(oddities, items):
        logger.warning(note)
    if report and (note := _float_note(oddities, items)):
        logger.info(note)
    for note in geometry_notes(items) if report else ():
        logger.warning(note)
    return items


def _read_oddities(items: Sequence[Item]) -> _Oddities:
    def read(item: Item) -> tuple[bool, bool]:
        case, image, label = item["case"], item["image"], item.get("label")
        try:
            # A DICOM series always states its geometry; a case of several files cannot lack it unnoticed.
            file = isinstance(image, str) and not os.path.isdir(image)
            identity = file and np.array_equal(read_header(image, case).affine, np.eye(4))
            dtype = read_header(label, case).dtype if isinstance(label, str) else None
        except InputError:
            return False, False  # the check of the case says what is wrong with it
        return bool(identity), dtype is not None and dtype.kind == "f"

    with ThreadPoolExecutor(max_workers=8) as pool:
        found = list(pool.map(read, items))
    names = [item["case"] for item in items]
    return _Oddities(
        [name for name, (identity, _) in zip(names, found, strict=True) if identity],
        [name for name, (_, floats) in zip(names, found, strict=True) if floats],
    )


def _identity_note(oddities: _Oddities, items: Sequence[Item]) -> str:
    if not oddities.identity:
        return ""
    return (
        f"{len(oddities.identity)} of {len(items)} cases have the identity as affine, their spacing and orientation "
        f"are unknown: {first_names(oddities.identity)}; they are taken as voxels of 1 mm in RAS: "
        "give identity_affines='leave_out', or repair their headers"
    )


def _float_note(oddities: _Oddities, items: Sequence[Item]) -> str:
    if not oddities.floats:
        return ""
    return (
        f"{len(oddities.floats)} of {len(items)} cases have labels stored as floats: {first_names(oddities.floats)}; "
        "they are read as whole numbers"
    )
