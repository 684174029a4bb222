"""Recognition: which data set lies in a folder, by the names of its files, then by what they hold."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from custom_nets.datasets import foreign, layouts
from custom_nets.datasets.layouts import LAYOUTS, Folders, FoundCase, listing, search_folders
from custom_nets.datasets.names import case_of_files, known_ends, role_of, split_end
from custom_nets.datasets.record import Record, get_record, shipped_records
from custom_nets.errors import InputError, first_names
from custom_nets.io.nifti import is_nifti, read_header, read_voxels, stem

logger = logging.getLogger(__name__)

_IMAGE_FOLDERS = ("imagesTr", "imagesTs")
_LABEL_WORDS = ("seg", "segmentation", "label", "mask", "dseg")


class Recognised(NamedTuple):
    """Cases of one data set.

    Args:
        record: of the data set; None for files of any name, of which nothing is known.
        cases: found.
        reason: what told the data set, for `custom-nets check`.
    """

    record: Record | None
    cases: list[FoundCase]
    reason: str

    @property
    def line(self) -> str:
        """What was found, in one line."""
        name = f"{self.record.title} ({self.record.name})" if self.record else "of an unknown data set"
        count = f"{len(self.cases)} case{'s' * (len(self.cases) != 1)}"
        return f"{count}: {name}; recognised by: {self.reason}"


def recognise(
    dataset_dir: str | os.PathLike | Sequence[str],
    dataset: str | os.PathLike | None = None,
    modalities: Sequence[str] | None = None,
) -> list[Recognised]:
    """Finds the cases in a folder and tells which data sets they are of.

    Args:
        dataset_dir: a folder, or one NIfTI file; or several of these, as if nothing else were there.
        dataset: name or file of a record; then nothing is guessed. None recognises the data set by file names, then by
            what the files hold.
        modalities: channels that a model sees, by which files of any name are judged; None: unknown.

    Returns:
        The cases by data set; several records only where they have the same layout, such as different BraTS tasks.

    Raises:
        InputError: when nothing is recognised, or more than one thing; the message tells what was seen, which records
            come near, and what to do.
    """
    if not isinstance(dataset_dir, (str, os.PathLike)):
        if len(dataset_dir) != 1:
            return _recognise_several([_absolute(path) for path in dataset_dir], dataset, modalities)
        dataset_dir = dataset_dir[0]
    root = _absolute(dataset_dir)
    if not root.is_file():
        return _recognise(root, search_folders(root), dataset, modalities)
    if not is_nifti(root):
        advice = "give one of these, of a DICOM series its folder"
        msg = f"{root}: expected a folder or a NIfTI file (.nii.gz, .nii), and this is neither; {advice}"
        raise InputError(msg)
    beside = layouts.nifti_files([*root.parent.iterdir(), root])
    folders = {root.parent: beside if root in beside else [root]}
    found = [
        entry._replace(cases=[case for case in entry.cases if case.image == root])
        for entry in _recognise(root, folders, dataset, modalities, single=root)
    ]
    if not any(entry.cases for entry in found):
        _refuse_part(root)
        msg = f"{root}: is not the image of a case; give its folder, {root.parent}"
        raise InputError(msg)
    return [entry for entry in found if entry.cases]


def _absolute(path: str | os.PathLike) -> Path:
    return Path(os.path.abspath(Path(path).expanduser()))


def _recognise_several(
    paths: Sequence[Path], dataset: str | os.PathLike | None, modalities: Sequence[str] | None
) -> list[Recognised]:
    """Finds the cases among some folders and files; one file a channel, whose names tell nothing, in their order."""
    folders: Folders = defaultdict(list)
    for path in paths:
        if path.is_file() and not is_nifti(path):
            msg = f"{path}: expected a folder or a NIfTI file (.nii.gz, .nii), and this is neither; give one of these"
            raise InputError(msg)
        for folder, files in ({path.parent: [path]} if path.is_file() else search_folders(path)).items():
            folders[folder] += [file for file in files if file not in folders[folder]]
    root = Path(os.path.commonpath([path.parent for path in paths]))
    wanted = tuple(modalities or ())
    try:
        found = _recognise(root, dict(folders), dataset, modalities)
        return [entry._replace(cases=[case for case in entry.cases if _is_among(case, paths)]) for entry in found]
    except InputError:
        if len(paths) != len(wanted) or not all(path.is_file() for path in paths) or any(map(_explained, paths)):
            raise
    reason = f"{len(paths)} files, taken in their order for {', '.join(wanted)}: their names do not tell"
    image = {name: [path] for name, path in zip(wanted, paths, strict=True)}
    return [Recognised(None, [FoundCase(case_of_files(paths), image, [], wanted)], reason)]


def _is_among(case: FoundCase, paths: Sequence[Path]) -> bool:
    """Returns whether a case has files, or a place among some paths: a lost case beside them is none of theirs."""
    return bool(case.files or case.label) or any((case.place or Path()).is_relative_to(path) for path in paths)


def _recognise(
    root: Path,
    folders: Folders,
    dataset: str | os.PathLike | None,
    modalities: Sequence[str] | None,
    single: Path | None = None,
) -> list[Recognised]:
    if dataset is not None:
        return [_by_record(root, folders, get_record(dataset))]
    if single is not None:
        _refuse_part(single)
    ways = (_image_folders, _bids, _case_folders, _pairs, _dicom)
    found = [entries for way in ways if (entries := way(folders))]
    if len(found) > 1:
        counts = " and ".join(
            f"{sum(len(entry.cases) for entry in entries)} cases of {_titles(entries)}" for entries in found
        )
        msg = f"{root}: holds {counts}; give the folder of one of them"
        raise InputError(msg)
    if found:
        return found[0]
    loose = _loose(folders, modalities, single)
    if not loose:
        fitting = [r for r in shipped_records() if not modalities or set(modalities) <= set(r.channel_names)]
        looked = "; or ".join(sorted({LAYOUTS[way].looks_like(r) for r in fitting for way in r.layouts}))
        there = listing(root if root.is_dir() else root.parent)
        msg = (
            f"{root}: no data set recognised; looked for {looked or 'files of these channels'}; found {there}; check "
            "dataset_dir, or name the data set (--dataset NAME, or a FILE that describes it)"
        )
        raise InputError(msg)
    return loose


def _by_record(root: Path, folders: Folders, record: Record) -> Recognised:
    """Finds the cases of the record that the user names; nothing is guessed."""
    for layout in record.layouts:
        cases = LAYOUTS[layout].find(record, folders)
        if layout == "files":
            cases = [case for case in cases if not _is_label(case.image)]
        if cases:
            return Recognised(record, cases, f"named '{record.name}'; {LAYOUTS[layout].looks_like(record)}")
    looked = "; or ".join(LAYOUTS[layout].looks_like(record) for layout in record.layouts)
    msg = (
        f"{root}: no case of the data set '{record.name}' ({record.title}); looked for {looked}; "
        f"found {listing(root if root.is_dir() else root.parent)}; check dataset_dir, or name another one (--dataset)"
    )
    raise InputError(msg)


def _image_folders(folders: Folders) -> list[Recognised]:
    """Recognises the Decathlon's and nnU-Net's folders of images, by the dataset.json beside them or by case names."""
    by_record: dict[Record, list[FoundCase]] = defaultdict(list)
    reasons: dict[Record, str] = {}
    for folder, files in ((f, fs) for f, fs in folders.items() if f.name in _IMAGE_FOLDERS and fs):
        part: Folders = {folder: files}
        case = _first_case(part)
        description = foreign.find_dataset_json(folder)
        if description:
            told = foreign.dataset_json_record(foreign.read_dataset_json(description), description)
            record = foreign.shipped_like(told, case) or told
            reasons[record] = f"{description} names the channels {', '.join(told.channel_names)}"
        else:
            knowing = [r for r in shipped_records() if r.knows(case) and {"decathlon", "nnunet"} & set(r.layouts)]
            if not knowing:
                msg = (
                    f"{folder}: there is no dataset.json beside it that names the channels, and no data set has cases "
                    f"such as {case}; give the file, or name the data set (--dataset NAME, or a FILE that describes it)"
                )
                raise InputError(msg)
            record = knowing[0]
            reasons[record] = f"names of cases such as {case} in {folder.name}"
        by_record[record] += layouts.decathlon(record, part) or layouts.nnunet(record, part)
    return [Recognised(record, cases, reasons[record]) for record, cases in by_record.items()]


def _first_case(folders: Folders) -> str:
    dummy = shipped_records()[0]
    cases = layouts.decathlon(dummy, folders) or layouts.nnunet(dummy, folders)
    return cases[0].case


def _bids(folders: Folders) -> list[Recognised]:
    roots = {
        folder.parents[depth]
        for folder in folders
        if _is_bids(folder) and "derivatives" not in folder.parts
        for depth, part in enumerate(folder.parent.parts[::-1])
        if part.startswith("sub-")
    }
    found = []
    for root in sorted(roots):
        record = get_record(root.parent if root.name.startswith("sub-") else root)
        cases = layouts.bids(record, folders)
        if cases:
            found.append(Recognised(record, cases, f"subjects as in BIDS; channels {', '.join(record.channel_names)}"))
    return found[:1]


def _case_folders(folders: Folders) -> list[Recognised]:
    """Recognises folders with a file a channel: by the names of the cases, else by the endings of their files."""
    records = [record for record in shipped_records() if "case_folders" in record.layouts]
    # There a file `<case>_t1` may well be the only one of its case.
    folders = {
        folder: files for folder, files in folders.items() if folder.name not in _IMAGE_FOLDERS and not _is_bids(folder)
    }
    fitting: dict[tuple[str, ...], list[tuple[Record, FoundCase]]] = defaultdict(list)
    for record in records:
        for case in layouts.case_folders(record, folders):
            fitting[_place(case)].append((record, case))
    by_records: dict[tuple[Record, ...], list[list[tuple[Record, FoundCase]]]] = defaultdict(list)
    for readings in _without_overlap(fitting):
        options = [(record, case) for record, case in readings if case.files] or readings
        known = [(record, case) for record, case in options if record.knows(case.case)]
        others = [(record, case) for record, case in options if record.others]
        best = known or _fullest(others)
        if best:
            by_records[tuple(record for record, _ in best)].append(best)
    found: dict[Record, list[FoundCase]] = defaultdict(list)
    for candidates, cases in by_records.items():
        chosen = candidates[0] if len(candidates) == 1 else _by_numbers(candidates, [best[0][1] for best in cases])
        found[chosen] += [case for best in cases for record, case in best if record is chosen]
    return [
        Recognised(record, cases, f"case folders with files that end with {', '.join(record.ends)}")
        for record, cases in found.items()
    ]


def _is_bids(folder: Path) -> bool:
    return folder.name == "anat" and any(part.startswith("sub-") for part in folder.parts)


def _place(case: FoundCase) -> tuple[str, ...]:
    return (str(case.files[0].parent if case.files else case.place), case.case)


def _without_overlap(
    fitting: dict[tuple[str, ...], list[tuple[Record, FoundCase]]],
) -> Iterable[list[tuple[Record, FoundCase]]]:
    """Gives the readings of each case; of those that share files, the one that explains most."""
    taken: dict[Path, tuple[str, ...]] = {}
    for place, options in sorted(fitting.items(), key=lambda pair: -max(len(case.files) for _, case in pair[1])):
        files = {file for _, case in options for file in case.files}
        if not files & taken.keys():
            taken.update(dict.fromkeys(files, place))
            yield options


def _fullest(options: Sequence[tuple[Record, FoundCase]]) -> list[tuple[Record, FoundCase]]:
    """Returns the reading that explains most channels, of equals the one whose own spelling the files have."""

    def explained(option: tuple[Record, FoundCase]) -> tuple[int, int]:
        record, case = option
        first = {channel.ends[0].lower() for channel in record.channels if channel.ends}
        own = [file for file in case.files if split_end(stem(file), record.ends)[1] in first]
        return len(case.image) if isinstance(case.image, dict) else 0, len(own)

    return [max(options, key=explained)] if options else []


def _by_numbers(candidates: Sequence[Record], cases: Sequence[FoundCase]) -> Record:
    """Tells records whose case names are alike by the numbers in the label maps.

    Raises:
        InputError: when the numbers fit several.
    """
    numbers: set[int] = set()
    for case in cases:
        for file in case.label[:1]:
            try:
                numbers |= set(np.unique(read_voxels(file, case.case)).astype(int).tolist())
            except InputError:
                continue  # the check of the case says what is wrong with it
    fitting = [record for record in candidates if record.labels and numbers <= set(record.labels.known)]
    if len(fitting) == 1:
        return fitting[0]
    seen = f"label numbers {', '.join(map(str, sorted(numbers)))}" if numbers else "no label"
    names = first_names([case.case for case in cases])
    options = "; ".join(f"{record.name}: {record.title}, {_numbered(record)}" for record in fitting or candidates)
    msg = (
        f"cases {names}: more than one data set has such names ({seen} found): {options}; "
        f"name the right one, such as --dataset {(fitting or candidates)[0].name}"
    )
    raise InputError(msg)


def _numbered(record: Record) -> str:
    names = record.labels.names if record.labels else ()
    return " ".join(f"{number}={name}" for number, name in names)


def _pairs(folders: Folders) -> list[Recognised]:
    found = []
    for record in shipped_records():
        cases = layouts.pairs(record, folders) if "pairs" in record.layouts else []
        if any(isinstance(case.image, Path) and case.image.exists() for case in cases):
            found.append(Recognised(record, cases, f"names as {LAYOUTS['pairs'].looks_like(record)}"))
    return found


def _dicom(folders: Folders) -> list[Recognised]:
    for record in shipped_records():
        cases = layouts.dicom(record, folders) if "dicom" in record.layouts else []
        if cases:
            return [Recognised(record, cases, "folders with files of DICOM series")]
    return []


def _loose(folders: Folders, modalities: Sequence[str] | None, single: Path | None) -> list[Recognised]:
    """Takes files whose names say nothing for cases, when one of them has as many channels as the model sees."""
    unknown = {f: [file for file in files if not _explained(file)] for f, files in folders.items()}
    files = [file for found in unknown.values() for file in found]
    wanted = len(modalities) if modalities else None
    counts = [count for file in files if (count := _count_channels(file)) is not None]
    agreeing = wanted in counts if wanted else bool(counts)
    if not files or (counts and not agreeing and single is None):
        return []
    cases = [FoundCase(stem(file), file, []) for file in files]
    if wanted is None:
        seen = f"files of {Counter(counts).most_common(1)[0][0]} channel(s)" if counts else "files"
        return [Recognised(None, cases, f"{seen}, whose names say nothing of a data set")]
    channels = ", ".join(modalities or ())
    reason = f"files of {wanted} channel(s), taken for {channels}: their names say nothing else"
    by_record: dict[Record | None, list[FoundCase]] = defaultdict(list)
    for case in cases:
        by_record[_record_of_loose(case.case, modalities or ())].append(case)
    return [Recognised(record, found, reason) for record, found in by_record.items()]


def _record_of_loose(case: str, modalities: Sequence[str]) -> Record | None:
    """Returns the record that knows a case by its name, else the one for files of any name with these channels."""
    fitting = [record for record in shipped_records() if list(record.channel_names) == list(modalities)]
    knowing = [record for record in fitting if record.knows(case)]
    return next(iter(knowing or [r for r in fitting if "files" in r.layouts and not r.cases]), None)


def _explained(file: Path) -> bool:
    """Returns whether a file's name says that it is a channel of a case, or a label."""
    return bool(split_end(stem(file), known_ends())[1]) or _is_label(file)


