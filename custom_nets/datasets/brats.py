"""Brain data sets as downloaded -> data lists: every BraTS release, the Decathlon's Task01, loose 4D files."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from custom_nets.datasets.layouts import (
    BUNDLES,
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
from custom_nets.datasets.modalities import FILE_NAMES, LABEL, MODALITIES, ROLES, case_of_files, role_of, split_name
from custom_nets.datasets.splits import Section, split_section
from custom_nets.datasets.usable import usable_cases
from custom_nets.datasets.validation import Item, check_case, check_datalist, raise_faults
from custom_nets.errors import InputError, first_names
from custom_nets.io.nifti import read_header, stem

logger = logging.getLogger(__name__)

MAX_DEPTH = 4
"""Folders searched below the one given: two that wrap the release, HGG or LGG, the case."""

SCHEME_OF_CASE: tuple[tuple[str, str], ...] = (
    (r"BraTS-GLI-\d+-[1-9]\d\d", "brats2024"),  # time points from 100 on are after treatment
    (r"BraTS-[A-Z]+-\d+-\d+", "brats2023"),
    (r"BRATS_\d+", "msd_brain"),
)
"""Label scheme by the name of the case; the first match counts."""

SCHEME_OF_ENDING = {
    ending: scheme
    for scheme, naming in zip(("brats2018", "brats2023"), FILE_NAMES, strict=True)
    for role, ending in naming.items()
    if role in MODALITIES
}
"""Label scheme by how the first image file is named, for cases whose own name does not tell."""

DEFAULT_SCHEME = "brats2018"


def brats_datalist(
    dataset_dir: str | os.PathLike, labels: Labels = "required", check: bool = True, missing_modalities: bool = False
) -> list[Item]:
    """Lists the cases of a brain data set; the layout is recognised.

    Args:
        dataset_dir: the folder of a release (BraTS 2018 to 2024, Decathlon Task01_BrainTumour), also with folders
            around it; the folder of one case; a folder of 4D files `(x, y, z, 4)`; or one such file.
        labels: "required" gives labelled cases only, an error where one lacks its label (the Decathlon's unlabelled
            imagesTs is left out); "optional" gives all cases, with their labels where there are any; "ignore" gives
            all cases without labels.
        check: whether to check files and headers of every case (about 2 ms a file); see `check_datalist` for going
            on without the faulty ones.
        missing_modalities: whether a case may lack some of its modalities, for a model trained with
            modality_dropout; `image` then holds None for each of them.

    Returns:
        Items `{"case", "image", "label", "scheme"}`, sorted by case: `image` is a list of four files (FLAIR, T1, T1ce,
        T2) or one 4D file, `label` a file (absent where there is none), `scheme` a name in `SCHEMES`.

    Raises:
        InputError: when nothing is recognised, labels are missing, or a case is faulty.
    """
    check_labels_option(labels)
    root = dataset_root(dataset_dir)
    items = [_single_file(root)] if root.is_file() else search_layouts(root, labels, BRAIN)
    items = sorted(with_unique_cases(items), key=lambda item: item["case"])
    if labels == "ignore":
        for item in items:
            item.pop("label", None)
    if labels == "required":
        require_labels(items, root, LABELS)
    if missing_modalities:
        for item in items:
            item["image"] = _with_absent(item["image"])
    if check:
        raise_faults(check_datalist(items, missing_modalities)[1], len(items))
    return items


def brats_split(
    dataset_dir: str | os.PathLike,
    section: Section,
    split_file: str | os.PathLike | None = None,
    validation: int | float = 0.2,
    test: int | float = 0,
    seed: int = 0,
    check: bool = True,
    missing_modalities: bool = False,
) -> list[Item]:
    """Lists the labelled cases of one section of a split; for configs.

    Args:
        dataset_dir: see `brats_datalist`.
        section: "training", "validation" or "test".
        split_file: the split; it is used when it exists, otherwise made and written there. None writes nothing.
        validation: cases (int) or fraction (float) for validation, when the split is made.
        test: likewise for the test.
        seed: of a split that is made.
        check: whether to check files and headers of the section's cases.
        missing_modalities: see `brats_datalist`; cases that lack a modality are logged.

    Raises:
        InputError: see `brats_datalist` and `split_section`.
    """
    items = brats_datalist(dataset_dir, labels="required", check=False, missing_modalities=missing_modalities)
    chosen = split_section(items, section, split_file, validation, test, seed)
    if check:
        raise_faults(check_datalist(chosen, missing_modalities)[1], len(chosen))
    _warn_of_absent(chosen)
    return chosen


def brats_cases(
    dataset_dir: str | os.PathLike,
    split_file: str | os.PathLike | None = None,
    section: Section = "test",
    missing_modalities: bool = False,
    record: str | os.PathLike | None = None,
) -> list[Item]:
    """Lists the cases to infer: a faulty one is logged and left out, so that it does not stop the others.

    Args:
        dataset_dir: see `brats_datalist`; labels are optional.
        split_file: an existing split, to infer the cases of one section alone; None takes all cases.
        section: of that split.
        missing_modalities: see `brats_datalist`; cases that lack a modality are logged.
        record: JSON file that is written with the grid of each case, faulty ones too; `custom-nets submission` compares
            the results with it.

    Raises:
        InputError: when no case can be used, or the split does not belong to the data set.
    """
    items = brats_datalist(dataset_dir, labels="optional", check=False, missing_modalities=missing_modalities)
    check = partial(check_case, missing_modalities=missing_modalities)
    good = usable_cases(items, check, dataset_dir, split_file, section, record)
    _warn_of_absent(good)
    return good


def _with_absent(image: str | list[str]) -> str | list[str | None]:
    """Puts None where a modality has no file, into a list that is sorted by modality."""
    if isinstance(image, str):
        return image
    files: list[str | None] = []
    for role in MODALITIES:
        files += [file for file in image if role_of(file) == role] or [None]
    return files


def _warn_of_absent(items: Sequence[Item]) -> None:
    """Logs which cases lack a modality: a wrongly named file looks like that too."""
    lacking = []
    for item in items:
        files = [] if isinstance(item["image"], str) else item["image"]
        absent = [role for role, file in zip(MODALITIES, files, strict=False) if file is None]
        if absent:
            lacking.append(f"{item['case']} ({', '.join(absent)})")
    if lacking:
        logger.warning("%d of %d cases lack modalities: %s", len(lacking), len(items), first_names(lacking))


def _make_item(files: Sequence[Path], label: Sequence[Path], scheme: str) -> Item:
    """Makes the item of one case; a scheme that its name tells wins."""
    case = case_of_files(files)
    told = next((name for pattern, name in SCHEME_OF_CASE if re.fullmatch(pattern, case)), scheme)
    paths, labels = [str(file) for file in files], [str(file) for file in label]
    item: Item = {"case": case, "image": paths if role_of(files[0]) else paths[0], "scheme": told}
    if labels:
        item["label"] = labels[0] if len(labels) == 1 else labels
    return item


def _single_file(path: Path) -> Item:
    require_nifti(path)
    role = role_of(path)
    if role is not None:
        msg = f"{path}: this is the {role} file of a case alone; give the case's folder, {path.parent}"
        raise InputError(msg)
    return _make_item([path], decathlon_label(path), DEFAULT_SCHEME)


def _case_folders(folders: Folders, labels: Labels) -> list[Item]:
    """Finds folders that hold one case each, a file a modality."""
    items = []
    for files in folders.values():
        images = [file for role in MODALITIES for file in files if role_of(file) == role]
        if images:
            ending = split_name(images[0])[1]
            label = [file for file in files if role_of(file) == LABEL]
            items.append(_make_item(images, label, SCHEME_OF_ENDING.get(ending, DEFAULT_SCHEME)))
    return items


def _decathlon(folders: Folders, labels: Labels) -> list[Item]:
    """Finds the Decathlon's folders of 4D files, with labels in a folder beside them."""
    chosen = decathlon_folders(folders, labels)
    for folder in chosen:
        _check_decathlon_channels(folder.parent / "dataset.json")
    return [_make_item([file], decathlon_label(file), "msd_brain") for folder in chosen for file in folders[folder]]


