"""Brain images normalised by the voxels inside the head."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import NormalizeIntensity

from custom_nets.transforms.intensity.normalization import NormalizeNonzero, NormalizeNonzerod


def head(seed: int = 0, share: float = 0.4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    intensities = torch.randint(1, 900, (4, 9, 8, 7), generator=generator).float()
    return intensities * (torch.rand(intensities.shape, generator=generator) < share)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.02, 1))
def test_equal_to_monai_bit_for_bit(seed, share):
    image = head(seed, share)
    expected = NormalizeIntensity(nonzero=True, channel_wise=True)(image.clone())
    assert torch.equal(NormalizeNonzero()(image).view(torch.int32), expected.as_tensor().view(torch.int32))


def test_mean_and_deviation_inside():
    image = head()
    inside = image != 0
    normalised = NormalizeNonzero()(image)
    moments = [(c[m].mean().item(), c[m].std(unbiased=False).item()) for c, m in zip(normalised, inside, strict=True)]
    assert moments == [pytest.approx((0, 1), abs=1e-5)] * 4


def test_what_is_0_stays():
    image = head()
    outside = image == 0
    assert not NormalizeNonzero()(image)[outside].any()


def test_a_channel_of_zeros_stays():
    assert not NormalizeNonzero()(torch.zeros(2, 3, 3, 3)).any()


def test_a_channel_of_one_value_becomes_0():
    assert not NormalizeNonzero()(torch.full((1, 3, 3, 3), 5.0)).any()


def test_meta_data_stay():
    item = {"image": MetaTensor(head(), affine=torch.diag(torch.tensor([2.0, 2, 3, 1])))}
    assert NormalizeNonzerod("image")(item)["image"].affine[2, 2] == 3


@pytest.mark.parametrize("factor", [1e-42, 1e-30, 1e-20, 1e20, 1e30, 1e35])
def test_numbers_whose_square_float32_cannot_hold(factor):
    """As a wrong slope in a header makes them; they would become 0 throughout."""
    image = head()
    expected = NormalizeNonzero()(image.clone())
    image = (image.double() * factor).float()
    tolerance = 0.1 if factor < 1e-38 else 1e-4  # the smallest numbers have few digits
    assert torch.allclose(NormalizeNonzero()(image), expected, atol=tolerance)
