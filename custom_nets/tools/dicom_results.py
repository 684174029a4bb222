"""Results that exist, ours or another program's, as DICOM on the series that they belong to."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from scipy import ndimage

from custom_nets.datasets.record import Record, get_record
from custom_nets.datasets.terms import label_segments, region_segments, unnamed_segments
from custom_nets.errors import InputError
from custom_nets.io.dicom import Series, read_series
from custom_nets.io.dicom_results import DicomResult
from custom_nets.io.nifti import is_nifti, read_header, read_voxels, stem
from custom_nets.io.segments import Segment
from custom_nets.transforms.saving.segments import DicomFormat, algorithm_of, check_dicom_formats, write_dicom
from custom_nets.transforms.saving.volumes import voxel_millilitres

_ENDING = "_prediction"
_SAME_PLACE = 0.1
"""Grids are one where their corners lie apart by at most this part of a voxel's shortest edge: both are rounded."""


def convert_to_dicom(
    result: str | os.PathLike,
    series: str | os.PathLike,
    output: str | os.PathLike,
    formats: Sequence[DicomFormat] = ("seg", "rtstruct"),
    dataset: str | None = None,
    parts: Literal["regions", "labels"] = "regions",
    bundle: str | os.PathLike = "",
    resample: bool = False,
) -> list[str]:
    """Writes a label map as DICOM SEG and RT Structure Set on the slices of a series.

    Args:
        result: NIfTI file of a label map, or the folder of a case that a bundle wrote.
        series: folder of a DICOM series of CT, MR or PET.
        output: folder of the files, `<case>_seg.dcm` and `<case>_rtstruct.dcm`.
        formats: any of seg and rtstruct.
        dataset: name or file of the record of the label numbers; default: that of `<case>_volumes.json` beside the
            file; without that the numbers have no names.
        parts: regions, which may lie within each other, or labels, one a number.
        bundle: folder of the bundle that made the result; its name and version are written.
        resample: whether a result on another grid is brought onto that of the series, each voxel the nearest one's.

    Returns:
        Lines that say what was written: files, segments and their volumes.

    Raises:
        InputError: when a file cannot be read, the label map holds a number that the record does not know, or it lies
            on another grid than the series.
    """
    check_dicom_formats(formats)
    file = _file_of(Path(result).expanduser())
    case = stem(file).removesuffix(_ENDING)
    scan = read_series(Path(series).expanduser(), case)
    record, regions = _record_of(file, case, dataset)
    labels, affine = _read_labels(file, case)
    segments = _segments(labels, record, regions, parts, file)
    before = [np.count_nonzero(segment.mask(labels)) * voxel_millilitres(affine) for segment in segments]
    labels = _on_grid(labels, affine, scan, case, resample)
    unit = voxel_millilitres(scan.header.affine)
    after = [np.count_nonzero(segment.mask(labels)) * unit for segment in segments]
    folder = Path(output).expanduser()
    result_on_scan = DicomResult(labels, segments, scan, algorithm_of(bundle), case)
    files = write_dicom(folder, case, formats, result_on_scan)
    lines = [f"wrote {each}" for each in files]
    for segment, was, now in zip(segments, before, after, strict=True):
        change = f" ({was:.2f} ml before it was resampled)" if abs(was - now) >= 0.005 else ""
        lines.append(f"{segment.name}: {now:.2f} ml{change}")
    return lines


def _file_of(result: Path) -> Path:
    """Returns the label map of a case's folder, or the file itself."""
    if not result.is_dir():
        return result
    files = [file for file in sorted(result.iterdir()) if is_nifti(file) and stem(file).endswith(_ENDING)]
    if len(files) != 1:
        msg = (
            f"{result}: expected the folder of one case with <case>{_ENDING}.nii.gz, found {len(files)} such files; "
            "give the label map itself"
        )
        raise InputError(msg)
    return files[0]


def _record_of(file: Path, case: str, dataset: str | None) -> tuple[Record | None, list[str] | None]:
    """Returns the record of a result, and the regions of the model that made it."""
    beside: dict[str, Any] = {}
    with suppress(OSError, ValueError):  # a result of another program has none
        beside = json.loads((file.parent / f"{case}_volumes.json").read_text(encoding="utf-8"))
    name = dataset or beside.get("dataset")
    record = get_record(name) if name else None
    regions = list(beside.get("regions", ())) or None
    if record is not None and not set(regions or ()) <= set(record.require_labels().region_names):
        regions = None  # the record was named by hand
    return record, regions


def _read_labels(file: Path, case: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns label numbers `[X, Y, Z]` and their affine."""
    header = read_header(file, case)
    values = read_voxels(file, case)
    labels = values.astype(np.uint16)
    if len(header.shape) != 3 or not np.array_equal(labels, values):
        msg = (
            f"{file}: expected a label map, one whole number from 0 to 65535 a voxel, found shape {header.shape} and "
            f"values from {values.min():g} to {values.max():g}; give <case>{_ENDING}.nii.gz"
        )
        raise InputError(msg)
    return labels, header.affine


def _segments(
    labels: np.ndarray, record: Record | None, regions: Sequence[str] | None, parts: str, file: Path
) -> list[Segment]:
    found = [int(number) for number in np.unique(labels) if number]
    if record is None:
        if not found:
            msg = f"{file}: holds nothing but 0, and no record tells what it could hold; name it with --dataset"
            raise InputError(msg)
        return unnamed_segments(found)
    record.require_labels().require_known(found, str(file), record.name)
    return region_segments(record, regions) if parts == "regions" else label_segments(record, regions)


def _on_grid(labels: np.ndarray, affine: np.ndarray, series: Series, case: str, resample: bool) -> np.ndarray:
    """Returns a label map on the grid of a series, its axes turned and mirrored, or on request resampled."""
    target = series.header
    between = np.linalg.inv(target.affine) @ affine
    turns = nib.io_orientation(between)
    if not np.isnan(turns).any():
        turned = nib.apply_orientation(labels, turns)
        own = affine @ nib.orientations.inv_ornt_aff(turns, labels.shape)
        corners = np.array([[*(np.array(turned.shape) - 1) * pick, 1] for pick in np.ndindex(2, 2, 2)])
        apart = float(np.linalg.norm((corners @ (own - target.affine).T)[:, :3], axis=1).max())
        shortest = np.linalg.norm(target.affine[:3, :3], axis=0).min()
        if turned.shape == tuple(target.shape) and apart <= _SAME_PLACE * shortest:
            return turned
    if resample:
        matrix = np.linalg.inv(affine) @ target.affine
        return ndimage.affine_transform(
            labels, matrix[:3, :3], matrix[:3, 3], output_shape=target.shape, order=0, mode="constant"
        )
    sizes = [" x ".join(map(str, shape)) for shape in (labels.shape, target.shape)]
    far = f", its corners up to {apart:.1f} mm away" if sizes[0] == sizes[1] else ""
    msg = (
        f"case {case}: the label map has {sizes[0]} voxels, the series in {target.path} {sizes[1]}{far}: they lie on "
        "different grids; give the series that was segmented, or --resample true where both are in the space of the "
        "same patient"
    )
    raise InputError(msg)
