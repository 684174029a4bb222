"""Ways in which data sets lie on the disk: each finds the cases of a record among the folders searched."""

from __future__ import annotations

import logging
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from custom_nets.datasets import foreign
from custom_nets.datasets.names import role_of, roles, split_end
from custom_nets.datasets.record import Record
from custom_nets.errors import MAX_NAMED, InputError
from custom_nets.io.nifti import SUFFIXES, is_nifti, stem

logger = logging.getLogger(__name__)

Folders = dict[Path, list[Path]]
"""The NIfTI files of each folder that holds files of any sort."""

SKIPPED = ("__MACOSX", "labels", "labelsTr", "labelsTs")
"""Folders never searched: macOS's companions, and labels (of MONAI Label, of the Decathlon), found by their images."""

MAX_DEPTH = 7
"""Folders searched below the one given: the archives of LiTS hold `media/nas/01_Datasets/CT/LITS/Training Batch 1`."""

_NUMBERED = re.compile(r"(?P<case>.+)_(?P<number>\d{4})")


class FoundCase(NamedTuple):
    """A case as it lies on the disk.

    Args:
        case: its name.
        image: one file or DICOM folder, or the files of each channel.
        label: label files; more than one is a fault.
        channels: names of the channels, where the data set tells them and not the ends of file names.
        place: its folder, of a case without files.
    """

    case: str
    image: Path | dict[str, list[Path]]
    label: list[Path]
    channels: tuple[str, ...] = ()
    place: Path | None = None

    @property
    def files(self) -> list[Path]:
        """All files of the image."""
        image = self.image
        return [image] if isinstance(image, Path) else [file for files in image.values() for file in files]


def search_folders(root: Path, max_depth: int = MAX_DEPTH) -> Folders:
    """Returns the NIfTI files of each folder, once where links lead to it again.

    Of a file there packed and unpacked, the packed one.

    Raises:
        InputError: when there is no such folder.
    """
    if not root.is_dir():
        above = next(folder for folder in root.parents if folder.is_dir())
        msg = f"{root}: there is no such folder; {above} exists and holds {listing(above)}; check dataset_dir"
        raise InputError(msg)
    folders: Folders = {}
    seen: set[str] = set()
    for place, below, names in os.walk(root, followlinks=True):
        folder = Path(place)
        depth = len(folder.relative_to(root).parts)
        skipped = () if folder.name == "derivatives" else SKIPPED  # where BIDS has labels, in a folder of any name
        below[:] = sorted(n for n in below if n not in skipped and n[0] != ".") if depth < max_depth else []
        below.sort(key=lambda name: (folder / name).is_symlink())
        real = os.path.realpath(place)
        if real in seen:  # by a link, a case would be there twice
            below.clear()
            continue
        seen.add(real)
        if names:
            folders[folder] = nifti_files(folder / name for name in names)
    return folders


def nifti_files(files: Iterable[Path]) -> list[Path]:
    """Returns the NIfTI files among some of one folder, sorted; of a file there packed and unpacked, the packed one."""
    packed_last = sorted(filter(is_nifti, files), key=lambda file: file.name.lower().endswith(SUFFIXES[0]))
    by_stem = {stem(file): file for file in packed_last}
    return [by_stem[name] for name in sorted(by_stem)]


def listing(folder: Path) -> str:
    """Returns the first entries of a folder, for a message."""
    try:
        names = sorted(
            entry.name + "/" * entry.is_dir() for entry in folder.iterdir() if not entry.name.startswith(".")
        )
    except OSError as error:
        return f"what cannot be listed ({error.strerror})"
    packed = any(name.endswith((".zip", ".tar", ".tar.gz", ".tgz", ".7z")) for name in names)
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return (", ".join(names[:MAX_NAMED]) or "nothing") + more + (" (unpack the archive)" if packed else "")


