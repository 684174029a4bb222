"""Records of data sets: all that the project knows of a release, read from one file of `records/` or of the user."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

from custom_nets.datasets.terms import Term, parse_terms
from custom_nets.errors import InputError, first_names

Kind = Literal["MRI", "CT", "other"]
"""Kind of intensities of a channel."""

FOLDER = Path(__file__).with_name("records")
_SUFFIXES = (".yaml", ".yml", ".json")


@dataclass(frozen=True)
class Channel:
    """One channel of an image.

    Args:
        name: in the terms of the field, such as FLAIR or CT; models ask for channels by it.
        kind: of its intensities.
        ends: what follows the case in the name of its file, `<case>_<end>.nii.gz`, the release's own spelling first;
            also other names of the channel in a `dataset.json`.
    """

    name: str
    kind: Kind = "other"
    ends: tuple[str, ...] = ()


@dataclass(frozen=True)
class Region:
    """One region that a model learns.

    Args:
        name: of the region.
        numbers: label numbers of the voxels inside.
        written: number written for a voxel that is in this region and in none within it.
    """

    name: str
    numbers: tuple[int, ...]
    written: int


@dataclass(frozen=True)
class Labels:
    """The label numbers of a data set and the regions that they make up.

    Args:
        names: what each number but 0 means.
        regions: all regions; one that holds another comes before it.
    """

    names: tuple[tuple[int, str], ...]
    regions: tuple[Region, ...]

    @property
    def known(self) -> tuple[int, ...]:
        """Every number that a label map may hold, ascending."""
        return tuple(sorted({0, *(number for number, _ in self.names)}))

    @property
    def region_names(self) -> tuple[str, ...]:
        """Names of the regions, in their order."""
        return tuple(region.name for region in self.regions)

    @property
    def meanings(self) -> str:
        """What each number but 0 means, for messages."""
        return ", ".join(f"{number} {name}" for number, name in self.names)

    def require_known(self, numbers: Iterable[float], source: str, record: str) -> None:
        """Checks that all numbers of a label map are known.

        Args:
            numbers: that it holds.
            source: how an error names the label map.
            record: name of the record that these labels are of.

        Raises:
            InputError: when one is not.
        """
        unknown = [f"{number:g}" for number in numbers if number not in self.known]
        if unknown:
            msg = (
                f"{source}: label numbers {first_names(unknown)} are not in the record '{record}' (it has 0 "
                f"background, {self.meanings}); name the data set that it comes from (--dataset NAME or FILE)"
            )
            raise InputError(msg)

    def select(self, names: Sequence[str] | None = None) -> tuple[Region, ...]:
        """Returns regions by name, in the order of the names; None takes all.

        Raises:
            InputError: when one is unknown.
        """
        if names is None:
            return self.regions
        by_name = {region.name: region for region in self.regions}
        unknown = [name for name in names if name not in by_name]
        if unknown:
            msg = (
                f"region '{unknown[0]}' is unknown; expected any of {', '.join(by_name)}, or a record (--dataset FILE) "
                f"that says which numbers it holds, with a line such as '{unknown[0]}: [1]' below 'regions' "
                f"(the numbers here: {self.meanings})"
            )
            raise InputError(msg)
        return tuple(by_name[name] for name in names)


@dataclass(frozen=True)
class Challenge:
    """Requirements of the challenge of one year on a submission.

    Args:
        year: of the challenge.
        cases: regular expression of its case names.
        example: such a name, for messages.
        shape: of every label map `(x, y, z)` in voxels; None where that of the input alone counts.
    """

    year: int
    cases: str
    example: str
    shape: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class Lesions:
    """How the challenge of a data set scores lesions one by one, see `compute_lesion_dice`.

    Args:
        dilation: millimetres by which lesions are dilated, so that near ones are one.
        min_ml: millilitres; lesions up to this volume are left out.
    """

    dilation: float = 3.0
    min_ml: float = 0.05


@dataclass(frozen=True)
class Record:
    """All that the project knows of one data set.

    Args:
        name: under which it is found; the file's name, or the path of a user's file.
        title: how messages and tables call it.
        channels: of an image, in the order of files that hold them all.
        labels: numbers and regions; None where there are no labels.
        terms: what regions and labels are in the codes of DICOM; those that it does not name have none.
        layouts: ways in which the data set lies on the disk, names in `custom_nets.datasets.layouts.LAYOUTS`.
        label_ends: what follows the case in the name of a label file, the preferred end first.
        pairs: regular expressions of the names of images and label files that lie beside each other, without suffix,
            each with a group `id` that joins them.
        cases: regular expression of case names, with a group `patient` where a name tells patient and time point.
        others: whether cases with other names, whose files end alike, are taken for this data set, too.
        unlabelled: regular expression of the names of test cases, which are published without labels.
        mirrors: whether left and right may be exchanged without harm (in augmentation).
        stripped: whether its MRI are brains without skull on a background of exactly 0; checks warn of others.
        grid: `(x, y, z)` in voxels, where all cases share one.
        spacing: mm between voxels, likewise.
        challenges: what submissions must be like.
        lesions: how the challenge scores lesions one by one; None where it does not.
        download: name of the Medical Segmentation Decathlon's task.
        licence: of the data.
        citation: what to cite.
        note: anything else a reader should know.
    """

    name: str
    title: str
    channels: tuple[Channel, ...]
    labels: Labels | None
    layouts: tuple[str, ...]
    terms: tuple[Term, ...] = ()
    label_ends: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    cases: str = ""
    others: bool = False
    unlabelled: str = ""
    mirrors: bool = True
    stripped: bool = False
    grid: tuple[int, int, int] | None = None
    spacing: tuple[float, float, float] | None = None
    challenges: tuple[Challenge, ...] = ()
    lesions: Lesions | None = None
    download: str = ""
    licence: str = ""
    citation: str = ""
    note: str = ""

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Names of the channels, in their order."""
        return tuple(channel.name for channel in self.channels)

    @property
    def ends(self) -> dict[str, str]:
        """The channel of each ending of a file name, in lower case."""
        return {end.lower(): channel.name for channel in self.channels for end in channel.ends}

    def knows(self, case: str) -> bool:
        """Returns whether a case has a name of this data set."""
        return bool(self.cases) and re.fullmatch(self.cases, case) is not None

    def patient_of(self, case: str) -> str:
        """Returns the patient of a case: cases of one patient never part."""
        match = re.fullmatch(self.cases, case) if self.cases else None
        return (match.groupdict().get("patient") if match else None) or case

    def channel(self, name: str) -> str | None:
        """Returns the channel that a name means, by itself or by one of its endings; None when there is none."""
        by_name = {channel.name.lower(): channel.name for channel in self.channels}
        return by_name.get(name.lower()) or self.ends.get(name.lower())

    def kind_of(self, channel: str) -> Kind:
        """Returns what the intensities of a channel are, by its name in the record."""
        return next((each.kind for each in self.channels if each.name == channel), "other")

    def require_labels(self) -> Labels:
        """Returns the label numbers.

        Raises:
            InputError: when the record has none.
        """
        if self.labels is None:
            msg = f"data set '{self.name}' has no labels in its record; add 'labels' and 'regions' to it"
            raise InputError(msg)
        return self.labels


