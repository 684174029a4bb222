"""Splits of a data list into training, validation and test: seeded, and written down as JSON."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal, get_args

from custom_nets.datasets.record import shipped_records
from custom_nets.errors import InputError, first_names
from custom_nets.io.files import atomic_file

logger = logging.getLogger(__name__)

Section = Literal["training", "validation", "test"]
SECTIONS: tuple[Section, ...] = get_args(Section)

Items = Sequence[Mapping[str, Any]]


def split_cases(
    items: Items, validation: int | float = 0.2, test: int | float = 0, seed: int = 0
) -> dict[str, list[dict[str, Any]]]:
    """Splits items into sections, by a hash of the seed and the patient.

    The split depends on the cases, the numbers and the seed alone: not on the order of the list, the platform or a
    library. A case more or less moves few others. All time points of a patient stay in one
    section, so that a section may come out a case or two smaller than asked for.

    Args:
        items: data items with `case`.
        validation: number of cases (int), or fraction of all (float below 1, at least one case).
        test: likewise.
        seed: another seed gives another split.

    Returns:
        Items by section ("training", "validation", "test"), each sorted by case.

    Raises:
        InputError: when a case is there twice, a number makes no sense, or nothing is left for training.
    """
    by_case = _by_case(items)
    wanted: dict[str, int] = {
        "validation": _count("validation", validation, len(by_case)),
        "test": _count("test", test, len(by_case)),
    }
    if sum(wanted.values()) >= len(by_case):
        msg = (
            f"{wanted['validation']} cases for validation and {wanted['test']} for the test of {len(by_case)} in all "
            "leave none for training; ask for fewer, or give more cases"
        )
        raise InputError(msg)
    patients = _patients(by_case, seed)
    chosen = {section: _take(section, patients, number) for section, number in wanted.items()}
    chosen["training"] = [case for cases in patients.values() for case in cases]
    return {section: [by_case[case] for case in sorted(chosen[section])] for section in SECTIONS}


def split_folds(
    items: Items, folds: int = 5, test: int | float = 0, seed: int = 0
) -> tuple[list[list[str]], list[str]]:
    """Divides items into folds for cross-validation, and cases for a test that are in none of them.

    As in `split_cases`, all time points of a patient stay together, and the cases, the numbers and the seed alone
    decide. Every patient goes to the fold that has the fewest cases so far.

    Args:
        items: data items with `case`.
        folds: number of folds, at least 2.
        test: number of cases (int), or fraction of all (float below 1, at least one case).
        seed: another seed gives other folds.

    Returns:
        Names of the cases of each fold, and those of the test, each sorted.

    Raises:
        InputError: when a case is there twice, a number makes no sense, or there are fewer patients than folds.
    """
    by_case = _by_case(items)
    patients = _patients(by_case, seed)
    tested = _take("test", patients, _count("test", test, len(by_case)))
    if not isinstance(folds, int) or isinstance(folds, bool) or not 2 <= folds <= len(patients):
        msg = (
            f"folds={folds!r}: expected a number from 2 to {len(patients)}, the patients beside the {len(tested)} "
            "cases of the test"
        )
        raise InputError(msg)
    parts: list[list[str]] = [[] for _ in range(folds)]
    for cases in patients.values():
        min(parts, key=len).extend(cases)
    return [sorted(part) for part in parts], sorted(tested)


def fold_folders(folder: str | os.PathLike) -> list[Path]:
    """Returns the folders of the folds of a cross-validation in a folder, `fold_0` and so on, by their numbers."""
    return sorted(Path(folder).glob("fold_*"), key=lambda path: (len(path.name), path.name))


def save_split(
    path: str | os.PathLike,
    split: Mapping[str, Iterable[Any]],
    seed: int | None = None,
    folds: Sequence[Sequence[str]] | None = None,
    fold: int | None = None,
) -> None:
    """Writes a split as JSON, whole or not at all; several processes may write the same one at once.

    Args:
        path: the file; folders above it are made.
        split: items or case names by section.
        seed: what the split was made with.
        folds: names of the cases of each fold, for a split of a cross-validation.
        fold: the one that is the validation of this split.

    Raises:
        InputError: when the file cannot be written.
    """
    cases: dict[str, list[str]] = {name: sorted(_case(item) for item in split.get(name, ())) for name in SECTIONS}
    record: dict[str, Any] = {"seed": seed, "counts": {section: len(names) for section, names in cases.items()}} | cases
    if folds is not None:
        record |= {"fold": fold, "folds": [list(part) for part in folds]}
    target = Path(path).expanduser()
    try:
        with atomic_file(target) as temporary:
            temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        msg = f"split file {target} cannot be written ({error.strerror}); give a place that can, or none"
        raise InputError(msg) from error


def load_split(path: str | os.PathLike) -> dict[str, list[str]]:
    """Reads a split that `save_split` wrote.

    Returns:
        Case names by section.

    Raises:
        InputError: when the file is absent, no split, or has a case in two places.
    """
    record = _read_record(path)
    split: dict[str, list[str]] = {section: record.get(section, []) for section in SECTIONS}
    count = Counter(name for names in split.values() for name in names)
    twice = sorted(name for name in count if count[name] > 1)
    if twice:
        named = first_names(twice)
        msg = f"split file {path}: {named} in two places; a case belongs to one section, make the split again"
        raise InputError(msg)
    return split


def load_folds(path: str | os.PathLike) -> tuple[list[list[str]], list[str]]:
    """Reads the folds of a split that `save_split` wrote.

    Returns:
        Case names of each fold, and those of the test.

    Raises:
        InputError: when the file is absent, no split, has no folds, or has a case in two places.
    """
    record = _read_record(path)
    folds = record.get("folds")
    if not (isinstance(folds, list) and folds and all(isinstance(part, list) for part in folds)):
        msg = f"split file {path}: holds no folds; give another split_file, or delete it to have folds made (--fold)"
        raise InputError(msg)
    test = record.get("test", [])
    twice = sorted(case for case, times in Counter([*test, *chain(*folds)]).items() if times > 1)
    if twice:
        msg = f"split file {path}: {first_names(twice)} in two folds; a case belongs to one, make the split again"
        raise InputError(msg)
    return folds, test


def apply_split(
    items: Items,
    split: str | os.PathLike | Mapping[str, Sequence[str]],
    sections: Sequence[str] = SECTIONS,
    name: str | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """Sorts items into the sections of a split.

    Args:
        items: data items with `case`; those that the split does not know are left out, with a warning.
        split: a file, or case names by section.
        sections: those wanted; only their cases need be there.
        name: of the split in messages; None: that of the file.

    Raises:
        InputError: when cases of the split are not among the items.
    """
    name = name or ("the split" if isinstance(split, Mapping) else f"split file {split}")
    listed = split if isinstance(split, Mapping) else load_split(split)
    by_case = _by_case(items)
    wanted = {section: list(listed.get(section, ())) for section in sections}
    missing = sorted(case for cases in wanted.values() for case in cases if case not in by_case)
    if missing:
        number = sum(len(cases) for cases in wanted.values())
        msg = (
            f"{name}: {len(missing)} of {number} cases are not in the data set: {first_names(missing)}; "
            "give the data set that it was made from, or make another split"
        )
        raise InputError(msg)
    unused = sorted(set(by_case) - {case for cases in listed.values() for case in cases})
    if unused:
        logger.warning("%s does not name %d cases of the data set: %s", name, len(unused), first_names(unused))
    return {section: [by_case[case] for case in sorted(cases)] for section, cases in wanted.items()}


def split_exists(split_file: str | os.PathLike) -> bool:
    """Returns whether a split is there already; else `split_section` makes it."""
    return Path(split_file).expanduser().exists()


def split_section(
    items: Items,
    section: Section,
    split_file: str | os.PathLike | None = None,
    validation: int | float = 0.2,
    test: int | float = 0,
    seed: int = 0,
    fold: int | None = None,
    folds: int = 5,
) -> list[dict[str, Any]]:
    """Returns one section of the split in a file; makes the split, and writes it there, when there is no such file.

    Args:
        items: data items with `case`.
        section: "training", "validation" or "test".
        split_file: JSON; None makes the split anew and writes nothing.
        validation: see `split_cases`; without effect where a fold is the validation.
        test: likewise.
        seed: likewise; a file made with another seed is used all the same, with a warning.
        fold: number of the fold that is the validation, from 0; None: no cross-validation.
        folds: see `split_folds`.

    Raises:
        InputError: when the section is unknown or empty, the file has no such fold, or see `split_cases`,
            `split_folds` and `apply_split`.
    """
    if section not in SECTIONS:
        msg = f"section {section!r} is unknown; expected one of {', '.join(SECTIONS)}"
        raise InputError(msg)
    if split_file is not None and split_exists(split_file):
        recorded = _read_record(split_file).get("seed")
        if recorded not in (None, seed):
            logger.warning("split file %s was made with seed %s, seed %s has no effect", split_file, recorded, seed)
        name = f"split file {split_file}"
        split = load_split(split_file) if fold is None else _sections_of_fold(*load_folds(split_file), fold, name)
        chosen = apply_split(items, split, [section], name)[section]
    else:
        parts = None
        if fold is None:
            split = {
                name: list(map(_case, cases)) for name, cases in split_cases(items, validation, test, seed).items()
            }
        else:
            parts, tested = split_folds(items, folds, test, seed)
            split = _sections_of_fold(parts, tested, fold, "the split")
        if split_file is not None:
            save_split(split_file, split, seed, parts, fold)
        chosen = apply_split(items, split, [section])[section]
    if not chosen:
        origin = f"split file {split_file}" if split_file is not None else "the split"
        msg = f"{origin}: section '{section}' is empty; ask for cases ({section}=...) and make the split again"
        raise InputError(msg)
    return chosen


def _sections_of_fold(
    folds: Sequence[Sequence[str]], test: Sequence[str], fold: int, source: str | os.PathLike
) -> dict[str, list[str]]:
    """Returns the cases of each section where one fold is the validation and the others are the training."""
    if isinstance(fold, bool) or not isinstance(fold, int) or not 0 <= fold < len(folds):
        msg = f"fold={fold!r}: {source} has the folds 0 to {len(folds) - 1}; give one of these"
        raise InputError(msg)
    training = [case for number, part in enumerate(folds) if number != fold for case in part]
    return {"training": sorted(training), "validation": list(folds[fold]), "test": list(test)}


def _patients(by_case: Mapping[str, Mapping[str, Any]], seed: int) -> dict[str, list[str]]:
    """Returns the cases of each patient, the patients in the order that the seed gives."""
    patients: dict[str, list[str]] = defaultdict(list)
    for case in sorted(by_case):
        patients[_patient(by_case[case])].append(case)
    order = sorted(patients, key=lambda patient: hashlib.sha256(f"{seed}:{patient}".encode()).digest())
    return {patient: patients[patient] for patient in order}


def _take(section: str, patients: dict[str, list[str]], number: int) -> list[str]:
    """Takes the cases of as many of the first patients as fit into a number out of the patients, and returns them."""
    taken: list[str] = []
    for patient in list(patients):
        if len(taken) + len(patients[patient]) <= number:
            taken += patients.pop(patient)
    if number and not taken:
        msg = f"{number} cases for {section} are fewer than any patient has time points; ask for more"
        raise InputError(msg)
    return taken


def _case(item: Any) -> str:
    return item if isinstance(item, str) else str(item["case"])


def _patient(item: Mapping[str, Any]) -> str:
    """Returns the patient that an item names, or that a record reads in the name of its case."""
    case = str(item["case"])
    told = (record.patient_of(case) for record in shipped_records())
    return str(item.get("patient") or next((patient for patient in told if patient != case), case))


def _by_case(items: Items) -> dict[str, dict[str, Any]]:
    by_case: dict[str, dict[str, Any]] = {}
    for item in items:
        if _case(item) in by_case:
            msg = f"case {_case(item)} is in the list twice; a case must be in one section, remove a copy"
            raise InputError(msg)
        by_case[_case(item)] = dict(item)
    return by_case


def _count(name: str, wanted: int | float, total: int) -> int:
    """Returns the number of cases that a number or a fraction asks for."""
    whole = isinstance(wanted, int) and not isinstance(wanted, bool) and wanted >= 0
    if whole:
        return int(wanted)
    if isinstance(wanted, float) and 0 <= wanted < 1:
        return max(1, math.floor(wanted * total + 0.5)) if wanted else 0
    msg = f"{name}={wanted!r}: expected a number of cases (0, 1, 2, ...) or a fraction between 0 and 1"
    raise InputError(msg)


def _read_record(path: str | os.PathLike) -> dict[str, Any]:
    """Reads the JSON of a split file."""
    advice = "give a file that save_split wrote, or delete it to have it made again"
    try:
        record = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"split file {path}: cannot be read ({error}); {advice}"
        raise InputError(msg) from error
    lists = [record.get(section, []) for section in SECTIONS] if isinstance(record, dict) else [None]
    if not all(isinstance(names, list) and all(isinstance(n, str) for n in names) for names in lists) or not any(lists):
        msg = f"{path}: expected a JSON object with lists of case names under {', '.join(SECTIONS)}; {advice}"
        raise InputError(msg)
    return record
