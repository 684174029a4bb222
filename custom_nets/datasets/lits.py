"""Liver CT as downloaded -> data lists: LiTS 2017, the Decathlon's Task03, DICOM series, loose 3D files."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np

from custom_nets.datasets.layouts import (
    BUNDLES,
    LITS_NAME,
    Folders,
    Labels,
    Layout,
    Layouts,
    check_labels_option,
    dataset_root,
    decathlon_channels,
    decathlon_folders,
    decathlon_label,
    require_labels,
    require_nifti,
    search_layouts,
    with_unique_cases,
)
from custom_nets.datasets.modalities import LABEL, MODALITIES, role_of
from custom_nets.datasets.splits import Section, split_section
from custom_nets.datasets.usable import usable_cases
from custom_nets.datasets.validation import Item, check_ct_case, check_datalist, raise_faults
from custom_nets.errors import InputError, first_names
from custom_nets.io.nifti import SUFFIXES, is_nifti, read_header, stem

logger = logging.getLogger(__name__)

IdentityAffines = Literal["keep", "leave_out"]

SCHEME: Literal["lits"] = "lits"

MAX_DEPTH = 7
"""Folders searched below the one given: the archives hold `media/nas/01_Datasets/CT/LITS/Training Batch 1`."""


def lits_datalist(
    dataset_dir: str | os.PathLike,
    labels: Labels = "required",
    check: bool = True,
    identity_affines: IdentityAffines = "keep",
) -> list[Item]:
    """Lists the cases of a liver data set; the layout is recognised.

    Args:
        dataset_dir: the folder of a release (LiTS 2017, Decathlon Task03_Liver), also with folders around it; the
            folder of a DICOM series, or one that holds such folders, one a case; a folder of 3D NIfTI files; or one
            such file.
        labels: "required" gives labelled cases only, an error where one lacks its label (test volumes are left out);
            "optional" gives all cases, with their labels where there are any; "ignore" gives all cases without labels.
        check: whether to check files and headers of every case (about 2 ms a NIfTI file); see `check_datalist` and
            `check_ct_case` for going on without the faulty ones.
        identity_affines: what becomes of NIfTI cases whose affine is exactly the identity, so that spacing and
            orientation are unknown (LiTS volumes 28 to 47): "keep" takes them as voxels of 1 mm in RAS, with a warning
            where cases are checked; "leave_out" leaves them out.

    Returns:
        Items `{"case", "image", "label", "scheme"}` in natural order of the cases (volume-2 before volume-10): `image`
        is a 3D file or the folder of a DICOM series, `label` a file (absent where there is none), `scheme` "lits".

    Raises:
        InputError: when nothing is recognised, labels are missing, a case is faulty, or DICOM folders are series of one
            study.
    """
    _check_identity_option(identity_affines)
    items = _list_cases(dataset_dir, labels)
    if check:
        raise_faults(check_datalist(items, check=check_ct_case)[1], len(items))
    return _settle(items, identity_affines, check)


def lits_split(
    dataset_dir: str | os.PathLike,
    section: Section,
    split_file: str | os.PathLike | None = None,
    validation: int | float = 0.2,
    test: int | float = 0,
    seed: int = 0,
    check: bool = True,
    identity_affines: IdentityAffines = "keep",
) -> list[Item]:
    """Lists the labelled cases of one section of a split; for configs.

    Args:
        dataset_dir: see `lits_datalist`.
        section: "training", "validation" or "test".
        split_file: the split; it is used when it exists, otherwise made and written there. None writes nothing.
        validation: cases (int) or fraction (float) for validation, when the split is made.
        test: likewise for the test.
        seed: of a split that is made.
        check: whether to check files and headers of the section's cases.
        identity_affines: see `lits_datalist`; cases are left out of the section, not of the split.

    Raises:
        InputError: see `lits_datalist` and `split_section`.
    """
    _check_identity_option(identity_affines)
    items = _list_cases(dataset_dir, "required")
    chosen = _in_order(split_section(items, section, split_file, validation, test, seed))
    if check:
        raise_faults(check_datalist(chosen, check=check_ct_case)[1], len(chosen))
    return _settle(chosen, identity_affines, check)


def lits_cases(
    dataset_dir: str | os.PathLike,
    split_file: str | os.PathLike | None = None,
    section: Section = "test",
    record: str | os.PathLike | None = None,
    identity_affines: IdentityAffines = "keep",
) -> list[Item]:
    """Lists the cases to infer: a faulty one is logged and left out, so that it does not stop the others.

    Args:
        dataset_dir: see `lits_datalist`; labels are optional.
        split_file: an existing split, to infer the cases of one section alone; None takes all cases.
        section: of that split.
        record: JSON file that is written with the grid of each case, faulty ones too.
        identity_affines: see `lits_datalist`.

    Raises:
        InputError: when no case can be used, or the split does not belong to the data set.
    """
    _check_identity_option(identity_affines)
    items = _list_cases(dataset_dir, "optional")
    good = _in_order(usable_cases(items, check_ct_case, dataset_dir, split_file, section, record))
    return _settle(good, identity_affines, report=True)


def describe_cases(items: Sequence[Item]) -> list[str]:
    """Returns what a user should know of cases that are not faulty: identity affines, labels stored as floats.

    Args:
        items: as `lits_datalist` gives them; files that cannot be read are passed over.
    """
    oddities = _read_oddities(items)
    return [note for note in (_identity_note(oddities, items), _float_note(oddities, items)) if note]


def _list_cases(dataset_dir: str | os.PathLike, labels: Labels) -> list[Item]:
    check_labels_option(labels)
    root = dataset_root(dataset_dir)
    items = [_single_file(root)] if root.is_file() else search_layouts(root, labels, LIVER)
    items = _in_order(with_unique_cases(items))
    if labels == "ignore":
        for item in items:
            item.pop("label", None)
    if labels == "required":
        require_labels(items, root, LABELS)
    return items


def _in_order(items: Iterable[Item]) -> list[Item]:
    """Sorts by case, numbers in names by their value."""

    def key(item: Item) -> tuple[list[tuple[str, int]], str]:
        texts = re.split(r"(\d+)", item["case"])
        return [(text, int(number)) for text, number in zip(texts[::2], [*texts[1::2], "0"], strict=True)], item["case"]

    return sorted(items, key=key)


class _Oddities(NamedTuple):
    """Names of the cases whose affine is the identity, and of those whose label holds floats."""

    identity: list[str]
    floats: list[str]


def _check_identity_option(identity_affines: str) -> None:
    if identity_affines not in get_args(IdentityAffines):
        msg = f"identity_affines={identity_affines!r} is unknown; expected {' or '.join(get_args(IdentityAffines))}"
        raise InputError(msg)


def _settle(items: list[Item], identity_affines: IdentityAffines, report: bool) -> list[Item]:
    """Leaves cases with identity affines out when told so, and logs oddities."""
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
    return items


def _read_oddities(items: Sequence[Item]) -> _Oddities:
    def read(item: Item) -> tuple[bool, bool]:
        case, image, label = item["case"], item["image"], item.get("label")
        try:
            # A DICOM series always states its geometry.
            identity = not os.path.isdir(image) and np.array_equal(read_header(image, case).affine, np.eye(4))
            dtype = None if label is None else read_header(label, case).dtype
        except InputError:
            return False, False  # the check of the case says what is wrong with it
        return identity, dtype is not None and dtype.kind == "f"

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


def _make_item(image: Path, label: Sequence[Path] = (), case: str | None = None) -> Item:
    item: Item = {"case": case or stem(image), "image": str(image), "scheme": SCHEME}
    if label:
        item["label"] = str(label[0]) if len(label) == 1 else [str(file) for file in label]
    return item


def _single_file(path: Path) -> Item:
    require_nifti(path, "give one of these, of a DICOM series its folder")
    role = role_of(path)
    if role in MODALITIES:
        msg = f"{path}: this is the {role} file of a brain case; expected a CT volume; {BUNDLES['brats']}"
        raise InputError(msg)
    if _is_segmentation(path):
        msg = f"{path}: this is the label of a case; give its volume, or the folder {path.parent}"
        raise InputError(msg)
    if LITS_NAME.fullmatch(stem(path)):
        name = stem(_renamed(path, "volume", "segmentation"))
        beside = (path.with_name(name + suffix) for suffix in SUFFIXES)
        return _make_item(path, [file for file in beside if file.is_file()][:1])
    return _make_item(path, decathlon_label(path))


def _is_segmentation(path: Path) -> bool:
    """Returns whether the name says that this is a label map."""
    match = LITS_NAME.fullmatch(stem(path))
    return match["role"].lower() == "segmentation" if match else role_of(path) == LABEL


def _lits_2017(folders: Folders, labels: Labels) -> list[Item]:
    """Finds volumes with their segmentations, beside them or in another folder."""
    volumes: dict[tuple[bool, str], list[Path]] = defaultdict(list)
    segmentations: dict[tuple[bool, str], list[Path]] = defaultdict(list)
    for file in (file for found in folders.values() for file in found):
        if match := LITS_NAME.fullmatch(stem(file)):
            files = segmentations if _is_segmentation(file) else volumes
            files[bool(match["test"]), match["number"]].append(file)
    items = []
    for key, images in volumes.items():
        for image in images:
            label = segmentations.get(key, [])
            items.append(_make_item(image, [file for file in label if file.parent == image.parent] or label))
    if labels == "required":
        training = [item for item in items if "label" in item or not stem(item["image"]).lower().startswith("test-")]
        items = training or items
    if labels != "ignore":
        orphans = [file for key, files in segmentations.items() if key not in volumes for file in files]
        items += [_orphan(file, _renamed(file, "segmentation", "volume")) for file in orphans]
    return items


def _renamed(file: Path, old: str, new: str) -> Path:
    return file.with_name(re.sub(old, new, file.name, flags=re.IGNORECASE))


def _decathlon(folders: Folders, labels: Labels) -> list[Item]:
    """Finds the Decathlon's folders of CT files, with labels in a folder beside them."""
    chosen = decathlon_folders(folders, labels)
    items = []
    for folder in chosen:
        description = folder.parent / "dataset.json"
        names = decathlon_channels(description)
        if names and [name.upper() for name in names] != ["CT"]:
            hint = f"; {BUNDLES['brats']}" if len(names) == len(MODALITIES) else ""
            msg = f"{description}: the channels are {', '.join(names)}; expected CT alone: give Task03_Liver{hint}"
            raise InputError(msg)
        items += [_make_item(file, decathlon_label(file)) for file in folders[folder]]
        if labels != "ignore" and folder.name == "imagesTr":
            with_image = {stem(file) for file in folders[folder]}
            in_labels = sorted(filter(is_nifti, folder.with_name("labelsTr").glob("*")))
            items += [_orphan(file, folder / file.name) for file in in_labels if stem(file) not in with_image]
    return items


