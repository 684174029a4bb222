"""DICOM series folders: which folder is one, the grid that its headers promise, its voxels in Hounsfield units."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from monai.data.utils import orientation_ras_lps
from monai.utils import optional_import

from custom_nets.errors import InputError, first_names
from custom_nets.io.nifti import VolumeHeader, where

AIR = -1024.0
"""Hounsfield units of what a scanner marks as padding: it lies outside the field of view."""

GAP_TOLERANCE = 0.15
"""Distances between neighbouring slices may differ this much: as a part of them, or in mm where that is more."""

STRAIGHTNESS_TOLERANCE = 0.1
"""A slice may lie this part of the distance between slices away from the line through all of them.

Where positions are rounded, either tolerance is at least their last digit, as far as a missing slice still shows."""

ORIENTATION_TOLERANCE = 1e-4
"""Largest difference between direction cosines, and between pixel sizes (mm), of slices of one volume."""

CT = ("CT",)
"""Modality of the scans whose voxels are read, as Hounsfield units."""

SCANS = ("CT", "MR", "PT")
"""Modalities of scans that results may refer to."""

SUFFIXES = (".dcm", ".dicom", ".ima")
"""A file of such a name that cannot be read is an error; others that do not begin as DICOM belong to something else."""

_LOOKED_AT = 16
_SLAB = 32
_NEEDED = "{}; DICOM folders need pydicom: pip install pydicom"
_DECODER = "pip install python-gdcm, or export the series uncompressed"
_KEYWORDS = {
    "study": "StudyInstanceUID",
    "series": "SeriesInstanceUID",
    "pixel size": "PixelSpacing",
    "position": "ImagePositionPatient",
    "orientation": "ImageOrientationPatient",
}
_ALSO_READ = [
    "SpecificCharacterSet",
    "SOPClassUID",
    "ImageType",
    "Modality",
    "SeriesDescription",
    "AcquisitionNumber",
    "TemporalPositionIdentifier",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "PhotometricInterpretation",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
]
_RESCALE = {"RescaleSlope": 1.0, "RescaleIntercept": 0.0}
_HOUNSFIELD = {"HU", "HU_MOD", "US"}
"""Values of RescaleType: Hounsfield units, modified Hounsfield units, unspecified (PS3.3, C.11.1.1.2)."""
_PHASES = ("AcquisitionNumber", "TemporalPositionIdentifier")

logger = logging.getLogger(__name__)


class _Image(NamedTuple):
    """One DICOM file and what is needed of its header."""

    path: str
    tags: Any

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows."""
        return int(self.tags.get("Columns") or 0), int(self.tags.get("Rows") or 0)

    @property
    def kind(self) -> str:
        """The modality, or that it is a localizer, drawn to plan the scan."""
        return "localizer" if "LOCALIZER" in _values(self.tags, "ImageType") else str(self.tags.get("Modality") or "")


class Series(NamedTuple):
    """The slices of one volume and its grid.

    Args:
        files: one a slice, in the order of the third axis.
        header: the grid, see `read_dicom_header`.
    """

    files: list[str]
    header: VolumeHeader


def is_dicom_folder(path: str | os.PathLike) -> bool:
    """Returns whether a folder holds DICOM files directly in it, from the first bytes of a few files."""
    try:
        return Path(path).is_dir() and any(_begins_as_dicom(file) for file in islice(_visible_files(path), _LOOKED_AT))
    except OSError:
        return False


def holds_ct(folder: str | os.PathLike) -> bool:
    """Returns whether one of the first DICOM files of a folder is a slice of CT, no localizer, segmentation or dose."""
    try:
        return any(image.kind == "CT" for image in _read_images(folder, "", _LOOKED_AT))
    except InputError:
        return True  # the check of the case says what is wrong with it


def check_one_series(folder: str | os.PathLike, case: str) -> None:
    """Checks that a folder holds the slices of one DICOM series of CT.

    What belongs to a scan without being it is passed over: other modalities (segmentations, structure sets, dose),
    localizers, and single images. Which of two scans is meant is not guessed.

    Args:
        folder: a folder of DICOM files.
        case: the case that messages name.

    Raises:
        InputError: when there is no DICOM file, a file cannot be read, or there are several series, listed with their
            numbers of images, sizes (columns x rows) and the ends of their UIDs.
    """
    _one_series(folder, case, CT)


