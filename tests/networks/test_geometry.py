"""Sides, coordinates and coarser grids of images."""

import pytest
import torch

from custom_nets.networks.geometry import image_sides, resize_to_grid, unit_coordinates, unit_steps


def test_unit_coordinates_span_the_image():
    image, points = torch.zeros(1, 1, 10, 5, 1), torch.tensor([[[0, 0, 0], [9, 4, 0]]])
    found = unit_coordinates(points, unit_steps(image_sides(image)))
    torch.testing.assert_close(found, torch.tensor([[[-1.0, -1, -1], [1, 1, -1]]]))


@pytest.mark.parametrize("grid", [(5, 4, 3), (4, 9, 3), (7, 9, 8)])
def test_resizing_averages_cells_where_the_grid_is_coarser_and_interpolates_where_it_is_finer(grid):
    image = torch.randn(2, 1, 7, 6, 8, generator=torch.Generator().manual_seed(0))
    expected = image
    for axis, cells in enumerate(grid):
        size = list(expected.shape[2:])
        size[axis] = cells
        finer = cells > expected.shape[2 + axis]
        resize = torch.nn.functional.interpolate if finer else torch.nn.functional.adaptive_avg_pool3d
        keys = {"mode": "trilinear", "align_corners": False} if finer else {}
        expected = resize(expected, tuple(size), **keys)
    torch.testing.assert_close(resize_to_grid(image, grid), expected, atol=1e-5, rtol=1e-5)


def test_half_precision_images_are_averaged_in_float32():
    image = torch.randn(2, 1, 9, 8, 6, generator=torch.Generator().manual_seed(0)).half()
    torch.testing.assert_close(
        resize_to_grid(image, (4, 3, 3)), resize_to_grid(image.float(), (4, 3, 3)), atol=1e-6, rtol=1e-6
    )
