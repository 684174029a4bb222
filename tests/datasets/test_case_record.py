"""The record of an inference keeps every case and its grid, and a damaged one is refused."""

import json

import nibabel as nib
import numpy as np
import pytest

from custom_nets.datasets import datalist
from custom_nets.datasets.case_record import load_case_record, record_cases, save_case_record
from custom_nets.errors import InputError

GRID = np.array([[-1.0, 0, 0, 0.1], [0, -1.0, 0, 239], [0, 0, 1.0, 1 / 3], [0, 0, 0, 1]])


@pytest.fixture
def image(tmp_path):
    file = tmp_path / "a_flair.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), GRID), file)
    return str(file)


@pytest.fixture
def broken(tmp_path):
    file = tmp_path / "b_flair.nii.gz"
    file.write_bytes(b"not gzip")
    return str(file)


def saved(tmp_path, *items):
    save_case_record(tmp_path / "results" / "cases.json", items)
    return load_case_record(tmp_path / "results" / "cases.json")


class TestSave:
    def test_shape(self, tmp_path, image):
        assert saved(tmp_path, {"case": "a", "image": [image]})[0].shape == (4, 5, 6)

    def test_affine_is_that_of_the_header(self, tmp_path, image):
        affine = saved(tmp_path, {"case": "a", "image": [image]})[0].affine
        np.testing.assert_array_equal(affine, nib.load(image).affine)

    def test_4d_file_has_a_spatial_shape(self, tmp_path, write_nifti):
        file = write_nifti(tmp_path / "BRATS_001.nii.gz", (6, 5, 4, 4))
        assert saved(tmp_path, {"case": "BRATS_001", "image": str(file)})[0].shape == (6, 5, 4)

    def test_absent_modality(self, tmp_path, image):
        assert saved(tmp_path, {"case": "a", "image": [None, image, None, None]})[0].shape == (4, 5, 6)

    def test_grid_of_the_first_file_that_can_be_read(self, tmp_path, image, broken):
        assert saved(tmp_path, {"case": "a", "image": [broken, image]})[0].shape == (4, 5, 6)

    @pytest.mark.parametrize("name", ["b_flair.nii.gz", "absent.nii.gz"])
    def test_case_that_cannot_be_read_is_kept(self, tmp_path, broken, name):
        assert saved(tmp_path, {"case": "b", "image": [str(tmp_path / name)]}) == [("b", None, None)]

    def test_case_without_any_file_is_kept(self, tmp_path):
        assert saved(tmp_path, {"case": "c", "image": [None] * 4}) == [("c", None, None)]

    def test_cases_keep_their_order(self, tmp_path, image):
        items = [{"case": case, "image": [image]} for case in ("z", "a", "m")]
        assert [recorded.case for recorded in saved(tmp_path, *items)] == ["z", "a", "m"]

    def test_data_list_of_a_release(self, brats2020):
        recorded = record_cases(datalist(brats2020, labels="ignore", check=False))
        assert [(case, shape) for case, shape, _ in recorded] == [
            (f"BraTS20_Training_{number}", (6, 5, 4)) for number in ("001", "002", "355")
        ]

    def test_nothing_else_is_left_behind(self, tmp_path, image):
        saved(tmp_path, {"case": "a", "image": [image]})
        assert [entry.name for entry in (tmp_path / "results").iterdir()] == ["cases.json"]

    def test_place_that_cannot_be_written(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(InputError, match=r"case record .*cannot be written"):
            save_case_record(tmp_path / "file" / "cases.json", [])


class TestLoad:
    def test_absent(self, tmp_path):
        with pytest.raises(InputError, match=r"cases.json: cannot be read .*infer the cases again"):
            load_case_record(tmp_path / "cases.json")

    @pytest.mark.parametrize("content", ["", "[]", "{}", '{"cases": 3}', '{"cases": [', "\xff"])
    def test_no_record(self, tmp_path, content):
        (tmp_path / "cases.json").write_text(content, encoding="latin-1")
        with pytest.raises(InputError, match=r"cases.json: .*infer the cases again"):
            load_case_record(tmp_path / "cases.json")

    @pytest.mark.parametrize(
        "damage",
        [
            {"case": None},
            {"case": ""},
            {"shape": None},
            {"shape": [4, 5]},
            {"shape": [4, 5, 0]},
            {"shape": [4, 5, "6"]},
            {"affine": None},
            {"affine": [[1, 0, 0, 0]]},
            {"affine": [[1, 0], [0]]},
            {"affine": [[float("nan")] * 4] * 4},
            {"affine": "identity"},
        ],
        ids=str,
    )
    def test_damaged_entry(self, tmp_path, damage):
        entry = {"case": "a", "shape": [4, 5, 6], "affine": GRID.tolist()}
        (tmp_path / "cases.json").write_text(json.dumps({"cases": [entry, entry | {"case": "b"} | damage]}))
        with pytest.raises(InputError, match=r"cases.json: entry 2 of 'cases' is .*expected a case, its shape"):
            load_case_record(tmp_path / "cases.json")

    def test_entry_of_another_kind(self, tmp_path):
        (tmp_path / "cases.json").write_text('{"cases": ["a"]}')
        with pytest.raises(InputError, match="entry 1 of 'cases' is 'a'"):
            load_case_record(tmp_path / "cases.json")

    def test_case_twice(self, tmp_path):
        entry = {"case": "a", "shape": None, "affine": None}
        (tmp_path / "cases.json").write_text(json.dumps({"cases": [entry, entry]}))
        with pytest.raises(InputError, match="case a is there twice"):
            load_case_record(tmp_path / "cases.json")
