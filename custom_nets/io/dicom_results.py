"""What DICOM results of a scan have in common: the headers of its slices, and who made the result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from monai.utils import optional_import

from custom_nets.errors import InputError
from custom_nets.io.dicom import Series
from custom_nets.io.nifti import where
from custom_nets.io.segments import Code, Segment

MANUFACTURER = "custom-nets"
"""Maker of the results, as DICOM calls the program that wrote a file."""

NEEDED = "{}; DICOM results need highdicom and contourpy: pip install highdicom contourpy"

_MAY_BE_EMPTY = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)
_LONG_TEXT = 64  # characters of DICOM's LO
_MUST_BE_THERE = ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID", "FrameOfReferenceUID")


class Algorithm(NamedTuple):
    """What segmented a scan.

    Args:
        name: of the algorithm, up to 64 characters.
        version: of it.
    """

    name: str
    version: str


class DicomResult(NamedTuple):
    """A label map on the slices of a series, as DICOM holds it.

    Args:
        labels: label map `[X, Y, Z]` on the grid of the series.
        segments: of the label map; they may overlap.
        series: the scan, see `custom_nets.io.dicom.read_series`.
        algorithm: that made the label map.
        case: the case that messages name.
    """

    labels: np.ndarray
    segments: Sequence[Segment]
    series: Series
    algorithm: Algorithm
    case: str


def read_sources(series: Series, case: str) -> list[Any]:
    """Reads the headers of the slices that a result refers to.

    Args:
        series: the scan.
        case: the case that messages name.

    Returns:
        A `pydicom.Dataset` a slice, without pixels; what an anonymised scan lacks of patient and study is empty.

    Raises:
        InputError: when a slice lacks an identifier that a reference needs.
    """
    pydicom, _ = optional_import("pydicom", descriptor=NEEDED)
    sources = []
    for file in series.files:
        source = pydicom.dcmread(file, stop_before_pixels=True, force=True)
        lacking = [keyword for keyword in _MUST_BE_THERE if not source.get(keyword)]
        if lacking:
            msg = (
                f"{where(case, file)}: has no {lacking[0]}, which a DICOM result refers to; export the series again, "
                "not anonymised so far, or do without DICOM results"
            )
            raise InputError(msg)
        for keyword in _MAY_BE_EMPTY:
            if keyword not in source:
                setattr(source, keyword, None)
        if not source.get("SliceThickness"):
            source.SliceThickness = f"{_distance(series):.10g}"
        sources.append(source)
    return sources


def _distance(series: Series) -> float:
    """Returns the distance between neighbouring slices (mm), across them also where a tilted gantry shifts them."""
    edges = series.header.affine[:3, :3]
    return float(abs(np.linalg.det(edges)) / np.linalg.norm(np.cross(edges[:, 0], edges[:, 1])))


def coded(code: Code) -> Any:
    """Returns a code as highdicom and pydicom take it."""
    make, _ = optional_import("pydicom.sr.coding", name="Code", descriptor=NEEDED)
    return make(code.value, code.scheme, code.meaning)


def instance_of(sources: Sequence[Any], algorithm: Algorithm, series: int) -> dict[str, Any]:
    """Returns what highdicom's objects are told of a new instance: its identifiers, its series and its maker.

    Args:
        sources: headers of the scan, see `read_sources`.
        algorithm: that made it.
        series: how far the number of its series lies behind the scan's.
    """
    generate_uid, _ = optional_import("pydicom.uid", name="generate_uid", descriptor=NEEDED)
    return {
        "series_instance_uid": generate_uid(prefix=None),
        "series_number": max(int(sources[0].get("SeriesNumber") or 0), 0) + series,
        "series_description": algorithm.name[:_LONG_TEXT],
        "sop_instance_uid": generate_uid(prefix=None),
        "instance_number": 1,
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": algorithm.name[:_LONG_TEXT],
        "software_versions": algorithm.version[:_LONG_TEXT],
        "device_serial_number": algorithm.version[:_LONG_TEXT],
        "specific_character_set": "ISO_IR 192",  # UTF-8 holds the patient's name and those of regions
    }


@contextmanager
def explain_refusals(case: str, series: Series) -> Iterator[None]:
    """Makes one line of what highdicom or pydicom refuse to write, such as damaged headers of the patient."""
    try:
        yield
    except (InputError, ImportError, OSError, MemoryError):
        raise
    except Exception as error:  # they raise several kinds, some without a text
        reason = " ".join(str(error).split()) or type(error).__name__
        msg = (
            f"case {case}, folder {series.header.path}: its headers do not allow a DICOM result ({reason}); mend them, "
            "or do without"
        )
        raise InputError(msg) from error
