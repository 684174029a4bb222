"""The loss of NvNet against closed forms."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from custom_nets.losses import NvNetLoss, gaussian_kl
from custom_nets.networks import NvNetOutput

SHAPE = (2, 3, 4, 5, 6)
VOXELS = 4 * 5 * 6


def output(logits=None, **keys) -> NvNetOutput:
    return NvNetOutput(torch.zeros(SHAPE) if logits is None else logits, **keys)


def test_the_standard_normal_has_no_divergence():
    assert gaussian_kl(torch.zeros(2, 8), torch.zeros(2, 8), 100) == 0


def test_the_divergence_of_known_gaussians():
    """Twice torch's own divergence in nats, summed over the latent numbers, over N."""
    torch.manual_seed(0)
    mean, log_variance = torch.randn(5, 7), torch.randn(5, 7)
    nats = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).sum(1).mean()
    torch.testing.assert_close(gaussian_kl(mean, log_variance, 50), 2 * nats / 50)


def test_the_divergence_of_one_number_by_hand():
    divergence = gaussian_kl(torch.tensor([[3.0]]), torch.tensor([[math.log(4.0)]]), 10)
    assert divergence == pytest.approx((9 + 4 - math.log(4) - 1) / 10)


def test_dice_by_hand():
    """p = 1/2 everywhere and half the voxels inside: 1 - 2 (N/4) / (N/4 + N/2) = 1/3."""
    regions = torch.zeros(SHAPE)
    regions[:, :, :2] = 1
    loss = NvNetLoss()(output(), (regions, torch.zeros(2, 4, 4, 5, 6)))
    assert loss == pytest.approx(1 / 3, abs=1e-6)


def test_a_perfect_segmentation_costs_nothing():
    regions = (torch.rand(SHAPE) > 0.5).float()
    loss = NvNetLoss()(output((regions - 0.5) * 200), (regions, torch.zeros(2, 4, 4, 5, 6)))
    assert loss == pytest.approx(0, abs=1e-6)


def test_the_whole_loss_by_hand():
    image = torch.randn(2, 4, 4, 5, 6)
    mean, log_variance = torch.full((2, 128), 2.0), torch.zeros(2, 128)
    regions = torch.zeros(SHAPE)
    regions[:, :, :2] = 1
    loss = NvNetLoss()(output(reconstruction=image + 3, mean=mean, log_variance=log_variance), (regions, image))
    assert loss == pytest.approx(1 / 3 + 0.1 * 9 + 0.1 * 128 * 4 / VOXELS, rel=1e-5)


@pytest.mark.parametrize(("batch_dice", "learns"), [(False, False), (True, True)])
def test_an_image_without_a_region_teaches_with_batch_dice_alone(batch_dice, learns):
    regions = torch.zeros(SHAPE)
    regions[0] = 1
    logits = torch.zeros(SHAPE, requires_grad=True)
    NvNetLoss(batch_dice=batch_dice)(output(logits), (regions, torch.zeros(2, 4, 4, 5, 6))).backward()
    assert bool(logits.grad[1].any()) == learns


def test_terms_are_told_one_by_one():
    image = torch.zeros(2, 4, 4, 5, 6)
    criterion = NvNetLoss(reconstruction_weight=0.5, kl_weight=0.25)
    keys = {"reconstruction": image + 2, "mean": torch.ones(2, 8), "log_variance": torch.zeros(2, 8)}
    loss = criterion(output(**keys), (torch.zeros(SHAPE), image))
    assert criterion.terms["reconstruction"] == pytest.approx(0.5 * 4)
    assert criterion.terms["kl"] == pytest.approx(0.25 * 8 / VOXELS)
    assert sum(criterion.terms.values()) == pytest.approx(float(loss))


def test_without_a_branch_there_is_dice_alone():
    criterion = NvNetLoss()
    criterion(output(), (torch.zeros(SHAPE), torch.zeros(2, 4, 4, 5, 6)))
    assert set(criterion.terms) == {"dice"}


def test_16_bit_outputs_are_summed_in_float32():
    """Half precision cannot hold the squares of 100 or sums over many voxels."""
    image = torch.full((1, 4, 32, 32, 32), 300.0)
    keys = {"reconstruction": torch.zeros(1, 4, 32, 32, 32, dtype=torch.float16)}
    keys |= {"mean": torch.zeros(1, 8), "log_variance": torch.zeros(1, 8)}
    logits = torch.zeros(1, 3, 32, 32, 32, dtype=torch.float16)
    loss = NvNetLoss()(output(logits, **keys), (torch.ones(1, 3, 32, 32, 32), image))
    assert loss == pytest.approx(1 - 2 * 0.5 / (0.25 + 1) + 0.1 * 300**2, rel=1e-4)
