"""Occupancy networks and mirrored images together, against means worked out by hand."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from monai.data import MetaTensor
from torch import nn

from custom_nets.errors import InputError
from custom_nets.inferers import EnsembleInferer
from custom_nets.networks import NvNet, OSSNet, OSSNetSettings, PyramidOSSNet
from tests.inferers.fields import FieldNetwork, build_inferer, image_for, random_field, signed_ball

AXES = [(), (0,), (2, 1), (0, 1, 2)]


def a_network(kind: str) -> nn.Module:
    """A small network that tells left from right, and whose logits are about 1."""
    torch.manual_seed(1)
    if kind == "pyramid":
        net: nn.Module = PyramidOSSNet(1, 2, spacing=1.5, channels=(8, 8), hidden_features=16)
    else:
        net = OSSNet(kind, 1, 2, (16, 16, 16), (4, 4), 16, settings=OSSNetSettings())
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_((0.3 if kind == "pyramid" else 0.05) * torch.randn_like(parameter))
    return net.eval()


@pytest.fixture
def image() -> MetaTensor:
    noise = torch.randn(2, 1, 5, 4, 4, generator=torch.Generator().manual_seed(2))
    smooth = nn.functional.interpolate(noise, (18, 13, 11), mode="trilinear")
    return MetaTensor(smooth, affine=torch.diag(torch.tensor([1.0, 0.8, 2.0, 1.0])))


def members_by_hand(inferer, image: torch.Tensor, networks: list, axes: tuple[int, ...]) -> torch.Tensor:
    """Each member's result `[members, B, R, H, W, D]`: of the mirrored image, mirrored back."""
    results = []
    for network in networks:
        for count in range(len(axes) + 1):
            for some in itertools.combinations(axes, count):
                dims = [axis + 2 for axis in some]
                results.append(inferer(image.flip(dims), network).as_tensor().flip(dims))
    return torch.stack(results)


@pytest.mark.parametrize("kind", ["pyramid", "c", "d"])
@pytest.mark.parametrize("axes", AXES)
def test_the_dense_mean_is_that_of_mirrored_results_mirrored_back(kind, axes, image):
    net, inferer = a_network(kind), build_inferer(mode="dense")
    members = members_by_hand(inferer, image, [net], axes)
    result = EnsembleInferer(inferer, axes)(image, net)
    torch.testing.assert_close(result.as_tensor(), members.mean(dim=0), atol=1e-5, rtol=0)
    assert torch.equal(result.affine, image.affine)
    if axes:  # mirrored members differ by far more than the tolerance
        assert (members[0] - members[-1]).abs().max() > 1e-2


@pytest.mark.parametrize("kind", ["pyramid", "c"])
def test_several_checkpoints_and_mirrors_give_mean_and_spread(kind, image, tmp_path: Path):
    net, other = a_network(kind), a_network(kind)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.7)
    paths = [tmp_path / "first.pt", tmp_path / "second.pt"]
    for network, path in zip((net, other), paths, strict=True):
        torch.save(network.state_dict(), path)
    inferer = build_inferer(mode="dense")
    members = members_by_hand(inferer, image, [net, other], (1,))
    result = EnsembleInferer(inferer, mirror_axes=1, checkpoints=paths, spread=True)(image, net)
    mean, spread = result.as_tensor().chunk(2, dim=1)
    torch.testing.assert_close(mean, members.mean(dim=0), atol=1e-5, rtol=0)
    torch.testing.assert_close(spread, members.std(dim=0, correction=0), atol=1e-5, rtol=0)


def test_positions_between_voxels_are_mirrored_too(image):
    net, inferer = a_network("pyramid"), build_inferer(mode="dense", output_spacing=0.7)
    members = members_by_hand(inferer, image, [net], (0, 2))
    result = EnsembleInferer(inferer, (0, 2))(image, net)
    torch.testing.assert_close(result.as_tensor(), members.mean(dim=0), atol=1e-4, rtol=0)
    assert torch.equal(result.affine, inferer(image, net).affine)


