"""Label maps as DICOM RT Structure Sets (PS3.3, A.19): closed contours on the slices of a scan."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

import numpy as np
from monai.utils import optional_import
from scipy.spatial import cKDTree

from custom_nets.io.dicom_results import NEEDED, DicomResult, coded, explain_refusals, instance_of, read_sources
from custom_nets.io.files import atomic_file
from custom_nets.io.segments import Segment

_SERIES = 2000
_STORAGE = "1.2.840.10008.5.1.4.1.1.481.3"
_IMPLICIT = "1.2.840.10008.1.2"  # with explicit types the points of a contour may take 64 KiB at most
_CONTOUR_DATA = 0x30060050
_STUDY = "1.2.840.10008.3.1.2.3.1"  # Detached Study Management: retired, and what readers expect here


def write_rtstruct(path: str | os.PathLike, result: DicomResult) -> None:
    """Writes segments as one RT Structure Set on the slices of a scan; segments may overlap.

    Contours run half-way between the centres of voxels inside and outside, in the plane of their slice, also of oblique
    ones and of those of a tilted gantry. A hole is joined to the contour round it by a channel without width (keyhole).
    A segment without voxels is a structure without contours.

    Args:
        path: the file; it appears only when complete.
        result: the label map, its segments and its scan.

    Raises:
        InputError: when headers of the scan lack what a result needs, or are damaged.
    """
    highdicom, _ = optional_import("highdicom", descriptor=NEEDED)
    labels, segments, series, algorithm, case = result
    sources = read_sources(series, case)
    first, now, name = sources[0], datetime.now(), f"{algorithm.name} {algorithm.version}"
    with explain_refusals(case, series):
        content = highdicom.SOPClass(
            study_instance_uid=first.StudyInstanceUID,
            sop_class_uid=_STORAGE,
            modality="RTSTRUCT",
            transfer_syntax_uid=_IMPLICIT,
            **instance_of(sources, algorithm, _SERIES),
        )
        content.copy_patient_and_study_information(first)
        content.OperatorsName = None
        content.StructureSetLabel = "SEGMENTATION"
        content.StructureSetName = name[:64]
        content.StructureSetDate, content.StructureSetTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
        content.ApprovalStatus = "UNAPPROVED"
        content.FrameOfReferenceUID, content.PositionReferenceIndicator = first.FrameOfReferenceUID, None
        content.ReferencedFrameOfReferenceSequence = [_frame_of_reference(sources)]
        numbered = list(enumerate(segments, start=1))
        content.StructureSetROISequence = [_structure(n, each, first, name) for n, each in numbered]
        content.ROIContourSequence = [_contours(n, each, labels, sources) for n, each in numbered]
        content.RTROIObservationsSequence = [_observation(n, each) for n, each in numbered]
        with atomic_file(path) as file:
            content.save_as(file, enforce_file_format=True)


def outlines(mask: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the closed contours of a plane `[X, Y]`, half-way between voxels inside and outside, holes joined to them.

    Yields:
        Corners `[N, 2]` in voxels, the last one joined to the first; a straight line has no corner on its way.
    """
    generator, _ = optional_import("contourpy", name="contour_generator", descriptor=NEEDED)
    hits = np.argwhere(mask)
    if not len(hits):
        return
    start, stop = hits.min(axis=0), hits.max(axis=0) + 1
    field = np.pad(mask[start[0] : stop[0], start[1] : stop[1]], 1).astype(np.float64)
    lines = generator(z=field.T, fill_type="OuterOffset")  # its x runs along the second axis
    for points, ends in zip(*lines.filled(0.5, np.inf), strict=True):
        rings = [points[begin : end - 1] for begin, end in pairwise(ends)]
        yield _corners(_joined(rings)) - 1 + start


def _corners(ring: np.ndarray) -> np.ndarray:
    """Returns the points of a closed ring at which it turns."""
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    return ring[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]


