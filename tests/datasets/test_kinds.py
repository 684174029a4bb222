"""Brain and liver data are told apart."""

import pytest

from custom_nets.datasets.kinds import recognise
from custom_nets.errors import InputError


class TestBrain:
    def test_case_folders(self, brats2020):
        assert recognise(brats2020) == "brats"

    def test_single_modality(self, brats2020):
        assert recognise(brats2020 / "BraTS20_Training_001" / "BraTS20_Training_001_t1.nii") == "brats"

    def test_decathlon(self, decathlon):
        assert recognise(decathlon) == "brats"

    def test_loose_4d_file(self, tmp_path, write_nifti):
        assert recognise(write_nifti(tmp_path / "a.nii.gz", (6, 5, 4, 4))) == "brats"


class TestLiver:
    def test_lits_2017_in_folders(self, tmp_path, write_nifti):
        write_nifti(tmp_path / "Training Batch 1" / "volume-0.nii")
        assert recognise(tmp_path) == "lits"

    def test_decathlon(self, tmp_path, write_nifti):
        write_nifti(tmp_path / "imagesTr" / "liver_0.nii.gz")
        assert recognise(tmp_path) == "lits"

    def test_loose_3d_file(self, tmp_path, write_nifti):
        assert recognise(write_nifti(tmp_path / "a.nii.gz")) == "lits"

    def test_unreadable_files_are_passed_over(self, tmp_path, write_nifti):
        (tmp_path / "a.nii").write_bytes(b"")
        write_nifti(tmp_path / "b.nii")
        assert recognise(tmp_path) == "lits"

    def test_dicom_folder(self, tmp_path):
        (tmp_path / "p1").mkdir()
        (tmp_path / "p1" / "0.dcm").write_bytes(bytes(128) + b"DICM")
        assert recognise(tmp_path) == "lits"


def test_both_are_an_error(tmp_path, brats2020, write_nifti):
    write_nifti(tmp_path / "volume-0.nii")
    with pytest.raises(InputError, match="holds brain data and liver data; give the folder of one of them"):
        recognise(tmp_path)


def test_neither_names_what_was_looked_for(tmp_path):
    (tmp_path / "notes.txt").touch()
    expected = r"looked for brain data: case folders .*; for liver data: volume-<n>.*; found notes.txt; check dataset_d"
    with pytest.raises(InputError, match=expected):
        recognise(tmp_path)


def test_absent(tmp_path):
    with pytest.raises(InputError, match="there is no such folder"):
        recognise(tmp_path / "data")


def test_file_of_another_kind(tmp_path):
    (tmp_path / "a.mha").touch()
    with pytest.raises(InputError, match=r"a.mha: expected a folder or a NIfTI file"):
        recognise(tmp_path / "a.mha")
