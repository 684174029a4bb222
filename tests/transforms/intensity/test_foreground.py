"""The box round an image is that of MONAI."""

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import CropForeground

from custom_nets.transforms import is_foreground


def image(channels: int, dtype: torch.dtype, seed: int = 0) -> MetaTensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(channels, 12, 11, 10, generator=generator)
    box = torch.zeros(12, 11, 10)
    box[2:9, 4:8, 3:] = 1
    return MetaTensor((values * box).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("channels", [1, 4])
def test_is_where_any_channel_is_positive(channels, dtype):
    mask = is_foreground(image(channels, dtype))
    assert torch.equal(torch.from_numpy(mask)[0], (image(channels, dtype) > 0).any(0).as_tensor())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("channels", [1, 4])
def test_crops_as_monai_does(channels, dtype):
    keys = {"margin": 1, "allow_smaller": True}
    ours, theirs = (
        CropForeground(**keys, **more)(image(channels, dtype)) for more in ({"select_fn": is_foreground}, {})
    )
    assert torch.equal(ours, theirs)
    assert torch.equal(ours.affine, theirs.affine)


def test_nothing_crops_to_nothing():
    empty = torch.zeros(2, 4, 4, 4)
    assert CropForeground(select_fn=is_foreground)(empty).shape == CropForeground()(empty).shape
