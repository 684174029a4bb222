"""NIfTI files: the grid that the header promises, whether the file is whole, its voxels with their checksum checked."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import DTypeLike

from custom_nets.errors import InputError
from custom_nets.io.orientation import forms_apart, forms_as_text, millimetres_a_unit, orientation_of

AFFINE_TOLERANCE = 1e-3
"""Two grids are one when no entry of their affines (mm, mm per voxel) differs by more."""

open_gzip: Any = gzip.open
_UNPACK_ERRORS: tuple[type[Exception], ...] = (zlib.error,)
try:
    from isal import igzip, isal_zlib
except ImportError:
    pass
else:  # unpacks in half the time, and tells damage as the standard library does
    open_gzip = igzip.open
    _UNPACK_ERRORS = (zlib.error, isal_zlib.error)  # type: ignore[assignment]

_CUT_SHORT: tuple[type[Exception], ...] = (EOFError, OSError, *_UNPACK_ERRORS)

READ_ERRORS: tuple[type[Exception], ...] = (
    OSError,
    EOFError,
    ValueError,
    *_UNPACK_ERRORS,
    ImageFileError,
    HeaderDataError,
)
"""Exceptions of nibabel on a file that it cannot read."""

SUFFIXES = (".nii.gz", ".nii")
"""The files read, the preferred suffix first."""

SPACINGS = (0.01, 100.0)
"""Voxels of medical scans are this long (mm); a header that says otherwise is wrong, most often about its unit."""

LONGEST_SIDE = 5000.0
"""No scan is longer (mm); resampled, one that claims to be would ask for more memory than there is."""

MAX_ORIGIN = 1e7
"""No scan lies so far (mm) from the origin of its coordinates, where float32 no longer tells voxels apart."""

_CHANNELS = "channels: "
_GZIP_RATIO = 1032  # deflate packs no better, see zlib's technical notes
_KINDS = {"c": "complex numbers", "V": "several numbers each (colours)"}
_NIFTI2_BYTES = 540
_CHUNK = 1 << 20
_SLAB_VOXELS = 1 << 23
_ROWS = 8


class VolumeHeader(NamedTuple):
    """The grid of one file.

    Args:
        path: the file.
        shape: `(x, y, z)` or `(x, y, z, channels)`; other axes of length 1 are left out.
        affine: voxel indices to RAS millimetres `[4, 4]`: nibabel's choice of the two forms, the unit converted.
        dtype: of the voxels as stored; None where the reader does not tell.
        channels: names of the channels of a 4D file, where its header tells them (see `describe_channels`).
        orientation: which form the affine is, "sform", "qform", "DICOM", or "unknown" where the header sets neither.
        forms_apart: how far apart the two forms place a corner of the volume (mm).
        forms: what results need to state the same place, see `forms_as_text`.
    """

    path: str
    shape: tuple[int, ...]
    affine: np.ndarray
    dtype: np.dtype | None = None
    channels: tuple[str, ...] = ()
    orientation: str = "sform"
    forms_apart: float = 0.0
    forms: str = ""


def is_nifti(path: str | os.PathLike) -> bool:
    """Returns whether the name ends as a NIfTI file's, and is neither hidden nor macOS's `._` companion."""
    name = Path(path).name.lower()
    return name.endswith(SUFFIXES) and not name.startswith(".")


def stem(path: str | os.PathLike) -> str:
    """Returns the file name without `.nii` or `.nii.gz`.

    >>> stem("imagesTr/BRATS_001.nii.gz")
    'BRATS_001'
    """
    name = Path(path).name
    suffix = next((s for s in SUFFIXES if name.lower().endswith(s)), "")
    return name[: len(name) - len(suffix)]


def where(case: str, path: str | os.PathLike) -> str:
    """Returns how every message begins that is about one file of a case."""
    return f"case {case}, file {path}"


def unreadable(case: str, path: str | os.PathLike, reason: object) -> InputError:
    """Returns the error for a file that cannot be read."""
    lines = str(reason).strip().splitlines()
    detail = f" ({lines[0].strip()})" if lines else ""
    msg = f"{where(case, path)}: not readable as NIfTI{detail}; download or export it again"
    return InputError(msg)


def read_header(path: str | os.PathLike, case: str) -> VolumeHeader:
    """Reads the grid of a NIfTI file and checks that the file is whole, without reading the voxels.

    Args:
        path: a `.nii` or `.nii.gz` file.
        case: the case that messages name.

    Raises:
        InputError: when the file is absent, unreadable, cut short, not a volume of one number a voxel, or has no usable
            affine.
    """
    place = where(case, path)
    if not Path(path).is_file():
        msg = f"{place}: there is no such file; check the path, or copy the file there"
        raise InputError(msg)
    try:
        _check_voxel_sizes(path, place)
        image: Any = nib.load(path)
        header, proxy = image.header, image.dataobj
        promised = proxy.offset + math.prod(proxy.shape) * proxy.dtype.itemsize
        shape = tuple(proxy.shape[:3]) + tuple(size for size in proxy.shape[3:] if size != 1)
        apart = forms_apart(header, shape) if len(shape) >= 3 else 0.0
        held = _bytes_held(path, promised)
    except InputError:
        raise
    except READ_ERRORS as error:
        raise unreadable(case, path, error) from error
    if held < promised:
        msg = (
            f"{place}: cut short, holds {held:,} of the {promised:,} bytes that its header promises; "
            "download or copy it again"
        )
        raise InputError(msg)
    if len(shape) < 3 or min(shape) < 1:
        msg = f"{place}: shape {shape}, expected a volume (x, y, z) or (x, y, z, channels); give the file of a scan"
        raise InputError(msg)
    if proxy.dtype.kind not in "iuf":
        kind = _KINDS.get(proxy.dtype.kind, str(proxy.dtype))
        msg = f"{place}: its voxels hold {kind}, expected one real number; save the intensities (magnitudes) alone"
        raise InputError(msg)
    unit = millimetres_a_unit(header)
    affine = np.diag([unit, unit, unit, 1.0]) @ np.asarray(image.affine, dtype=np.float64)
    _check_affine(affine, shape, unit, place)
    forms = forms_as_text(header, affine)
    channels = _described_channels(image)
    return VolumeHeader(str(path), shape, affine, proxy.dtype, channels, orientation_of(header), apart, forms)


def _check_voxel_sizes(path: str | os.PathLike, place: str) -> None:
    """Checks the voxel sizes where the affine depends on them: nibabel would replace 0 by 1."""
    packed = str(path).lower().endswith(".gz")
    with gzip.open(path, "rb") if packed else open(path, "rb") as file:
        block = file.read(_NIFTI2_BYTES)
    kind = nib.Nifti2Header if nib.Nifti2Header.may_contain_header(block) else nib.Nifti1Header
    if len(block) < kind.sizeof_hdr:
        return  # nibabel says so
    header = kind(block[: kind.sizeof_hdr], check=False)
    sizes = np.abs(header["pixdim"][1:4])
    if int(header["sform_code"]) <= 0 and not (np.isfinite(sizes).all() and sizes.all()):
        found = " x ".join(f"{size:g}" for size in sizes)
        msg = f"{place}: voxel size {found} in its header (pixdim), expected three lengths above 0; repair the header"
        raise InputError(msg)


def _check_affine(affine: np.ndarray, shape: tuple[int, ...], unit: float, place: str) -> None:
    """Checks that an affine (mm) is one of a scan."""
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    usable = np.isfinite(affine).all() and np.abs(affine[:3, 3]).max() < MAX_ORIGIN
    if not usable or not abs(np.linalg.det(affine[:3, :3])) > 1e-6 * lengths.prod():
        found = f"{affine.tolist()} (singular, NaN or far away)"
        msg = f"{place}: unusable affine {found}; repair the header's sform or qform"
        raise InputError(msg)
    least, most = SPACINGS
    if not (lengths.min() >= least and lengths.max() <= most):
        found = " x ".join(f"{length:g}" for length in lengths)
        said = "" if unit == 1 else f" (its unit is {'the metre' if unit > 1 else 'the micron'})"
        msg = (
            f"{place}: voxels of {found} mm{said}, expected {least:g} to {most:g} mm; "
            "correct the spacing or the unit in the header"
        )
        raise InputError(msg)
    sides = lengths * shape[:3]
    if sides.max() > LONGEST_SIDE:
        found = " x ".join(f"{side:,.0f}" for side in sides)
        msg = (
            f"{place}: a volume of {found} mm, expected at most {LONGEST_SIDE:,.0f}; correct the spacing in the header"
        )
        raise InputError(msg)


def describe_channels(names: Sequence[str]) -> str:
    """Returns the text by which the header of a stacked 4D file names its channels; NIfTI has 80 bytes for it."""
    return f"{_CHANNELS}{', '.join(names)}"


def check_channel_order(place: str, found: Sequence[str], expected: Sequence[str]) -> None:
    """Checks that a stacked 4D file names the channels that are expected of it; one that names none is trusted.

    Args:
        place: the file, as messages name it.
        found: what its header names, see `VolumeHeader`.
        expected: names of the channels, in order.

    Raises:
        InputError: when they differ.
    """
    if found and tuple(found) != tuple(expected):
        said, wanted = (", ".join(names) for names in (found, expected))
        msg = f"{place}: its header says '{_CHANNELS}{said}', expected '{_CHANNELS}{wanted}'; stack the files again"
        raise InputError(msg)


def _described_channels(image: Any) -> tuple[str, ...]:
    """Returns the channels that a header's free text names, see `describe_channels`."""
    if not isinstance(image.header, nib.Nifti1Header):
        return ()
    text = image.header["descrip"].item().decode("utf-8", "replace").strip("\0 ")
    return tuple(text.removeprefix(_CHANNELS).split(", ")) if text.startswith(_CHANNELS) else ()