def _orphan(segmentation: Path, volume: Path) -> Item:
    """Makes the item of a segmentation whose volume is not there: listed as a case, its check names it."""
    return _make_item(volume, [segmentation])


def _dicom_series(folders: Folders, labels: Labels) -> list[Item]:
    """Finds folders that hold the files of a DICOM series each."""
    from custom_nets.io.dicom import holds_ct, is_dicom_folder, study_of

    every = [folder for folder in folders if is_dicom_folder(folder)]
    series = [folder for folder in every if holds_ct(folder)] if len(every) > 1 else every
    if 0 < len(series) < len(every):
        logger.info("takes %d DICOM folders with CT, passes over %d others", len(series), len(every) - len(series))
    series = series or every  # the check of each case says what it is instead
    studies: dict[str, list[str]] = defaultdict(list)
    for folder in series if len(series) > 1 else []:
        try:
            studies[study_of(folder)].append(str(folder))
        except InputError:
            continue  # the check of the case says what is wrong with it
    shared = [places for places in studies.values() if len(places) > 1]
    if shared:
        more = f" (and {len(shared) - 1} more studies likewise)" if len(shared) > 1 else ""
        msg = (
            f"{len(shared[0])} DICOM folders are series of one study: {', '.join(shared[0])}{more}; "
            "a case is one series: give the folder of one of them, or a folder with one series a study"
        )
        raise InputError(msg)
    count = Counter(folder.name for folder in series)
    above = os.path.commonpath(series) if series else ""
    named = {f: f.name if count[f.name] == 1 else "-".join(f.relative_to(above).parts) for f in series}
    return [_make_item(folder, case=case) for folder, case in named.items()]


