"""Scans that are there twice are told: a split could learn from one and score on the other."""

import gzip
import shutil
import struct

import nibabel as nib
import numpy as np
import pytest

from custom_nets.datasets import describe_cases, duplicates
from custom_nets.datasets.duplicates import duplicate_notes
from custom_nets.tools import cli


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
    (note,) = duplicate_notes([several], channels=True)
    assert note.startswith("1 times two channels of a case hold the same voxels: a.nii.gz and a_t2.nii.gz;")


def test_files_that_an_empty_member_ends_are_told_apart(tmp_path, monkeypatch):
    """Every file of bgzip has the same last eight bytes: none is read whole for that."""
    items = [item(tmp_path, name, voxels(seed)) for seed, name in enumerate("ab")]
    for one in items:
        with open(one["image"], "ab") as file:
            file.write(gzip.compress(b""))
    monkeypatch.setattr(duplicates, "read_voxels", None)
    assert duplicate_notes(items) == []


def test_a_scan_that_was_saved_again_is_found_by_its_voxels(tmp_path, capsys):
    """Another program writes another type and another header."""
    for number, seed in ((2, 0), (5, 1), (10, 0)):
        scan = np.pad(voxels(seed) - 500, 2, constant_values=-1000)
        kind = np.float32 if number == 10 else np.int16
        nib.save(nib.Nifti1Image(scan.astype(kind), np.diag([2.0, 2, 2, 1])), tmp_path / f"volume-{number}.nii.gz")
    cli.check(str(tmp_path), voxels=False)
    assert "the same scan" not in capsys.readouterr().out
    cli.check(str(tmp_path))
    assert "1 times two cases hold the same scan: volume-2 and volume-10;" in capsys.readouterr().out


def test_a_few_bytes_that_promise_256_gib_are_passed_over(tmp_path):
    one = item(tmp_path, "a", voxels(0))
    raw = bytearray(gzip.decompress((tmp_path / "a.nii.gz").read_bytes())[:352])
    raw[40:48] = struct.pack("<4h", 3, 16384, 16384, 1024)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(bytes(raw)))
    shutil.copy(one["image"], tmp_path / "b.nii.gz")
    assert duplicate_notes([one, {"case": "b", "image": str(tmp_path / "b.nii.gz")}]) == []
