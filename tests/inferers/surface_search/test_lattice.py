"""Lattices of voxels: indices, dilation, interpolation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from torch import nn

from custom_nets.inferers.surface_search.lattice import (
    coarse_axis,
    dilate,
    fill_from_lattice,
    sample_segmentation,
    to_flat,
    to_points,
)


@given(shape=st.tuples(*[st.integers(1, 6)] * 3))
def test_points_and_flat_indices_are_inverse(shape: tuple[int, int, int]) -> None:
    flat = torch.arange(int(np.prod(shape)))
    points = to_points(flat, shape)
    assert torch.equal(to_flat(points, shape), flat)
    np.testing.assert_array_equal(points.numpy(), np.indices(shape).reshape(3, -1).T)


@pytest.mark.parametrize(
    ("size", "step", "expected"), [(9, 4, [0, 4, 8]), (10, 4, [0, 4, 8, 9]), (1, 4, [0]), (3, 8, [0, 2])]
)
def test_coarse_axis_holds_the_last_index(size: int, step: int, expected: list[int]) -> None:
    assert coarse_axis(size, step, torch.device("cpu")).tolist() == expected


@pytest.mark.parametrize("radius", [1, 2, 4])
@pytest.mark.parametrize("shape", [(9, 8, 7), (1, 3, 12)])
def test_dilate_equals_scipy(radius: int, shape: tuple[int, int, int]) -> None:
    mask = np.random.default_rng(0).random(shape) < 0.02
    expected = ndimage.binary_dilation(mask, np.ones([2 * radius + 1] * 3))
    np.testing.assert_array_equal(dilate(torch.from_numpy(mask), radius).numpy(), expected)


def test_fill_reproduces_a_linear_field() -> None:
    grid = torch.stack(torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in (50, 11, 6)], indexing="ij"))
    plane = grid[0] - 2 * grid[1] + 0.5 * grid[2] - 10.3
    axes = tuple(coarse_axis(n, 4, torch.device("cpu")) for n in plane.shape)
    out = torch.zeros(1, *plane.shape)
    fill_from_lattice(out, plane[axes[0]][:, axes[1]][:, :, axes[2]][None], axes)  # type: ignore[arg-type]
    assert torch.equal(out[0] > 0, plane > 0)


def test_sampled_segmentation_equals_the_resized_one() -> None:
    segmentation, shape = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)), (30, 17, 21)
    axes = tuple(coarse_axis(n, 3, torch.device("cpu")) for n in shape)
    resized = nn.functional.interpolate(segmentation[None], shape, mode="trilinear", align_corners=False)[0]
    expected = resized[:, axes[0]][:, :, axes[1]][:, :, :, axes[2]]
    torch.testing.assert_close(sample_segmentation(segmentation, axes, shape), expected)  # type: ignore[arg-type]


def test_a_voxel_without_a_probability_spoils_no_other() -> None:
    segmentation = torch.full((1, 8, 8, 8), 0.9)
    segmentation[0, 1, 1, 1] = torch.nan
    axes = tuple(coarse_axis(n, 2, torch.device("cpu")) for n in (16, 16, 16))
    sampled = sample_segmentation(segmentation, axes, (16, 16, 16))  # type: ignore[arg-type]
    assert sampled.isfinite().all()
    torch.testing.assert_close(sampled[:, 4:], torch.full_like(sampled[:, 4:], 0.9))


def test_fine_segmentation_keeps_single_voxels() -> None:
    segmentation = torch.zeros(1, 32, 32, 32)
    segmentation[0, 13, 14, 15] = 1.0
    axes = tuple(coarse_axis(n, 4, torch.device("cpu")) for n in (32, 32, 32))
    assert sample_segmentation(segmentation, axes, (32, 32, 32)).max() > 0.5  # type: ignore[arg-type]
