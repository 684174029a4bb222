"""The place of voxels as a NIfTI header states it: two forms with codes, voxel sizes, a unit; and handing it on."""

from __future__ import annotations

import json
from typing import Any

import nibabel as nib
import numpy as np

SAME_PLACE = 1e-3
"""Two places are one when they differ by no more (mm)."""

_MILLIMETRES = {1: 1000.0, 2: 1.0, 3: 0.001}
_SPATIAL_UNITS = 0b111  # the other bits are units of time
_MM = 2
_FIELDS = (
    "qform_code",
    "sform_code",
    *(f"quatern_{axis}" for axis in "bcd"),
    *(f"qoffset_{axis}" for axis in "xyz"),
    *(f"srow_{axis}" for axis in "xyz"),
)


def millimetres_a_unit(header: Any) -> float:
    """Returns the length of the header's spatial unit; one that is unknown or not stated counts as the millimetre."""
    return _MILLIMETRES.get(int(header["xyzt_units"]) & _SPATIAL_UNITS, 1.0)


def orientation_of(header: Any) -> str:
    """Returns which form nibabel takes: "sform", "qform", or "unknown" where the header sets neither."""
    if int(header["sform_code"]) > 0:
        return "sform"
    return "qform" if int(header["qform_code"]) > 0 else "unknown"


def forms_apart(header: Any, shape: tuple[int, ...]) -> float:
    """Returns how far apart the two forms place a corner of the volume (mm); 0 where only one is set.

    Raises:
        HeaderDataError: where the quaternion of the qform is none.
    """
    if not (int(header["sform_code"]) > 0 and int(header["qform_code"]) > 0):
        return 0.0
    ends = np.array(shape[:3]) - 1.0
    corners = np.array([[*(ends * pick), 1] for pick in np.ndindex(2, 2, 2)])
    apart = (corners @ (header.get_sform() - header.get_qform()).T)[:, :3]
    return float(np.linalg.norm(apart, axis=1).max()) * millimetres_a_unit(header)


def forms_as_text(header: Any, affine: np.ndarray) -> str:
    """Returns the header's fields on the place of its voxels as one text, which survives collation.

    Args:
        header: NIfTI-1 or NIfTI-2.
        affine: that was read from it, voxel indices to millimetres `[4, 4]`.
    """
    fields = {name: np.asarray(header[name]).tolist() for name in _FIELDS}
    fields["pixdim"] = np.asarray(header["pixdim"])[:4].tolist()
    fields["unit"] = int(header["xyzt_units"]) & _SPATIAL_UNITS
    return json.dumps({**fields, "affine": np.asarray(affine).tolist()})


def make_header(affine: np.ndarray, forms: str = "") -> nib.Nifti1Header:
    """Returns a header that places a result as the header of its input does, for every reader.

    On the input's own grid both forms, their codes, voxel sizes and the unit are the input's, bit for bit. On another
    grid they are moved along with it. A qform cannot hold a shear, and then has code 0.

    Args:
        affine: of the result, voxel indices to RAS millimetres `[4, 4]`.
        forms: what `forms_as_text` gave for the input; empty where it was no NIfTI file.
    """
    header = nib.Nifti1Header()
    if not forms:
        header["xyzt_units"] = _MM
        _set_forms(header, affine, 1, affine, 1)
        return header
    fields = json.loads(forms)
    read = np.array(fields.pop("affine"))
    header["xyzt_units"] = fields.pop("unit")
    pixdim = fields.pop("pixdim")
    for name, value in fields.items():
        header[name] = value
    header["pixdim"][:4] = pixdim
    if not np.allclose(affine, read, atol=SAME_PLACE):
        moved = np.linalg.inv(read) @ affine  # voxels of the result to voxels of the input
        codes = int(header["qform_code"]), int(header["sform_code"])
        qform = header.get_qform() @ moved if codes[0] > 0 else None
        if max(codes) > 0:
            _set_forms(header, qform, codes[0], header.get_sform() @ moved, codes[1])
        else:
            header["pixdim"][1:4] *= np.linalg.norm(moved[:3, :3], axis=0)
    return header


def _set_forms(header: nib.Nifti1Header, qform: np.ndarray | None, qcode: int, sform: np.ndarray, scode: int) -> None:
    """Sets both forms; a qform that cannot be held goes into the sform where there is none, else it has code 0."""
    if qform is not None:
        header.set_qform(qform, qcode)  # sets the voxel sizes, too
        if np.abs(header.get_qform() - qform).max() > SAME_PLACE:
            sform, scode = (sform, scode) if scode > 0 else (qform, qcode)
            header.set_qform(np.eye(4), 0)
    header.set_sform(sform if scode > 0 else None, scode)
    if int(header["qform_code"]) <= 0:
        header["pixdim"][1:4] = np.linalg.norm(sform[:3, :3], axis=0)
