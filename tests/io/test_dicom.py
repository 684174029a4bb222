"""A folder with one DICOM series of CT is read as the NIfTI file of the same volume; anything else is an error."""

import sys
from itertools import count
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose, Invertd, Orientationd, SaveImaged

from custom_nets.errors import InputError
from custom_nets.io.dicom import (
    check_one_series,
    is_dicom_folder,
    read_dicom,
    read_dicom_header,
    study_of,
)
from custom_nets.transforms import case_name
from custom_nets.transforms.loading import CheckCased, LoadCased, ReloadCased, files_of

itk = pytest.importorskip("itk")

SHAPE = (7, 6, 5)
SPACING = np.array([0.7, 0.8, 2.5])
ORIGIN = np.array([-101.5, 32.25, -640.0])


def rotation():
    """An oblique rotation: 0.3 about x, then 0.2 about z."""
    (a, b), (c, d) = (np.cos([0.3, 0.2]), np.sin([0.3, 0.2]))
    return np.array([[b, -d, 0], [d, b, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, a, -c], [0, c, a]])


AFFINE = np.eye(4)
"""Voxels to RAS millimetres; DICOM's own millimetres are LPS."""
AFFINE[:3, :3], AFFINE[:3, 3] = rotation() * SPACING, ORIGIN


def write_slice(path, pixels, origin, cosines, tags=None, pixel_size=SPACING[:2]):
    """Writes one slice (x, y) of Hounsfield units at a place in LPS."""
    image = itk.image_from_array(np.ascontiguousarray(pixels.T[None]))
    image.SetOrigin([float(number) for number in origin])
    image.SetSpacing([*map(float, pixel_size), 1.0])
    image.SetDirection(itk.matrix_from_array(np.stack([*cosines, np.cross(*cosines)], axis=1)))
    header = image.GetMetaDataDictionary()
    defaults = {"0008|0060": "CT", "0020|000d": "1.2.3", "0020|000e": "1.2.3.4", "0028|1053": "1", "0028|1052": "-1024"}
    for tag, text in (defaults | (tags or {})).items():
        header[tag] = text
    writer = itk.GDCMImageIO.New()
    writer.KeepOriginalUIDOn()
    itk.ImageFileWriter.New(image, FileName=str(path), ImageIO=writer, UseInputMetaDataDictionary=True).Update()


def write_series(folder, voxels, affine=AFFINE, name="slice", tags=None, leave_out=()):
    """Writes a volume (x, y, z), its slices under names in another order."""
    folder.mkdir(exist_ok=True)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    sizes = np.linalg.norm(lps[:3, :3], axis=0)
    cosines = (lps[:3, :2] / sizes[:2]).T
    shuffled = np.random.default_rng(1).permutation(voxels.shape[2])
    for number, index in zip(count(), shuffled):
        if index not in leave_out:
            place = lps[:3, 3] + index * lps[:3, 2]
            path = folder / f"{name}{number:03}.dcm"
            write_slice(path, voxels[..., index], place, cosines, {"0020|0013": str(index), **(tags or {})}, sizes[:2])
    return folder


def write_axial(folder, voxels, places):
    """Writes the slices of a volume (x, y, z), along the axes, at places in LPS."""
    folder.mkdir()
    for index, place in enumerate(places):
        write_slice(folder / f"{index}.dcm", voxels[..., index], place, np.eye(3)[:2])
    return folder


@pytest.fixture
def voxels():
    """Hounsfield units (x, y, z)."""
    return np.random.default_rng(0).integers(-1024, 3000, SHAPE).astype(np.int16)


@pytest.fixture
def folder(tmp_path, voxels):
    return write_series(tmp_path / "patient7", voxels)


@pytest.fixture
def nifti(tmp_path, voxels):
    path = tmp_path / "ct.nii.gz"
    nib.save(nib.Nifti1Image(voxels, AFFINE), path)
    return str(path)


