"""The picture of a reconstruction shows the right slice, the right way up, in the image's grey window."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ignite.engine import Engine

from custom_nets.handlers import ReconstructionPicture
from custom_nets.handlers.reconstruction import draw_reconstruction
from custom_nets.networks import NvNetOutput


@pytest.fixture
def image() -> torch.Tensor:
    return torch.arange(2 * 4 * 6 * 5, dtype=torch.float32).reshape(2, 4, 6, 5)


def shown(axes) -> np.ndarray:
    return np.asarray(axes.images[0].get_array())


def test_the_middle_slice_of_every_modality_is_above_its_reconstruction(image):
    axes = draw_reconstruction(image, image + 1, ("T1", "T2")).axes
    assert [a.get_title() for a in axes] == ["T1 image", "T2 image", "T1 reconstruction", "T2 reconstruction"]
    np.testing.assert_array_equal(shown(axes[1]), image[1, :, :, 2].T)
    np.testing.assert_array_equal(shown(axes[3]), image[1, :, :, 2].T + 1)


def test_right_is_left_and_the_front_is_up(image):
    """Axes run towards left, back and head: index 0 of the first is the viewer's left, of the second the top."""
    axes = draw_reconstruction(image, image, ("T1", "T2")).axes[0]
    assert axes.get_xlim()[0] < axes.get_xlim()[1]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]


def test_both_have_the_images_grey_window(image):
    axes = draw_reconstruction(image, image * 10, ("T1", "T2")).axes
    assert axes[0].images[0].get_clim() == axes[2].images[0].get_clim()


def engine(output: NvNetOutput, image: torch.Tensor) -> Engine:
    made = Engine(lambda *_: None)
    made.state = SimpleNamespace(output={"image": image[None], "pred": output}, epoch=3)
    return made


def test_the_handler_writes_a_picture(image, tmp_path):
    output = NvNetOutput(image[None], image[None] * 2)
    ReconstructionPicture(tmp_path / "new" / "picture.png", ("T1", "T2"))(engine(output, image))
    assert (tmp_path / "new" / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_without_reconstruction_there_is_no_picture(image, tmp_path):
    ReconstructionPicture(tmp_path / "picture.png", ("T1", "T2"))(engine(NvNetOutput(image[None]), image))
    assert not list(tmp_path.iterdir())
