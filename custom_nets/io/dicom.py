"""DICOM series folders: which folder is one, the grid that its headers promise, its voxels in Hounsfield units."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from monai.data.utils import orientation_ras_lps
from monai.utils import optional_import

from custom_nets.errors import InputError, first_names
from custom_nets.io.nifti import VolumeHeader, where

GAP_TOLERANCE = 0.15
"""Distances between neighbouring slices may differ this much: as a part of them, or in mm where that is more.

Some scanners round positions to 0.1 mm, so that slices of 0.625 mm lie 0.6 and 0.7 mm apart."""

STRAIGHTNESS_TOLERANCE = 0.1
"""A slice may lie this part of the distance between slices away from the place that the affine gives it."""

ORIENTATION_TOLERANCE = 1e-4
"""Largest difference between direction cosines, and between pixel sizes (mm), of slices of one volume."""

SUFFIXES = (".dcm", ".dicom", ".ima")
"""A file of such a name that cannot be read is an error; others without the DICOM mark belong to something else."""

_LOOKED_AT = 16
_SLAB = 32
_NEEDED = "{}; DICOM folders need itk: pip install itk"
_TAGS = {
    "study": "0020|000d",
    "series": "0020|000e",
    "description": "0008|103e",
    "modality": "0008|0060",
    "frames": "0028|0008",
    "rows": "0028|0010",
    "columns": "0028|0011",
    "pixel size": "0028|0030",
    "position": "0020|0032",
    "orientation": "0020|0037",
}


class _Image(NamedTuple):
    """One DICOM file and what is needed of its header, the text of each tag that it has."""

    path: str
    tags: dict[str, str]

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows."""
        return int(self.tags.get("columns", 0)), int(self.tags.get("rows", 0))


class _Grid(NamedTuple):
    """The files of a volume in the order of their positions, and its grid."""

    files: list[str]
    header: VolumeHeader


def is_dicom_folder(path: str | os.PathLike) -> bool:
    """Returns whether a folder holds DICOM files directly in it, from the first bytes of a few files (needs no itk)."""
    try:
        return Path(path).is_dir() and any(_has_mark(file) for file in islice(_visible_files(path), _LOOKED_AT))
    except OSError:
        return False


def check_one_series(folder: str | os.PathLike, case: str) -> None:
    """Checks that a folder holds the images of one DICOM series.

    A scout image beside the scan is a series, too: which of them is meant is not guessed.

    Args:
        folder: a folder of DICOM files.
        case: the case that messages name.

    Raises:
        InputError: when there is no DICOM file, a file cannot be read, or there are several series, listed with their
            numbers of images, sizes (columns x rows) and the ends of their UIDs.
    """
    _check_one_series(folder, case, _read_images(folder, case))


def study_of(folder: str | os.PathLike) -> str:
    """Returns the StudyInstanceUID of the first DICOM file of a folder.

    Raises:
        InputError: when the folder has no DICOM file, or that one cannot be read or names no study.
    """
    case = Path(os.path.abspath(folder)).name
    image = _read_images(folder, case, limit=1)[0]
    return _tag(image, "study", case)


def read_dicom_header(folder: str | os.PathLike, case: str) -> VolumeHeader:
    """Reads the grid of a CT series from its headers.

    The third axis runs along the cross product of the first two, whatever the names or numbers of the files; slices
    of a tilted gantry, shifted evenly against each other, have an affine with shear.

    Args:
        folder: a folder of DICOM files, one slice a file.
        case: the case that messages name.

    Returns:
        The folder, its shape (x, y, z) and the affine to RAS millimetres, as NIfTI has them.

    Raises:
        InputError: when `check_one_series` finds a fault, the images are no CT, are fewer than two, differ in size or
            orientation, or are not evenly spaced, as where a slice is missing.
    """
    return _read_grid(folder, case).header


def read_dicom(folder: str | os.PathLike, case: str) -> tuple[VolumeHeader, np.ndarray]:
    """Reads the grid and the voxels of a CT series.

    Args:
        folder: a folder of DICOM files, one slice a file.
        case: the case that messages name.

    Returns:
        What `read_dicom_header` returns, and the Hounsfield units (x, y, z), float32.

    Raises:
        InputError: when `read_dicom_header` finds a fault, or the pixels of a file cannot be read.
    """
    files, header = _read_grid(folder, case)
    voxels = np.empty(header.shape, np.float32)
    for start in range(0, len(files), _SLAB):  # a slice at a time would write single voxels far apart
        slices = [_read_pixels(file, case) for file in files[start : start + _SLAB]]
        voxels[..., start : start + _SLAB] = np.stack(slices, axis=-1)
    return header, voxels


