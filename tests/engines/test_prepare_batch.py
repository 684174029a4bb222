"""PreparePointsBatch."""

import torch
from monai.data import MetaTensor

from custom_nets.engines import PreparePointsBatch


def test_image_targets_and_points_are_told_apart():
    batch = {
        "image": MetaTensor(torch.ones(1, 4, 2, 2, 2)),
        "points": torch.zeros(1, 5, 3, dtype=torch.int64),
        "point_labels": torch.ones(1, 5, 3),
        "auxiliary_target": torch.ones(1, 3, 1, 1, 1),
    }
    image, (labels, auxiliary), (points,), options = PreparePointsBatch()(batch, "cpu")
    assert type(image) is torch.Tensor
    assert labels is not None
    assert auxiliary is not None
    assert points.dtype == torch.int64
    assert options == {}


def test_a_batch_may_lack_the_auxiliary_target():
    batch = {"image": torch.ones(1), "points": torch.ones(1), "point_labels": torch.ones(1)}
    assert PreparePointsBatch()(batch, "cpu")[1][1] is None