@pytest.mark.parametrize("spread", [False, True])
def test_the_search_finds_the_surface_of_the_mean(spread, tmp_path: Path):
    """Two balls apart and overlapping: their mean's regions are neither's, and true probabilities where queried."""

    class Stored(FieldNetwork):
        def __init__(self, field: torch.Tensor) -> None:
            super().__init__(field)
            del self.field
            self.field = nn.Parameter(field.float())

    fields = [0.4 * signed_ball((40, 36, 32), centre, 9) for centre in ((16, 18, 16), (22, 17, 15))]
    paths = []
    for number, field in enumerate(fields):
        paths.append(tmp_path / f"{number}.pt")
        torch.save(Stored(field).state_dict(), paths[-1])
    inferer = build_inferer(coarse_step=4)
    ensemble = EnsembleInferer(inferer, checkpoints=paths, spread=spread)
    result = ensemble(image_for(fields[0]), Stored(fields[0]))
    probabilities = torch.stack(fields).sigmoid()
    mean = probabilities.mean(dim=0)
    assert torch.equal(result[:, :1] > 0.5, mean > 0.5)
    queried = (result[:, :1] != 0) & (result[:, :1] != 1)
    assert queried.sum() > 1000
    torch.testing.assert_close(result[:, :1][queried], mean[queried], atol=1e-5, rtol=0)
    if spread:
        torch.testing.assert_close(
            result[:, 1:][queried], probabilities.std(0, correction=0)[queried], atol=1e-4, rtol=0
        )
        assert not result[:, 1:][~queried].any()
    assert inferer.stats.fraction < 0.5


@pytest.mark.parametrize("prior", ["union", "restrict"])
def test_the_prior_is_that_of_the_mean(prior):
    field = signed_ball((32, 32, 32), (10, 16, 16), 7)
    segmentation = nn.functional.adaptive_max_pool3d((field > 0).float(), (4, 4, 4)) * 12 - 6

    class Mirrored(FieldNetwork):
        """Mirrored where its image is, so that all members agree."""

        def encode(self, image: torch.Tensor):
            flipped = bool(image[0, 0, 0, 0, 0])
            latent = super().encode(image)
            return type(latent)(*(t.flip(2) if flipped else t for t in latent))

    image = image_for(field)
    image[:, :, -1] = 1
    net, inferer = Mirrored(field, segmentation), build_inferer(prior=prior)
    alone = inferer(image, net)
    queries = inferer.stats.queries
    together = EnsembleInferer(inferer, mirror_axes=0)(image, net)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert inferer.stats.queries == queries


def test_a_single_member_is_the_inferers_result(image):
    net, inferer = a_network("c"), build_inferer(coarse_step=4)
    assert torch.equal(EnsembleInferer(inferer)(image, net), inferer(image, net))


def test_half_precision_stays_half_precision(image):
    net = a_network("pyramid")
    result = EnsembleInferer(build_inferer(output_dtype=torch.float16), (0,), spread=True)(image, net)
    assert result.dtype == torch.float16


def test_a_spread_below_a_threshold_of_one_half_is_refused():
    with pytest.raises(InputError, match=r"threshold is 0\.3; expected at least 0\.5 where the spread is wanted"):
        EnsembleInferer(build_inferer(threshold=0.3), spread=True)


def test_a_network_of_another_kind_is_refused(image):
    with pytest.raises(InputError, match="NvNet is no occupancy network"):
        EnsembleInferer(build_inferer(), (0,))(image, NvNet(1, 1, init_filters=8, vae=False).eval())


def test_a_network_in_place_of_the_inferer_is_named_in_one_line():
    with pytest.raises(InputError, match=r"^inferer is a OSSNet; expected one such as VolumeInferer") as raised:
        EnsembleInferer(OSSNet("c"))
    assert "\n" not in str(raised.value)


def test_many_regions_with_a_spread_are_searched_as_without(image):
    field = random_field(3, (21, 18, 24), 2.0, regions=3)
    inferer = build_inferer(coarse_step=4, candidate_step=2)
    alone = inferer(image_for(field), FieldNetwork(field))
    queries = inferer.stats.queries
    together = EnsembleInferer(inferer, spread=True)(image_for(field), FieldNetwork(field))
    torch.testing.assert_close(together[:, :3], alone, atol=1e-5, rtol=0)
    assert not together[:, 3:].any()
    assert inferer.stats.queries == queries
