"""Windows of an image: copied row by row, sample by sample, or from a pooled volume."""

import numpy as np
import pytest
import torch

from custom_nets.networks.ossnet.patches import gather_mid_range_patches, gather_window

SIZE = (11, 13, 12)


def every_voxel() -> torch.Tensor:
    return torch.from_numpy(np.indices(SIZE).reshape(3, -1).T.copy())


def windows_by_hand(image: np.ndarray, points: np.ndarray, start: int, stride: int, size: int) -> np.ndarray:
    reach = abs(start) + size * stride
    padded = np.pad(image, [(0, 0), *[(reach, reach)] * 3])
    result = []
    for point in points:
        low = point + reach + start
        result.append(padded[(slice(None), *(slice(at, at + size * stride, stride) for at in low))])
    return np.stack(result)


@pytest.mark.parametrize(("start", "stride", "size"), [(-3, 1, 7), (-1, 1, 3), (-6, 2, 7), (0, 1, 1)])
@pytest.mark.parametrize("layout", ["contiguous", "channels last", "transposed", "part of a batch"])
def test_windows_at_every_voxel(start, stride, size, layout):
    image = torch.randn(2, *SIZE, generator=torch.Generator().manual_seed(0))
    strided = {
        "contiguous": image,
        "channels last": image[None].contiguous(memory_format=torch.channels_last_3d)[0],
        "transposed": image.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0),
        "part of a batch": torch.stack([image + 1, image])[1],
    }[layout]
    points = every_voxel()
    expected = windows_by_hand(image.numpy(), points.numpy(), start, stride, size)
    np.testing.assert_array_equal(gather_window(strided, points, start, stride, size).numpy(), expected)


def test_windows_inside_equal_those_among_others():
    image = torch.randn(3, *SIZE)
    inner = torch.tensor([[5, 6, 5], [4, 4, 4]])
    mixed = gather_window(image, torch.cat([inner, torch.tensor([[0, 0, 0]])]), -3)
    assert torch.equal(gather_window(image, inner, -3), mixed[:2])


def test_no_points_give_no_windows():
    assert gather_window(torch.randn(2, *SIZE), torch.zeros(0, 3, dtype=torch.int64), -3).shape == (0, 2, 7, 7, 7)


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_pooled_windows_equal_windows_that_are_pooled(pooling):
    image, points = torch.randn(2, *SIZE, generator=torch.Generator().manual_seed(0)), every_voxel()
    whole = windows_by_hand(image.numpy(), points.numpy(), -7, 1, 14)
    cells = whole.reshape(len(points), 2, 7, 2, 7, 2, 7, 2)
    expected = cells.mean((3, 5, 7)) if pooling == "mean" else cells.max((3, 5, 7))
    found = gather_mid_range_patches(image[None], points[None], pooling)[0]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)