def study_of(folder: str | os.PathLike) -> str:
    """Returns the StudyInstanceUID of the first DICOM file of a folder.

    Raises:
        InputError: when the folder has no DICOM file, or that one cannot be read or names no study.
    """
    case = Path(os.path.abspath(folder)).name
    image = _read_images(folder, case, limit=1)[0]
    return str(_tag(image, "study", case))


def read_dicom_header(folder: str | os.PathLike, case: str) -> VolumeHeader:
    """Reads the grid of a CT series from its headers.

    The third axis runs along the cross product of the first two, whatever the names or numbers of the files; slices
    of a tilted gantry, shifted evenly against each other, have an affine with shear. A line is fitted through all
    positions, as many scanners round them.

    Args:
        folder: a folder of DICOM files, one slice a file.
        case: the case that messages name.

    Returns:
        The folder, its shape (x, y, z) and the affine to RAS millimetres, as NIfTI has them.

    Raises:
        InputError: when `check_one_series` finds a fault, the images are no CT, are fewer than two, differ in size or
            orientation, are compressed in a way that cannot be read here, or are not evenly spaced, as where a slice is
            missing or two phases lie in one another.
    """
    return _read_grid(folder, case).header


def read_series(folder: str | os.PathLike, case: str, modalities: Sequence[str] = SCANS) -> Series:
    """Reads which files are the slices of a scan, in their order, and its grid, from headers alone.

    Args:
        folder: a folder of DICOM files, one slice a file.
        case: the case that messages name.
        modalities: any of which the scan may be.

    Raises:
        InputError: as of `read_dicom_header`; how the pixels are compressed does not matter.
    """
    return _read_grid(folder, case, modalities, pixels=False)


def read_dicom(folder: str | os.PathLike, case: str) -> tuple[VolumeHeader, np.ndarray]:
    """Reads the grid and the voxels of a CT series.

    Args:
        folder: a folder of DICOM files, one slice a file.
        case: the case that messages name.

    Returns:
        What `read_dicom_header` returns, and the Hounsfield units (x, y, z), float32; padding becomes air.

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


def _begins_as_dicom(path: str) -> bool:
    """Returns whether a file begins as DICOM does (PS3.10, 7.1), or without that as its first element (PS3.5, 7.1)."""
    with open(path, "rb") as file:
        head = file.read(132)
    group, explicit = head[:2], head[4:6].isalpha() and head[4:6].isupper()
    short = head[6:8] == b"\0\0"  # of an implicit type the length, of at most a few characters
    return head[128:] == b"DICM" or (len(head) == 132 and group in (b"\2\0", b"\b\0") and (explicit or short))


def _unreadable(path: str, case: str, error: Exception) -> InputError:
    """Returns the error for a file that cannot be read."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    msg = (
        f"{where(case, path)}: not readable as a DICOM image ({lines[0].strip()}); export the series again, "
        "or move what is no image out of the folder"
    )
    return InputError(msg)


def _read_images(folder: str | os.PathLike, case: str, limit: int | None = None) -> list[_Image]:
    """Returns the DICOM files directly in a folder, in the order of their names."""
    if not Path(folder).is_dir():
        msg = f"{_about(folder, case)}: there is no such folder; check the path"
        raise InputError(msg)
    images: list[_Image] = []
    for path in sorted(_visible_files(folder)):
        if path.lower().endswith(SUFFIXES) or _begins_as_dicom(path):
            images.append(_Image(path, _read_file(path, case, specific_tags=[*_KEYWORDS.values(), *_ALSO_READ])))
        if len(images) == limit:
            break
    if not images:
        msg = (
            f"{_about(folder, case)}: holds no DICOM file directly in it; "
            "give the folder of one series, or a NIfTI file"
        )
        raise InputError(msg)
    return images


def _read_file(path: str, case: str, specific_tags: Sequence[str] = ()) -> Any:
    """Returns the elements of a file, all of them or a few without the pixels."""
    pydicom, _ = optional_import("pydicom", descriptor=_NEEDED)
    few = {"stop_before_pixels": True, "specific_tags": list(specific_tags)} if specific_tags else {}
    try:
        with pydicom.config.disable_value_validation():
            tags = pydicom.dcmread(path, force=_begins_as_dicom(path), **few)
    except ImportError:
        raise
    except Exception as error:  # damage shows as almost any exception, depending on the byte
        raise _unreadable(path, case, error) from error
    if "TransferSyntaxUID" not in tags.file_meta:  # a file that begins with its first element
        little, implicit = pydicom.uid.ExplicitVRLittleEndian, pydicom.uid.ImplicitVRLittleEndian
        tags.file_meta.TransferSyntaxUID = implicit if tags.original_encoding[0] else little
    return tags


