"""What regions and labels are, in the codes of SNOMED CT: data of records, and the segments made with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from custom_nets.io.colours import rgb
from custom_nets.io.segments import TISSUE, Code, Segment, private_code

if TYPE_CHECKING:
    from custom_nets.datasets.record import Record

FOLDER = Path(__file__).with_name("terms")
"""Terms that several records share, a file a subject."""


@dataclass(frozen=True)
class Term:
    """What one region or label is.

    Args:
        name: of the region or label.
        type: code of what it is.
        category: code of the kind of thing that it is.
        anatomy: code of where it lies; None where the type tells.
        title: longer name.
    """

    name: str
    type: Code
    category: Code = TISSUE
    anatomy: Code | None = None
    title: str = ""


def parse_terms(value: Any) -> tuple[Term, ...]:
    """Reads the entry `terms` of a record: terms by name, or the name of a file in the folder `terms`.

    Raises:
        ValueError: when there is no such file, or an entry has another form.
    """
    if isinstance(value, str):
        file = FOLDER / f"{value}.yaml"
        if not file.is_file():
            known = ", ".join(sorted(entry.stem for entry in FOLDER.glob("*.yaml")))
            msg = f"terms '{value}' are unknown; expected {known}, or a code for each name"
            raise ValueError(msg)
        import yaml

        value = yaml.safe_load(file.read_text(encoding="utf-8"))
    if not isinstance(value, Mapping):
        msg = f"terms: expected a name with its codes, such as 'liver: {{type: [10200004, Liver]}}'; found {value!r}"
        raise ValueError(msg)
    return tuple(_term(str(name), entry) for name, entry in value.items())


def region_segments(record: Record, regions: Sequence[str] | None = None) -> list[Segment]:
    """Returns the regions of a data set as segments of its label maps, in the order of their names.

    Args:
        record: of the data set.
        regions: names of the regions; None takes all, outermost first.

    Raises:
        InputError: when the record has no labels or lacks a region.
    """
    chosen = record.require_labels().select(regions)
    return [_segment(record, region.name, region.numbers, index) for index, region in enumerate(chosen)]


def label_segments(record: Record, regions: Sequence[str] | None = None) -> list[Segment]:
    """Returns the label numbers of a data set as segments, ascending.

    A number has the colour of the region that it is written for; others have the colours after those of the regions.

    Args:
        record: of the data set.
        regions: names of the regions in the order of their colours; None takes all, outermost first.

    Raises:
        InputError: when the record has no labels or lacks a region.
    """
    labels = record.require_labels()
    chosen = labels.select(regions)
    colours = {region.written: index for index, region in enumerate(chosen)}
    for number, _ in labels.names:
        colours.setdefault(number, max(len(chosen) - 1, *colours.values()) + 1)
    return [_segment(record, name, (number,), colours[number]) for number, name in labels.names]


def unnamed_segments(numbers: Sequence[int]) -> list[Segment]:
    """Returns label numbers of which nothing is known as segments."""
    names = {number: f"label {number}" for number in numbers}
    return [Segment(name, (n,), rgb(index), private_code(name)) for index, (n, name) in enumerate(names.items())]


def _segment(record: Record, name: str, numbers: tuple[int, ...], colour: int) -> Segment:
    term = next((each for each in record.terms if each.name == name), Term(name, private_code(name)))
    return Segment(name, numbers, rgb(colour), term.type, term.category, term.anatomy, term.title)


def _term(name: str, entry: Mapping[str, Any]) -> Term:
    unknown = set(entry) - {"type", "category", "anatomy", "title"}
    if unknown or "type" not in entry:
        what = f"'{min(unknown)}' is unknown" if unknown else "'type' is missing"
        msg = f"terms, {name}: {what}; expected type, and if need be category, anatomy and title"
        raise ValueError(msg)
    codes = {key: _code(name, entry[key]) for key in ("type", "category", "anatomy") if key in entry}
    return Term(name, title=str(entry.get("title", "")), **codes)


def _code(name: str, entry: Any) -> Code:
    if not isinstance(entry, list) or len(entry) not in (2, 3):
        msg = f"terms, {name}: expected a code and its meaning, such as [10200004, Liver]; found {entry!r}"
        raise ValueError(msg)
    return Code(*map(str, entry))
