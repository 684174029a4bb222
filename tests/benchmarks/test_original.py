"""The published inference that the benchmarks compare with does what the published mode does."""

import pytest
import torch
from _ball import BallNetwork, Volume, build_network
from _original import Original, OriginalDecoder, dilate, naive_pade
from scipy import ndimage

from custom_nets.inferers import OccupancyInferer, SearchSettings
from custom_nets.networks import OSSNet, OSSNetSettings, PadeActivation

# The ball is off the lattice of every stride, and reaches beyond one cell of the prior.
VOLUME = Volume((64, 48, 32), 4, 9.3)


def small_network(variant: str) -> OSSNet:
    torch.manual_seed(3)
    network = OSSNet(
        variant,
        in_channels=4,
        num_regions=1,
        grid_size=(32, 24, 16),
        encoder_channels=(4, 8, 8, 8),
        hidden_features=32,
        settings=OSSNetSettings("voxel", mid_range_pooling="max"),
    ).eval()
    # As built, conditional norms ignore the latent and the activations are all alike.
    with torch.no_grad():
        for name, parameter in network.decoder.named_parameters():
            if "gamma.weight" in name or "beta.weight" in name:
                parameter.normal_(std=0.2)
            if name.endswith(("numerator", "denominator")):
                parameter.mul_(torch.empty_like(parameter).uniform_(0.8, 1.2))
        for name, buffer in network.decoder.named_buffers():
            if "running_var" in name:
                buffer.uniform_(0.5, 2)
            if "running_mean" in name:
                buffer.normal_()
    return network


@pytest.fixture
def image() -> torch.Tensor:
    return torch.randn(1, VOLUME.channels, *VOLUME.shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("variant", ["c", "d"])
def test_original_and_published_mode_give_the_same_labels(variant: str, image: torch.Tensor) -> None:
    ball = BallNetwork(small_network(variant), VOLUME)
    published = OccupancyInferer(SearchSettings("published", prior="restrict"))(image, ball)[0, 0] > 0.5
    assert torch.equal(Original(ball)(image) > 0, published)


@pytest.mark.parametrize("variant", ["c", "d"])
def test_original_queries_as_many_points_as_the_published_mode(variant: str, image: torch.Tensor) -> None:
    ball = BallNetwork(small_network(variant), VOLUME)
    inferer = OccupancyInferer(SearchSettings("published", prior="restrict"))
    inferer(image, ball)
    original = Original(ball)
    original(image)
    assert original.queries == list(inferer.stats.queries_per_stage.values())


@pytest.mark.parametrize("variant", ["c", "d"])
def test_original_decoder_gives_the_logits_of_the_network(variant: str, image: torch.Tensor) -> None:
    network = small_network(variant)
    original = Original(BallNetwork(network, VOLUME))
    points = torch.stack([torch.randint(0, side, (50,)) for side in VOLUME.shape], dim=-1)
    with torch.no_grad():
        latent = network.encode(image)
        logits = original.decoder(latent.vectors[0], points, original.gather(image, points))
        torch.testing.assert_close(logits, network.decode(latent, image, points[None])[0], atol=1e-4, rtol=1e-4)


def test_ball_network_adds_its_field_to_bound_decoders_too(image: torch.Tensor) -> None:
    ball = BallNetwork(small_network("c"), VOLUME)
    points = torch.stack([torch.randint(0, side, (1, 50)) for side in VOLUME.shape], dim=-1)
    with torch.no_grad():
        latent = ball.encode(image)
        torch.testing.assert_close(ball.prepare_decoder(latent, image)(points), ball.decode(latent, image, points))


def test_ball_holds_the_voxels_whose_logit_is_positive() -> None:
    ball = BallNetwork(None, VOLUME)
    points = torch.cartesian_prod(*(torch.arange(side) for side in VOLUME.shape))
    assert torch.equal(ball.logits(points[None])[0, :, 0].reshape(VOLUME.shape) > 0, ball.truth())


@pytest.mark.parametrize(("name", "parameters"), [("c", 8_695_733), ("d", 8_704_653)])
def test_networks_of_brats_volumes_are_the_published_ones(name: str, parameters: int) -> None:
    network = build_network(name, Volume((256, 256, 160), 4, 29.0))
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


def test_networks_of_ct_volumes_are_the_published_ones() -> None:
    network = build_network("c", Volume((512, 512, 512), 1, 106.0))
    assert sum(parameter.numel() for parameter in network.parameters()) == 10_866_490


def test_dilation_is_a_cubic_maximum_filter() -> None:
    grid = (torch.rand(12, 11, 10, generator=torch.Generator().manual_seed(0)) > 0.98).float()
    expected = ndimage.maximum_filter(grid.numpy(), size=9, mode="constant")
    assert torch.equal(dilate(grid[None, None], 9)[0, 0], torch.from_numpy(expected))


def test_naive_activation_has_the_published_values() -> None:
    values = naive_pade(torch.tensor([-3.0, -1, 0, 1, 3, 100]), PadeActivation())
    expected = torch.tensor([-0.03959, -0.00919, 0.03356, 1.00081, 2.99041, 53.58])
    torch.testing.assert_close(values, expected, atol=1e-5, rtol=1e-3)


def test_original_decoder_shares_the_weights_of_the_network() -> None:
    network = small_network("c")
    decoder = OriginalDecoder(network)
    assert torch.equal(decoder.mapping[0].weight, network.decoder.patch_mapping.conv1.weight)
