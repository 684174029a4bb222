"""Volumes of regions against counts made by hand."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import MetaTensor

from custom_nets.errors import InputError
from custom_nets.transforms.volumes import SaveRegionVolumesd, count_components, region_volumes, voxel_millilitres


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
    assert count_components(two_parts()) == 2


def test_nothing_has_no_parts():
    assert count_components(np.zeros((3, 3, 3), dtype=bool)) == 0


def test_millilitres_voxels_and_parts_of_each_region():
    regions = np.stack([two_parts(), np.zeros((9, 8, 7))])
    table = region_volumes(regions, np.diag([1.0, 1, 2.5, 1]), ("WT", "ET"))
    assert table == {
        "WT": {"ml": 0.01, "voxels": 4, "components": 2},
        "ET": {"ml": 0.0, "voxels": 0, "components": 0},
    }


def test_names_and_channels_must_agree():
    with pytest.raises(InputError, match="1 region channels, but 3 names"):
        region_volumes(np.zeros((1, 3, 3, 3)), np.eye(4))


def test_the_file_holds_case_spacing_and_regions(tmp_path):
    pred = MetaTensor(torch.tensor(two_parts())[None].float(), affine=torch.diag(torch.tensor([-1.0, 1, 2.5, 1])))
    data = {"case": "c.1", "pred": pred}
    assert SaveRegionVolumesd("pred", tmp_path, regions=("WT",))(data) == data
    assert json.loads((tmp_path / "c.1" / "c.1_volumes.json").read_text()) == {
        "case": "c.1",
        "spacing_mm": [1.0, 1.0, 2.5],
        "regions": {"WT": {"ml": 0.01, "voxels": 4, "components": 2}},
    }


def test_two_keys_need_two_suffixes(tmp_path):
    with pytest.raises(InputError, match="suffix"):
        SaveRegionVolumesd(["pred", "label"], tmp_path)