@lru_cache(maxsize=1)
def record_names() -> tuple[str, ...]:
    """Returns the names of the records that come with the package, sorted."""
    return tuple(sorted(file.stem for file in FOLDER.glob("*.yaml")))


@lru_cache(maxsize=1)
def shipped_records() -> tuple[Record, ...]:
    """Returns the records that come with the package, sorted by name."""
    return tuple(get_record(name) for name in record_names())


def get_record(dataset: str | os.PathLike) -> Record:
    """Returns the record of a data set.

    Args:
        dataset: name of a record that comes with the package, or a file (.yaml, .json); a `dataset.json` of the
            Decathlon or of nnU-Net, and the folder of a BIDS data set, serve as records, too.

    Raises:
        InputError: when there is no such record, or it has a fault.
    """
    text = os.fspath(dataset)
    if text in record_names():
        return _read(str(FOLDER / f"{text}.yaml"), text)
    path = Path(text).expanduser()
    if (path.suffix.lower() in _SUFFIXES and path.is_file()) or path.is_dir():
        return _read(str(path.absolute()), text)
    near = get_close_matches(text, record_names(), 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    msg = (
        f"dataset '{text}' is unknown: expected {', '.join(record_names())}, or a file that describes the data set "
        f"(.yaml, .json){hint}"
    )
    raise InputError(msg)


@lru_cache(maxsize=64)
def _read(path: str, name: str) -> Record:
    """Reads a record, once in a process."""
    from custom_nets.datasets import foreign

    if os.path.isdir(path):
        return foreign.bids_record(Path(path))
    content = _load(Path(path))
    if foreign.is_dataset_json(content):
        return foreign.dataset_json_record(content, Path(path))
    return parse_record(content, name, path)


def _load(path: Path) -> dict[str, Any]:
    text = path.read_text(encoding="utf-8")
    try:
        if path.suffix.lower() == ".json":
            content = json.loads(text)
        else:
            import yaml

            content = yaml.safe_load(text)
    except ImportError as error:
        msg = f"{path}: reading YAML needs the package PyYAML (pip install pyyaml); or write the record as JSON"
        raise InputError(msg) from error
    except Exception as error:
        reason = " ".join(str(error).split())
        msg = f"{path}: cannot be read as a record of a data set ({reason}); correct the file"
        raise InputError(msg) from error
    if not isinstance(content, dict):
        msg = f"{path}: expected the keys of a record (title, channels, layouts, ...); see one of custom_nets' own"
        raise InputError(msg)
    return content


def parse_record(content: Mapping[str, Any], name: str, place: str = "the record") -> Record:
    """Makes a record of what a file holds.

    Args:
        content: keys as in the files of `records/`.
        name: of the record.
        place: file, for messages.

    Raises:
        InputError: for an unknown or missing key, or a value of the wrong form.
    """
    known = {field.name for field in fields(Record)} - {"name"} | {"regions"}
    for key in content:
        if key not in known:
            near = get_close_matches(str(key), sorted(known), 1)
            hint = f"; did you mean {near[0]}?" if near else f"; expected any of {', '.join(sorted(known))}"
            msg = f"{place}: unknown key '{key}'{hint}"
            raise InputError(msg)
    for key in ("title", "channels", "layouts"):
        if not content.get(key):
            msg = f"{place}: the key '{key}' is missing; every record needs title, channels and layouts"
            raise InputError(msg)
    try:
        record = Record(
            name=name,
            title=str(content["title"]),
            channels=tuple(_channels(content["channels"])),
            labels=_labels(content.get("labels"), content.get("regions")),
            terms=parse_terms(content.get("terms", {})),
            layouts=_texts(content["layouts"]),
            label_ends=_texts(content.get("label_ends", ())),
            pairs=tuple(
                (_name_of_pair(pair["image"]), _name_of_pair(pair["label"])) for pair in content.get("pairs", ())
            ),
            cases=_pattern(content.get("cases", "")),
            others=bool(content.get("others", False)),
            unlabelled=_pattern(content.get("unlabelled", "")),
            mirrors=bool(content.get("mirrors", True)),
            stripped=bool(content.get("stripped", False)),
            grid=_triple(content.get("grid"), int),
            spacing=_triple(content.get("spacing"), float),
            challenges=tuple(_challenge(entry) for entry in content.get("challenges", ())),
            lesions=Lesions(**content["lesions"]) if content.get("lesions") else None,
            download=str(content.get("download", "")),
            licence=str(content.get("licence", "")),
            citation=str(content.get("citation", "")),
            note=str(content.get("note", "")),
        )
    except (TypeError, ValueError, KeyError, AttributeError, re.error) as error:
        reason = f"'{error.args[0]}' is missing" if isinstance(error, KeyError) else error
        reason = f"{error.pattern!r} is no regular expression ({error})" if isinstance(error, re.error) else reason
        msg = f"{place}: {reason}; correct the record"
        raise InputError(msg) from error
    _check_layouts(record, place)
    return record


def _check_layouts(record: Record, place: str) -> None:
    from custom_nets.datasets.layouts import LAYOUTS

    unknown = [layout for layout in record.layouts if layout not in LAYOUTS]
    if unknown:
        msg = f"{place}: layout '{unknown[0]}' is unknown; expected any of {', '.join(LAYOUTS)}"
        raise InputError(msg)


def _texts(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(str(entry) for entry in value)


def _pattern(value: Any) -> str:
    """Returns a regular expression; a list means any of its entries, the groups `patient` of each count."""
    patterns = _texts(value) if value else ()
    for pattern in patterns:
        re.compile(pattern)
    return patterns[0] if len(patterns) == 1 else "|".join(f"(?:{pattern})" for pattern in patterns)


def _name_of_pair(value: Any) -> str:
    """Returns a regular expression whose group `id` joins image and label."""
    pattern = str(value)
    if "id" not in re.compile(pattern).groupindex:
        msg = f"pairs: '{pattern}' has no group (?P<id>...), which joins image and label"
        raise ValueError(msg)
    return pattern


def _number(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        msg = f"label number '{value}' is no whole number"
        raise ValueError(msg) from error


def _triple(value: Any, kind: type) -> Any:
    if value is None:
        return None
    x, y, z = (kind(side) for side in value)
    return x, y, z


def _channels(value: Any) -> Iterator[Channel]:
    for name, entry in value.items():
        entry = entry or {}
        kind = str(entry.get("kind", "other"))
        if kind not in get_args(Kind):
            msg = f"channel {name}: kind '{kind}' is unknown; expected one of {', '.join(get_args(Kind))}"
            raise ValueError(msg)
        yield Channel(str(name), kind, _texts(entry.get("ends", ())))  # type: ignore[arg-type]


def _labels(names: Any, regions: Any) -> Labels | None:
    if not names:
        return None
    numbers = {_number(number): str(name) for number, name in names.items() if _number(number) != 0}
    table = regions or {name: [number] for number, name in numbers.items()}
    return Labels(tuple(sorted(numbers.items())), tuple(_regions(table, numbers)))


def _regions(table: Mapping[str, Any], names: Mapping[int, str]) -> list[Region]:
    """Reads the regions; where none says what it writes, it is the number that lies in it and in none within it."""
    members = {str(name): _numbers(entry) for name, entry in table.items()}
    regions = []
    for (name, numbers), entry in zip(members.items(), table.values(), strict=True):
        unknown = [number for number in numbers if number not in names]
        if unknown or not numbers:
            what = f"number {unknown[0]} is not among the labels" if unknown else "it holds no label number"
            msg = f"region {name}: {what} ({', '.join(map(str, names))})"
            raise ValueError(msg)
        inside = {n for other in members.values() if set(other) < set(numbers) for n in other}
        own = [number for number in numbers if number not in inside]
        written = entry.get("written") if isinstance(entry, Mapping) else None
        regions.append(Region(name, numbers, int(written) if written is not None else (own or list(numbers))[0]))
    return sorted(regions, key=lambda region: -len(region.numbers))


def _numbers(entry: Any) -> tuple[int, ...]:
    listed = entry["numbers"] if isinstance(entry, Mapping) else entry
    return tuple(_number(number) for number in (listed if isinstance(listed, list | tuple) else [listed]))


def _challenge(entry: Mapping[str, Any]) -> Challenge:
    re.compile(str(entry["cases"]))
    return Challenge(int(entry["year"]), str(entry["cases"]), str(entry["example"]), _triple(entry.get("shape"), int))
