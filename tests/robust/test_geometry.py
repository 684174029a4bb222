"""The place of a case is nibabel's choice in every part, and each program that reads scan and result agrees on it."""

import gzip
import json

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from monai.data import decollate_batch, list_data_collate
from monai.transforms import Compose, CropForegroundd, Invertd, Orientationd, SaveImaged

from custom_nets.errors import InputError
from custom_nets.io.nifti import read_header
from custom_nets.io.orientation import SAME_PLACE
from custom_nets.transforms import (
    CheckCased,
    LoadCased,
    RegionVolumesd,
    SaveRegionMeshesd,
    SaveRegionVolumesd,
    WholeNibabelWriter,
    case_name,
)
from custom_nets.transforms.saving.overlay_figure import to_ras

SHAPE = (7, 6, 5)
UNITS = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
PREDICTION = np.zeros(SHAPE, np.uint8)
PREDICTION[2:5, 1:4, 1:4] = 1
"""Not symmetric in the volume: a mirrored result would show."""

forty_headers = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)


def turned(angles):
    """A rotation about the three axes, one after the other."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        one, other = [k for k in range(3) if k != axis]
        step = np.eye(3)
        step[[one, one, other, other], [one, other, one, other]] = (
            np.cos(angle),
            -np.sin(angle),
            np.sin(angle),
            np.cos(angle),
        )
        matrix = step @ matrix
    return matrix


@st.composite
def affines(draw, shear=False):
    """Voxel indices to millimetres of a scan that is turned, mirrored and shifted at will."""
    sizes = [draw(st.floats(0.4, 6.0)) for _ in range(3)]
    flips = [draw(st.sampled_from([1, -1])) for _ in range(3)]
    affine = np.eye(4)
    affine[:3, :3] = turned([draw(st.floats(-3, 3)) for _ in range(3)]) @ np.diag(np.multiply(sizes, flips))
    affine[:3, 3] = [draw(st.floats(-300, 300)) for _ in range(3)]
    if shear:
        affine[:3, 2] += draw(st.floats(-0.5, 0.5)) * affine[:3, 1]
    return affine


@st.composite
def headers(draw):
    """The fields of a header on the place of its voxels, in any combination that a reader may meet."""
    fields = {"qform_code": draw(st.integers(0, 2)), "sform_code": draw(st.integers(0, 4))}
    header = nib.Nifti1Header()
    qform = draw(affines())
    same = draw(st.booleans())
    header.set_qform(qform, 1)
    header.set_sform(qform if same else draw(affines(shear=True)), 1)
    for name, code in fields.items():
        header[name] = code
    if fields["qform_code"] == 0 and draw(st.booleans()):  # as tools leave them that know no qform
        for name in ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"):
            header[name] = 0
    digits = draw(st.sampled_from([None, 3, 1]))
    if digits is not None:
        header["pixdim"][1:4] = np.round(header["pixdim"][1:4], digits)
    unit = draw(st.sampled_from(list(UNITS)))
    for name in ("srow_x", "srow_y", "srow_z", "qoffset_x", "qoffset_y", "qoffset_z"):
        header[name] = header[name] / UNITS[unit]
    header["pixdim"][1:4] /= UNITS[unit]
    header["xyzt_units"] = unit | draw(st.sampled_from([0, 8, 16, 24, 32]))
    return header


def write(path, header, voxels):
    """Writes a file whose header says exactly this: nibabel would put some of it right."""
    image = nib.Nifti1Image(voxels, None)
    fields = image.header
    for name in header:
        if name[:4] in ("quat", "qoff", "srow", "qfor", "sfor", "xyzt"):
            fields[name] = header[name]
    fields["pixdim"][:4] = header["pixdim"][:4]
    nib.save(image, path)
    return str(path)


def corners(affine, shape=SHAPE):
    ends = [[*(np.multiply(np.array(shape) - 1, pick)), 1] for pick in np.ndindex(2, 2, 2)]
    return (np.array(ends) @ affine.T)[:, :3]


def itk_corners(path):
    """Where ITK, and so 3D Slicer, puts the corners (LPS); None where it refuses the header."""
    itk = pytest.importorskip("itk")
    try:
        image = itk.imread(str(path))
    except RuntimeError:
        return None
    ends = [np.multiply(np.array(SHAPE) - 1, pick).tolist() for pick in np.ndindex(2, 2, 2)]
    return np.array([list(image.TransformIndexToPhysicalPoint([int(k) for k in end])) for end in ends])


def infer(path, folder):
    """Carries a scan through reading, preprocessing, inversion and saving, as the bundles do."""
    preprocessing = Compose(
        [
            LoadCased("image"),
            CheckCased("image", ["CT"]),
            Orientationd("image", axcodes="RAS", labels=None),
            CropForegroundd("image", source_key="image", allow_smaller=True),
        ]
    )
    (item,) = decollate_batch(list_data_collate([preprocessing({"image": path, "case": "A"})]))
    item["pred"] = item["image"].clone()
    saving = Compose(
        [
            Invertd("pred", preprocessing, orig_keys="image", nearest_interp=True, to_tensor=True),
            RegionVolumesd("pred", ["liver"], "lits"),
            SaveRegionVolumesd("pred", folder, ["liver"]),
            SaveRegionMeshesd("pred", folder, ["liver"]),
            SaveImaged(
                "pred",
                output_dir=folder,
                output_postfix="prediction",
                output_name_formatter=case_name,
                output_dtype=torch.uint8,
                resample=False,
                writer=WholeNibabelWriter,
                print_log=False,
            ),
        ]
    )
    return saving(item)


@forty_headers
@given(header=headers())
def test_the_affine_is_nibabels(tmp_path, header):
    path = write(tmp_path / "A.nii", header, PREDICTION)
    unit = UNITS[int(header["xyzt_units"]) & 7]
    expected = np.diag([unit, unit, unit, 1]) @ nib.load(path).affine
    image = LoadCased("image")({"image": path})["image"]
    np.testing.assert_allclose(image.affine, expected, atol=1e-9)
    np.testing.assert_allclose(read_header(path, "A").affine, expected, atol=1e-9)


@forty_headers
@given(header=headers())
def test_results_lie_on_their_scan(tmp_path, header):
    path = write(tmp_path / "A.nii", header, PREDICTION)
    unit = UNITS[int(header["xyzt_units"]) & 7]
    item = infer(path, tmp_path / "out")
    scan, result = nib.load(path), nib.load(tmp_path / "out" / "A" / "A_prediction.nii.gz")
    np.testing.assert_array_equal(np.asarray(result.dataobj), PREDICTION)

    for name in ("qform_code", "sform_code", "srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d"):
        np.testing.assert_array_equal(result.header[name], scan.header[name], err_msg=name)
    np.testing.assert_array_equal(result.header["pixdim"][:4], scan.header["pixdim"][:4])
    assert int(result.header["xyzt_units"]) & 7 == int(scan.header["xyzt_units"]) & 7
    np.testing.assert_array_equal(result.affine, scan.affine)

    theirs, ours = itk_corners(path), itk_corners(tmp_path / "out" / "A" / "A_prediction.nii.gz")
    assert (theirs is None) == (ours is None)
    if theirs is not None:
        np.testing.assert_allclose(ours, theirs, atol=1e-4)

    millimetres = np.diag([unit, unit, unit, 1]) @ scan.affine
    expected_ml = PREDICTION.sum() * abs(np.linalg.det(millimetres[:3, :3])) / 1000
    assert item["result"]["volumes_ml"]["liver"] == pytest.approx(expected_ml, rel=1e-5, abs=1e-6)
    report = json.loads((tmp_path / "out" / "A" / "A_volumes.json").read_text())
    assert report["regions"]["liver"]["ml"] == pytest.approx(expected_ml, rel=1e-5, abs=1e-6)
    form = "sform" if header["sform_code"] > 0 else "qform" if header["qform_code"] > 0 else "unknown"
    assert report["orientation"] == form

    lines = (tmp_path / "out" / "A" / "A_liver.obj").read_text().splitlines()
    vertices = np.array([line.split()[1:4] for line in lines if line.startswith("v ")], dtype=float)
    centre = np.argwhere(PREDICTION).mean(axis=0)
    np.testing.assert_allclose(
        vertices.mean(axis=0), millimetres[:3, :3] @ centre + millimetres[:3, 3], atol=2e-4 + 1e-6 * unit
    )


@forty_headers
@given(header=headers())
def test_pictures_are_turned_as_nibabel_turns_them(tmp_path, header):
    path = write(tmp_path / "A.nii", header, PREDICTION)
    item = LoadCased("image")({"image": path})
    shown, affine = to_ras(item["image"].numpy(), item["image"].affine.numpy())
    canonical = nib.as_closest_canonical(nib.load(path))
    unit = UNITS[int(header["xyzt_units"]) & 7]
    np.testing.assert_array_equal(shown[0], np.asarray(canonical.dataobj))
    np.testing.assert_allclose(affine, np.diag([unit, unit, unit, 1]) @ canonical.affine, atol=1e-6)


@forty_headers
@given(header=headers(), step=st.floats(0.5, 2.0))
def test_a_result_of_another_spacing_lies_on_the_scan_in_both_forms(tmp_path, header, step):
    path = write(tmp_path / "A.nii", header, PREDICTION)
    image = LoadCased("image")({"image": path})["image"]
    scale = np.diag([step, step, step, 1.0])
    size = [round(side / step) for side in SHAPE]
    scale[:3, 3] = [(side - 1 - (count - 1) * step) / 2 for side, count in zip(SHAPE, size, strict=True)]  # centred
    image.affine = image.affine @ torch.as_tensor(scale)
    image.set_array(torch.zeros(1, *size))
    writer = WholeNibabelWriter(output_dtype=np.uint8)
    writer.set_data_array(image)
    writer.set_metadata(image.meta, resample=False)
    writer.write(tmp_path / "finer.nii.gz")
    scan, finer = nib.load(path), nib.load(tmp_path / "finer.nii.gz")
    unit = UNITS[int(header["xyzt_units"]) & 7]
    np.testing.assert_allclose(finer.affine * unit, scan.affine @ scale * unit, atol=2e-3)
    wanted = scan.header.get_qform() @ scale if scan.header["qform_code"] > 0 else None
    if wanted is not None and finer.header["qform_code"] == 0:  # quaternions of float32 do not hold it: the sform does
        assert np.abs(_quaternions_hold(wanted) - wanted).max() > SAME_PLACE
        assert finer.header["sform_code"] > 0
        return
    assert finer.header["sform_code"] == scan.header["sform_code"]
    if wanted is not None:
        assert finer.header["qform_code"] == scan.header["qform_code"]
        np.testing.assert_allclose(finer.header.get_qform() * unit, wanted * unit, atol=2e-3)


def _quaternions_hold(affine):
    """What a header gives back of a qform."""
    header = nib.Nifti1Header()
    header.set_qform(affine, 1)
    return header.get_qform()


@settings(max_examples=20, deadline=None, derandomize=True)
@given(affine=affines(shear=True), code=st.sampled_from([1, 2]))
def test_a_qform_that_cannot_hold_a_shear_is_not_set(affine, code):
    from custom_nets.io.orientation import make_header

    header = make_header(affine)
    np.testing.assert_allclose(header.get_best_affine(), affine, atol=2e-3)
    if header["qform_code"] > 0:
        np.testing.assert_allclose(header.get_qform(), affine, atol=2e-3)


def note_of(folder, header):
    from custom_nets.datasets import describe_cases

    path = write(folder / "A.nii", header, PREDICTION)
    return describe_cases([{"case": "A", "image": path}])


def test_a_header_without_orientation_is_told(tmp_path):
    header = nib.Nifti1Header()
    header["pixdim"][1:4] = 2
    (note,) = note_of(tmp_path, header)
    assert note.startswith("1 of 1 cases state no orientation (qform and sform codes are 0)")


def test_two_forms_that_differ_are_told(tmp_path):
    header = nib.Nifti1Header()
    header.set_qform(np.diag([-2.0, -2, 2, 1]), 1)
    moved = np.diag([-2.0, -2, 2, 1])
    moved[0, 3] = 64
    header.set_sform(moved, 2)
    (note,) = note_of(tmp_path, header)
    assert "1 of 1 cases have a qform and an sform that differ, by up to 64.0 mm: A" in note


def test_an_ordinary_header_needs_no_note(tmp_path):
    header = nib.Nifti1Header()
    header.set_sform(np.diag([-2.0, -2, 2, 1]), 1)
    assert note_of(tmp_path, header) == []


class TestHeadersThatNoScanHas:
    @pytest.fixture
    def refused(self, tmp_path):
        def refused(header=None, voxels=PREDICTION):
            if header is None:
                header = nib.Nifti1Header()
                header.set_sform(np.eye(4), 1)
            with pytest.raises(InputError) as error:
                read_header(write(tmp_path / "A.nii", header, voxels), "A")
            message = str(error.value)
            assert message.startswith(f"case A, file {tmp_path / 'A.nii'}: ")
            assert "\n" not in message
            return message

        return refused

    @pytest.mark.parametrize("size", [0.0, np.nan, np.inf])
    @pytest.mark.parametrize("code", [0, 1])
    def test_voxel_sizes(self, refused, size, code):
        header = nib.Nifti1Header()
        header["qform_code"] = code
        header["pixdim"][1:4] = 1, size, 1
        assert "(pixdim), expected three lengths above 0; repair the header" in refused(header)

    @pytest.mark.parametrize(("size", "unit"), [(8000, 2), (1, 1), (8, 1), (1, 3), (0.001, 2)])
    def test_spacings(self, refused, size, unit):
        header = nib.Nifti1Header()
        header.set_sform(np.diag([size, size, size, 1]), 1)
        header["xyzt_units"] = unit
        message = refused(header)
        assert "expected 0.01 to 100 mm; correct the spacing or the unit in the header" in message
        assert ("(its unit is the metre)" in message) == (unit == 1)

    @pytest.mark.parametrize("form", [np.zeros((4, 4)), np.diag([1, 1, 0, 1]), np.full((4, 4), np.nan)])
    def test_affines(self, refused, form):
        header = nib.Nifti1Header()
        header["sform_code"] = 1
        header["srow_x"], header["srow_y"], header["srow_z"] = form[:3]
        assert "unusable affine" in refused(header)

    def test_sides(self, refused):
        header = nib.Nifti1Header()
        header.set_sform(np.diag([90.0, 90, 90, 1]), 1)
        message = refused(header, np.zeros((60, 6, 5), np.uint8))
        assert "a volume of 5,400 x 540 x 450 mm, expected at most 5,000" in message

    def test_complex_numbers(self, refused):
        assert "its voxels hold complex numbers" in refused(voxels=PREDICTION * (1 + 1j))

    def test_colours(self, refused):
        colours = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
        assert "its voxels hold several numbers each (colours)" in refused(voxels=colours)

    @pytest.mark.parametrize("shape", [(16384, 16384, 1024), (1, 1, 400), (2000, 2000, 1000)])
    def test_more_than_the_file_can_hold(self, tmp_path, shape):
        """Of the first one the length in the gzip trailer is right, modulo 4 GiB."""
        header = nib.Nifti1Header()
        header.set_data_dtype(np.uint8)
        header.set_data_shape(shape)
        header.set_sform(np.eye(4), 1)
        header["vox_offset"] = 352
        header["magic"] = b"n+1"
        path = tmp_path / "A.nii.gz"
        path.write_bytes(gzip.compress(header.binaryblock + bytes(4)))
        promised = 352 + int(np.prod(shape, dtype=np.int64))
        with pytest.raises(InputError, match=rf"cut short, holds [\d,]+ of the {promised:,} bytes"):
            read_header(path, "A")


def test_a_single_slice_stays_a_volume(tmp_path):
    header = nib.Nifti1Header()
    header.set_sform(np.diag([2.0, 2, 5, 1]), 1)
    voxels = PREDICTION[:, :, 2:3]
    path = write(tmp_path / "A.nii", header, voxels)
    infer(path, tmp_path / "out")
    result = nib.load(tmp_path / "out" / "A" / "A_prediction.nii.gz")
    np.testing.assert_array_equal(np.asarray(result.dataobj), voxels)
