"""Results in the formats of clinics and viewers: DICOM SEG and RT Structure Set, .seg.nrrd, tables of label numbers."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform

import custom_nets
from custom_nets.datasets.record import Record, get_record, record_names
from custom_nets.datasets.terms import label_segments, region_segments
from custom_nets.errors import InputError
from custom_nets.io.colour_tables import itksnap_table, slicer_table
from custom_nets.io.dicom import CT, Series, is_dicom_folder, read_series
from custom_nets.io.dicom_results import Algorithm, DicomResult
from custom_nets.io.dicom_rtstruct import write_rtstruct
from custom_nets.io.dicom_seg import write_seg
from custom_nets.io.files import atomic_file
from custom_nets.io.nifti import AFFINE_TOLERANCE, VolumeHeader
from custom_nets.io.seg_nrrd import write_seg_nrrd
from custom_nets.transforms.regions import RegionsToLabels, dataset_of
from custom_nets.transforms.saving.case_files import result_file
from custom_nets.transforms.saving.meshes import as_array, case_and_affine

DicomFormat = Literal["seg", "rtstruct"]
"""Results in DICOM: a Segmentation object, an RT Structure Set."""

THIS_PACKAGE = Algorithm("custom-nets", custom_nets.__version__)
"""What is named where no bundle is known."""

logger = logging.getLogger(__name__)

_LARGEST_SHIFT = 0.5  # of pixels: positions are rounded, and readers take the nearest voxel
_WRITERS = {"seg": write_seg, "rtstruct": write_rtstruct}


def algorithm_of(bundle: str | os.PathLike = "") -> Algorithm:
    """Returns name and version of a bundle as its metadata.json has them, those of this package where there is none.

    Args:
        bundle: its folder.
    """
    try:
        content = json.loads(Path(bundle, "configs", "metadata.json").read_text(encoding="utf-8"))
        return Algorithm(str(content["name"]), str(content["version"]))
    except (OSError, ValueError, KeyError, TypeError):
        return THIS_PACKAGE


def write_dicom(
    folder: str | os.PathLike, name: str, formats: Sequence[DicomFormat], result: DicomResult
) -> list[Path]:
    """Writes a label map in formats of DICOM, as `<folder>/<name>_<format>.dcm`.

    Of a tilted gantry, whose slices are shifted against each other, no SEG is written: readers of SEG, such as dcmqi,
    which 3D Slicer uses, know upright volumes alone and put its slices in wrong places without a word.

    Args:
        folder: of the files.
        name: how their names begin.
        formats: any of seg and rtstruct.
        result: the label map, its segments and its scan.

    Returns:
        The files.

    Raises:
        InputError: when headers of the scan lack what a result needs, or are damaged, or nothing but SEG is asked for
            of a tilted gantry.
    """
    chosen = list(formats)
    header = result.series.header
    shift = _shift_of_slices(header)
    if "seg" in chosen and shift > _LARGEST_SHIFT:
        msg = (
            f"case {result.case}, folder {header.path}: its slices are shifted by up to {shift:.1f} voxels (tilted "
            "gantry), which readers of DICOM SEG misplace; no SEG is written: take rtstruct, or the NIfTI file"
        )
        chosen.remove("seg")
        if not chosen:
            raise InputError(msg)
        logger.warning("%s", msg)
    files = [Path(folder, f"{name}_{kind}.dcm") for kind in chosen]
    for kind, file in zip(chosen, files, strict=True):
        _WRITERS[kind](file, result)
    return files


@dataclass(frozen=True)
class SegmentSettings:
    """Formats that hold the regions of a case as segments with names, colours and codes.

    Args:
        dataset: record of the numbers, see `get_record`; the item's own wins where it has the regions.
        dicom: any of "seg" and "rtstruct", of cases that were read from a DICOM series.
        nrrd: whether to write 3D Slicer's .seg.nrrd.
        algorithm: that DICOM results name.

    Raises: InputError for an unknown format, or where a package is missing that it needs.
    """

    dataset: str
    dicom: Sequence[DicomFormat] = ()
    nrrd: bool = False
    algorithm: Algorithm = THIS_PACKAGE

    def __post_init__(self) -> None:
        check_dicom_formats(self.dicom)
        for package, asked in (("highdicom", self.dicom), ("contourpy", self.dicom), ("nrrd", self.nrrd)):
            if asked and find_spec(package) is None:  # else every case would fail at its end
                name = {"nrrd": "pynrrd"}.get(package, package)
                msg = f"the package {name} is missing, which DICOM results or .seg.nrrd files need: pip install {name}"
                raise InputError(msg)


def check_dicom_formats(formats: Sequence[str]) -> None:
    """Checks that each format is known.

    Raises:
        InputError: when one is not.
    """
    unknown = [kind for kind in formats if kind not in get_args(DicomFormat)]
    if unknown:
        msg = f"DICOM format '{unknown[0]}' is unknown; expected any of {', '.join(get_args(DicomFormat))}"
        raise InputError(msg)


class SaveSegmentsd(MapTransform):
    """Writes the regions of a case as `<case>_seg.dcm`, `<case>_rtstruct.dcm` and `<case>_prediction.seg.nrrd`.

    They hold the same voxels as the label map. Names and colours of its numbers are in a table for each record in the
    folder of all cases, `labels_<record>.ctbl` for 3D Slicer and `labels_<record>.txt` for ITK-SNAP. The item is
    returned unchanged.

    Args:
        keys: MetaTensor `[R, H, W, D]` (probabilities or binary) on the grid whose affine it carries.
        output_dir: folder of all cases.
        regions: name of each channel.
        settings: the formats and the record.
        case_key: where the item names its case; without it the name of the file read serves.
        dataset_key: where the item names its record.
        allow_missing_keys: whether an item may lack a key.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | os.PathLike,
        regions: Sequence[str],
        settings: SegmentSettings,
        case_key: str = "case",
        dataset_key: str = "dataset",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.output_dir = Path(output_dir)
        self.regions = tuple(regions)
        self.settings = settings
        self.case_key = case_key
        self.dataset_key = dataset_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Writes the segments of one case.

        Raises:
            InputError: when a tensor lacks its affine or the right number of channels, the item names no case, or a
                DICOM result cannot lie on its scan.
        """
        item = dict(data)
        for key in self.key_iterator(item):
            case, affine = case_and_affine(item, key, self.regions, self.case_key)
            dataset = dataset_of(item.get(self.dataset_key), self.settings.dataset, self.regions)
            record = get_record(dataset)
            save_label_tables(self.output_dir, record, self.regions)
            folder = str(item[key].meta.get("filename_or_obj") or "")
            with_dicom = bool(self.settings.dicom) and self._has_series(folder, case)
            if not (with_dicom or self.settings.nrrd):
                continue
            labels = as_array(RegionsToLabels(dataset, self.regions)(item[key]))[0]
            segments = region_segments(record, self.regions)
            if self.settings.nrrd:
                write_seg_nrrd(result_file(self.output_dir, case, "_prediction.seg.nrrd"), labels, affine, segments)
            if with_dicom:
                place = result_file(self.output_dir, case, "")
                series = read_series(folder, case, CT)
                _check_grid(labels.shape, affine, series, case)
                result = DicomResult(labels, segments, series, self.settings.algorithm, case)
                write_dicom(place.parent, place.name, self.settings.dicom, result)
        return item

    @staticmethod
    def _has_series(folder: str, case: str) -> bool:
        if folder and is_dicom_folder(folder):
            return True
        logger.warning(
            "%s: no DICOM results, as it was not read from a DICOM series; `custom-nets dicom` writes them on one", case
        )
        return False


def save_label_tables(output_dir: str | os.PathLike, record: Record, regions: Sequence[str]) -> None:
    """Writes names and colours of a record's label numbers for 3D Slicer and ITK-SNAP, unless they are there already.

    Args:
        output_dir: folder of the files.
        record: of the numbers.
        regions: names of the regions, in the order of their colours.
    """
    segments = label_segments(record, regions)
    for table, ending in ((slicer_table(segments), "ctbl"), (itksnap_table(segments), "txt")):
        name = record.name
        if name not in record_names():  # the place of a person's own record: others may be called like it
            name = f"{Path(name).stem}~{hashlib.sha256(table.encode()).hexdigest()[:6]}"
        file = Path(output_dir, f"labels_{name}.{ending}")
        if not file.is_file() or file.read_text(encoding="utf-8") != table:
            with atomic_file(file) as temporary:
                temporary.write_text(table, encoding="utf-8", newline="\n")


def _shift_of_slices(header: VolumeHeader) -> float:
    """Returns how far the last slice is shifted within its plane against the first one, in pixels."""
    columns, rows, step = header.affine[:3, :3].T
    across = np.cross(columns, rows)
    across /= np.linalg.norm(across)
    shift = (step - (step @ across) * across) * (header.shape[2] - 1)
    return float(np.linalg.norm(shift) / min(np.linalg.norm(columns), np.linalg.norm(rows)))


def _check_grid(shape: Sequence[int], affine: np.ndarray, series: Series, case: str) -> None:
    own = series.header
    if tuple(shape) != tuple(own.shape) or np.abs(affine - own.affine).max() > AFFINE_TOLERANCE:
        sizes = [" x ".join(map(str, each)) for each in (shape, own.shape)]
        msg = (
            f"case {case}, folder {own.path}: the result has {sizes[0]} voxels on a grid of its own, the series "
            f"{sizes[1]}; a DICOM result lies on its series: leave output_spacing out"
        )
        raise InputError(msg)
