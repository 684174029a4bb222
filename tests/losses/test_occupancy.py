"""OccupancyLoss and PointBCELoss."""

import numpy as np
import pytest
import torch
from monai.losses import FocalLoss

from custom_nets.losses import OccupancyLoss, PointBCELoss


@pytest.fixture
def golden(golden_dir):
    arrays = np.load(golden_dir / "golden_losses.npz")
    logits = torch.logit(torch.from_numpy(arrays["prediction"]).double(), eps=1e-6)
    return arrays, logits, torch.from_numpy(arrays["label"]).double()


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("bce", PointBCELoss()),
        ("bce_bootstrap", PointBCELoss(keep_fraction=0.8)),
        ("bce_smooth", PointBCELoss(label_smoothing=0.05)),
        ("focal", FocalLoss(gamma=2.0)),
    ],
)
def test_golden_losses(golden, name, loss):
    arrays, logits, labels = golden
    np.testing.assert_allclose(
        loss(logits, labels).item(), arrays[name], rtol=1e-4
    )  # the published clamp is rounded to float32


def test_auxiliary_loss_is_added_with_its_weight():
    logits, labels = torch.zeros(1, 4, 1), torch.ones(1, 4, 1)
    auxiliary, target = torch.zeros(1, 1, 2, 2, 2), torch.ones(1, 1, 2, 2, 2)
    loss = OccupancyLoss(auxiliary_weight=0.1)((logits, auxiliary), (labels, target))
    torch.testing.assert_close(loss, torch.tensor(1.1 * np.log(2), dtype=torch.float32))


def test_fine_targets_are_max_pooled():
    target = torch.zeros(1, 1, 4, 4, 4)
    target[..., 0, 0, 0] = 1
    confident = torch.full((1, 1, 2, 2, 2), -30.0)
    confident[..., 0, 0, 0] = 30.0
    points = (torch.full((1, 1, 1), 30.0), torch.ones(1, 1, 1))
    assert OccupancyLoss(1.0)((points[0], confident), (points[1], target)) < 1e-6


def test_plain_encoders_have_no_auxiliary_loss():
    logits, labels = torch.zeros(1, 4, 1), torch.ones(1, 4, 1)
    torch.testing.assert_close(OccupancyLoss()((logits, None), (labels, None)), torch.tensor(np.log(2)).float())


def test_saturated_wrong_points_keep_their_gradient():
    logits = torch.full((1, 1, 1), -100.0, requires_grad=True)
    PointBCELoss()(logits, torch.ones(1, 1, 1)).backward()
    torch.testing.assert_close(logits.grad, torch.full((1, 1, 1), -1.0))


def test_bad_fraction_is_named():
    with pytest.raises(ValueError, match="keep_fraction must be in"):
        PointBCELoss(keep_fraction=0)


def test_dice_is_one_minus_the_overlap_of_the_points():
    labels = torch.tensor([[[1.0], [1.0], [0.0], [0.0]]])
    logits = torch.tensor([[[100.0], [-100.0], [100.0], [-100.0]]])  # one hit, one miss, one false alarm: Dice 1/2
    with_dice = OccupancyLoss(dice_weight=1.0)((logits, None), (labels, None))
    without = OccupancyLoss()((logits, None), (labels, None))
    assert float(with_dice - without) == pytest.approx(0.5, abs=1e-4)


def test_dice_is_taken_over_the_batch():
    """A case that lacks the region adds its false alarms, and no Dice of its own."""
    labels = torch.tensor([[[1.0], [0.0]], [[0.0], [0.0]]])
    logits = 100 * torch.tensor([[[1.0], [-1.0]], [[-1.0], [-1.0]]])
    loss = OccupancyLoss(dice_weight=1.0)((logits, None), (labels, None))
    assert float(loss) == pytest.approx(0, abs=1e-4)


def test_only_answered_points_count():
    labels = torch.tensor([[[1.0], [0.0], [1.0]]])
    logits = torch.tensor([[[100.0], [100.0]]])
    loss = OccupancyLoss()((logits, None, torch.tensor([[2, 0]])), (labels, None))
    assert float(loss) == pytest.approx(0, abs=1e-6)
