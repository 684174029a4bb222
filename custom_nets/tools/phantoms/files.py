"""Parts of all synthetic cohorts: checked arguments, and volumes written whole or not at all."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

from custom_nets.errors import InputError
from custom_nets.io.files import atomic_file


def write_nifti(path: Path, volume: NDArray, affine: NDArray[np.float64]) -> None:
    """Writes one volume, under another name until it is complete."""
    image = nibabel.Nifti1Image(volume, affine)
    image.header.set_xyzt_units("mm")
    with atomic_file(path) as file:
        # Time 0 in the gzip header makes equal volumes equal files.
        file.write_bytes(gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))


def check_folder(path: Path) -> None:
    """Raises an `InputError` where a folder cannot be made because a file is in its place."""
    if path.exists() and not path.is_dir():
        msg = f"cannot write phantoms into '{path}': it is a file; name a folder (it may be new)"
        raise InputError(msg)


def checked_whole(value: int, name: str, least: int) -> int:
    """A whole number of at least `least`, or an `InputError`."""
    if not is_whole(value) or value < least:
        msg = f"{name} is {value!r}; expected a whole number of at least {least}"
        raise InputError(msg)
    return int(value)


def is_whole(value: object) -> bool:
    """Whether this is a whole number, and not a truth value."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
