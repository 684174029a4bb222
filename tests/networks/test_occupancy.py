"""What occupancy networks share: the choice of uncertain points, in every network that has encode and decode."""

import pytest
import torch

from custom_nets.networks import Latent, OSSNet, PyramidOSSNet
from custom_nets.networks.occupancy import OccupancyNetworkBase


class Stripes(OccupancyNetworkBase):
    """The logit of a point is its first coordinate less 10: least certain at 10."""

    def encode(self, image):
        return Latent(image, None)

    def decode(self, latent, image, points):
        self.was_training = self.training
        return points[..., :1].float() - 10


def line(*values):
    return torch.tensor([[(v, 0, 0) for v in values]])


def test_the_least_certain_candidates_are_answered():
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