def _check_decathlon_channels(description: Path) -> None:
    """Checks that dataset.json, where there is one, lists the modalities in our order."""
    names = decathlon_channels(description)
    if names and [ROLES.get(name.lower()) for name in names] != list(MODALITIES):
        hint = f"; {BUNDLES['lits']}" if names == ["CT"] else ""
        msg = (
            f"{description}: the channels are {', '.join(names)}; expected {', '.join(MODALITIES)}: "
            f"give Task01_BrainTumour, or reorder the channels of the files and dataset.json{hint}"
        )
        raise InputError(msg)


def _four_dimensional(folders: Folders, labels: Labels) -> list[Item]:
    """Finds loose 4D files; one of them makes all files beside it cases, so that a wrong one is reported."""
    loose = [file for files in folders.values() for file in files if role_of(file) is None]
    return [_make_item([file], [], DEFAULT_SCHEME) for file in loose] if any(map(_may_be_4d, loose)) else []


def _may_be_4d(path: Path) -> bool:
    try:
        return len(read_header(path, stem(path)).shape) > 3
    except InputError:
        return True  # the check of the case says what is wrong with it


LABELS = "<case>_seg.nii.gz beside the images, or labelsTr beside imagesTr"

BRAIN = Layouts(
    "brats",
    "brain",
    (
        Layout(
            "BraTS",
            "case folders with <case>_{flair,t1,t1ce,t2}.nii.gz (BraTS 2018 to 2021) or "
            "<case>-{t2f,t1n,t1c,t2w}.nii.gz (BraTS 2023, 2024)",
            _case_folders,
        ),
        Layout("the Decathlon", "imagesTr/<case>.nii.gz with labelsTr (Decathlon, Task01_BrainTumour)", _decathlon),
    ),
    Layout("4D files", "4D files <case>.nii.gz (x, y, z, 4)", _four_dimensional),
    MAX_DEPTH,
)