def _about(folder: str | os.PathLike, case: str) -> str:
    """Returns how a message begins that is about a folder of a case."""
    return f"case {case}, folder {folder}"


def _visible_files(folder: str | os.PathLike) -> Iterator[str]:
    """Yields the files of a folder, less hidden ones and the index that comes with a CD."""
    for entry in Path(folder).iterdir():
        if not entry.name.startswith(".") and entry.name.upper() != "DICOMDIR" and entry.is_file():
            yield str(entry)


def _has_mark(path: str) -> bool:
    """Returns whether a file begins as DICOM does (PS3.10, 7.1: 128 bytes of any kind, then `DICM`)."""
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def _unreadable(path: str, case: str, error: Exception) -> InputError:
    """Returns the error for a file that cannot be read."""
    lines = str(error).strip().splitlines() or [""]
    detail = lines[-1].rpartition("): ")[2]  # ITK names its source file and object before
    msg = (
        f"{where(case, path)}: not readable as a DICOM image ({detail}); export the series again, "
        "or move what is no image out of the folder"
    )
    return InputError(msg)


def _read_images(folder: str | os.PathLike, case: str, limit: int | None = None) -> list[_Image]:
    """Returns the DICOM images directly in a folder, in the order of their names."""
    if not Path(folder).is_dir():
        msg = f"{_about(folder, case)}: there is no such folder; check the path"
        raise InputError(msg)
    images: list[_Image] = []
    for path in sorted(_visible_files(folder)):
        try:
            if path.lower().endswith(SUFFIXES) or _has_mark(path):
                images.append(_Image(path, _read_tags(path)))
        except (OSError, RuntimeError) as error:
            raise _unreadable(path, case, error) from error
        if len(images) == limit:
            break
    if not images:
        msg = (
            f"{_about(folder, case)}: holds no DICOM file directly in it; "
            "give the folder of one series, or a NIfTI file"
        )
        raise InputError(msg)
    return images


def _read_tags(path: str) -> dict[str, str]:
    """Returns the texts of a file's tags by our names."""
    itk, _ = optional_import("itk", descriptor=_NEEDED)
    reader = itk.GDCMImageIO.New(FileName=path)
    reader.ReadImageInformation()
    found = reader.GetMetaDataDictionary()
    texts = {name: found[tag] for name, tag in _TAGS.items() if found.HasKey(tag)}
    # Texts of another encoding come as surrogates, which cannot be printed.
    return {name: text.encode(errors="replace").decode().strip("\0 ") for name, text in texts.items()}


def _read_pixels(path: str, case: str) -> np.ndarray:
    """Returns one slice (x, y), float32, with the rescale slope and intercept applied."""
    itk, _ = optional_import("itk", descriptor=_NEEDED)
    reader = itk.ImageFileReader[itk.Image[itk.F, 3]].New(FileName=path, ImageIO=itk.GDCMImageIO.New())
    try:
        reader.Update()
    except RuntimeError as error:
        raise _unreadable(path, case, error) from error
    pixels: np.ndarray = itk.array_from_image(reader.GetOutput())[0].T
    return pixels


def _check_one_series(folder: str | os.PathLike, case: str, images: Sequence[_Image]) -> None:
    series: dict[str, list[_Image]] = {}
    for image in images:
        series.setdefault(image.tags.get("series", ""), []).append(image)
    if len(series) == 1:
        return
    listed = []
    for uid, members in series.items():
        columns, rows = members[0].size
        count = "1 image" if len(members) == 1 else f"{len(members)} images"
        name = members[0].tags.get("description") or "without a description"
        listed.append(f"'{name}' ({count}, {columns} x {rows}, UID ...{uid[-12:]})")
    studies = len({image.tags.get("study", "") for image in images})
    of_studies = f" of {studies} studies" if studies > 1 else ""
    msg = (
        f"{_about(folder, case)}: holds {len(series)} series{of_studies}, expected one: {first_names(listed)}; "
        "move one series into a folder of its own and give that"
    )
    raise InputError(msg)


def _tag(image: _Image, name: str, case: str) -> str:
    """Returns a tag that an image must have."""
    text = image.tags.get(name, "")
    if not text:
        msg = (
            f"{where(case, image.path)}: has no {name} ({_TAGS[name].replace('|', ',')}), needed of every slice; "
            "export the series again, not anonymised so far, or convert it to NIfTI"
        )
        raise InputError(msg)
    return text


def _numbers(image: _Image, name: str, count: int, case: str) -> np.ndarray:
    """Returns the numbers of a tag."""
    text = _tag(image, name, case)
    try:
        numbers = np.array([float(part) for part in text.split("\\")])
    except ValueError:
        numbers = np.array([np.nan])
    if len(numbers) != count or not np.isfinite(numbers).all():
        msg = f"{where(case, image.path)}: {name} {text!r}, expected {count} numbers; export the series again"
        raise InputError(msg)
    return numbers


