"""Records made of what data sets say of themselves: `dataset.json` of the Decathlon and of nnU-Net, BIDS."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from custom_nets.datasets.record import Channel, Kind, Labels, Record, Region, shipped_records
from custom_nets.errors import InputError
from custom_nets.io.nifti import SUFFIXES, stem

BIDS_CHANNELS = {"T1w": "T1", "T2w": "T2", "FLAIR": "FLAIR", "ct": "CT", "CT": "CT"}
"""Channels by the suffix of BIDS; an image with a contrast agent (`ce-`) has `ce` added."""

BIDS_LABELS = ("dseg", "mask", "seg")
"""Suffixes of label maps in `derivatives`, the preferred one first."""

_MRI = {"mr", "mri", "t1", "t2", "flair", "pd", "adc", "dwi", "swi"}


def is_dataset_json(content: Mapping[str, Any]) -> bool:
    """Returns whether a JSON object is a `dataset.json` of the Decathlon or of nnU-Net, and no record of ours."""
    return "layouts" not in content and bool(content.get("channel_names") or content.get("modality"))


def find_dataset_json(images: Path) -> Path | None:
    """Returns the `dataset.json` beside a folder of images, None where there is none."""
    file = images.parent / "dataset.json"
    return file if file.is_file() else None


def read_dataset_json(path: Path) -> dict[str, Any]:
    """Reads a `dataset.json`.

    Raises:
        InputError: when the file is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"a {type(content).__name__}")
    except (OSError, ValueError) as error:
        msg = f"{path}: not a readable dataset.json ({error}); download or unpack the data set again"
        raise InputError(msg) from error
    return content


def dataset_json_record(content: Mapping[str, Any], path: Path) -> Record:
    """Makes a record of a `dataset.json` of the Decathlon (`modality`) or of nnU-Net v2 (`channel_names`).

    Labels that are lists of numbers are regions (nnU-Net's region-based training); `regions_class_order` tells what is
    written for each.

    Args:
        content: of the file.
        path: of the file, which is the record's name.

    Raises:
        InputError: when the file has no channels, labels of no known form, or another file format than NIfTI.
    """
    ending = str(content.get("file_ending", SUFFIXES[0]))
    if ending not in SUFFIXES:
        msg = f"{path}: file_ending is '{ending}'; expected {' or '.join(SUFFIXES)}: convert the files to NIfTI"
        raise InputError(msg)
    try:
        table: Mapping[str, Any] = content.get("channel_names") or content.get("modality") or {}
        channels = tuple(_channel(str(table[number])) for number in sorted(table, key=int))
        labels = _labels(content.get("labels") or {}, content.get("regions_class_order"))
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        msg = f"{path}: not a readable dataset.json ({error}); download or unpack the data set again"
        raise InputError(msg) from error
    if not channels:
        msg = f"{path}: names no channels; expected 'modality' or 'channel_names', such as {{\"0\": \"CT\"}}: add them"
        raise InputError(msg)
    return Record(
        name=str(path),
        title=str(content.get("name") or path.parent.name),
        channels=channels,
        labels=labels,
        layouts=("decathlon", "nnunet"),
        licence=str(content.get("licence", "")),
        citation=str(content.get("reference", "")),
        note=str(content.get("description", "")),
    )


def shipped_like(record: Record, case: str) -> Record | None:
    """Returns the record of the package for a data set that a `dataset.json` describes, None where there is none.

    Channels must be the same in the same order, and either the names of the labels or that of a case.

    Args:
        record: what the `dataset.json` says.
        case: name of one of its cases.
    """
    for other in shipped_records():
        same = [other.channel(name) for name in record.channel_names] == list(other.channel_names)
        if not same or not {"decathlon", "nnunet"} & set(other.layouts):
            continue
        if other.knows(case) or (record.labels and other.labels and _named(record.labels) == _named(other.labels)):
            return other
    return None