def case_folders(record: Record, folders: Folders) -> list[FoundCase]:
    """Finds folders with a file a channel, `<case>_<end>.nii.gz`; a folder may hold the files of several cases.

    Labels lie beside the images, or in folders without images, by the name of the case.
    """
    found = []
    elsewhere = {
        file: split_end(stem(file), record.label_ends)
        for files in folders.values()
        if not any(role_of(file, record) in record.channel_names for file in files)
        for file in files
    }
    for folder, files in folders.items():
        images = [file for file in files if role_of(file, record) in record.channel_names]
        labels = [file for file in files if role_of(file, record) == "label"]
        for case, own in _by_case(images, record).items():
            mine = (
                labels
                if len(own) == len(images)
                else [f for f in labels if split_end(stem(f), record.label_ends)[0] == case]
            )
            image: dict[str, list[Path]] = defaultdict(list)
            for file in own:
                image[str(role_of(file, record))].append(file)
            name = case or folder.absolute().name
            for end in record.label_ends if not mine else ():
                mine = [file for file, told in elsewhere.items() if told == (name, end.lower())]
                if mine:
                    break
            found.append(FoundCase(name, dict(image), mine))
    return [*found, *_without_files(record, found, Path(os.path.commonpath(folders)) if folders else Path())]


def decathlon(record: Record, folders: Folders) -> list[FoundCase]:
    """Finds `imagesTr/<case>.nii.gz` and `imagesTs`, one file a case, with labels of the same names in `labelsTr`."""
    found = []
    for folder, files in _image_folders(folders):
        if _is_numbered(files):
            continue
        names = _told_channels(folder) or record.channel_names
        found += [FoundCase(stem(file), file, _label_beside(folder, stem(file)), names) for file in files]
        found += _without_image(folder, {stem(file) for file in files})
    return found


def nnunet(record: Record, folders: Folders) -> list[FoundCase]:
    """Finds `imagesTr/<case>_0000.nii.gz` and so on, a file a channel, with labels `labelsTr/<case>.nii.gz`."""
    found = []
    for folder, files in _image_folders(folders):
        if not _is_numbered(files):
            continue
        names = _told_channels(folder) or record.channel_names
        cases: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
        for file in files:
            match = _NUMBERED.fullmatch(stem(file))
            case, number = (match["case"], int(match["number"])) if match else (stem(file), len(names))
            cases[case][names[number] if number < len(names) else f"number {number:04}"].append(file)
        for case, image in cases.items():
            single = len(names) == 1 and list(image) == [names[0]]
            found.append(
                FoundCase(case, image[names[0]][0] if single else dict(image), _label_beside(folder, case), names)
            )
        found += _without_image(folder, set(cases))
    return found


def bids(record: Record, folders: Folders) -> list[FoundCase]:
    """Finds `sub-<label>/[ses-<label>/]anat/` of BIDS, with labels below `derivatives`; a session is a case."""
    cases: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    labels: dict[str, list[Path]] = defaultdict(list)
    ends = (*record.label_ends, *(end for end in foreign.BIDS_LABELS if end not in record.label_ends))
    for folder, files in folders.items():
        for file in files if folder.name == "anat" else ():
            name = stem(file)
            channel = record.channel(foreign.bids_channel(name))
            if "derivatives" in folder.parts:
                if name.rsplit("_", 1)[-1].lower() in ends:
                    labels[foreign.bids_case(name)].append(file)
            elif channel and foreign.bids_case(name):
                cases[foreign.bids_case(name)][channel].append(file)
    return [
        FoundCase(case, _single(image), _preferred(labels.get(case, []), ends), record.channel_names)
        for case, image in cases.items()
    ]


