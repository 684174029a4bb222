"""Checks of a data list before voxels are read: files, modalities, channels, grids; faulty cases are collected."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from custom_nets.datasets.names import case_of_files, record_of_files, role_of, roles, split_end
from custom_nets.datasets.record import Record, get_record
from custom_nets.errors import MAX_NAMED, InputError, describe
from custom_nets.io.nifti import VolumeHeader, check_channel_order, check_same_grid, read_header, stem, where

Item = dict[str, Any]


Check = Callable[[Item], None]
"""The check of one case; it raises an `InputError` that names case and file."""

DO_WITHOUT = "a model trained with modality_dropout can do without"
"""Advice that messages about an absent modality end with."""


def check_datalist(
    items: Iterable[Item], check: Check | None = None, max_workers: int = 8
) -> tuple[list[Item], list[str]]:
    """Checks files and headers of every case, so that a caller may go on with the good ones.

    Args:
        items: as `datalist` gives them.
        check: of one case; None takes `check_case` with the channels that each item names.
        max_workers: cases checked at once.

    Returns:
        The good items, in their order, and one line for each of the others.
    """
    items = list(items)
    with ThreadPoolExecutor(max_workers) as pool:
        faults = list(pool.map(partial(fault_of, check=check or check_case), items))
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


def check_case(
    item: Mapping[str, Any], modalities: Sequence[str] | None = None, missing_modalities: bool = False
) -> None:
    """Checks files and headers of one case; reads no voxels.

    Args:
        item: as `datalist` gives it.
        modalities: channels that the model sees, in their order; None: those that the item or its data set names.
        missing_modalities: whether a list of files may hold None for some of the modalities.

    Raises:
        InputError: naming case and file: modality missing or there twice, wrong number of channels, shapes or affines
            that differ, files of different cases, file absent, unreadable or cut short, several labels or DICOM series.
    """
    image, label = item["image"], item.get("label")
    single = isinstance(image, str | os.PathLike)
    entries = [image] if single else list(image)
    files = [str(file) for file in entries if file is not None]
    names = list(modalities or own_channels(item))
    if not files:
        case = item.get("case", "without a name")
        msg = f"case {case}: no image file is there; expected one each of {', '.join(names)}; give the files"
        raise InputError(msg)
    case = str(item.get("case") or case_of_files(files))
    _check_one_label(case, label)
    if label is not None and single and not os.path.exists(files[0]):
        msg = (
            f"{where(case, label)}: a label without its image; expected {files[0]}: copy it there, or remove the label"
        )
        raise InputError(msg)
    if single:
        headers = [_read_single(files[0], case, names, own_channels(item))]
    else:
        _check_modalities(case, entries, names, missing_modalities, item)
        headers = [_read_3d(file, case) for file in files]
        if label is not None and not item.get("channels"):
            _check_label_name(case, files, label, item)
    if label is not None:
        headers.append(_read_3d(label, case, "a label map has one number a voxel, give the case's own"))
    check_same_grid(case, headers)


def read_image_header(image: str | os.PathLike, case: str) -> VolumeHeader:
    """Reads the grid of a NIfTI file, or of the folder of a DICOM series.

    Args:
        image: file or folder.
        case: the case that messages name.

    Raises:
        InputError: when it is absent, unreadable or cut short, or a folder does not hold one whole series.
    """
    if not os.path.isdir(image):
        return read_header(image, case)
    from custom_nets.io.dicom import read_dicom_header

    return read_dicom_header(image, case)


def own_channels(item: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the channels that an item's file has: those that the item names, else those of its data set."""
    if item.get("channels"):
        return tuple(str(item["channels"]).split(","))
    return get_record(item["dataset"]).channel_names if item.get("dataset") else ()


def fault_of(item: Item, check: Check) -> str | None:
    """Returns what is wrong with a case, in one line; None when nothing is."""
    try:
        check(item)
    except InputError as error:
        return str(error)
    except Exception as error:  # whatever is wrong with one case, the others are checked
        return f"case {item.get('case')}: {describe(error)}"
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


def _read_single(file: str, case: str, modalities: Sequence[str], own: Sequence[str]) -> VolumeHeader:
    """Reads the grid of a single file, and checks that it holds the channels that it should."""
    header = read_image_header(file, case)
    shape, expected = header.shape, own or modalities
    place = where(case, file)
    if not expected:  # of an unknown data set
        return header
    if len(expected) == 1:
        if len(shape) == 3:
            return header
        msg = f"{place}: shape {shape}, expected a 3D volume (x, y, z): {expected[0]} alone; give one 3D file"
        raise InputError(msg)
    if shape[3:] != (len(expected),):
        got = "one channel" if len(shape) == 3 else f"{' x '.join(str(size) for size in shape[3:])} channels"
        msg = (
            f"{place}: expected {len(expected)} channels ({', '.join(expected)}), got {got} (shape {shape}); "
            "give the folder with the case's files, one a channel, or stack them into one 4D file with stack_case"
        )
        raise InputError(msg)
    check_channel_order(place, header.channels, expected)
    return header