class TestIsDicomFolder:
    def test_series(self, folder):
        assert is_dicom_folder(folder)

    def test_names_do_not_matter(self, folder):
        for file in folder.iterdir():
            file.rename(file.with_suffix(""))
        assert is_dicom_folder(str(folder))

    def test_study_of_series_folders_is_none(self, folder):
        assert not is_dicom_folder(folder.parent)

    def test_index_and_hidden_files_do_not_count(self, folder, tmp_path):
        (tmp_path / "cd").mkdir()
        for name, file in zip(("DICOMDIR", ".hidden"), folder.iterdir(), strict=False):
            file.rename(tmp_path / "cd" / name)
        assert not is_dicom_folder(tmp_path / "cd")

    def test_other_files(self, nifti):
        assert not is_dicom_folder(Path(nifti).parent)

    def test_a_file_is_none(self, nifti):
        assert not is_dicom_folder(nifti)

    def test_absent(self, tmp_path):
        assert not is_dicom_folder(tmp_path / "nothing")


class TestGrid:
    def test_shape(self, folder):
        assert read_dicom_header(folder, "A").shape == SHAPE

    def test_affine(self, folder):
        np.testing.assert_allclose(read_dicom_header(folder, "A").affine, AFFINE, atol=1e-3)

    def test_sheared_as_a_tilted_gantry_makes_it(self, tmp_path, voxels):
        sheared = AFFINE @ np.array([[1, 0, 0, 0], [0, 1, 0.4, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
        folder = write_series(tmp_path / "A", voxels, sheared)
        np.testing.assert_allclose(read_dicom_header(folder, "A").affine, sheared, atol=1e-3)

    def test_slices_run_along_the_normal(self, tmp_path, voxels):
        mirrored = AFFINE @ np.diag([1, 1, -1, 1])
        folder = write_series(tmp_path / "A", voxels, mirrored)
        np.testing.assert_array_equal(read_dicom(folder, "A")[1], voxels[..., ::-1])

    def test_study(self, folder):
        assert study_of(folder) == "1.2.3"

    def test_needs_no_pixels(self, folder, monkeypatch):
        monkeypatch.setattr("custom_nets.io.dicom._read_pixels", None)
        assert read_dicom_header(folder, "A").path == str(folder)


class TestVoxels:
    def test_hounsfield_units(self, folder, voxels):
        np.testing.assert_array_equal(read_dicom(folder, "A")[1], voxels)

    def test_several_slabs(self, folder, voxels, monkeypatch):
        monkeypatch.setattr("custom_nets.io.dicom._SLAB", 2)
        np.testing.assert_array_equal(read_dicom(folder, "A")[1], voxels)

    def test_fractions(self, tmp_path, voxels):
        expected = voxels.astype(np.float32)
        expected[0, 0, 3] += 0.5
        stored = {"0028|0100": "16", "0028|0101": "16", "0028|0102": "15", "0028|0103": "1", "0028|1053": "0.5"}
        folder = write_series(tmp_path / "A", expected, tags=stored)
        np.testing.assert_array_equal(read_dicom(folder, "A")[1], expected)


class TestLoadCased:
    def test_voxels_as_from_nifti(self, folder, nifti):
        ours, theirs = (LoadCased("image")({"image": path})["image"] for path in (str(folder), nifti))
        assert ours.dtype == torch.float32
        assert torch.equal(ours.as_tensor(), theirs.as_tensor())

    def test_affine_as_from_nifti(self, folder, nifti):
        ours, theirs = (LoadCased("image")({"image": path})["image"].affine for path in (str(folder), nifti))
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0)

    def test_a_list_with_the_folder(self, folder, voxels):
        np.testing.assert_array_equal(LoadCased("image")({"image": [folder]})["image"][0], voxels)

    def test_case_is_the_folder(self, folder):
        assert LoadCased("image")({"image": f"{folder}/"})["case"] == "patient7"

    def test_case_of_a_folder_with_the_name_of_a_modality(self, folder):
        renamed = folder.rename(folder.with_name("A_t1"))
        assert LoadCased("image")({"image": str(renamed)})["case"] == "A_t1"

    def test_knows_its_folder(self, folder):
        assert files_of(LoadCased("image")({"image": str(folder)})["image"]) == [str(folder)]

    def test_is_read_again(self, folder, voxels):
        item = LoadCased("image")({"image": str(folder)})
        again = ReloadCased("image", "original")({**item, "image": item["image"] * 0})["original"]
        np.testing.assert_array_equal(again[0], voxels)

    def test_is_checked(self, tmp_path):
        folder = write_series(tmp_path / "A", np.full(SHAPE, 40, np.int16))
        item = LoadCased("image")({"image": str(folder)})
        with pytest.raises(InputError, match=rf"^case A, file {folder}: CT has no content, every voxel is 40"):
            CheckCased("image", ["CT"])(item)

    def test_orientation_is_inverted(self, folder, voxels):
        turn = Orientationd("image", axcodes="PSR", labels=None)
        turned = Compose([LoadCased("image"), turn])({"image": str(folder)})
        back = Invertd("image", turn, orig_keys="image")(turned)["image"]
        np.testing.assert_array_equal(back[0], voxels)

    def test_is_saved_on_its_grid(self, folder, tmp_path, voxels):
        save = SaveImaged("image", output_dir=tmp_path / "out", output_name_formatter=case_name, print_log=False)
        save(LoadCased("image")({"image": str(folder)}))
        saved = nib.load(tmp_path / "out" / "patient7" / "patient7_trans.nii.gz")
        np.testing.assert_array_equal(saved.get_fdata(), voxels)
        np.testing.assert_allclose(saved.affine, AFFINE, atol=1e-3)

    def test_no_label_map(self, folder):
        with pytest.raises(InputError, match=rf"case A, folder {folder}: found a folder, but a label map is one NIfTI"):
            LoadCased("label")({"label": str(folder), "case": "A"})

    def test_not_beside_other_channels(self, folder, nifti):
        with pytest.raises(InputError, match="a DICOM series is the only channel of its image; give files"):
            LoadCased("image")({"image": [nifti, str(folder)]})


def error_of(folder, read=read_dicom):
    with pytest.raises(InputError) as error:
        read(folder, "A")
    message = str(error.value)
    assert "\n" not in message
    return message


class TestErrors:
    def test_no_dicom(self, nifti):
        folder = Path(nifti).parent
        with pytest.raises(InputError, match=rf"^case A, folder {folder}: holds no DICOM file directly in it; give "):
            LoadCased("image")({"image": str(folder), "case": "A"})

    def test_no_folder(self, tmp_path):
        assert "there is no such folder" in error_of(tmp_path / "nothing")

    def test_two_series_are_listed(self, folder, voxels):
        write_series(folder, voxels[:, :5], name="b", tags={"0020|000e": "1.2.3.5", "0008|103e": "late"})
        message = error_of(folder, check_one_series)
        assert "holds 2 series, expected one of CT: 'late' (5 images, 7 x 5, UID ...1.2.3.5), " in message
        assert "'without a description' (5 images, 7 x 6, UID ...1.2.3.4); move one series into a folder" in message

    def test_scout_is_passed_over(self, folder, voxels, caplog):
        scout = {"0020|000e": "1.2.3.9", "0008|103e": "scout"}
        write_slice(folder / "scout.dcm", voxels[..., 0], ORIGIN, np.eye(3)[:2], scout)
        with caplog.at_level("INFO"):
            np.testing.assert_array_equal(read_dicom(folder, "A")[1], voxels)
        assert "A: takes the CT of 5 images, passes over other series: 1 of CT" in caplog.text

    def test_several_studies(self, folder, voxels):
        write_series(folder, voxels, name="b", tags={"0020|000e": "1.9.1", "0020|000d": "1.9"})
        assert "holds 2 series of 2 studies" in error_of(folder)

    def test_one_series_passes(self, folder):
        check_one_series(folder, "A")

    def test_missing_slice(self, tmp_path, voxels):
        folder = write_series(tmp_path / "A", voxels, leave_out=[2])
        normal = np.diag([-1, -1, 1]) @ rotation()[:, 2]
        start = (np.diag([-1, -1, 1]) @ ORIGIN) @ normal
        expected = (
            f"a slice is missing between {start + 2.5:.2f} and {start + 7.5:.2f} mm along the normal "
            "(distance 5.00 mm, elsewhere 2.50 mm)"
        )
        assert expected in error_of(folder, read_dicom_header)

    def test_uneven_slices(self, tmp_path, voxels):
        folder = write_axial(tmp_path / "A", voxels, [[0, 0, z] for z in (0, 1, 2, 3.2, 4.2)])
        assert "slices are unevenly spaced between 2.00 and 3.20 mm" in error_of(folder, read_dicom_header)

    def test_rounded_positions_are_allowed(self, tmp_path, voxels):
        volume = np.repeat(voxels, 20, axis=2)
        folder = write_axial(tmp_path / "A", volume, [[0, 0, round(0.625 * k, 1)] for k in range(100)])
        assert read_dicom_header(folder, "A").affine[2, 2] == pytest.approx(0.625, abs=1e-4)

    def test_distances_that_drift(self, tmp_path, voxels):
        volume = np.repeat(voxels, 20, axis=2)
        places = np.cumsum(np.r_[np.full(50, 1.0), np.full(50, 1.009)])
        folder = write_axial(tmp_path / "A", volume, [[0, 0, z] for z in places])
        assert "mm beside the line of the other slices" in error_of(folder, read_dicom_header)

    def test_slice_beside_the_others(self, tmp_path, voxels):
        folder = write_axial(tmp_path / "A", voxels, [[3 * (z == 2), 0, z] for z in range(5)])
        assert f"file {folder / '2.dcm'}: lies 2.40 mm beside the line" in error_of(folder, read_dicom_header)

    def test_slice_held_twice(self, folder):
        file = next(folder.iterdir())
        (folder / "again.dcm").write_bytes(file.read_bytes())
        assert "lie at the same place" in error_of(folder, read_dicom_header)

    def test_one_slice(self, tmp_path, voxels):
        folder = write_series(tmp_path / "A", voxels[..., :1])
        assert "holds 1 slice, expected a volume of at least 2" in error_of(folder, read_dicom_header)

    def test_other_modality(self, tmp_path, voxels):
        folder = write_series(tmp_path / "A", voxels, tags={"0008|0060": "MR"})
        assert "its modality is MR, expected CT" in error_of(folder, read_dicom_header)

    def test_other_size(self, folder, voxels):
        write_series(folder, voxels[:-1], AFFINE @ np.diag([1, 1, 3, 1]), name="zz")
        assert "6 x 6 pixels, but slice000.dcm has 7 x 6 pixels; move the images" in error_of(folder, read_dicom_header)

    def test_other_orientation(self, folder, voxels):
        write_slice(folder / "zz.dcm", voxels[..., 0], ORIGIN, np.eye(3)[:2])
        assert f"file {folder / 'zz.dcm'}: orientation 1" in error_of(folder, read_dicom_header)

    def test_other_pixel_size(self, folder, voxels):
        lines = np.diag([-1.0, -1.0, 1.0]) @ rotation()
        write_slice(folder / "zz.dcm", voxels[..., 0], ORIGIN, lines[:, :2].T, pixel_size=[0.7, 0.9])
        assert r"zz.dcm: pixel size .9\.7, but slice000.dcm has ." in error_of(folder, read_dicom_header)

    def test_no_dicom_in_a_file_of_such_a_name(self, folder):
        (folder / "x.dcm").write_bytes(b"<html>")
        expected = f"case A, file {folder / 'x.dcm'}: not readable as a DICOM image (File is missing DICOM"
        assert error_of(folder).startswith(expected)

    def test_cut_short(self, folder):
        file = max(folder.iterdir())
        file.write_bytes(file.read_bytes()[:-20])
        assert f"file {file}: not readable as a DICOM image" in error_of(folder)

    def test_other_files_are_left_alone(self, folder, voxels):
        (folder / "LICENSE").write_text("free")
        np.testing.assert_array_equal(read_dicom(folder, "A")[1], voxels)

    def test_needs_pydicom(self, folder, monkeypatch):
        monkeypatch.setitem(sys.modules, "pydicom", None)
        with pytest.raises(ImportError, match="DICOM folders need pydicom: pip install pydicom"):
            read_dicom_header(folder, "A")
