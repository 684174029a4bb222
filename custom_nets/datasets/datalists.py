"""Data lists: the cases of a data set as items for transforms, checked, by section of a split, or for inference."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from custom_nets.datasets.case_record import save_case_record
from custom_nets.datasets.discovery import Recognised, recognise
from custom_nets.datasets.duplicates import duplicate_notes
from custom_nets.datasets.layouts import FoundCase
from custom_nets.datasets.oddities import IdentityAffines, check_identity_option, settle_identity_affines
from custom_nets.datasets.record import Record, get_record
from custom_nets.datasets.splits import Section, apply_split, split_exists, split_section
from custom_nets.datasets.validation import Check, Item, check_case, check_datalist, fault_of, raise_faults
from custom_nets.errors import InputError, first_names
from custom_nets.io.nifti import where

logger = logging.getLogger(__name__)

Labels = Literal["required", "optional", "ignore"]

All = Literal["all"]
"""All cases, in place of the name of a section."""


def datalist(
    dataset_dir: str | os.PathLike | Sequence[str],
    labels: Labels = "required",
    check: bool = True,
    *,
    dataset: str | os.PathLike | None = None,
    modalities: Sequence[str] | None = None,
    missing_modalities: bool = False,
    identity_affines: IdentityAffines = "keep",
) -> list[Item]:
    """Lists the cases of a data set.

    Args:
        dataset_dir: the folder of a data set, also with folders around it; the folder of one case; the folder of a
            DICOM series, or one that holds such folders; a folder of NIfTI files; or one such file.
        dataset: name or file of a record (see `get_record`), which then wins over whatever names suggest; None
            recognises the data set.
        modalities: channels of the image by name, in the order in which a model sees them; None takes those of the data
            set.
        labels: "required" gives labelled cases only, an error where one lacks its label (test images are left out);
            "optional" gives all cases, with their labels where there are any; "ignore" gives all cases without labels.
        check: whether to check files and headers of every case (about 2 ms a file); see `check_datalist` for going on
            without the faulty ones.
        missing_modalities: whether a case may lack some of its modalities, for a model trained with modality_dropout;
            `image` then holds None for each of them.
        identity_affines: what becomes of single NIfTI files whose affine is exactly the identity, so that spacing and
            orientation are unknown (LiTS volumes 28 to 47): "keep" takes them as voxels of 1 mm in RAS, with a warning
            where cases are checked; "leave_out" leaves them out.

    Returns:
        Items in natural order of the cases (volume-2 before volume-10): `case`; `image`, a file or DICOM folder, or a
        list of files in the order of the modalities; `label`, a file (absent where there is none); `dataset`, the
        record of the data set (absent where it is unknown); `patient`, where it differs from the case; `channels`, the
        channels of a single file, separated by commas, where they are not the modalities, or those of several files,
        where their names do not tell.

    Raises:
        InputError: when nothing is recognised, the data set lacks a modality, labels are missing, a case is there
            twice, or a case is faulty.
    """
    check_identity_option(identity_affines)
    found = _recognise(dataset_dir, dataset, modalities, labels)
    items = _list_items(found, dataset_dir, modalities, labels, missing_modalities)
    if check:
        raise_faults(check_datalist(items, _check(modalities, missing_modalities))[1], len(items))
    return settle_identity_affines(items, identity_affines, check)


def labelled_cases(
    dataset_dir: str | os.PathLike,
    section: Section | All,
    split_file: str | os.PathLike | None = None,
    check: bool = True,
    *,
    dataset: str | os.PathLike | None = None,
    modalities: Sequence[str] | None = None,
    missing_modalities: bool = False,
    identity_affines: IdentityAffines = "keep",
    validation: int | float = 0.2,
    test: int | float = 0,
    seed: int = 0,
    leave_out: bool = False,
    fold: int | None = None,
    folds: int = 5,
    regions: Sequence[str] | None = None,
) -> list[Item]:
    """Lists the labelled cases of one section of a split, or all there are; for configs.

    Args:
        dataset_dir: see `datalist`.
        section: "training", "validation" or "test"; or "all", with which no split is read or made.
        dataset: see `datalist`.
        modalities: likewise.
        split_file: the split; it is used when it exists, otherwise made and written there. None writes nothing.
        check: whether to check files and headers of the section's cases.
        missing_modalities: see `datalist`; cases that lack a modality are logged.
        identity_affines: see `datalist`; cases are left out of the section, not of the split.
        validation: share or number of cases, see `split_cases`.
        test: likewise.
        seed: of the split.
        leave_out: whether a faulty case of the section, or one without a label, is logged and left out, so that it
            does not stop the others.
        fold: number of the fold of a cross-validation that is the validation, see `split_section`; None: no folds.
        folds: their number, see `split_folds`.
        regions: that a model learns; None: not checked.

    Raises:
        InputError: see `datalist` and `split_section`; for a region that the labels do not make up.
    """
    check_identity_option(identity_affines)
    found = _recognise(dataset_dir, dataset, modalities, "required")
    items = _list_items(found, dataset_dir, modalities, "required", missing_modalities, leave_out)
    for name in {item["dataset"] for item in items if item.get("dataset")}:
        get_record(name).require_labels().select(regions)
    total = len(items)
    for note in duplicate_notes(items, channels=True) if section == "training" and check else ():
        logger.warning(note)
    if section != "all":
        if leave_out and (split_file is None or not split_exists(split_file)):
            logger.warning(
                "%s: the split is made again, with seed %s. A model that was trained with another one may have seen "
                "cases that are scored here: give --split_file of its training, or --evaluation_section all for an "
                "outside set",
                "no split file is given" if split_file is None else f"split file {split_file} is not there",
                seed,
            )
        sizes: dict[str, Any] = {"validation": validation, "test": test, "fold": fold, "folds": folds}
        items = split_section(items, section, split_file, seed=seed, **sizes)
    chosen = in_order(items)
    titles = ", ".join(entry.record.title if entry.record else "an unknown data set" for entry in found)
    logger.info("%s: %d of %d cases (%s)", section, len(chosen), total, titles)
    faults: list[str] = []
    if check:
        good, faults = check_datalist(chosen, partial(_labelled, check=_check(modalities, missing_modalities)))
        if not leave_out or not good:
            raise_faults(faults, len(chosen))
        chosen = good
    for fault in faults:
        logger.error("left out: %s", fault)
    _warn_of_absent(chosen, modalities)
    return CaseList(settle_identity_affines(chosen, identity_affines, check), faults)


def _labelled(item: Item, check: Check) -> None:
    """Checks a case as `check` does, and that it has a label."""
    check(item)
    if "label" not in item:
        msg = f"{where(item['case'], _first_file(item))}: the case has no label; add it, or take the case out"
        raise InputError(msg)


def cases_to_infer(
    dataset_dir: str | os.PathLike | Sequence[str],
    split_file: str | os.PathLike | None = None,
    section: Section | All = "test",
    *,
    dataset: str | os.PathLike | None = None,
    modalities: Sequence[str] | None = None,
    record: str | os.PathLike | None = None,
    missing_modalities: bool = False,
    identity_affines: IdentityAffines = "keep",
) -> list[Item]:
    """Lists the cases to infer: a faulty one is logged and left out, so that it does not stop the others.

    A case whose name differs from another's in capitals alone is renamed, with a warning: on macOS and Windows their
    results would meet.

    Args:
        dataset_dir: see `datalist`, also several folders or files; labels are optional.
        dataset: see `datalist`.
        modalities: likewise.
        split_file: an existing split, to infer the cases of one section alone; None takes all cases.
        section: of that split; "all" takes all cases.
        record: JSON file that is written with the grid of each case, faulty ones too; `custom-nets submission` compares
            the results with it.
        missing_modalities: see `datalist`; cases that lack a modality are logged.
        identity_affines: see `datalist`.

    Raises:
        InputError: when no case can be used, or the split does not belong to the data set.
    """
    check_identity_option(identity_affines)
    found = _recognise(dataset_dir, dataset, modalities, "optional")
    for entry in found:
        logger.info(entry.line)
    items = _list_items(found, dataset_dir, modalities, "optional", missing_modalities)
    if split_file is not None and section != "all":
        items = in_order(apply_split(items, split_file, (section,))[section])
    items = _apart_without_capitals(items)
    if record is not None:
        save_case_record(record, items)
    check = _check(modalities, missing_modalities)
    good, faults = check_datalist(map(partial(_without_faulty_label, check=check), items), check)
    if not good:
        raise_faults(faults or [f"{dataset_dir}: no case in section '{section}' of {split_file}"], len(items))
    for fault in faults:
        logger.error("left out: %s", fault)
    _warn_of_absent(good, modalities)
    return CaseList(settle_identity_affines(good, identity_affines, report=True), faults)


def _apart_without_capitals(items: Sequence[Item]) -> list[Item]:
    """Renames all but the first of cases whose names a file system that knows no capitals takes for one."""
    seen: set[str] = set()
    named = []
    for item in items:
        case = str(item["case"])
        if case.casefold() in seen:
            other = f"{case} ({hashlib.sha256(case.encode('utf-8', 'surrogateescape')).hexdigest()[:6]})"
            logger.warning("case %s is called %s here: another's name differs in capitals alone", case, other)
            item = {**item, "case": other}
        seen.add(str(item["case"]).casefold())
        named.append(item)
    return named


def _without_faulty_label(item: Item, check: Check) -> Item:
    """Returns an item without its label where that alone is at fault, with a warning: inference does not need one."""
    if "label" not in item:
        return item
    fault, bare = fault_of(item, check), {key: value for key, value in item.items() if key != "label"}
    if fault is None or fault_of(bare, check) is not None:
        return item
    logger.warning("label not used: %s", fault)
    return bare


class CaseList(list[Item]):
    """Items, and what is wrong with the cases that are not among them.

    Args:
        items: the usable cases.
        left_out: one line for each of the others.
    """

    def __init__(self, items: Iterable[Item], left_out: Sequence[str]) -> None:
        super().__init__(items)
        self.left_out = tuple(left_out)


def in_order(items: Iterable[Item]) -> list[Item]:
    """Sorts items by case, numbers in names by their value."""

    def key(item: Item) -> tuple[list[tuple[str, int]], str]:
        texts = re.split(r"(\d+)", item["case"])
        return [(text, int(number)) for text, number in zip(texts[::2], [*texts[1::2], "0"], strict=True)], item["case"]

    return sorted(items, key=key)


def items_of(
    found: Sequence[Recognised], modalities: Sequence[str] | None, missing_modalities: bool = False
) -> list[Item]:
    """Makes items of recognised cases.

    Args:
        found: see `recognise`.
        modalities: see `datalist`.
        missing_modalities: likewise.

    Raises:
        InputError: when a data set lacks a modality, or a case is there twice.
    """
    for entry in found:
        if entry.record is not None and modalities is not None:
            require_channels(entry.record, modalities, missing_modalities, entry.reason)
    items = [_item(case, entry.record, modalities, missing_modalities) for entry in found for case in entry.cases]
    return in_order(_with_unique_cases(items))


def require_channels(record: Record, modalities: Sequence[str], missing_modalities: bool, reason: str = "") -> None:
    """Checks that a data set has the channels that a model sees.

    Raises:
        InputError: when one is missing, of a model that can do without: when all are.
    """
    missing = [name for name in modalities if name not in record.channel_names]
    if not missing or (missing_modalities and len(missing) < len(modalities)):
        return
    told = f" (recognised by {reason})" if reason else ""
    fitting = [name for name in modalities if name in record.channel_names]
    instead = f"; a model for {', '.join(fitting)} alone is trained with --modalities {fitting}" if fitting else ""
    channels, seen = ", ".join(record.channel_names), ", ".join(modalities)
    msg = (
        f"the data set is {record.title}{told}, with the channels {channels}, but this model sees {seen}: there is no "
        f"{', '.join(missing)}; give a data set that fits, or name the right record (--dataset NAME or FILE){instead}"
    )
    raise InputError(msg)


def _recognise(
    dataset_dir: str | os.PathLike | Sequence[str],
    dataset: str | os.PathLike | None,
    modalities: Sequence[str] | None,
    labels: Labels,
) -> list[Recognised]:
    if labels not in get_args(Labels):
        msg = f"labels={labels!r} is unknown; expected one of {', '.join(get_args(Labels))}"
        raise InputError(msg)
    found = recognise(dataset_dir, dataset, modalities)
    if labels == "required":
        found = [entry._replace(cases=_training_cases(entry)) for entry in found]
    if labels == "ignore":
        found = [entry._replace(cases=[c for c in entry.cases if not _is_orphan(c)]) for entry in found]
    return found


def _list_items(
    found: Sequence[Recognised],
    dataset_dir: str | os.PathLike | Sequence[str],
    modalities: Sequence[str] | None,
    labels: Labels,
    missing_modalities: bool,
    leave_out: bool = False,
) -> list[Item]:
    items = items_of(found, modalities, missing_modalities)
    if labels == "ignore":
        for item in items:
            item.pop("label", None)
    if labels == "required":
        _require_labels(items, dataset_dir, some=leave_out)
    return items


def _training_cases(entry: Recognised) -> list[FoundCase]:
    """Leaves out test images without a label, where there are others."""
    pattern = entry.record.unlabelled if entry.record else ""
    training = [
        case
        for case in entry.cases
        if case.label
        or not (any(file.parent.name == "imagesTs" for file in case.files) or re.fullmatch(pattern, case.case))
    ]
    return training or entry.cases


def _is_orphan(case: FoundCase) -> bool:
    return isinstance(case.image, Path) and bool(case.label) and not case.image.exists()


def _check(modalities: Sequence[str] | None, missing_modalities: bool) -> Any:
    return partial(check_case, modalities=modalities, missing_modalities=missing_modalities)


def _item(found: FoundCase, record: Record | None, modalities: Sequence[str] | None, missing_modalities: bool) -> Item:
    item: Item = {"case": found.case, "image": _image(found, record, modalities, missing_modalities)}
    if record is not None and record.labels is not None:
        item["dataset"] = record.name
    patient = record.patient_of(found.case) if record else found.case
    if patient != found.case:
        item["patient"] = patient
    if record is not None and isinstance(found.image, Path):
        names = _channels(found, record)
        if list(names) != list(modalities or record.channel_names):
            item["channels"] = ",".join(names)
    elif record is not None and found.channels:
        item["channels"] = ",".join(modalities or record.channel_names)
    if found.label:
        labels = [str(file) for file in found.label]
        item["label"] = labels[0] if len(labels) == 1 else labels
    return item


def _channels(found: FoundCase, record: Record) -> tuple[str, ...]:
    """Returns the channels of a single file by the names of the record."""
    return tuple(record.channel(name) or name for name in found.channels) or record.channel_names


def _image(
    found: FoundCase, record: Record | None, modalities: Sequence[str] | None, missing_modalities: bool
) -> str | list[str | None]:
    if isinstance(found.image, Path):
        return str(found.image)
    by_name = {(record.channel(name) if record else None) or name: files for name, files in found.image.items()}
    wanted = list(modalities) if modalities is not None else list(record.channel_names if record else by_name)
    files: list[str | None] = []
    for name in wanted:
        present: list[str | None] = [str(file) for file in by_name.get(name, [])]
        files += present or ([None] if missing_modalities or found.channels else [])
    return files


def _require_labels(items: Sequence[Item], dataset_dir: object, some: bool) -> None:
    # The check of a case without any file says more.
    unlabelled = [item["case"] for item in items if "label" not in item and _first_file(item)]
    if unlabelled and not (some and any("label" in item for item in items)):
        msg = (
            f"{dataset_dir}: {len(unlabelled)} of {len(items)} cases have no label: {first_names(unlabelled)}; "
            "give the folder of the training cases, add the labels (beside the images, or labelsTr beside imagesTr), "
            "or list with labels='optional'"
        )
        raise InputError(msg)


def _with_unique_cases(items: Sequence[Item]) -> list[Item]:
    """Names cases after their folders where files of several cases bear one name.

    Raises:
        InputError: when a case is there twice all the same.
    """
    count = Counter(item["case"] for item in items)
    for item in items:
        if count[item["case"]] > 1 and not isinstance(item["image"], str) and _first_file(item):
            item["case"] = Path(_first_file(item)).parent.name
    seen: dict[str, Item] = {}
    for item in items:
        other = seen.setdefault(item["case"], item)
        if other is not item:
            place = where(item["case"], _first_file(item))
            msg = f"{place}: the case is there twice, also as {_first_file(other)}; give a folder with one copy"
            raise InputError(msg)
    return list(items)


def _first_file(item: Mapping[str, Any]) -> str:
    image = item["image"]
    return image if isinstance(image, str) else next((file for file in image if file is not None), "")


def _warn_of_absent(items: Sequence[Item], modalities: Sequence[str] | None) -> None:
    """Logs which cases lack a modality: a wrongly named file looks like that too."""
    lacking = []
    for item in items:
        files = [] if isinstance(item["image"], str) else item["image"]
        names = modalities or (get_record(item["dataset"]).channel_names if item.get("dataset") else ())
        absent = [name for name, file in zip(names, files, strict=False) if file is None]
        if absent:
            lacking.append(f"{item['case']} ({', '.join(absent)})")
    if lacking:
        logger.warning("%d of %d cases lack modalities: %s", len(lacking), len(items), first_names(lacking))
