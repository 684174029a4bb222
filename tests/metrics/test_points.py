"""The published protocol: overlap on random points."""

import numpy as np
import pytest
import torch

from custom_nets.metrics import PointOverlap
from custom_nets.metrics.points import point_overlap


@pytest.mark.parametrize("measure", ["dice", "iou"])
def test_golden_overlap(golden_dir, measure):
    golden = np.load(golden_dir / "golden_losses.npz")
    predicted = torch.from_numpy(golden["prediction"])[..., 0] > 0.5
    label = torch.from_numpy(golden["label"])[..., 0]
    score = point_overlap(predicted.double(), label.double(), measure).mean()
    np.testing.assert_allclose(score, golden[measure], rtol=1e-6)
    empty = torch.zeros(2, 100)
    assert point_overlap(empty, empty, measure).mean() == golden[f"empty_{measure}"]


def test_points_estimate_the_dense_score():
    label = torch.zeros(1, 1, 40, 40, 40)
    label[..., :20] = 1
    predicted = torch.zeros_like(label)
    predicted[..., 10:30] = 1
    metric = PointOverlap("dice", num_points=50_000)
    metric(predicted, label)
    assert metric.aggregate().item() == pytest.approx(0.5, abs=0.02)


def test_two_runs_agree():
    label = (torch.rand(1, 2, 20, 20, 20) > 0.5).float()
    scores = []
    for _ in range(2):
        metric = PointOverlap("iou", num_points=100)
        metric(label.roll(1, dims=2), label)
        scores.append(metric.aggregate())
    assert torch.equal(scores[0], scores[1])


def test_a_score_does_not_depend_on_the_cases_before():
    label = (torch.rand(1, 2, 20, 20, 20) > 0.5).float()
    metric = PointOverlap("iou", num_points=100)
    first, second = (metric(label.roll(1, dims=2), label) for _ in range(2))
    assert torch.equal(first, second)


def test_unknown_measure_is_named():
    with pytest.raises(ValueError, match="'dice' or 'iou', got 'f1'"):
        PointOverlap("f1")