def bids_record(root: Path) -> Record:
    """Makes a record of a BIDS data set: channels from the names of its files, label names from a `dseg.tsv`.

    Args:
        root: its folder.

    Raises:
        InputError: when no subject has an anatomical image.
    """
    files = [file for suffix in SUFFIXES for file in root.glob(f"sub-*/**/anat/*{suffix}")]
    names = {name for file in files if (name := bids_channel(stem(file)))}
    if not names:
        msg = f"{root}: no image sub-<label>/anat/*.nii.gz found; give a BIDS data set, or the file of a record"
        raise InputError(msg)
    tables = sorted(root.glob("**/*dseg.tsv"))
    return Record(
        name=str(root),
        title=_bids_title(root),
        channels=tuple(_channel(name) for name in sorted(names)),
        labels=_bids_labels(tables[0]) if tables else None,
        layouts=("bids",),
        label_ends=BIDS_LABELS,
        cases=r"(?P<patient>sub-[A-Za-z0-9]+)(_ses-[A-Za-z0-9]+)?",
    )


def bids_channel(name: str) -> str:
    """Returns the channel that a BIDS file name tells, "" for none.

    >>> bids_channel("sub-01_ses-1_ce-gd_T1w")
    'T1ce'
    """
    *entities, suffix = name.split("_")
    if not entities or not suffix.isalnum() or suffix in BIDS_LABELS:
        return ""
    channel = BIDS_CHANNELS.get(suffix, suffix)
    return channel + "ce" * any(entity.startswith("ce-") for entity in entities)


def bids_case(name: str) -> str:
    """Returns subject and session of a BIDS file name.

    >>> bids_case("sub-01_ses-1_ce-gd_T1w")
    'sub-01_ses-1'
    """
    match = re.match(r"sub-[A-Za-z0-9]+(_ses-[A-Za-z0-9]+)?", name)
    return match[0] if match else ""


def _channel(name: str) -> Channel:
    known = [
        channel for record in shipped_records() for channel in record.channels if record.channel(name) == channel.name
    ]
    kind: Kind = "CT" if name.upper() == "CT" else "MRI" if name.lower() in _MRI else "other"
    return Channel(known[0].name, known[0].kind, (name,)) if known else Channel(name, kind)


def _labels(table: Mapping[str, Any], order: Any) -> Labels | None:
    """Reads labels in the Decathlon's form (number to name) or nnU-Net's (name to number, or to those of a region)."""
    if table and all(str(key).isdigit() for key in table):
        table = {str(name): int(number) for number, name in table.items()}
    members = {
        name: tuple(int(n) for n in ([value] if isinstance(value, int) else value)) for name, value in table.items()
    }
    members = {name: numbers for name, numbers in members.items() if numbers != (0,) and name != "ignore"}
    if not members:
        return None
    single = {numbers[0]: name for name, numbers in members.items() if len(numbers) == 1}
    every = sorted({number for numbers in members.values() for number in numbers})
    names = tuple((number, single.get(number, f"number {number}")) for number in every)
    written = [int(number) for number in order] if order else [numbers[0] for numbers in members.values()]
    regions = [Region(name, numbers, n) for (name, numbers), n in zip(members.items(), written, strict=True)]
    return Labels(names, tuple(sorted(regions, key=lambda region: -len(region.numbers))))


def _named(labels: Labels) -> dict[int, str]:
    return {number: name.lower() for number, name in labels.names}


def _bids_title(root: Path) -> str:
    description = root / "dataset_description.json"
    try:
        return str(json.loads(description.read_text(encoding="utf-8"))["Name"])
    except (OSError, ValueError, KeyError, TypeError):
        return root.name


def _bids_labels(path: Path) -> Labels | None:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    try:
        names = {row["name"]: int(row["index"]) for row in rows}
    except (KeyError, TypeError, ValueError) as error:
        msg = f"{path}: expected a table with the columns index and name ({error}); correct it"
        raise InputError(msg) from error
    return _labels({"background": 0, **names}, None)
