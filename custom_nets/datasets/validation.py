"""Checks of a data list before anything is read: files, modalities, channels, grids; faulty cases are collected."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from custom_nets.datasets.modalities import DO_WITHOUT, FILE_NAMES, MODALITIES, case_of_files, role_of, split_name
from custom_nets.errors import MAX_NAMED, InputError
from custom_nets.io.nifti import VolumeHeader, check_channel_order, check_same_grid, read_header, stem, where

Item = dict[str, Any]


Check = Callable[[Item], None]
"""The check of one case; it raises an `InputError` that names case and file."""


def check_datalist(
    items: Iterable[Item], missing_modalities: bool = False, check: Check | None = None
) -> tuple[list[Item], list[str]]:
    """Checks files and headers of every case, so that a caller may go on with the good ones.

    Args:
        items: as `brats_datalist` or `lits_datalist` gives them.
        missing_modalities: see `check_case`.
        check: of one case, such as `check_ct_case`; None takes `check_case`, for brain data.

    Returns:
        The good items, in their order, and one line for each of the others.
    """
    items = list(items)
    check = check or partial(check_case, missing_modalities=missing_modalities)
    with ThreadPoolExecutor(max_workers=8) as pool:
        faults = list(pool.map(partial(_fault, check=check), items))
    good = [item for item, fault in zip(items, faults, strict=True) if fault is None]
    return good, [fault for fault in faults if fault is not None]


def raise_faults(faults: Sequence[str], total: int) -> None:
    """Raises one error for all faulty cases; does nothing when there are none.

    Args:
        faults: one line a case.
        total: number of cases checked.

    Raises:
        InputError: naming up to five of them.
    """
    if not faults:
        return
    if total == 1:
        raise InputError(faults[0])
    more = [f"and {len(faults) - MAX_NAMED} more"] if len(faults) > MAX_NAMED else []
    msg = f"{len(faults)} of {total} cases cannot be used: " + "; ".join([*faults[:MAX_NAMED], *more])
    raise InputError(msg)


def check_case(item: Mapping[str, Any], missing_modalities: bool = False) -> None:
    """Checks files and headers of one case; reads no voxels.

    Args:
        item: with `image`, and where there are any `case` and `label`.
        missing_modalities: whether a list of files may hold None for some of the modalities.

    Raises:
        InputError: naming case and file: modality missing or there twice, wrong number of channels, shapes or affines
            that differ, file absent, unreadable or cut short.
    """
    image, label = item["image"], item.get("label")
    entries = [image] if isinstance(image, str | os.PathLike) else list(image)
    files = [str(file) for file in entries if file is not None]
    if not files:
        case = item.get("case", "without a name")
        msg = f"case {case}: no image file is there; expected one each of {', '.join(MODALITIES)}; give the files"
        raise InputError(msg)
    case = str(item.get("case") or case_of_files(files))
    if isinstance(image, str | os.PathLike):
        headers = [read_header(files[0], case)]
        _check_channels(case, headers[0])
    else:
        _check_modalities(case, entries, missing_modalities)
        headers = [_read_3d(file, case) for file in files]
    _check_one_label(case, label)
    if label is not None:
        headers.append(_read_3d(label, case))
    check_same_grid(case, headers)


def check_ct_case(item: Mapping[str, Any]) -> None:
    """Checks files and headers of one CT case; reads no voxels.

    Args:
        item: with `image` (a 3D file or the folder of a DICOM series), and where there are any `case` and `label`.

    Raises:
        InputError: naming case and file: image or label not 3D, on different grids, absent, unreadable or cut short,
            several files or several DICOM series where there must be one.
    """
    image, label = item["image"], item.get("label")
    if not isinstance(image, str | os.PathLike):
        case = item.get("case", "without a name")
        msg = f"case {case}: 'image' is {str(image)[:80]!r}; expected the name of one 3D file or DICOM folder"
        raise InputError(msg)
    case = str(item.get("case") or stem(image))
    _check_one_label(case, label)
    if label is not None and not os.path.exists(image):
        place = where(case, label)
        msg = f"{place}: a segmentation without its volume; expected {image}: copy it there, or remove the label"
        raise InputError(msg)
    headers = [read_ct_header(image, case)]
    if label is not None:
        headers.append(_read_3d(label, case, "a label map has one number a voxel, give the case's own"))
    check_same_grid(case, headers)


def read_ct_header(image: str | os.PathLike, case: str) -> VolumeHeader:
    """Reads the grid of a CT image.

    Args:
        image: a 3D NIfTI file, or the folder of a DICOM series.
        case: the case that messages name.

    Raises:
        InputError: when it is absent, unreadable, cut short or not 3D, or a folder does not hold one whole series.
    """
    if not os.path.isdir(image):
        return _read_3d(image, case, "a CT case is one 3D file of Hounsfield units")
    from custom_nets.io.dicom import read_dicom_header

    return read_dicom_header(image, case)


def _fault(item: Item, check: Check) -> str | None:
    try:
        check(item)
    except InputError as error:
        return str(error)
    return None


def _check_one_label(case: str, label: Any) -> None:
    if isinstance(label, list | tuple):
        msg = f"{where(case, label[1])}: a second label beside {Path(label[0]).name}; keep one in the case's folder"
        raise InputError(msg)


def _read_3d(path: str | os.PathLike, case: str, advice: str = "give one file a modality") -> VolumeHeader:
    header = read_header(path, case)
    if len(header.shape) != 3:
        msg = f"{where(case, path)}: shape {header.shape}, expected a 3D volume (x, y, z); {advice}"
        raise InputError(msg)
    return header


def _check_channels(case: str, header: VolumeHeader) -> None:
    """Checks that a single file holds all modalities, in their order where its header tells it."""
    file, shape = header.path, header.shape
    if shape[3:] == (len(MODALITIES),):
        check_channel_order(where(case, file), header.channels, MODALITIES)
        return
    got = "one channel" if len(shape) == 3 else f"{' x '.join(str(size) for size in shape[3:])} channels"
    expected = f"{len(MODALITIES)} channels ({', '.join(MODALITIES)})"
    msg = (
        f"{where(case, file)}: expected {expected}, got {got} (shape {shape}); "
        "give the folder with the case's four files, or stack them into one 4D file with stack_case"
    )
    raise InputError(msg)


def _check_modalities(case: str, entries: Sequence[str | os.PathLike | None], missing_modalities: bool) -> None:
    """Checks that there is one file for each modality, in the order of the channels; None stands for an absent one."""
    files = [str(file) for file in entries if file is not None]
    roles = [role_of(file) for file in files]
    known = [role for role in roles if role in MODALITIES]
    if len(known) < len(files):
        _check_own_names(case, files, entries, missing_modalities)
        return
    missing = [role for role in MODALITIES if role not in known]
    if missing and not missing_modalities:
        there = ", ".join(role for role in MODALITIES if role in known)
        msg = (
            f"{where(case, _expected_file(files[0], missing[0]))}: {' and '.join(missing)} missing (there: {there}); "
            f"download the case again or copy the file there; {DO_WITHOUT}"
        )
        raise InputError(msg)
    twice = [role for role, count in Counter(known).items() if count > 1]
    if twice:
        same = [file for file, role in zip(files, roles, strict=True) if role == twice[0]]
        msg = (
            f"{where(case, same[1])}: {twice[0]} is there twice, also as {Path(same[0]).name}; "
            "keep one file a modality and one folder a case"
        )
        raise InputError(msg)
    order = [None if file is None else role_of(file) for file in entries]
    expected = [role if role in known else None for role in MODALITIES]
    if order != expected:
        got, wanted = (", ".join(map(str, names)) for names in (order, expected))
        msg = f"{where(case, files[0])}: files in the order {got}; expected {wanted}"
        raise InputError(msg)


def _check_own_names(
    case: str, files: Sequence[str], entries: Sequence[str | os.PathLike | None], missing_modalities: bool
) -> None:
    """Checks a list written by hand whose names do not tell the modalities: only its entries can be counted."""
    place = where(case, files[0])
    if len(entries) != len(MODALITIES):
        expected = f"{len(MODALITIES)} files ({', '.join(MODALITIES)})"
        advice = "give one file a modality" + (", None for an absent one" if missing_modalities else "")
        msg = f"{place}: expected {expected}, got {len(entries)}; {advice}"
        raise InputError(msg)
    missing = [role for role, file in zip(MODALITIES, entries, strict=True) if file is None]
    if missing and not missing_modalities:
        msg = f"{place}: {' and '.join(missing)} missing; give one file a modality; {DO_WITHOUT}"
        raise InputError(msg)


def _expected_file(sibling: str, role: str) -> Path:
    """Returns the name that a missing file would have, after a file of another modality."""
    ending = split_name(sibling)[1]
    naming = next((names for names in FILE_NAMES if ending in names.values()), FILE_NAMES[0])
    name, path = stem(sibling), Path(sibling)
    return path.with_name(name[: len(name) - len(ending)] + naming[role] + path.name[len(name) :])
