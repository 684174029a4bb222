"""Four 3D files of a case -> one 4D file, which MONAI Label and other one-file tools can read."""

from __future__ import annotations

import gzip
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from custom_nets.datasets.modalities import MODALITIES, case_of_files, role_of
from custom_nets.datasets.validation import check_case
from custom_nets.errors import InputError
from custom_nets.io.files import atomic_file
from custom_nets.io.nifti import SUFFIXES, describe_channels, read_voxels

EXACT_DTYPES = (np.uint8, np.int16, np.uint16, np.int32)
"""Voxel types kept as they are; all others become float32."""


def stack_case(images: Sequence[str | os.PathLike], output: str | os.PathLike) -> Path:
    """Stacks the four modalities of a case into one 4D NIfTI file.

    Args:
        images: four 3D files; put into the order FLAIR, T1, T1ce, T2 when their names tell, else taken in that order.
        output: the file to be written, `.nii.gz` or `.nii`, `(x, y, z, 4)`; it appears only when complete.

    Returns:
        The file written; its header's description names the channels, which is checked whenever it is read.

    Raises:
        InputError: when a modality is missing, the files differ in shape or affine, or one cannot be read.
    """
    target = Path(output).expanduser()
    if not target.name.lower().endswith(SUFFIXES):
        msg = f"{target}: expected a name that ends with {' or '.join(SUFFIXES)}; rename the output"
        raise InputError(msg)
    files = [str(file) for file in images]
    roles = [role_of(file) for file in files]
    if all(role in MODALITIES for role in roles):
        files.sort(key=lambda file: MODALITIES.index(str(role_of(file))))
    case = case_of_files(files)
    check_case({"case": case, "image": files})
    channels = [read_voxels(file, case) for file in files]
    common = np.result_type(*channels)
    dtype = common if common in EXACT_DTYPES else np.dtype(np.float32)
    first: Any = nib.load(files[0])
    data = np.stack([channel.reshape(channel.shape[:3]).astype(dtype, copy=False) for channel in channels], axis=-1)
    stacked = nib.Nifti1Image(data, first.affine, first.header, dtype=dtype)
    stacked.header["descrip"] = describe_channels(MODALITIES).encode()
    with atomic_file(target) as temporary:
        if target.name.lower().endswith(".gz"):
            with gzip.open(temporary, "wb", compresslevel=4) as stream:
                stacked.to_stream(stream)
        else:
            with temporary.open("wb") as plain:
                stacked.to_stream(plain)
    return target