def _check_modalities(
    case: str,
    entries: Sequence[str | os.PathLike | None],
    modalities: Sequence[str],
    missing_modalities: bool,
    item: Mapping[str, Any],
) -> None:
    """Checks that there is one file for each modality, in the order of the channels; None stands for an absent one."""
    files = [str(file) for file in entries if file is not None]
    if item.get("channels"):  # the layout tells the channels, the ends of file names do not
        _check_own_names(case, files, entries, modalities, missing_modalities)
        return
    record = get_record(item["dataset"]) if item.get("dataset") else record_of_files(files)
    found = [role_of(file, record) if record else None for file in files]
    known = [role for role in found if role in modalities]
    if len(known) < len(files):
        _check_own_names(case, files, entries, modalities, missing_modalities)
        return
    missing = [name for name in modalities if name not in known]
    if missing and not missing_modalities:
        there = ", ".join(name for name in modalities if name in known)
        msg = (
            f"{where(case, _expected_file(files[0], missing[0], record))}: {' and '.join(missing)} missing "
            f"(there: {there}); download the case again or copy the file there; {DO_WITHOUT}"
        )
        raise InputError(msg)
    twice = [role for role, count in Counter(known).items() if count > 1]
    if twice:
        same = [file for file, role in zip(files, found, strict=True) if role == twice[0]]
        msg = (
            f"{where(case, same[1])}: {twice[0]} is there twice, also as {Path(same[0]).name}; "
            "keep one file a modality and one folder a case"
        )
        raise InputError(msg)
    order = [None if file is None or record is None else role_of(file, record) for file in entries]
    expected = [name if name in known else None for name in modalities]
    if order != expected:
        got, wanted = (", ".join(map(str, names)) for names in (order, expected))
        msg = f"{where(case, files[0])}: files in the order {got}; expected {wanted}"
        raise InputError(msg)
    _check_one_case(case, files, record)


def _check_one_case(case: str, files: Sequence[str], record: Record | None) -> None:
    """Checks that the names of all files are of one case."""
    names = {file: split_end(stem(file), roles(record) if record else ())[0] for file in files}
    if len(set(names.values())) > 1:
        (usual, _), *_ = Counter(names.values()).most_common(1)
        stranger = next(file for file, name in names.items() if name != usual)
        msg = (
            f"{where(case, stranger)}: is of the case {names[stranger] or 'without a name'}, the other files are of "
            f"{usual}; keep the files of one case in its folder"
        )
        raise InputError(msg)


def _check_label_name(case: str, files: Sequence[str], label: str, item: Mapping[str, Any]) -> None:
    """Checks that a label, where its name tells a case of the data set, is of the case of the images."""
    record = get_record(item["dataset"]) if item.get("dataset") else record_of_files(files)
    if record is None:
        return
    owner = split_end(stem(label), roles(record))[0]
    image_owner = split_end(stem(files[0]), roles(record))[0]
    if record.knows(owner) and owner != image_owner:  # BraTS 2020 has one of another name
        msg = (
            f"{where(case, label)}: is the label of the case {owner}, the images are of {image_owner}; "
            "keep the files of one case in its folder"
        )
        raise InputError(msg)


def _check_own_names(
    case: str,
    files: Sequence[str],
    entries: Sequence[str | os.PathLike | None],
    modalities: Sequence[str],
    missing_modalities: bool,
) -> None:
    """Checks a list whose names do not tell the modalities: only its entries can be counted."""
    place = where(case, files[0])
    if modalities and len(entries) != len(modalities):
        expected = f"{len(modalities)} files ({', '.join(modalities)})"
        advice = "give one file a modality" + (", None for an absent one" if missing_modalities else "")
        msg = f"{place}: expected {expected}, got {len(entries)}; {advice}"
        raise InputError(msg)
    missing = [name for name, file in zip(modalities, entries, strict=False) if file is None]
    if missing and not missing_modalities:
        msg = f"{place}: {' and '.join(missing)} missing; give one file a modality; {DO_WITHOUT}"
        raise InputError(msg)


def _expected_file(sibling: str, channel: str, record: Record | None) -> Path:
    """Returns the name that a missing file would have, after a file of another channel."""
    path, name = Path(sibling), stem(sibling)
    end = split_end(name, roles(record) if record else ())[1]
    wanted = next((c.ends[0] for c in record.channels if c.name == channel and c.ends), channel) if record else channel
    return path.with_name(name[: len(name) - len(end)] + wanted + path.name[len(name) :])
