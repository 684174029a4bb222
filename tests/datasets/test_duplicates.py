"""Scans that are there twice are told: a split could learn from one and score on the other."""

import gzip
import shutil

import nibabel as nib
import numpy as np
import pytest

from custom_nets.datasets import describe_cases
from custom_nets.datasets.duplicates import duplicate_notes


def item(folder, case, voxels, suffix=".nii.gz", affine=None):
    file = folder / f"{case}{suffix}"
    nib.save(nib.Nifti1Image(voxels, np.eye(4) if affine is None else affine), file)
    return {"case": case, "image": str(file)}


def voxels(seed):
    return np.random.default_rng(seed).integers(0, 1000, (16, 16, 16)).astype(np.int16)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_equal_scans_of_two_cases_are_named(tmp_path, suffix):
    items = [item(tmp_path, name, voxels(seed), suffix) for name, seed in (("a", 0), ("b", 1), ("c", 0), ("d", 0))]
    assert "2 times two cases hold the same scan: a and c, a and d;" in duplicate_notes(items)[0]
    assert any("hold the same scan" in note for note in describe_cases(items))


def test_a_scan_that_was_packed_anew_is_the_same(tmp_path):
    first = item(tmp_path, "a", voxels(0))
    with gzip.open(tmp_path / "b.nii.gz", "wb", compresslevel=1) as packed:
        packed.write(gzip.decompress((tmp_path / "a.nii.gz").read_bytes()))
    assert duplicate_notes([first, {"case": "b", "image": str(tmp_path / "b.nii.gz")}])


def test_a_link_is_the_same_file(tmp_path):
    first = item(tmp_path, "a", voxels(0))
    (tmp_path / "b.nii.gz").symlink_to(first["image"])
    assert duplicate_notes([first, {"case": "b", "image": str(tmp_path / "b.nii.gz")}])


def test_what_differs_in_a_voxel_is_another_scan(tmp_path):
    other = voxels(0)
    other[3, 3, 3] += 1  # between what is sampled of a file without compression
    for suffix in (".nii", ".nii.gz"):
        items = [item(tmp_path, f"a{suffix}", voxels(0), suffix), item(tmp_path, f"b{suffix}", other, suffix)]
        assert duplicate_notes(items) == []


def test_channels_of_one_case_and_files_that_are_none_are_passed_over(tmp_path):
    one = item(tmp_path, "a", voxels(0))
    shutil.copy(one["image"], tmp_path / "a_t2.nii.gz")
    several = {"case": "a", "image": [one["image"], str(tmp_path / "a_t2.nii.gz"), None]}
    (tmp_path / "empty.nii.gz").write_bytes(b"")
    missing = {"case": "d", "image": str(tmp_path / "none.nii.gz")}
    assert duplicate_notes([several, {"case": "c", "image": str(tmp_path / "empty.nii.gz")}, missing]) == []
