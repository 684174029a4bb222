"""Segments of a label map: numbers, name, colour, and what they are in the codes of DICOM."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

SNOMED = "SCT"
"""How DICOM calls SNOMED CT (PS3.16, section 8)."""

PRIVATE = "99CUSTOMNETS"
"""Coding scheme of what nobody gave a code: private ones begin with 99 (PS3.16, section 8.2)."""

_LONGEST_CODE = 16


class Code(NamedTuple):
    """A term of a coding scheme.

    Args:
        value: of the code.
        meaning: in words.
        scheme: designator of the coding scheme, see PS3.16, section 8.
    """

    value: str
    meaning: str
    scheme: str = SNOMED


TISSUE = Code("85756007", "Tissue")
"""Category of what is not known more closely (PS3.16, CID 7150)."""


def private_code(name: str) -> Code:
    """Returns a code of our own for a name without one: it says no more than the name does.

    >>> private_code("knee")
    Code(value='knee', meaning='knee', scheme='99CUSTOMNETS')
    """
    long = len(name) > _LONGEST_CODE
    value = hashlib.sha256(name.encode()).hexdigest()[:_LONGEST_CODE] if long else name
    return Code(value, name[:64], PRIVATE)


@dataclass(frozen=True)
class Segment:
    """One part of a label map; parts may overlap, as nested regions do.

    Args:
        name: of the region or of the label number.
        numbers: label numbers of the voxels inside.
        colour: red, green and blue, 0 to 255.
        type: what it is.
        category: the kind of thing that it is.
        anatomy: where in the body it lies; None where the type tells.
        title: longer name, "" for none.
    """

    name: str
    numbers: tuple[int, ...]
    colour: tuple[int, int, int]
    type: Code
    category: Code = TISSUE
    anatomy: Code | None = None
    title: str = ""

    def mask(self, labels: np.ndarray) -> np.ndarray:
        """Returns which voxels of a label map, of any shape, are inside."""
        return np.isin(labels, self.numbers)


def overlap(segments: Sequence[Segment]) -> bool:
    """Returns whether a voxel may be in two of the segments."""
    numbers = [number for segment in segments for number in segment.numbers]
    return len(set(numbers)) < len(numbers)
