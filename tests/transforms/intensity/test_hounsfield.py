"""Windowed Hounsfield units against the formula, and what must survive."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.data import MetaTensor
from monai.transforms import Flip

from custom_nets.errors import InputError
from custom_nets.transforms.intensity.hounsfield import WindowHounsfield, WindowHounsfieldd, to_intensities

units = arrays(np.float32, (1, 3, 4, 2), elements=st.floats(-3024, 3071, width=32))
AFFINE = torch.tensor([[-0.7, 0, 0, 5], [0, -0.7, 0, 8], [0, 0, 2.5, -3], [0, 0, 0, 1]], dtype=torch.float64)


def volume(*values):
    """A column of voxels, and one of soft tissue."""
    return torch.tensor([*values, 40.0]).reshape(1, -1, 1, 1)


UPPER = 450 / 512
"""What the upper end of the window -200..250 becomes."""


@pytest.mark.parametrize(("hounsfield", "expected"), [(-200, 0), (56, 0.5), (250, UPPER)])
def test_the_window_is_scaled_by_the_next_power_of_two(hounsfield, expected):
    assert WindowHounsfield()(volume(hounsfield)).flatten()[0] == expected


@pytest.mark.parametrize(("hounsfield", "expected"), [(-3024, 0), (-2048, 0), (-1000, 0), (-201, 0), (251, UPPER)])
def test_what_lies_beyond_the_window_is_clipped(hounsfield, expected):
    assert WindowHounsfield()(volume(hounsfield)).flatten()[0] == expected


@pytest.mark.parametrize("window", [(-200, 250), (-1024, 1024), (0, 80)])
def test_whole_units_are_exact_in_half_precision(window):
    image = torch.arange(*window).reshape(1, -1, 1, 1)
    half, single = (WindowHounsfield(window, dtype)(image) for dtype in (torch.float16, torch.float32))
    assert torch.equal(half.float(), single)
    assert len(half.unique()) == image.numel()


@given(units)
def test_single_precision_is_the_formula(image):
    image[0, 0, 0, 0] = 0
    exact = (image.astype(np.float64).clip(-160, 240) + 160) / 512
    np.testing.assert_allclose(WindowHounsfield((-160, 240), torch.float32)(image), exact, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.float16, torch.float64])
def test_the_type_of_the_file_does_not_matter(dtype):
    assert WindowHounsfield()(volume(-1000, 56, 300).to(dtype)).flatten()[:3].tolist() == [0, 0.5, UPPER]


def test_a_list_of_a_config_is_a_window():
    assert WindowHounsfield([0, 80])(volume()).item() == 40 / 128


def test_an_array_in_another_memory_order_keeps_its_voxels():
    image = torch.arange(-100.0, -76.0).reshape(1, 2, 3, 4)
    turned = image.permute(0, 3, 2, 1)
    assert torch.equal(WindowHounsfield()(turned), WindowHounsfield()(image).permute(0, 3, 2, 1))


def test_the_input_is_not_changed():
    image = volume(-1000, 300)
    WindowHounsfield(dtype=torch.float32)(image)
    assert image.flatten().tolist() == [-1000, 300, 40]


def test_affine_meta_and_applied_operations_stay():
    image = Flip(0)(MetaTensor(volume(-1000, 300), affine=AFFINE, meta={"case": "c1"}))
    windowed = WindowHounsfieldd("image")({"image": image})["image"]
    assert torch.equal(windowed.affine, image.affine)
    assert windowed.meta["case"] == "c1"
    assert windowed.applied_operations == image.applied_operations != []


def test_a_flip_before_the_window_can_be_inverted_after_it():
    image = MetaTensor(volume(-1000, 300), affine=AFFINE)
    flip = Flip(0)
    assert flip.inverse(WindowHounsfield()(flip(image))).flatten()[:2].tolist() == [0, UPPER]


def test_an_image_in_other_units_is_an_error_that_says_what_it_holds():
    item = {"case": "c7", "image": torch.tensor([-1024.0, 3000]).reshape(1, 2, 1, 1)}
    with pytest.raises(InputError, match=r"case c7: 'image' holds values from -1024 to 3000, .*set the key hu_window"):
        WindowHounsfieldd("image")(item)


def test_voxels_on_the_limits_alone_are_no_content():
    with pytest.raises(InputError, match=r"none inside the window -200\.\.250"):
        WindowHounsfield()(torch.tensor([-200.0, 250]).reshape(1, 2, 1, 1))


@pytest.mark.parametrize("window", [(250, -200), (0, 0), (-200,), (-200, 0, 250)])
def test_a_window_that_is_none_is_an_error(window):
    with pytest.raises(InputError, match="two Hounsfield units, low before high"):
        WindowHounsfield(window)


def test_a_missing_image_is_allowed_on_request():
    assert WindowHounsfieldd("image", allow_missing_keys=True)({"case": "c1"}) == {"case": "c1"}


def test_intensities_of_units_are_those_of_the_window():
    values = WindowHounsfield((-200, 250), torch.float32)(volume(0, 200)).flatten()[:2].tolist()
    assert to_intensities([0, 200], (-200, 250)) == values
    assert to_intensities(None, (-200, 250)) is None
