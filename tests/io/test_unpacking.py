"""The optional faster unpacker reads and refuses what the standard library does."""

import gzip

import nibabel
import numpy as np
import pytest

from custom_nets.errors import InputError
from custom_nets.io import nifti

igzip = pytest.importorskip("isal.igzip")


def flipped(packed: bytes, place: int) -> bytes:
    return packed[:place] + bytes([packed[place] ^ 4]) + packed[place + 1 :]


DAMAGES = {
    "none": lambda packed: packed,
    "two members": lambda packed: (
        gzip.compress(gzip.decompress(packed)[:700]) + gzip.compress(gzip.decompress(packed)[700:])
    ),
    "cut": lambda packed: packed[: len(packed) // 2],
    "without its end": lambda packed: packed[:-6],
    "checksum": lambda packed: flipped(packed, len(packed) - 6),
    "magic": lambda packed: flipped(packed, 0),
    "garbage behind": lambda packed: packed + b"garbage",
    "zeros behind": lambda packed: packed + bytes(64),
    **{f"bit {place}": lambda packed, place=place: flipped(packed, place) for place in range(12, 4000, 333)},
}


def outcome(path):
    """The voxels that are read, or None where the file is refused."""
    try:
        nifti.read_header(path, "c")
        return nifti.read_voxels(path, "c", np.float32)
    except InputError:
        return None


@pytest.mark.parametrize("damage", DAMAGES)
def test_both_unpackers_agree(damage, tmp_path, monkeypatch):
    voxels = np.random.default_rng(0).integers(0, 900, (16, 15, 14)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / "whole.nii.gz")
    path = tmp_path / "c.nii.gz"
    path.write_bytes(DAMAGES[damage]((tmp_path / "whole.nii.gz").read_bytes()))
    assert nifti.open_gzip is igzip.open
    fast = outcome(path)
    monkeypatch.setattr(nifti, "open_gzip", gzip.open)
    plain = outcome(path)
    assert (fast is None) == (plain is None)
    if damage in ("none", "two members", "zeros behind"):
        np.testing.assert_array_equal(fast, voxels)
    if fast is not None:
        np.testing.assert_array_equal(fast, plain)
