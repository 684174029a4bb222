"""What the layouts of all data sets share: the search through folders, the Decathlon, labels, names, messages."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from custom_nets.datasets.modalities import MODALITIES, role_of
from custom_nets.datasets.validation import Item
from custom_nets.errors import MAX_NAMED, InputError, first_names
from custom_nets.io.nifti import SUFFIXES, is_nifti, stem, where

Labels = Literal["required", "optional", "ignore"]
Folders = dict[Path, list[Path]]
"""The NIfTI files of each folder that holds files of any sort."""

Kind = Literal["brats", "lits"]
"""A kind of data, by the name of its data lists."""

BUNDLES: dict[Kind, str] = {
    "brats": "brain data is for the bundles ossnet_brats and nvnet_brats",
    "lits": "liver data is for the bundle ossnet_lits",
}
"""What messages say about data of the other kind."""

SKIPPED = ("__MACOSX", "labels", "labelsTr", "labelsTs")
"""Folders never searched: macOS's companions, and labels (of MONAI Label, of the Decathlon), found by their images."""

LITS_NAME = re.compile(r"(?P<test>test-)?(?P<role>volume|segmentation)-(?P<number>\d+)", re.IGNORECASE)
"""How LiTS 2017 names its files, without suffix."""

_DECATHLON_NAMES: dict[Kind, str] = {"brats": r"BRATS_\d+", "lits": r"liver_\d+"}


class Layout(NamedTuple):
    """One way in which data sets lie on the disk.

    Args:
        name: how messages call it.
        looks_like: what is looked for.
        find: gives the items among the folders searched.
    """

    name: str
    looks_like: str
    find: Callable[[Folders, Labels], list[Item]]


class Layouts(NamedTuple):
    """The layouts of one kind of data.

    Args:
        kind: the kind.
        organ: how messages call it.
        known: the published layouts; at most one of them may be there.
        loose: tried when none of them is.
        max_depth: folders searched below the one given.
    """

    kind: Kind
    organ: str
    known: tuple[Layout, ...]
    loose: Layout
    max_depth: int

    def looked_for(self) -> str:
        """Returns what a message says was looked for."""
        return "; or ".join(layout.looks_like for layout in (*self.known, self.loose))


def dataset_root(dataset_dir: str | os.PathLike) -> Path:
    """Returns the absolute path of what a user gave; links in it are kept."""
    return Path(os.path.abspath(Path(dataset_dir).expanduser()))


def check_labels_option(labels: str) -> None:
    """Checks the argument `labels` of a data list.

    Raises:
        InputError: when it is none of `Labels`.
    """
    if labels not in get_args(Labels):
        msg = f"labels={labels!r} is unknown; expected one of {', '.join(get_args(Labels))}"
        raise InputError(msg)


def require_nifti(path: Path, advice: str = "give one of these") -> None:
    """Checks that a file given in place of a folder is NIfTI, by its name.

    Raises:
        InputError: when it is not.
    """
    if not is_nifti(path):
        msg = f"{path}: expected a folder or a NIfTI file (.nii.gz, .nii), and this is neither; {advice}"
        raise InputError(msg)


def search_layouts(root: Path, labels: Labels, layouts: Layouts) -> list[Item]:
    """Finds the cases in a folder, by the first layouts that give any.

    Raises:
        InputError: when there is no such folder, or not exactly one layout is recognised.
    """
    folders = search_folders(root, layouts.max_depth)
    found = {layout.name: items for layout in layouts.known if (items := layout.find(folders, labels))}
    if len(found) > 1:
        counts = " and ".join(f"{len(items)} cases of {name}" for name, items in found.items())
        msg = f"{root}: holds {counts}; give the folder of one of them"
        raise InputError(msg)
    items = next(iter(found.values()), []) or layouts.loose.find(folders, labels)
    if not items:
        hint = "".join(f"{BUNDLES[kind]}; " for kind in kinds_by_name(folders) - {layouts.kind})
        msg = (
            f"{root}: no {layouts.organ} data set recognised; looked for {layouts.looked_for()}; "
            f"found {listing(root)}; {hint}check dataset_dir"
        )
        raise InputError(msg)
    return items