def read_voxels(
    path: str | os.PathLike, case: str, dtype: DTypeLike | None = None, out: np.ndarray | None = None
) -> np.ndarray:
    """Reads the voxels of a NIfTI file, scaled as its header says, in the file's shape.

    Unlike nibabel and MONAI, which stop before the end of a gzip file, this checks its checksum: a damaged file can
    unpack into wrong voxels without any other sign.

    Args:
        path: a `.nii` or `.nii.gz` file.
        case: the case that messages name.
        dtype: type of the voxels, converted slab by slab into an array in C order, so that no second volume is held;
            None takes what nibabel gives (float64 where the header scales).
        out: an array in C order of as many voxels, to be written in place of a new one; its type wins over `dtype`.

    Returns:
        The voxels, in the file's shape also where they lie in `out`.

    Raises:
        InputError: when the file is unreadable or damaged.
    """
    try:
        image: Any = nib.load(path)
        if not str(path).lower().endswith(".gz"):
            return _voxels(image.dataobj, dtype, out)
        with _open(path) as file:
            voxels = _voxels(type(image).from_stream(file).dataobj, dtype, out)
            while file.read(_CHUNK):  # the checksum is behind the last byte
                pass
        return voxels
    except READ_ERRORS as error:
        raise unreadable(case, path, error) from error


