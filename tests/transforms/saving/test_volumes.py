"""Volumes of regions against counts made by hand."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.data import MetaTensor

from custom_nets.errors import InputError
from custom_nets.transforms.saving.volumes import (
    RegionVolumesd,
    SaveRegionVolumesd,
    label_parts,
    longest_diameter,
    region_volumes,
    voxel_millilitres,
)


def two_parts():
    mask = np.zeros((9, 8, 7), dtype=bool)
    mask[0, 0, 0] = mask[1, 1, 1] = True  # touch at a corner: one part
    mask[6:8, 5, 5] = True
    return mask


@given(st.lists(st.floats(-3, 3), min_size=3, max_size=3), st.tuples(*[st.floats(0.3, 6)] * 3))
def test_a_turned_grid_keeps_the_volume_of_its_voxels(angles, spacing):
    turn = np.eye(3)
    for axis, angle in enumerate(angles):
        step = np.eye(3)
        i, j = [k for k in range(3) if k != axis]
        step[i, i] = step[j, j] = np.cos(angle)
        step[i, j], step[j, i] = -np.sin(angle), np.sin(angle)
        turn = turn @ step
    affine = np.eye(4)
    affine[:3, :3] = turn * spacing
    assert voxel_millilitres(affine) == pytest.approx(np.prod(spacing) / 1000)


def test_a_mirrored_grid_has_positive_volume():
    assert voxel_millilitres(np.diag([-2.0, 1, 5, 1])) == pytest.approx(0.01)


def test_corners_connect():
    assert len(label_parts(two_parts())[1]) == 2


def test_nothing_has_no_parts():
    assert len(label_parts(np.zeros((3, 3, 3), dtype=bool))[1]) == 0


def test_millilitres_voxels_and_parts_of_each_region():
    regions = np.stack([two_parts(), np.zeros((9, 8, 7))])
    table = region_volumes(regions, np.diag([1.0, 1, 2.5, 1]), ("WT", "ET"))
    assert table == {
        "WT": {"ml": 0.01, "voxels": 4, "components": 2},
        "ET": {"ml": 0.0, "voxels": 0, "components": 0},
    }


def test_names_and_channels_must_agree():
    with pytest.raises(InputError, match="1 region channels, but 3 names"):
        region_volumes(np.zeros((1, 3, 3, 3)), np.eye(4), ("WT", "TC", "ET"))


def test_the_file_holds_case_spacing_and_regions(tmp_path):
    pred = MetaTensor(torch.tensor(two_parts())[None].float(), affine=torch.diag(torch.tensor([-1.0, 1, 2.5, 1])))
    data = {"case": "c.1", "pred": pred}
    assert SaveRegionVolumesd("pred", tmp_path, regions=("WT",))(data) == data
    assert json.loads((tmp_path / "c.1" / "c.1_volumes.json").read_text()) == {
        "case": "c.1",
        "spacing_mm": [1.0, 1.0, 2.5],
        "orientation": None,
        "regions": {"WT": {"ml": 0.01, "voxels": 4, "components": 2}},
    }


def test_two_keys_need_two_suffixes(tmp_path):
    with pytest.raises(InputError, match="suffix"):
        SaveRegionVolumesd(["pred", "label"], tmp_path, ("WT",))


AFFINE = np.array([[-0.7, 0, 0, 30], [0, 1.6, -0.9, 5], [0, 1.2, 1.2, -8], [0, 0, 0, 1]])
"""A grid turned about the first axis, mirrored, of anisotropic voxels."""


def parts_of(mask, affine=AFFINE):
    return region_volumes(mask[None], affine, ("tumour",), parts=("tumour",))["tumour"]["parts"]


def test_parts_are_listed_largest_first():
    unit = 0.7 * (1.6 * 1.2 + 0.9 * 1.2) / 1000
    assert [part["ml"] for part in parts_of(two_parts())] == pytest.approx([2 * unit, 2 * unit], abs=1e-6)
    mask = two_parts()
    mask[6:8, 6, 5] = True
    assert [part["ml"] for part in parts_of(mask)] == pytest.approx([4 * unit, 2 * unit], abs=1e-6)


def test_parts_are_listed_on_request_alone():
    table = region_volumes(np.stack([two_parts()] * 2), np.eye(4), ("liver", "tumour"), parts=["tumour"])
    assert "parts" not in table["liver"]
    assert len(table["tumour"]["parts"]) == table["tumour"]["components"] == 2


def test_a_region_without_voxels_lists_no_parts():
    assert parts_of(np.zeros((4, 4, 4), dtype=bool)) == []


def test_the_centre_of_a_part_is_the_mean_of_its_voxels_in_the_patient():
    mask = np.zeros((9, 8, 7), dtype=bool)
    mask[2:5, 3, 4:6] = mask[2, 4, 4] = True
    voxels = np.argwhere(mask)
    expected = (AFFINE @ [*voxels.mean(axis=0), 1])[:3]
    assert parts_of(mask)[0]["centre_mm"] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(("axis", "expected"), [(0, 4 * 0.7), (1, 4 * 2.0), (2, 4 * 1.5)])
def test_a_row_of_voxels_is_as_long_as_its_voxels(axis, expected):
    mask = np.zeros((9, 8, 7), dtype=bool)
    place = [3, 3, 3]
    place[axis] = slice(1, 5)
    mask[tuple(place)] = True
    assert parts_of(mask)[0]["diameter_mm"] == pytest.approx(expected)


def test_one_voxel_is_as_long_as_its_longest_edge():
    mask = np.zeros((3, 3, 3), dtype=bool)
    mask[1, 1, 1] = True
    assert parts_of(mask)[0]["diameter_mm"] == 2


def test_a_ball_has_its_diameter_to_a_voxel():
    grid = np.indices((30, 30, 12)) * np.array([1, 1, 2.5]).reshape(3, 1, 1, 1)
    ball = ((grid - 15) ** 2).sum(axis=0) <= 12**2
    assert parts_of(ball, np.diag([1, 1, 2.5, 1]))[0]["diameter_mm"] == pytest.approx(24, abs=2.5)


def farthest(voxels, axes):
    """Every pair of voxels, and the longest line through one voxel among the farthest ones."""
    steps = (voxels[:, None] - voxels[None]).reshape(-1, 3)
    apart = np.linalg.norm(steps @ axes.T, axis=1)
    steps = steps[apart > apart.max() - 1e-7]
    return apart.max() * (1 + 1 / np.abs(steps).max(axis=1).min())


@settings(max_examples=60, deadline=None)
@given(arrays(bool, (4, 5, 3)).filter(lambda mask: mask.sum() > 1))
def test_the_diameter_is_that_of_the_farthest_pair_of_voxels(mask):
    voxels = np.argwhere(mask)
    axes = AFFINE[:3, :3]
    assert longest_diameter(voxels, axes) == pytest.approx(farthest(voxels, axes), abs=1e-4)


@settings(max_examples=30, deadline=None)
@given(arrays(bool, (4, 4, 3)))
def test_the_ends_of_lines_hold_the_diameter(mask):
    mask[1:3, 1:3, 1] = True
    parts, sizes = label_parts(mask)
    longest = max(farthest(np.argwhere(parts == k + 1), AFFINE[:3, :3]) for k in range(len(sizes)) if sizes[k] > 1)
    assert max(part["diameter_mm"] for part in parts_of(mask)) == pytest.approx(longest, abs=2e-3)


def test_sizes_of_parts_are_their_voxels():
    parts, sizes = label_parts(two_parts())
    assert sizes.tolist() == [np.count_nonzero(parts == 1), np.count_nonzero(parts == 2)] == [2, 2]


def test_more_parts_than_a_short_number_can_tell():
    mask = np.zeros((83, 83, 83), dtype=bool)
    mask[::2, ::2, ::2] = True
    assert len(label_parts(mask)[1]) == 42**3 > 2**16


def test_half_precision_and_turned_memory_give_the_same_measures():
    field = torch.tensor(two_parts()).half().permute(2, 0, 1).contiguous().permute(1, 2, 0)
    assert not field.is_contiguous()
    assert region_volumes(field[None], AFFINE, ("tumour",), parts=("tumour",)) == region_volumes(
        two_parts()[None], AFFINE, ("tumour",), parts=("tumour",)
    )


def test_parts_of_an_unknown_region_are_an_error_that_names_the_regions(tmp_path):
    with pytest.raises(InputError, match="'lesion' is unknown; expected any of liver, tumour"):
        SaveRegionVolumesd("pred", tmp_path, ("liver", "tumour"), parts=("lesion",))


def test_the_file_lists_the_parts(tmp_path):
    pred = MetaTensor(torch.tensor(two_parts())[None].half(), affine=torch.as_tensor(AFFINE))
    SaveRegionVolumesd("pred", tmp_path, ("tumour",), parts=("tumour",))({"case": "c1", "pred": pred})
    report = json.loads((tmp_path / "c1" / "c1_volumes.json").read_text())
    assert report["regions"]["tumour"]["parts"] == parts_of(two_parts())


@pytest.mark.parametrize(("dataset", "enhancing"), [(None, 4), ("brats2023", 3)])
def test_a_client_is_told_volumes_and_numbers(dataset, enhancing):
    """The scheme of the item, where it has one, tells the numbers of its label map."""
    regions = torch.from_numpy(np.stack([two_parts(), two_parts() * 0.4, two_parts()])).float()
    pred = MetaTensor(regions, affine=torch.diag(torch.tensor([-1.0, 1, 2.5, 1])))
    item = RegionVolumesd("pred", ("WT", "TC", "ET"), "brats2018")({"pred": pred, "dataset": dataset})
    assert item["result"] == {
        "volumes_ml": {"WT": 0.01, "TC": 0.0, "ET": 0.01},
        "label_numbers": {"WT": 2, "TC": 1, "ET": enhancing},
    }