def _read_pixels(path: str, case: str) -> np.ndarray:
    """Returns one slice (x, y), float32, with the rescale slope and intercept applied."""
    tags = _read_file(path, case)
    try:
        stored = tags.pixel_array.T.reshape(tags.Columns, tags.Rows)  # fails where there are more than it says
        slope, intercept = (float(_or(tags.get(name), usual)) for name, usual in _RESCALE.items())
        pixels: np.ndarray = stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)
        padding = _padding(tags, stored)
    except Exception as error:
        raise _unreadable(path, case, error) from error
    if padding is not None:
        pixels[padding] = AIR
    return pixels


def _or(value: Any, otherwise: Any) -> Any:
    """Returns a value, or another where it is absent or empty."""
    return otherwise if value in (None, "") else value


def _padding(tags: Any, stored: np.ndarray) -> np.ndarray | None:
    """Returns where stored numbers mark padding (PS3.3, C.7.5.1.1.2), None where there is no such number."""
    found = [tags.get(name) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    numbers = [
        int.from_bytes(n[:2], "little") if isinstance(n, bytes) else int(n) for n in found if n not in (None, "")
    ]
    if found[0] in (None, ""):
        return None
    # Writers mix up signed and unsigned here: the bits count.
    ends = np.array([number & 0xFFFF for number in numbers]).astype(np.uint16).astype(stored.dtype)
    inside: np.ndarray = (stored >= ends.min()) & (stored <= ends.max())
    return inside


def _values(tags: Any, keyword: str) -> list[str]:
    """Returns the texts of an element that may have several."""
    value = tags.get(keyword)
    return [] if value is None else [value] if isinstance(value, str) else [str(part) for part in value]


def _one_series(folder: str | os.PathLike, case: str, modalities: Sequence[str]) -> list[_Image]:
    """Returns the images of the one series of some modalities in a folder."""
    series: dict[str, list[_Image]] = {}
    for image in _read_images(folder, case):
        series.setdefault(str(image.tags.get("SeriesInstanceUID") or ""), []).append(image)
    scans = {uid: members for uid, members in series.items() if members[0].kind in modalities and len(members) > 1}
    if len(series) > 1 and len(scans) == 1:
        (chosen,) = scans
        others = Counter(members[0].kind or "unknown" for uid, members in series.items() if uid != chosen)
        passed = ", ".join(f"{count} of {kind}" for kind, count in others.items())
        scan, kind = scans[chosen], scans[chosen][0].kind
        logger.info("%s: takes the %s of %d images, passes over other series: %s", case, kind, len(scan), passed)
        return scan
    if len(series) == 1:
        return next(iter(series.values()))
    listed = []
    for uid, members in (scans or series).items():
        columns, rows = members[0].size
        count = "1 image" if len(members) == 1 else f"{len(members)} images"
        name = str(members[0].tags.get("SeriesDescription") or "without a description")
        listed.append(f"'{name}' ({count}, {columns} x {rows}, UID ...{uid[-12:]})")
    studies = len({str(m.tags.get("StudyInstanceUID") or "") for uid in (scans or series) for m in series[uid]})
    of_studies = f" of {studies} studies" if studies > 1 else ""
    msg = (
        f"{_about(folder, case)}: holds {len(listed)} series{of_studies}, expected one of {' or '.join(modalities)}: "
        f"{first_names(listed)}; "
        "move one series into a folder of its own and give that"
    )
    raise InputError(msg)


def _tag(image: _Image, name: str, case: str) -> Any:
    """Returns the value of an element that an image must have."""
    try:
        value = image.tags.get(_KEYWORDS[name])
    except Exception as error:  # numbers are converted when they are asked for
        msg = f"{where(case, image.path)}: {name} is damaged ({error}); export the series again"
        raise InputError(msg) from error
    if value is None or not str(value):
        msg = (
            f"{where(case, image.path)}: has no {name} ({_KEYWORDS[name]}), needed of every slice; "
            "export the series again, not anonymised so far, or convert it to NIfTI"
        )
        raise InputError(msg)
    return value


def _numbers(image: _Image, name: str, count: int, case: str) -> np.ndarray:
    """Returns the numbers of an element."""
    value = _tag(image, name, case)
    try:
        numbers = np.array([float(part) for part in value])
    except (TypeError, ValueError):
        numbers = np.array([np.nan])
    if len(numbers) != count or not np.isfinite(numbers).all() or (name == "pixel size" and not numbers.min() > 0):
        what = "lengths above 0" if name == "pixel size" else "numbers"
        msg = f"{where(case, image.path)}: {name} {_shown(value)}, expected {count} {what}; export the series again"
        raise InputError(msg)
    return numbers


def _shown(value: Any) -> str:
    """Returns an element's value as it stands in the file."""
    return value if isinstance(value, str) else "\\".join(map(str, value)) if hasattr(value, "__iter__") else str(value)


def _read_grid(folder: str | os.PathLike, case: str, modalities: Sequence[str] = CT, pixels: bool = True) -> Series:
    """Returns the sorted files of the one scan in a folder, and its grid; the pixels, too, are to be read or not."""
    images = _one_series(folder, case, modalities)
    first = images[0]
    for image in images:
        _check_kind(image, case, modalities)
        if pixels:
            _check_pixels(image, case)
    if len(images) < 2:
        msg = f"{_about(folder, case)}: holds 1 slice, expected a volume of at least 2; give the whole series"
        raise InputError(msg)
    cosines = _numbers(first, "orientation", 6, case)
    pixel_size = _numbers(first, "pixel size", 2, case)
    for image in images[1:]:
        _check_like_first(image, first, cosines, pixel_size, case)
    if pixels:
        _check_units(images, folder, case)
    positions = np.stack([_numbers(image, "position", 3, case) for image in images])
    normal = np.cross(cosines[:3], cosines[3:])
    order = np.argsort(positions @ normal, kind="stable")
    images, positions = [images[index] for index in order], positions[order]
    _check_one_phase(images, positions @ normal, folder, case)
    origin, step = _fit_line(positions, normal, [image.path for image in images], folder, case)
    # PS3.3, C.7.6.2.1: rows run along the first cosines; the first number of the pixel size lies between rows.
    affine = np.eye(4)
    affine[:3] = np.stack([cosines[:3] * pixel_size[1], cosines[3:] * pixel_size[0], step, origin], axis=1)
    shape = (*first.size, len(images))
    header = VolumeHeader(str(folder), shape, orientation_ras_lps(affine), orientation="DICOM")
    return Series([image.path for image in images], header)


def _check_kind(image: _Image, case: str, modalities: Sequence[str]) -> None:
    """Checks that an image is one slice of a scan."""
    modality, wanted = image.tags.get("Modality") or "unknown", " or ".join(modalities)
    if modality not in modalities:
        msg = (
            f"{where(case, image.path)}: its modality is {modality}, expected {wanted}; "
            f"give the folder of a series of {wanted}"
        )
        raise InputError(msg)
    frames = int(image.tags.get("NumberOfFrames") or 1)
    if frames != 1:
        msg = (
            f"{where(case, image.path)}: holds {frames} frames, expected one slice a file; "
            f"export it as classic {modality}, or convert it to NIfTI"
        )
        raise InputError(msg)


def _check_pixels(image: _Image, case: str) -> None:
    """Checks that the pixels of an image can be read here."""
    syntax = image.tags.file_meta.TransferSyntaxUID
    if not _can_decode(syntax):
        packed = f"its pixels are {syntax.name} ({syntax}), not to be read with the packages here"
        msg = f"{where(case, image.path)}: {packed}: {_DECODER}"
        raise InputError(msg)
    columns, rows = image.size
    needed = columns * rows * int(image.tags.get("BitsAllocated") or 8) // 8
    if not syntax.is_compressed and os.path.getsize(image.path) < needed:
        msg = f"{where(case, image.path)}: cut short, its pixels need {needed:,} bytes; copy or export it again"
        raise InputError(msg)


def _can_decode(syntax: Any) -> bool:
    """Returns whether pixels of a transfer syntax can be read with the packages that are there."""
    get_decoder, _ = optional_import("pydicom.pixels", name="get_decoder", descriptor=_NEEDED)
    try:
        return bool(get_decoder(syntax).is_available)
    except NotImplementedError:
        return False


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
            got, expected = (_shown(_tag(one, what, case)) for one in (image, first))
            msg = f"{place}: {what} {got}, but {name} has {expected}; {advice}"
            raise InputError(msg)


def _check_units(images: Sequence[_Image], folder: str | os.PathLike, case: str) -> None:
    """Warns where slices do not say how their numbers become Hounsfield units, or say that they become others."""
    doubts = Counter(doubt for image in images for doubt in _doubts(image.tags))
    for doubt, number in sorted(doubts.items()):
        logger.warning("%s: %d of %d slices %s", _about(folder, case), number, len(images), doubt)


def _doubts(tags: Any) -> Iterator[str]:
    """Yields why the numbers of a slice may not be Hounsfield units."""
    unit = str(tags.get("RescaleType") or "HU")
    if unit not in _HOUNSFIELD:
        yield f"have numbers in {unit} (RescaleType), expected HU; they are taken as Hounsfield units"
    if tags.get("PhotometricInterpretation") == "MONOCHROME1":
        yield (
            "are MONOCHROME1, shown with low numbers bright; air must still be near -1000, else export the series as "
            "MONOCHROME2"
        )
    if any(tags.get(name) in (None, "") for name in _RESCALE):
        yield "have no RescaleSlope or RescaleIntercept; their numbers are taken as Hounsfield units"


def _check_one_phase(images: Sequence[_Image], along: np.ndarray, folder: str | os.PathLike, case: str) -> None:
    """Checks that acquisitions or phases of a series, where it tells them apart, do not lie in one another."""
    for name in _PHASES:
        places: dict[str, list[float]] = {}
        for image, place in zip(images, along, strict=True):
            places.setdefault(str(image.tags.get(name) or ""), []).append(float(place))
        ranges = [(min(found), max(found)) for found in places.values()]
        if any(max(a[0], b[0]) < min(a[1], b[1]) for a, b in combinations(ranges, 2)):
            listed = [f"{number or 'none'} ({len(found)} images)" for number, found in places.items()]
            msg = (
                f"{_about(folder, case)}: {len(places)} phases lie in one another, {name} {first_names(listed)}; "
                "move the images of one phase into a folder of its own and give that"
            )
            raise InputError(msg)


def _fit_line(
    positions: np.ndarray, normal: np.ndarray, files: Sequence[str], folder: str | os.PathLike, case: str
) -> tuple[np.ndarray, np.ndarray]:
    """Returns origin and step (mm, LPS) of evenly spaced slices: the line through all positions, least squares."""
    along = positions @ normal
    gaps = np.diff(along)
    usual = float(np.median(gaps))
    digit = _last_digit(positions)
    allowed = max(GAP_TOLERANCE * max(1.0, usual), min(digit, usual / 2))
    if gaps.min() <= min(allowed, usual / 4):
        twin = int(gaps.argmin())
        one, other = (Path(file).name for file in files[twin : twin + 2])
        msg = (
            f"{_about(folder, case)}: {one} and {other} lie at the same place ({along[twin]:.2f} mm along the "
            "normal); keep one of them, and one phase of a scan a folder"
        )
        raise InputError(msg)
    index = int(np.abs(gaps - usual).argmax())
    gap = float(gaps[index])
    if abs(gap - usual) > allowed + 1e-6 and not _is_rounded_line(along, min(digit, usual / 4)):
        fault = "a slice is missing" if gap > 1.5 * usual else "slices are unevenly spaced"
        msg = (
            f"{_about(folder, case)}: {fault} between {along[index]:.2f} and {along[index + 1]:.2f} mm along the "
            f"normal (distance {gap:.2f} mm, elsewhere {usual:.2f} mm); copy or export the whole series again"
        )
        raise InputError(msg)
    numbers = np.arange(len(positions))
    centred = numbers - numbers.mean()
    step = centred @ positions / (centred @ centred)
    origin = positions.mean(axis=0) - numbers.mean() * step
    astray = np.abs(positions - origin - numbers[:, None] * step).max(axis=1)
    if astray.max() > max(STRAIGHTNESS_TOLERANCE * usual, min(digit, usual / 4)):
        msg = (
            f"{where(case, files[int(astray.argmax())])}: lies {astray.max():.2f} mm beside the line of the other "
            "slices; move the images that belong to another scan into a folder of their own"
        )
        raise InputError(msg)
    return origin, step


def _is_rounded_line(along: np.ndarray, digit: float) -> bool:
    """Returns whether places are those of evenly spaced slices, each rounded to a digit.

    Any two places then tell the step to within a digit over the slices between them; one step must do for all.
    """
    one, other = np.triu_indices(len(along), 1)
    steps, apart = along[other] - along[one], other - one
    return bool(((steps - digit) / apart).max() <= ((steps + digit) / apart).min() + 1e-6)


def _last_digit(positions: np.ndarray) -> float:
    """Returns the power of ten, 1 or below, that all positions are multiples of: what they may be rounded to."""
    for digit in (1.0, 0.1, 0.01, 0.001):
        if np.abs(positions - np.round(positions / digit) * digit).max() < 1e-6:
            return digit
    return 0.0