def _voxels(proxy: Any, dtype: DTypeLike | None, out: np.ndarray | None) -> np.ndarray:
    """Returns the scaled voxels of a file."""
    if dtype is None and out is None:
        return np.asanyarray(proxy)
    voxels = np.empty(proxy.shape, dtype) if out is None else out.reshape(proxy.shape)
    step = max(1, _SLAB_VOXELS // math.prod(proxy.shape[:-1]))
    for start in range(0, proxy.shape[-1], step):
        slab, target = proxy[..., start : start + step], voxels[..., start : start + step]
        # From Fortran to C order in rows that stay in the cache meanwhile: nearly twice as fast as all at once.
        for row in range(0, slab.shape[1], _ROWS):
            target[:, row : row + _ROWS] = slab[:, row : row + _ROWS]
    return voxels


def _open(path: str | os.PathLike) -> Any:
    """Opens a file for reading, unpacked on the way where its name says gzip."""
    return open_gzip(path, "rb") if str(path).lower().endswith(".gz") else open(path, "rb")


def _bytes_held(path: str | os.PathLike, promised: int) -> int:
    """Returns the bytes in a file once unpacked; of a gzip file counted only when its trailer does not confirm them."""
    size = os.path.getsize(path)
    if not str(path).lower().endswith(".gz"):
        return size
    with open(path, "rb") as file:
        file.seek(-4, os.SEEK_END)
        # RFC 1952, 2.3.1: ISIZE, the unpacked size modulo 2**32, ends each member.
        trailer = int.from_bytes(file.read(4), "little")
    may_hold = promised < 2**32 and promised <= size * _GZIP_RATIO
    return promised if may_hold and trailer == promised else _count_unpacked(path, promised)


def _count_unpacked(path: str | os.PathLike, enough: int) -> int:
    """Returns the bytes that unpack from a gzip file, at most about `enough`; several members count together."""
    count = 0
    with gzip.open(path, "rb") as file:  # isal's gives nothing of a small file that is cut
        while count < enough:
            try:
                chunk = file.read1(_CHUNK)
            except _CUT_SHORT:
                break
            if not chunk:
                break
            count += len(chunk)
    return count


def check_same_grid(case: str, headers: Sequence[VolumeHeader], tolerance: float = AFFINE_TOLERANCE) -> None:
    """Checks that files lie on the grid of the first one.

    Args:
        case: the case that messages name.
        headers: the files; only the first three axes are compared.
        tolerance: largest difference between entries of the affines.

    Raises:
        InputError: naming the first file that differs.
    """
    advice = "all files of a case must share one grid: resample this one onto the other, or download it again"
    for other in headers[1:]:
        place, first = where(case, other.path), headers[0]
        if other.shape[:3] != first.shape[:3]:
            msg = f"{place}: shape {other.shape[:3]}, but {Path(first.path).name} has {first.shape[:3]}; {advice}"
            raise InputError(msg)
        apart = float(np.abs(other.affine - first.affine).max())
        if apart > tolerance:
            msg = (
                f"{place}: affine differs from that of {Path(first.path).name} by up to {apart:.4g} "
                f"(allowed {tolerance:g}); {advice}"
            )
            raise InputError(msg)
