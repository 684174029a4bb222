"""What occupancy networks declare and share: the protocol, its check, and the choice of uncertain points."""

import pytest
import torch
from torch import nn

from custom_nets.errors import InputError
from custom_nets.networks import Latent, NvNet, OccupancyNetwork, OSSNet, PyramidOSSNet
from custom_nets.networks.base import OccupancyNetworkBase, check_occupancy_network, divisor_of


class Stripes(OccupancyNetworkBase):
    """The logit of a point is its first coordinate less 10: least certain at 10."""

    def encode(self, image):
        return Latent(image, None)

    def decode(self, latent, image, points):
        self.was_training = self.training
        return points[..., :1].float() - 10


def line(*values):
    return torch.tensor([[(v, 0, 0) for v in values]])


def test_the_least_certain_candidates_are_decoded():
    points = line(50, 60, 0, 11, 7, 40, 10)
    logits, _, chosen = Stripes(8)(torch.zeros(1, 1, 4, 4, 4), points, candidates=5, uncertain=2)
    assert chosen.tolist() == [[0, 1, 6, 3]]
    assert logits.flatten().tolist() == [40, 50, 0, 1]


def test_candidates_are_judged_in_evaluation_mode():
    net = Stripes(8).train()
    with torch.no_grad():
        net._choose(None, None, line(1, 2, 3), candidates=2, uncertain=1)
    assert net.was_training is False
    assert net.training


def test_any_uncertain_region_makes_a_point_uncertain():
    class TwoRegions(Stripes):
        def decode(self, latent, image, points):
            return torch.cat([points[..., :1].float() - 10, points[..., :1].float() - 30], dim=-1)

    chosen = TwoRegions(8)(torch.zeros(1, 1, 4, 4, 4), line(20, 31), candidates=2, uncertain=1)[2]
    assert chosen.tolist() == [[1]]


@pytest.mark.parametrize(
    "net",
    [
        OSSNet("c", 2, 3, (16, 16, 16), encoder_channels=(4, 4), hidden_features=16),
        PyramidOSSNet(2, 3, channels=(8, 8), hidden_features=16),
    ],
    ids=["c", "pyramid"],
)
def test_every_network_chooses(net):
    image, points = torch.randn(2, 2, 16, 16, 16), torch.randint(0, 16, (2, 20, 3))
    logits, segmentation, chosen = net(image, points, candidates=9, uncertain=3)
    assert logits.shape == (2, 14, 3)
    assert segmentation.shape[:2] == (2, 3)
    assert chosen[:, :11].tolist() == [list(range(11))] * 2
    logits.sum().backward()


class Lookup(OccupancyNetwork):
    """Encode and decode, and nothing declared."""

    def encode(self, image):
        return None

    def decode(self, latent, image, points):
        return points[..., :1].float()


def test_all_but_encode_and_decode_has_a_default():
    network, image = Lookup(), torch.zeros(1, 1, 4, 4, 4)
    assert (network.divisor, network.accepts_positions, network.counts_in_mm) == (1, False, False)
    assert (network.bytes_per_point, network.prepared_bytes(image)) == (0, 0)
    assert network.preferred_chunk(torch.device("cpu")) is None
    assert network.encode_spaced(image, torch.ones(1, 3)) is None
    assert network.prepare_decoder(None, image)(line(3)).item() == 3


def test_a_network_must_encode_and_decode():
    class OnlyEncodes(OccupancyNetwork):
        def encode(self, image):
            return None

    with pytest.raises(TypeError, match=r"abstract method '?decode"):
        OnlyEncodes()


def test_a_network_with_every_member_need_not_be_derived():
    members = {name: value for name, value in vars(OccupancyNetwork).items() if not name.startswith("_")}
    network = type("Structural", (), {**members, "encode": Lookup.encode, "decode": Lookup.decode})()
    assert check_occupancy_network(network, "a test") is network


def test_a_wrapper_is_looked_through():
    network = OSSNet("onet", 1, 1, grid_size=(16, 16, 16), hidden_features=8)
    assert check_occupancy_network(nn.DataParallel(network), "a test") is network
    assert divisor_of(nn.DataParallel(NvNet(init_filters=8, vae=False))) == 8


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Conv3d(1, 1, 1), "Conv3d is no occupancy network, it has no .*encode, decode"),
        # SegResNet has an encode and a decode too, of other arguments.
        (
            NvNet(init_filters=8, vae=False),
            "NvNet is no occupancy network, it has no accepts_positions, .*VolumeInf",
        ),
        (OSSNet, r"got the class OSSNet; a test needs a network, such as OSSNet\(\)"),
        (None, "NoneType is no occupancy network"),
    ],
    ids=["convolution", "nvnet", "class", "none"],
)
def test_what_is_no_occupancy_network_is_named_in_one_line(network, message):
    with pytest.raises(InputError, match=message) as raised:
        check_occupancy_network(network, "a test")
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 500


def test_networks_declare_what_tells_them_apart():
    image = torch.zeros(1, 2, 8, 8, 8)
    plain, mixed = (OSSNet(v, 2, 1, grid_size=(16, 16, 16), hidden_features=8) for v in ("c", "d"))
    assert not plain.accepts_positions
    assert (plain.prepared_bytes(image), mixed.prepared_bytes(image)) == (0, image.numel() * 4)
    assert mixed.bytes_per_point > plain.bytes_per_point > 0
    pyramid, in_mm = (PyramidOSSNet(2, 1, channels=(8, 8), hidden_features=8, spacing=s) for s in (None, 1.0))
    assert pyramid.accepts_positions
    assert (pyramid.counts_in_mm, in_mm.counts_in_mm) == (False, True)
    assert [divisor_of(n) for n in (plain, pyramid, NvNet(init_filters=8, vae=False), nn.Conv3d(1, 1, 1))] == [
        1,
        1,
        8,
        1,
    ]
