"""Voxels that cannot be used are errors; those unlike the images that models are trained with are warned of."""

import re

import nibabel as nib
import numpy as np
import pytest
import torch

from custom_nets.datasets import get_record
from custom_nets.datasets.record import parse_record
from custom_nets.errors import InputError
from custom_nets.transforms import CheckCased, LoadCased
from custom_nets.transforms.voxel_checks import check_voxels, warn_once

SHAPE = (24, 24, 24)


@pytest.fixture(autouse=True)
def _forget_warnings():
    warn_once.cache_clear()


def ct():
    """A body of soft tissue with a bone, in air (HU)."""
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, side) for side in SHAPE], indexing="ij"))
    units = np.where((grid**2).sum(0) < 0.8, 50.0, -1000.0)
    units[10:12, 10:12] = 900
    return units + np.random.default_rng(0).normal(0, 10, SHAPE)


def brain():
    """A brain without skull, 0 outside."""
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, side) for side in SHAPE], indexing="ij"))
    inside = (grid**2).sum(0) < 0.6
    return np.where(inside, np.random.default_rng(0).normal(500, 80, SHAPE).clip(50), 0.0)


BRAINS = get_record("brats2018")


def notes(caplog, voxels, names=("CT",), record=BRAINS, **options):
    options["record"] = record
    check_voxels(torch.as_tensor(voxels[None], dtype=torch.float32), names, lambda _: "case A, file f", **options)
    return caplog.text


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_hounsfield_units_pass(caplog, dtype):
    assert notes(caplog, ct().astype(dtype)) == ""


@pytest.mark.parametrize("cut", [-1024, -2048, -3024])
def test_what_scanners_write_outside_their_field_passes(caplog, cut):
    units = ct()
    units[0] = cut
    assert notes(caplog, units) == ""


@pytest.mark.parametrize(
    ("change", "offset"),
    [
        (lambda units: (units + 1024).clip(0, 4095), "adding -1024 would"),
        (lambda units: (units + 1000).clip(0), "adding -1024 would"),
        (lambda units: units + 2000, r"adding -19\d\d would"),
        (lambda units: (units + 1024) * 2 + 500, "adding -15"),
    ],
)
def test_raw_numbers_are_named_with_their_offset(caplog, change, offset):
    text = notes(caplog, change(ct()))
    assert "none near air (-1000): these may be no Hounsfield units" in text
    assert re.search(offset, text)
    assert "set the key voxel_warnings to false" in text


@pytest.mark.parametrize("scale", [lambda u: (u + 1024) / 4096, lambda u: (u / 1024).clip(-1, 1)])
def test_scaled_ct(caplog, scale):
    assert "scaled, no Hounsfield units" in notes(caplog, scale(ct()))


def test_an_8_bit_picture(caplog):
    assert "8-bit picture" in notes(caplog, (ct() / 5 + 128).clip(0, 255))


def test_insisting_silences(caplog):
    assert notes(caplog, ct() + 1024, warn=False) == ""


@pytest.mark.parametrize("value", [1e37, -1e30, 1e6])
def test_impossible_units_are_counted(caplog, value):
    units = ct()
    units[:2, :2, :2] = value
    assert "holds 8 voxels (0.058 %) beyond -10000 to 40000" in notes(caplog, units)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("names", "advice"), [(("CT",), "-1000, which is air"), (("FLAIR",), "0 outside the brain")])
def test_what_to_put_in_place_of_nan(caplog, value, names, advice):
    voxels = ct()
    voxels[3, 3, 3] = value
    with pytest.raises(InputError, match=f"holds 1 voxels that are NaN or infinite; replace them .by {advice}"):
        notes(caplog, voxels, names)


def test_a_brain_passes(caplog):
    assert notes(caplog, brain(), ("T1",), voxel_millilitres=0.2) == ""


@pytest.mark.parametrize("value", [1e30, 1e5, -1e30])
def test_one_hot_voxel(caplog, value):
    voxels = brain()
    voxels[12, 12, 12] = value
    assert "T1 holds 1 voxels (0.0072 %) above" in notes(caplog, voxels, ("T1",))


def test_a_background_that_is_not_0(caplog):
    assert "T1 has no background of 0: 0 %" in notes(caplog, brain() + 7, ("T1",))


def test_a_noisy_background(caplog):
    noise = np.abs(np.random.default_rng(1).normal(0, 5, SHAPE))
    assert "T1 has no background of 0" in notes(caplog, brain() + noise, ("T1",))


def test_scaled_with_its_background(caplog):
    voxels = brain()
    assert "already scaled to a mean of 0" in notes(caplog, (voxels - voxels.mean()) / voxels.std(), ("T1",))


def test_scaled_within_the_brain_passes(caplog):
    """Scaling it again gives the same."""
    voxels = brain()
    inside = voxels != 0
    voxels[inside] = (voxels[inside] - voxels[inside].mean()) / voxels[inside].std()
    assert notes(caplog, voxels, ("T1",), voxel_millilitres=0.2) == ""


def test_a_head_with_its_skull(caplog):
    assert "more than a brain" in notes(caplog, brain(), ("T1",), voxel_millilitres=0.8)


KNEES = parse_record({"title": "Knees", "channels": {"T1": {"kind": "MRI"}}, "layouts": ["files"]}, "knees")


@pytest.mark.parametrize("record", [KNEES, get_record("lgg_flair"), None])
def test_only_of_brains_without_skull_is_a_background_expected(caplog, record):
    assert notes(caplog, brain() + 7, ("T1",), record, voxel_millilitres=0.8) == ""
    voxels = brain()
    voxels[12, 12, 12] = 1e30
    assert "T1 holds 1 voxels (0.0072 %) above" in notes(caplog, voxels, ("T1",), record)