def pairs(record: Record, folders: Folders) -> list[FoundCase]:
    """Finds images and label files by the patterns of their names; they may lie in different folders.

    A pattern with slashes is one of the folders above as well: `images/(?P<id>.+)` and `labels/(?P<id>.+)`.
    """
    found = []
    for image_name, label_name in record.pairs:
        images, labels = (_matching(pattern, folders) for pattern in (image_name, label_name))
        for key, files in images.items():
            for file in files:
                label = labels.get(key) or _beside(file, image_name, _paired(key, label_name))
                found.append(FoundCase(stem(file), file, [f for f in label if f.parent == file.parent] or label))
        for key, files in labels.items():
            for file in files if key not in images else ():  # listed as a case, its check names it
                above = file.parents[label_name.count("/")]
                image = above / (_paired(key, image_name) + file.name[len(stem(file)) :])
                found.append(FoundCase(stem(image), image, [file]))
    return found


def dicom(record: Record, folders: Folders) -> list[FoundCase]:
    """Finds folders that hold the files of a DICOM series each.

    Raises:
        InputError: when several folders are series of one study.
    """
    from custom_nets.io.dicom import holds_ct, is_dicom_folder, study_of

    every = [folder for folder in folders if is_dicom_folder(folder)]
    series = [folder for folder in every if holds_ct(folder)] if len(every) > 1 else every
    if 0 < len(series) < len(every):
        logger.warning("takes %d DICOM folders with CT, passes over %d others", len(series), len(every) - len(series))
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
    names = [folder.name for folder in series]
    above = os.path.commonpath(series) if series else ""
    unique = [
        n if names.count(n) == 1 else "-".join(f.relative_to(above).parts) for n, f in zip(names, series, strict=True)
    ]
    return [FoundCase(name, folder, []) for name, folder in zip(unique, series, strict=True)]


def loose_files(record: Record, folders: Folders) -> list[FoundCase]:
    """Takes every file whose name no record explains for a case of its own, whatever it is called; without labels."""
    return [FoundCase(stem(file), file, []) for found in folders.values() for file in found]


class Layout(NamedTuple):
    """One way in which data sets lie on the disk.

    Args:
        find: gives the cases of a record.
        looks_like: describes what is looked for, for messages.
    """

    find: Callable[[Record, Folders], list[FoundCase]]
    looks_like: Callable[[Record], str]


LAYOUTS: dict[str, Layout] = {
    "case_folders": Layout(case_folders, lambda record: f"case folders with <case>_{{{_ends(record)}}}.nii.gz"),
    "decathlon": Layout(decathlon, lambda record: f"imagesTr/{_example(record)}.nii.gz with labelsTr (Decathlon)"),
    "nnunet": Layout(nnunet, lambda record: f"imagesTr/{_example(record)}_0000.nii.gz with labelsTr (nnU-Net)"),
    "bids": Layout(bids, lambda record: "sub-<label>/anat/ with labels in derivatives (BIDS)"),
    "pairs": Layout(pairs, lambda record: " and ".join(_readable(name) for name in record.pairs[0])),
    "dicom": Layout(dicom, lambda record: "folders with one DICOM series each"),
    "files": Layout(loose_files, lambda record: f"files <case>.nii.gz of {len(record.channels)} channel(s)"),
}
"""All layouts, by the names that records use."""


def _by_case(images: Sequence[Path], record: Record) -> dict[str, list[Path]]:
    """Groups the image files of a folder by case; they are one case unless each name has several channels."""
    groups: dict[str, list[Path]] = defaultdict(list)
    for file in images:
        groups[split_end(stem(file), roles(record))[0]].append(file)
    if len(groups) > 1 and min(map(len, groups.values())) < 2:
        most = max(groups, key=lambda case: len(groups[case]))
        return {most: list(images)}  # its check names the file that is of another case
    return dict(groups)


