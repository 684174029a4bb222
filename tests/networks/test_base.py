"""What occupancy networks share: the choice of uncertain points, in every network that has encode and decode."""

import pytest
import torch

from custom_nets.networks import Latent, OSSNet, PyramidOSSNet
from custom_nets.networks.base import OccupancyNetworkBase, resize_to_grid


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


@pytest.mark.parametrize("grid", [(5, 4, 3), (4, 9, 3), (7, 9, 8)])
def test_resizing_averages_cells_where_the_grid_is_coarser_and_interpolates_where_it_is_finer(grid):
    image = torch.randn(2, 1, 7, 6, 8, generator=torch.Generator().manual_seed(0))
    expected = image
    for axis, cells in enumerate(grid):
        size = list(expected.shape[2:])
        size[axis] = cells
        finer = cells > expected.shape[2 + axis]
        resize = torch.nn.functional.interpolate if finer else torch.nn.functional.adaptive_avg_pool3d
        keys = {"mode": "trilinear", "align_corners": False} if finer else {}
        expected = resize(expected, tuple(size), **keys)
    torch.testing.assert_close(resize_to_grid(image, grid), expected, atol=1e-5, rtol=1e-5)


def test_half_precision_images_are_averaged_in_float32():
    image = torch.randn(2, 1, 9, 8, 6, generator=torch.Generator().manual_seed(0)).half()
    torch.testing.assert_close(
        resize_to_grid(image, (4, 3, 3)), resize_to_grid(image.float(), (4, 3, 3)), atol=1e-6, rtol=1e-6
    )