def test_a_record_tells_which_channel_is_ct(caplog):
    channels = {"low": {"kind": "CT"}, "PET": {"kind": "other"}}
    record = parse_record({"title": "PET/CT", "channels": channels, "layouts": ["files"]}, "pet")
    image = torch.as_tensor(np.stack([ct() + 1024, (ct() + 1023) ** 2]))
    check_voxels(image, ("low", "PET"), str, record=record)
    assert [message.split()[1] for message in caplog.messages] == ["low"]


def test_a_label_map_as_an_image(caplog):
    assert "T1 holds 2 different values alone, as a label map" in notes(caplog, (brain() > 500) * 1.0, ("T1",))


def test_a_channel_that_is_there_twice(caplog):
    other = brain() + 30 * (brain() > 0) * np.random.default_rng(1).normal(size=SHAPE)
    image = torch.as_tensor(np.stack([brain(), other, brain(), np.zeros(SHAPE), np.zeros(SHAPE)]))
    check_voxels(image, ("T1", "T2", "T1ce", "a", "b"), str, absent=True)
    assert caplog.messages == ["2: T1ce holds the same voxels as T1; give the file of each channel"]


@pytest.mark.parametrize(
    "copy", [brain() * 2, np.where(brain() > 0, 4000 - brain(), 0), np.round(brain() / 2), brain() + 9]
)
def test_a_scaled_channel_is_a_copy(caplog, copy):
    check_voxels(torch.as_tensor(np.stack([brain(), copy])), ("T1", "T2"), str)
    assert caplog.messages == ["1: T2 holds the same voxels as T1, scaled; give the file of each channel"]


def test_negative_whole_numbers_beside_a_background_of_0(caplog):
    wrapped = np.where(brain() > 500, brain().round() - 1024, brain().round())
    assert re.search(r"holds [\d,]+ voxels \(\d+ %\) below 0, down to -\d+", notes(caplog, wrapped, ("T1",)))


def test_what_a_spline_leaves_below_0_passes(caplog):
    assert notes(caplog, np.where(brain() > 500, brain().round(), -20 * (brain() > 0)), ("T1",)) == ""


def test_said_once(caplog):
    first = notes(caplog, brain() + 7, ("T1",))
    assert notes(caplog, brain() + 7, ("T1",)) == first


def test_an_absent_modality_is_no_oddity(caplog):
    image = torch.as_tensor(np.stack([brain(), np.zeros(SHAPE)]))
    check_voxels(image, ("T1", "T2"), str, absent=True)
    assert caplog.text == ""


def test_the_transform_warns_of_file_and_case(tmp_path, caplog):
    nib.save(nib.Nifti1Image((ct() + 1024).astype(np.int16), np.diag([-2.0, -2, 2, 1])), tmp_path / "A.nii.gz")
    item = LoadCased("image")({"image": str(tmp_path / "A.nii.gz")})
    CheckCased("image", ["CT"], voxel_warnings=False)(item)
    assert caplog.text == ""
    CheckCased("image", ["CT"])(item)
    assert f"case A, file {tmp_path / 'A.nii.gz'}: CT holds values from" in caplog.text


def mri():
    """A head in air, noise everywhere."""
    return ct() + 1100


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("end", "slices"), [("first", slice(None, 9)), ("last", slice(-9, None))])
def test_slices_that_one_channel_lacks_are_named(caplog, axis, end, slices):
    whole, cut = brain(), brain()
    cut[(slice(None),) * axis + (slices,)] = 0
    both = torch.as_tensor(np.stack([cut, whole]), dtype=torch.float32)
    check_voxels(both, ("T1", "T2"), lambda _: "case A, file f", record=BRAINS)
    assert re.search(rf"T1 is empty in its {end} \d of 24 slices along axis {axis + 1}, where T2 goes on", caplog.text)
    assert "T2 is empty" not in caplog.text


@pytest.mark.parametrize("name", ["CT", "T1"])
def test_a_scan_whose_upper_half_is_filled_with_zeros_is_told(caplog, name):
    scan = ct() if name == "CT" else mri()
    scan[..., 12:] = 0
    assert f"{name} is empty in its last 12 of 24 slices" in notes(caplog, scan, (name,), None)


@pytest.mark.parametrize("scan", [brain(), np.pad(brain(), ((0, 0), (0, 0), (9, 9))), np.maximum(ct(), -1000)])
def test_margins_of_background_are_no_missing_slices(caplog, scan):
    assert notes(caplog, scan, ("T1",), None) == ""


def test_an_mri_beyond_its_type_is_told(caplog):
    """Bright voxels of 16 bits without a sign, read with one."""
    scan = np.round(brain() * 100).astype(np.uint16)
    assert scan.max() > 32767
    assert "bright voxels became negative" in notes(caplog, scan.view(np.int16), ("T1",), None)


def test_a_label_outside_the_image_is_told(caplog):
    image = torch.as_tensor(brain()[None], dtype=torch.float32)
    inside = torch.zeros(1, *SHAPE, dtype=torch.int16)
    inside[0, 10:14, 10:14, 10:14] = 1
    check = CheckCased(modalities=("T1",), dataset="brats2018")
    check({"case": "A", "image": image, "label": inside})
    assert "labelled voxels" not in caplog.text
    check({"case": "A", "image": image, "label": inside.roll(12, 2)})
    assert "100 % of the labelled voxels lie where the image is empty" in caplog.text
    check({"case": "A", "image": image, "label": torch.zeros_like(inside)})
