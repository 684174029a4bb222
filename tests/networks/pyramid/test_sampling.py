"""Trilinear samples, against torch's grid_sample and against plain indexing."""

import pytest
import torch
from torch.nn import functional as F

from custom_nets.networks.ossnet.patches import gather_local_patches
from custom_nets.networks.pyramid.sampling import sample_features, sample_neighbourhoods

SIZE = (5, 7, 6)


def positions(batch=2, n=200, reach=2.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    size = torch.tensor(SIZE)
    return torch.rand(batch, n, 3, generator=generator) * (size + 2 * reach) - reach


def shares_of(where, size=SIZE):
    """Positions in voxels as shares of the box."""
    return (where + 0.5) / torch.tensor(size)


def by_grid_sample(volume, where, padding):
    """Samples `[B, N, C]` of `[B, C, H, W, D]` at positions in voxels."""
    last = torch.tensor(volume.shape[2:]) - 1
    grid = (where * 2 / last - 1).flip(-1)[:, :, None, None]  # grid_sample wants x (the last axis) first
    return F.grid_sample(volume, grid, align_corners=True, padding_mode=padding)[..., 0, 0].mT


def test_features_are_trilinear_and_constant_beyond_the_border():
    features, where = torch.randn(2, *SIZE, 9), positions()
    expected = by_grid_sample(features.movedim(-1, 1), where, "border")
    torch.testing.assert_close(sample_features([features], shares_of(where))[0], expected, atol=1e-5, rtol=1e-5)


def test_feature_gradients_are_those_of_grid_sample():
    where, weight = positions(), torch.randn(2, 200, 4)
    features = torch.randn(2, *SIZE, 4, requires_grad=True)
    (ours,) = torch.autograd.grad((sample_features([features], shares_of(where))[0] * weight).sum(), features)
    (expected,) = torch.autograd.grad(
        (by_grid_sample(features.movedim(-1, 1), where, "border") * weight).sum(), features
    )
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


def test_maps_of_different_sizes_are_sampled_each_in_its_own_cells():
    maps = [torch.randn(2, *size, 3) for size in (SIZE, (2, 3, 1), (9, 4, 8))]
    shares = shares_of(positions())
    together = sample_features(maps, shares)
    for level, samples in zip(maps, together, strict=True):
        assert torch.equal(sample_features([level], shares)[0], samples)


def test_a_map_of_one_cell_is_constant():
    (samples,) = sample_features([torch.full((1, 1, 1, 1, 2), 3.0)], shares_of(positions(1)))
    assert samples.unique().item() == 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_samples_have_the_features_dtype(dtype):
    features = torch.randn(1, *SIZE, 4)
    (samples,) = sample_features([features.to(dtype)], shares_of(positions(1)))
    assert samples.dtype == dtype
    torch.testing.assert_close(
        samples.float(), sample_features([features], shares_of(positions(1)))[0], atol=0.05, rtol=0.05
    )


def test_neighbourhoods_of_voxels_are_the_voxels_around():
    image = torch.randn(2, 3, *SIZE)
    points = torch.stack([torch.randint(0, side, (2, 40)) for side in SIZE], dim=-1)
    centre = gather_local_patches(image, points)[..., 2:5, 2:5, 2:5]
    torch.testing.assert_close(sample_neighbourhoods(image, points, 3), centre, atol=0, rtol=0)


def test_neighbourhoods_at_voxel_centres_do_not_depend_on_the_kind_of_number():
    image = torch.randn(1, 2, *SIZE)
    points = torch.stack([torch.randint(0, side, (1, 40)) for side in SIZE], dim=-1)
    torch.testing.assert_close(
        sample_neighbourhoods(image, points.float(), 5), sample_neighbourhoods(image, points, 5), atol=0, rtol=0
    )


def test_neighbourhoods_between_voxels_are_trilinear_with_zeros_outside():
    image, where = torch.randn(2, 3, *SIZE), positions()
    step = torch.tensor([[0.5, 1.5, 1.0], [2.0, 0.75, 1.0]])
    ours = sample_neighbourhoods(image, where, 3, step)
    for shift in ((0, 0, 0), (2, 1, 0), (2, 2, 2)):
        moved = where + (torch.tensor(shift) - 1) * step[:, None]
        expected = by_grid_sample(image, moved, "zeros")
        torch.testing.assert_close(ours[(..., *shift)], expected, atol=1e-5, rtol=1e-5)


def test_a_value_that_is_not_finite_stays_where_it_is():
    image = torch.zeros(1, 1, *SIZE)
    image[0, 0, 0, 0, 0] = float("nan")
    assert torch.isfinite(sample_neighbourhoods(image, torch.tensor([[[2.0, 2.0, 2.0]]]), 3)).all()