def _three_dimensional(folders: Folders, labels: Labels) -> list[Item]:
    """Finds loose 3D files; one of them makes all files beside it cases, so that a wrong one is reported."""
    files = [file for found in folders.values() for file in found]
    loose = [file for file in files if role_of(file) is None and not _is_segmentation(file)]
    return [_make_item(file) for file in loose] if any(map(_may_be_3d, loose)) else []


def _may_be_3d(path: Path) -> bool:
    try:
        return len(read_header(path, stem(path)).shape) == 3
    except InputError:
        return True  # the check of the case says what is wrong with it


LABELS = "segmentation-<n>.nii.gz beside volume-<n>.nii.gz, or labelsTr beside imagesTr"

LIVER = Layouts(
    SCHEME,
    "liver",
    (
        Layout("LiTS", "volume-<n>.nii.gz with segmentation-<n>.nii.gz (LiTS 2017)", _lits_2017),
        Layout("the Decathlon", "imagesTr/liver_<n>.nii.gz with labelsTr (Decathlon, Task03_Liver)", _decathlon),
        Layout("DICOM", "folders with one DICOM series each", _dicom_series),
    ),
    Layout("3D files", "3D files <case>.nii.gz (x, y, z)", _three_dimensional),
    MAX_DEPTH,
)
