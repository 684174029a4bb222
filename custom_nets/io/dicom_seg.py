"""Label maps as DICOM Segmentation objects (PS3.3, A.51)."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from monai.utils import optional_import

from custom_nets.io.dicom_results import (
    NEEDED,
    Algorithm,
    DicomResult,
    coded,
    explain_refusals,
    instance_of,
    read_sources,
)
from custom_nets.io.files import atomic_file
from custom_nets.io.segments import Code, Segment

_SERIES = 1000
_FAMILY = Code("123110", "Artificial Intelligence", "DCM")  # PS3.16, CID 7162


def write_seg(path: str | os.PathLike, result: DicomResult) -> None:
    """Writes segments as one binary DICOM SEG on the slices of a scan; segments may overlap.

    Each frame has the position of the slice that it lies on, and refers to it, also where slices are oblique or, of a
    tilted gantry, shifted against each other. Frames without voxels are left out, as long as there is another.

    Args:
        path: the file; it appears only when complete.
        result: the label map, its segments and its scan.

    Raises:
        InputError: when headers of the scan lack what a result needs, or are damaged.
    """
    highdicom, _ = optional_import("highdicom", descriptor=NEEDED)
    labels, segments, series, algorithm, case = result
    sources = read_sources(series, case)
    frames = np.stack([segment.mask(labels).transpose(2, 1, 0) for segment in segments], axis=-1)
    with explain_refusals(case, series):
        content = highdicom.seg.Segmentation(
            source_images=sources,
            pixel_array=frames,
            segmentation_type="BINARY",
            segment_descriptions=[_describe(highdicom, n, each, algorithm) for n, each in enumerate(segments, start=1)],
            content_label="SEGMENTATION",
            content_description=f"{algorithm.name} {algorithm.version}"[:64],
            omit_empty_frames=bool(frames.any()),
            **instance_of(sources, algorithm, _SERIES),
        )
        with atomic_file(path) as file:
            content.save_as(file)


def _describe(highdicom: Any, number: int, segment: Segment, algorithm: Algorithm) -> Any:
    description = highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=segment.name[:64],
        segmented_property_category=coded(segment.category),
        segmented_property_type=coded(segment.type),
        algorithm_type="AUTOMATIC",
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            algorithm.name[:64], coded(_FAMILY), algorithm.version[:64]
        ),
        anatomic_regions=None if segment.anatomy is None else [coded(segment.anatomy)],
        display_color=highdicom.color.CIELabColor.from_rgb(*segment.colour),
    )
    if segment.title:
        description.SegmentDescription = segment.title
    return description
