"""3D files of a case, one a channel -> one 4D file, which MONAI Label and other one-file tools can read."""

from __future__ import annotations

import gzip
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from custom_nets.datasets.names import case_of_files, record_of_files, role_of
from custom_nets.datasets.validation import check_case
from custom_nets.errors import InputError
from custom_nets.io.files import atomic_file
from custom_nets.io.nifti import SUFFIXES, describe_channels, read_voxels

EXACT_DTYPES = (np.uint8, np.int16, np.uint16, np.int32)
"""Voxel types kept as they are; all others become float32."""


def stack_case(
    images: Sequence[str | os.PathLike], output: str | os.PathLike, modalities: Sequence[str] | None = None
) -> Path:
    """Stacks the files of a case, one a channel, into one 4D NIfTI file.

    Args:
        images: 3D files; put into the order of the modalities when their names tell, else taken in that order.
        output: the file to be written, `.nii.gz` or `.nii`, `(x, y, z, channels)`; it appears only when complete.
        modalities: names of the channels, in order; None takes those of the data set whose names the files have.

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
    case = case_of_files(files)
    record = record_of_files(files)
    names = list(modalities or (record.channel_names if record else ()))
    if not names:
        msg = f"case {case}: the names of its files do not tell their channels; give them in order (--modalities)"
        raise InputError(msg)
    if record:
        files.sort(key=lambda file: [*names, role_of(file, record)].index(role_of(file, record)))
    check_case({"case": case, "image": files, **({"dataset": record.name} if record else {})}, names)
    channels = [read_voxels(file, case) for file in files]
    common = np.result_type(*channels)
    dtype = common if common in EXACT_DTYPES else np.dtype(np.float32)
    first: Any = nib.load(files[0])
    data = np.stack([channel.reshape(channel.shape[:3]).astype(dtype, copy=False) for channel in channels], axis=-1)
    stacked = nib.Nifti1Image(data, first.affine, first.header, dtype=dtype)
    stacked.header["descrip"] = describe_channels(names).encode()
    with atomic_file(target) as temporary:
        if target.name.lower().endswith(".gz"):
            with gzip.open(temporary, "wb", compresslevel=4) as stream:
                stacked.to_stream(stream)
        else:
            with temporary.open("wb") as plain:
                stacked.to_stream(plain)
    return target