def _read_grid(folder: str | os.PathLike, case: str) -> _Grid:
    """Returns the sorted files of the one CT series in a folder, and its grid."""
    images = _read_images(folder, case)
    _check_one_series(folder, case, images)
    first = images[0]
    for image in images:
        _check_kind(image, case)
    if len(images) < 2:
        msg = f"{_about(folder, case)}: holds 1 slice, expected a volume of at least 2; give the whole series"
        raise InputError(msg)
    cosines = _numbers(first, "orientation", 6, case)
    pixel_size = _numbers(first, "pixel size", 2, case)
    for image in images[1:]:
        _check_like_first(image, first, cosines, pixel_size, case)
    positions = np.stack([_numbers(image, "position", 3, case) for image in images])
    order = np.argsort(positions @ np.cross(cosines[:3], cosines[3:]), kind="stable")
    files = [images[index].path for index in order]
    step = _even_step(positions[order], np.cross(cosines[:3], cosines[3:]), files, folder, case)
    # PS3.3, C.7.6.2.1: rows run along the first cosines; the first number of the pixel size lies between rows.
    affine = np.eye(4)
    affine[:3] = np.stack([cosines[:3] * pixel_size[1], cosines[3:] * pixel_size[0], step, positions[order[0]]], axis=1)
    return _Grid(files, VolumeHeader(str(folder), (*first.size, len(files)), orientation_ras_lps(affine)))


def _check_kind(image: _Image, case: str) -> None:
    """Checks that an image is one slice of CT."""
    modality = image.tags.get("modality") or "unknown"
    if modality != "CT":
        msg = f"{where(case, image.path)}: its modality is {modality}, expected CT; give the folder of a CT series"
        raise InputError(msg)
    frames = image.tags.get("frames") or "1"
    if frames != "1":
        msg = (
            f"{where(case, image.path)}: holds {frames} frames, expected one slice a file; "
            "export it as classic CT, or convert it to NIfTI"
        )
        raise InputError(msg)


def _check_like_first(image: _Image, first: _Image, cosines: np.ndarray, pixel_size: np.ndarray, case: str) -> None:
    """Checks that a slice has the size and orientation of the first one."""
    place, name = where(case, image.path), Path(first.path).name
    advice = "move the images that belong to another scan into a folder of their own"
    if image.size != first.size:
        got, expected = ("{} x {} pixels".format(*one.size) for one in (image, first))
        msg = f"{place}: {got}, but {name} has {expected}; {advice}"
        raise InputError(msg)
    for what, expected_numbers in (("orientation", cosines), ("pixel size", pixel_size)):
        numbers = _numbers(image, what, len(expected_numbers), case)
        if np.abs(numbers - expected_numbers).max() > ORIENTATION_TOLERANCE:
            msg = f"{place}: {what} {image.tags[what]}, but {name} has {first.tags[what]}; {advice}"
            raise InputError(msg)


def _even_step(
    positions: np.ndarray, normal: np.ndarray, files: Sequence[str], folder: str | os.PathLike, case: str
) -> np.ndarray:
    """Returns the step from slice to slice (mm, LPS), which must be the same everywhere."""
    along = positions @ normal
    gaps = np.diff(along)
    usual = float(np.median(gaps))
    allowed = GAP_TOLERANCE * max(1.0, usual)
    if gaps.min() <= allowed:
        twin = int(gaps.argmin())
        one, other = (Path(file).name for file in files[twin : twin + 2])
        msg = (
            f"{_about(folder, case)}: {one} and {other} lie at the same place ({along[twin]:.2f} mm along the "
            "normal); keep one of them, and one phase of a scan a folder"
        )
        raise InputError(msg)
    for index, gap in enumerate(gaps):
        if abs(gap - usual) > allowed:
            fault = "a slice is missing" if gap > 1.5 * usual else "slices are unevenly spaced"
            msg = (
                f"{_about(folder, case)}: {fault} between {along[index]:.2f} and {along[index + 1]:.2f} mm along the "
                f"normal (distance {gap:.2f} mm, elsewhere {usual:.2f} mm); copy or export the whole series again"
            )
            raise InputError(msg)
    step: np.ndarray = (positions[-1] - positions[0]) / (len(positions) - 1)
    astray = np.abs(positions - positions[0] - np.arange(len(positions))[:, None] * step).max(axis=1)
    if astray.max() > STRAIGHTNESS_TOLERANCE * usual:
        msg = (
            f"{where(case, files[int(astray.argmax())])}: lies {astray.max():.2f} mm beside the line of the other "
            "slices; move the images that belong to another scan into a folder of their own"
        )
        raise InputError(msg)
    return step