def _is_label(file: object) -> bool:
    """Returns whether a file's name says that it is a label."""
    if not isinstance(file, Path):
        return False
    labels = (label for record in shipped_records() for _, label in record.pairs)
    return bool(split_end(stem(file), _LABEL_WORDS)[1]) or any(re.fullmatch(name, stem(file)) for name in labels)


def _count_channels(file: Path) -> int | None:
    try:
        shape = read_header(file, stem(file)).shape
    except InputError:
        return None  # the check of the case says what is wrong with it
    return int(np.prod(shape[3:])) if len(shape) > 3 else 1


def _refuse_part(file: Path) -> None:
    """Refuses a file whose name says that it is one channel of a case, or a label.

    Raises:
        InputError: then.
    """
    readings = (role_of(file, record) for record in shipped_records() if "case_folders" in record.layouts)
    roles = [role for role in readings if role]
    if roles and roles[0] != "label":
        msg = f"{file}: this is the {roles[0]} file of a case alone; give the case's folder, {file.parent}"
        raise InputError(msg)
    if roles or _is_label(file):
        msg = f"{file}: this is the label of a case; give its volume, or the folder {file.parent}"
        raise InputError(msg)


def _titles(entries: Sequence[Recognised]) -> str:
    return ", ".join(entry.record.title if entry.record else "an unknown data set" for entry in entries)
