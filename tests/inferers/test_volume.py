"""VolumeInferer, on networks whose answers are known."""

import logging

import pytest
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.networks.nets import SegResNet
from torch import nn

from custom_nets.errors import InputError
from custom_nets.inferers import VolumeInferer


class Pointwise(nn.Module):
    """Two logits a voxel from its own value; writes down the images that it is given."""

    divisor = 8

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        assert type(image) is torch.Tensor
        self.seen.append(image)
        return torch.cat((image[:, :1] - 0.5, -3 * image[:, :1]), dim=1)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        return [tuple(image.shape) for image in self.seen]


class Neighbours(nn.Module):
    """Every voxel sees its surroundings: whole and windows differ."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 2, 5, padding=2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.conv(image)


class SmallMemory(Pointwise):
    """Fails as a full GPU does where an image has more than so many voxels."""

    def __init__(self, voxels: int) -> None:
        super().__init__()
        self.voxels = voxels

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits = super().forward(image)
        if image[:, 0].numel() > self.voxels:
            msg = "CUDA out of memory"
            raise torch.OutOfMemoryError(msg)
        return logits


def expected(image: torch.Tensor) -> torch.Tensor:
    return torch.cat((image[:, :1] - 0.5, -3 * image[:, :1]), dim=1).sigmoid()


@pytest.fixture
def image() -> torch.Tensor:
    return torch.randn(2, 1, 19, 16, 13, generator=torch.Generator().manual_seed(0))


def test_whole_is_the_network_on_the_padded_image_cropped(image):
    network = Neighbours()
    with torch.no_grad():
        logits = network(F.pad(image, [0, 3, 0, 0, 0, 5]))
    result = VolumeInferer(8, mode="whole")(image, network)
    torch.testing.assert_close(result, logits[:, :, :19, :16, :13].sigmoid())


def test_whole_is_one_pass(image):
    network = Pointwise()
    VolumeInferer(8, mode="whole")(image, network)
    assert network.shapes == [(2, 1, 24, 16, 16)]


@pytest.mark.parametrize("roi_size", [8, (16, 8, 16), 24, 64])
@pytest.mark.parametrize("sw_batch_size", [1, 3])
def test_windows_of_a_pointwise_network_equal_the_whole(image, roi_size, sw_batch_size):
    result = VolumeInferer(roi_size, mode="windows", sw_batch_size=sw_batch_size)(image, Pointwise())
    torch.testing.assert_close(result, expected(image))


def test_windows_have_the_size_asked_for(image):
    network = Pointwise()
    VolumeInferer((16, 8, 8), mode="windows", sw_batch_size=2)(image, network)
    assert set(network.shapes) == {(2, 1, 16, 8, 8)}


def test_windows_average_probabilities_with_gaussian_weights():
    """Two windows of 8 that share voxels 4 to 7; each answers with its first voxel everywhere."""

    class First(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image[:, :, :1].expand_as(image)

    image = torch.zeros(1, 1, 12, 8, 8)
    image[:, :, :4], image[:, :, 4:] = -2.0, 3.0
    result = VolumeInferer(8, mode="windows", overlap=0.5)(image, First())[0, 0, :, 4, 4]
    left, right = torch.tensor([-2.0, 3.0]).sigmoid()
    positions = torch.arange(8) - 3.5
    weights = torch.exp(-0.5 * (positions / (0.125 * 8)) ** 2)
    ours, others = weights[4:], weights[:4]
    torch.testing.assert_close(result[:4], left.expand(4))
    torch.testing.assert_close(result[8:], right.expand(4))
    torch.testing.assert_close(result[4:8], (ours * left + others * right) / (ours + others), rtol=0, atol=0.01)


def test_an_image_smaller_than_the_window_is_padded_to_the_divisor_alone():
    network = Pointwise()
    VolumeInferer((16, 64, 128), mode="windows")(torch.zeros(1, 1, 20, 30, 5), network)
    assert set(network.shapes) == {(1, 1, 16, 32, 8)}


def test_a_single_window_is_the_whole_pass(image):
    network = Neighbours()
    windows, whole = (VolumeInferer(32, mode=mode)(image, network) for mode in ("windows", "whole"))
    torch.testing.assert_close(windows, whole)


@pytest.mark.parametrize(
    ("most", "shapes"), [(24 * 16 * 16, {(1, 1, 24, 16, 16)}), (24 * 16 * 16 - 1, {(1, 1, 8, 8, 8)})]
)
def test_auto_goes_whole_up_to_the_number_of_voxels(image, most, shapes):
    network = Pointwise()
    VolumeInferer(8, max_whole_voxels=most)(image[:1], network)
    assert set(network.shapes) == shapes


def test_auto_counts_the_voxels_of_the_batch(image):
    network = Pointwise()
    VolumeInferer(8, max_whole_voxels=24 * 16 * 16)(image, network)
    assert set(network.shapes) == {(1, 1, 8, 8, 8)}


def test_a_cropped_brain_goes_whole_and_an_uncropped_one_in_windows():
    limit = VolumeInferer(128).max_whole_voxels
    assert 144 * 176 * 152 <= limit < 240 * 240 * 160


def test_a_full_memory_goes_on_in_windows(image):
    result = VolumeInferer(8)(image, SmallMemory(voxels=512))
    torch.testing.assert_close(result, expected(image))


def test_a_full_memory_is_told_once_and_not_tried_again(image, caplog):
    inferer, network = VolumeInferer(8), SmallMemory(voxels=512)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            inferer(image, network)
    assert [record.getMessage() for record in caplog.records] == [
        "the GPU's memory does not suffice for an image of 24 x 16 x 16 voxels at once: "
        "going on in windows of 8 x 8 x 8"
    ]
    assert network.shapes.count((2, 1, 24, 16, 16)) == 1


def test_a_smaller_image_still_goes_whole_after_a_full_memory(image):
    inferer, network = VolumeInferer(8), SmallMemory(voxels=16 * 16 * 16)
    inferer(image, network)
    network.seen.clear()
    inferer(image[:1, :, :16], network)
    assert network.shapes == [(1, 1, 16, 16, 16)]


def test_whole_does_not_hide_a_full_memory(image):
    with pytest.raises(torch.OutOfMemoryError):
        VolumeInferer(8, mode="whole")(image, SmallMemory(voxels=512))


@pytest.mark.parametrize("mode", ["whole", "windows"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 9, 25), (8, 17, 16)])
def test_any_size_keeps_its_size(mode, shape):
    image = torch.rand(1, 1, *shape)
    torch.testing.assert_close(VolumeInferer(16, mode=mode)(image, Pointwise()), expected(image))


@pytest.mark.parametrize("mode", ["whole", "windows"])
def test_sure_voxels_stay_within_0_and_1(mode):
    result = VolumeInferer(8, mode=mode, overlap=0.75)(torch.full((1, 1, 17, 19, 23), 1000.0), Pointwise())
    assert result.min() >= 0
    assert result.max() <= 1


@pytest.mark.parametrize("mode", ["whole", "windows"])
def test_the_result_is_float32_also_under_autocast(image, mode):
    network = Neighbours()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert network(image).dtype == torch.bfloat16
        assert VolumeInferer(8, mode=mode)(image, network).dtype == torch.float32


@pytest.mark.parametrize("mode", ["whole", "windows"])
def test_a_network_of_half_precision_gets_an_image_of_half_precision(image, mode):
    result = VolumeInferer(8, mode=mode)(image.bfloat16(), Neighbours().bfloat16())
    assert result.dtype == torch.float32


@pytest.mark.parametrize("mode", ["whole", "windows"])
def test_meta_data_are_kept(image, mode):
    affine = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0]))
    result = VolumeInferer(8, mode=mode)(MetaTensor(image[:1], affine=affine, meta={"case": "a"}), Pointwise())
    assert isinstance(result, MetaTensor)
    assert torch.equal(result.affine, affine.double())
    assert result.meta["case"] == "a"


@pytest.mark.parametrize("mode", ["whole", "windows"])
def test_a_plain_tensor_gives_a_plain_tensor_without_gradients(image, mode):
    result = VolumeInferer(8, mode=mode)(image, Neighbours())
    assert type(result) is torch.Tensor
    assert not result.requires_grad


@pytest.mark.parametrize("mode", ["whole", "windows"])
def test_the_image_is_left_as_it_is(image, mode):
    before = image.clone()
    VolumeInferer(8, mode=mode)(image, Pointwise())
    assert torch.equal(image, before)


@pytest.mark.parametrize("mode", ["whole", "windows"])
def test_a_segresnet_takes_odd_sizes(mode):
    network = SegResNet(init_filters=8, in_channels=1, out_channels=3).eval()
    assert VolumeInferer(16, mode=mode, divisor=8)(torch.rand(1, 1, 21, 10, 17), network).shape == (1, 3, 21, 10, 17)


def test_further_arguments_reach_the_network(image):
    result = VolumeInferer(8)(image, lambda part, shift, scale: part * scale + shift, 2.0, scale=0.0)
    torch.testing.assert_close(result, torch.tensor(2.0).sigmoid().expand_as(image))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "half"}, "mode is 'half'; expected one of auto, whole, windows"),
        (
            {"roi_size": (16, 20, 16), "divisor": 8},
            r"roi_size is \(16, 20, 16\); expected one side or three .* multiples of 8",
        ),
        ({"roi_size": (16, 16)}, r"roi_size is \(16, 16\)"),
        ({"roi_size": 0}, "roi_size is 0"),
        ({"roi_size": None}, "roi_size is None"),
        ({"overlap": 1.0}, "overlap is 1.0; expected a share"),
        ({"sw_batch_size": 0}, "sw_batch_size is 0; expected a whole number of at least 1"),
        ({"max_whole_voxels": -1}, "max_whole_voxels is -1; expected a whole number of at least 0"),
        ({"divisor": 0}, "divisor is 0"),
    ],
)
def test_a_wrong_argument_is_named(arguments, message):
    with pytest.raises(InputError, match=message) as raised:
        VolumeInferer(**{"roi_size": 16, **arguments})
    assert "\n" not in str(raised.value)


def test_another_divisor_allows_other_windows():
    assert VolumeInferer((20, 4, 8), divisor=4).roi_size == (20, 4, 8)


def test_windows_must_suit_the_divisor_that_the_network_declares(image):
    with pytest.raises(InputError, match=r"roi_size is \(16, 20, 16\); expected .* multiples of 8, as the network"):
        VolumeInferer((16, 20, 16))(image, Pointwise())


def test_a_divisor_that_is_given_counts_before_the_declared_one(image):
    network = Pointwise()
    VolumeInferer(4, mode="whole", divisor=4)(image, network)
    assert network.shapes == [(2, 1, 20, 16, 16)]


def test_an_image_without_batch_is_named(image):
    with pytest.raises(InputError, match=r"inputs: shape \[1, 19, 16, 13\] has 4 axes"):
        VolumeInferer(8)(image[0], Pointwise())


@pytest.mark.parametrize("network", [lambda part: (part, None), lambda part: part[..., ::2], lambda part: part.mean()])
def test_a_network_without_logits_of_the_images_size_is_named(image, network):
    with pytest.raises(InputError, match=r"expected logits .* of the image's size"):
        VolumeInferer(8)(image, network)