def _joined(rings: Sequence[np.ndarray]) -> np.ndarray:
    """Returns one ring of an outer one and its holes: each begins and ends where it is nearest to the outer one.

    Channels lead from edge to edge, at odd parts of them: from corner to corner they would run through the centres of
    voxels, of which nobody could say whether they are inside. One that crosses another hole adds nothing.
    """
    outer, *holes = rings
    if not holes:
        return outer
    exits = _points_on_edges(outer, 0.3719)
    tree = cKDTree(exits)
    visits: dict[int, list[np.ndarray]] = {}
    for hole in holes:
        entries = _points_on_edges(hole, 0.2341)
        distances, neighbours = tree.query(entries)
        at = int(distances.argmin())
        near = int(neighbours[at])
        there_and_back = [exits[[near]], entries[[at]], hole[at + 1 :], hole[: at + 1], entries[[at]], exits[[near]]]
        visits.setdefault(near, []).extend(there_and_back)
    parts, start = [], 0
    for near in sorted(visits):
        parts += [outer[start : near + 1], *visits[near]]
        start = near + 1
    return np.concatenate([*parts, outer[start:]])


def _points_on_edges(ring: np.ndarray, part: float) -> np.ndarray:
    """Returns a point on each edge of a closed ring, from each of its points a part of the way to the next."""
    return ring + part * (np.roll(ring, -1, axis=0) - ring)


def _dataset(**elements: Any) -> Any:
    make, _ = optional_import("pydicom", name="Dataset", descriptor=NEEDED)
    dataset = make()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def _image(source: Any) -> Any:
    return _dataset(ReferencedSOPClassUID=source.SOPClassUID, ReferencedSOPInstanceUID=source.SOPInstanceUID)


def _frame_of_reference(sources: Sequence[Any]) -> Any:
    first = sources[0]
    images = [_image(source) for source in sources]
    series = _dataset(SeriesInstanceUID=first.SeriesInstanceUID, ContourImageSequence=images)
    study = _dataset(
        ReferencedSOPClassUID=_STUDY,
        ReferencedSOPInstanceUID=first.StudyInstanceUID,
        RTReferencedSeriesSequence=[series],
    )
    return _dataset(FrameOfReferenceUID=first.FrameOfReferenceUID, RTReferencedStudySequence=[study])


def _structure(number: int, segment: Segment, source: Any, algorithm: str) -> Any:
    return _dataset(
        ROINumber=number,
        ReferencedFrameOfReferenceUID=source.FrameOfReferenceUID,
        ROIName=segment.name[:64],
        ROIDescription=segment.title or segment.name,
        ROIGenerationAlgorithm="AUTOMATIC",
        ROIGenerationDescription=algorithm[:64],
    )


def _contours(number: int, segment: Segment, labels: np.ndarray, sources: Sequence[Any]) -> Any:
    contours = []
    for index, source in enumerate(sources):
        position = np.array(source.ImagePositionPatient, dtype=np.float64)
        cosines = np.array(source.ImageOrientationPatient, dtype=np.float64).reshape(2, 3)
        between_rows, between_columns = map(float, source.PixelSpacing)
        edges = cosines * [[between_columns], [between_rows]]  # the first cosines lead along a row (PS3.3, C.7.6.2.1)
        for outline in outlines(segment.mask(labels[..., index])):
            contour = _dataset(
                ContourImageSequence=[_image(source)],
                ContourGeometricType="CLOSED_PLANAR",
                NumberOfContourPoints=len(outline),
            )
            contour[_CONTOUR_DATA] = _decimals((position + outline @ edges).ravel())
            contours.append(contour)
    roi = _dataset(ROIDisplayColor=list(segment.colour), ReferencedROINumber=number)
    if contours:
        roi.ContourSequence = contours
    return roi


def _decimals(numbers: np.ndarray) -> Any:
    """Returns numbers, to six decimals, as an element as it stands in a file: pydicom's way takes far longer."""
    raw_element, _ = optional_import("pydicom.dataelem", name="RawDataElement", descriptor=NEEDED)
    base_tag, _ = optional_import("pydicom.tag", name="BaseTag", descriptor=NEEDED)
    text = "\\".join(f"{number:.10g}" for number in numbers.round(6).tolist())
    value = (text + " " * (len(text) % 2)).encode("ascii")
    return raw_element(base_tag(_CONTOUR_DATA), "DS", len(value), value, 0, True, True)


def _observation(number: int, segment: Segment) -> Any:
    code = coded(segment.type)
    identified = _dataset(CodeValue=code.value, CodingSchemeDesignator=code.scheme_designator, CodeMeaning=code.meaning)
    return _dataset(
        ObservationNumber=number,
        ReferencedROINumber=number,
        RTROIIdentificationCodeSequence=[identified],
        RTROIInterpretedType="",
        ROIInterpreter=None,
    )