def _without_files(record: Record, found: Sequence[FoundCase], searched: Path) -> list[FoundCase]:
    """Returns folders beside those of cases, named as cases of the record, in which no image lies: lost cases.

    Of the folder of one case alone, what lies beside it is not looked at.
    """
    holding = {above for case in found for file in case.files for above in file.parents}
    above_cases = {file.parent.parent for case in found for file in case.files}
    beside = {folder for folder in above_cases if folder.is_relative_to(searched)}
    return [
        FoundCase(folder.name, {}, [], place=folder)
        for above in sorted(beside)
        for folder in sorted(above.iterdir())
        if folder not in holding and record.knows(folder.name) and folder.is_dir()
    ]


def _image_folders(folders: Folders) -> list[tuple[Path, list[Path]]]:
    return [(folder, files) for folder, files in folders.items() if folder.name in ("imagesTr", "imagesTs") and files]


def _is_numbered(files: Sequence[Path]) -> bool:
    """Returns whether files are named as nnU-Net's: all end with a number of a channel, and one is 0000."""
    matches = [_NUMBERED.fullmatch(stem(file)) for file in files]
    return all(matches) and any(match["number"] == "0000" for match in matches if match)


def _told_channels(folder: Path) -> tuple[str, ...]:
    """Returns the channels that the dataset.json beside a folder of images tells, () where there is none."""
    file = foreign.find_dataset_json(folder)
    return foreign.dataset_json_record(foreign.read_dataset_json(file), file).channel_names if file else ()


def _label_beside(folder: Path, case: str) -> list[Path]:
    labels = folder.with_name(folder.name.replace("images", "labels"))
    return [file for suffix in SUFFIXES if (file := labels / (case + suffix)).is_file()][:1]


def _without_image(folder: Path, cases: set[str]) -> list[FoundCase]:
    """Returns the labels whose image is not there as cases, so that their check names them."""
    labels = folder.with_name("labelsTr")
    if folder.name != "imagesTr" or not labels.is_dir():
        return []
    orphans = [file for file in nifti_files(labels.iterdir()) if stem(file) not in cases]
    return [FoundCase(stem(file), folder / file.name, [file]) for file in orphans]


def _single(image: dict[str, list[Path]]) -> Path | dict[str, list[Path]]:
    found = [file for files in image.values() for file in files]
    return found[0] if len(found) == 1 else dict(image)


def _preferred(labels: Sequence[Path], ends: Sequence[str]) -> list[Path]:
    """Returns the label files with the first of the endings that any has."""
    by_end = ([file for file in labels if stem(file).rsplit("_", 1)[-1].lower() == end] for end in ends)
    return next((files for files in by_end if files), [])


def _matching(pattern: str, folders: Folders) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = defaultdict(list)
    parts = pattern.count("/")
    for folder, files in folders.items():
        place = "".join(f"{part}/" for part in folder.parts[len(folder.parts) - parts :])
        for file in files:
            if match := re.fullmatch(pattern, f"{place}{stem(file)}"):
                found[match["id"]].append(file)
    return found


def _beside(image: Path, image_name: str, label: str) -> list[Path]:
    """Returns the label file of an image in a folder that is not searched, such as `labels`."""
    above = image.parents[image_name.count("/")]
    return [file for suffix in SUFFIXES if (file := above / f"{label}{suffix}").is_file()]


def _paired(identity: str, pattern: str) -> str:
    """Returns the name that a pattern gives a file, without suffix."""
    return _readable(pattern).replace("<id>", identity)


def _readable(pattern: str) -> str:
    r"""Returns a pattern of names as text: `(?i:volume)-(?P<id>\d+)` as `volume-<id>`."""
    return re.sub(r"\(\?i:([^()]*)\)", r"\1", re.sub(r"\(\?P<id>[^()]*\)", "<id>", pattern))


def _ends(record: Record) -> str:
    return ",".join(channel.ends[0] for channel in record.channels if channel.ends)


def _example(record: Record) -> str:
    return re.sub(r"\\d[+*]?(\{\d+\})?", "<n>", record.cases) if re.fullmatch(r"[\w\\+{}]+", record.cases) else "<case>"