def search_folders(root: Path, max_depth: int) -> Folders:
    """Returns the NIfTI files of each folder; of a file there packed and unpacked, the packed one.

    Raises:
        InputError: when there is no such folder.
    """
    if not root.is_dir():
        above = next(folder for folder in root.parents if folder.is_dir())
        msg = f"{root}: there is no such folder; {above} exists and holds {listing(above)}; check dataset_dir"
        raise InputError(msg)
    folders: Folders = {}
    for place, below, names in os.walk(root, followlinks=True):
        folder = Path(place)
        depth = len(folder.relative_to(root).parts)
        below[:] = sorted(n for n in below if n not in SKIPPED and n[0] != ".") if depth < max_depth else []
        packed_last = sorted(filter(is_nifti, names), key=lambda name: name.lower().endswith(SUFFIXES[0]))
        files = {stem(name): folder / name for name in packed_last}
        if names:
            folders[folder] = [files[name] for name in sorted(files)]
    return folders


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


def kinds_by_name(folders: Folders) -> set[Kind]:
    """Returns the kinds of data that file names tell."""
    files = [file for found in folders.values() for file in found]
    names = [stem(file) for file in files]
    kinds = {kind for kind, pattern in _DECATHLON_NAMES.items() if any(re.fullmatch(pattern, name) for name in names)}
    if any(role_of(file) in MODALITIES for file in files):
        kinds.add("brats")
    if any(LITS_NAME.fullmatch(name) for name in names):
        kinds.add("lits")
    return kinds


def decathlon_folders(folders: Folders, labels: Labels) -> list[Path]:
    """Returns the Decathlon's folders of images; those without labels only where labels are not required."""
    training, unlabelled = (
        [folder for folder in folders if folder.name == name and folders[folder]] for name in ("imagesTr", "imagesTs")
    )
    return training if training and labels == "required" else training + unlabelled


def decathlon_label(image: Path) -> list[Path]:
    """Returns the label of a file in imagesTr, if there is one."""
    if image.parent.name != "imagesTr":
        return []
    names = (image.parent.with_name("labelsTr") / (stem(image) + suffix) for suffix in SUFFIXES)
    return [name for name in names if name.is_file()][:1]


def decathlon_channels(description: Path) -> list[str]:
    """Returns the channels that dataset.json lists; none where it is absent or lists none.

    Raises:
        InputError: when the file is damaged.
    """
    if not description.is_file():
        return []
    try:
        content = json.loads(description.read_text(encoding="utf-8"))
        channels: Any = content.get("modality") or content.get("channel_names") or {}
        return [str(channels[number]) for number in sorted(channels, key=int)]
    except (OSError, ValueError, AttributeError, TypeError) as error:
        msg = f"{description}: not a readable dataset.json ({error}); download or unpack the data set again"
        raise InputError(msg) from error


def require_labels(items: Sequence[Item], root: Path, expected: str) -> None:
    """Checks that every case has a label.

    Args:
        items: the cases.
        root: where they were found.
        expected: where labels are looked for, for the message.

    Raises:
        InputError: naming the first cases without one.
    """
    unlabelled = [item["case"] for item in items if "label" not in item]
    if unlabelled:
        msg = (
            f"{root}: {len(unlabelled)} of {len(items)} cases have no label: {first_names(unlabelled)}; "
            f"expected {expected}: "
            "give the folder of the training cases, add the labels, or list with labels='optional'"
        )
        raise InputError(msg)


def with_unique_cases(items: Sequence[Item]) -> list[Item]:
    """Names cases after their folders where files of several cases bear one name.

    Raises:
        InputError: when a case is there twice all the same.
    """
    count = Counter(item["case"] for item in items)
    for item in items:
        if count[item["case"]] > 1 and not isinstance(item["image"], str):
            item["case"] = Path(item["image"][0]).parent.name
    seen: dict[str, Item] = {}
    for item in items:
        other = seen.setdefault(item["case"], item)
        if other is not item:
            first, second = (i["image"] if isinstance(i["image"], str) else i["image"][0] for i in (other, item))
            place = where(item["case"], second)
            msg = f"{place}: the case is there twice, also as {first}; give a folder with one copy"
            raise InputError(msg)
    return list(items)
