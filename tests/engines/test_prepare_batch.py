"""What trainers take from a batch."""

import torch
from monai.data import MetaTensor, list_data_collate

from custom_nets.engines import PreparePointsBatch, PrepareReconstructionBatch
from custom_nets.networks import PyramidOSSNet
from custom_nets.transforms import SamplePointsd


def test_image_targets_and_points_are_told_apart():
    batch = {
        "image": MetaTensor(torch.ones(1, 4, 2, 2, 2)),
        "points": torch.zeros(1, 5, 3, dtype=torch.int64),
        "point_labels": torch.ones(1, 5, 3),
        "auxiliary_target": torch.ones(1, 3, 1, 1, 1),
    }
    image, (labels, auxiliary), (points,), options = PreparePointsBatch()(batch, "cpu")
    assert image.shape == (1, 4, 2, 2, 2)
    assert labels is not None
    assert auxiliary is not None
    assert points.dtype == torch.int64
    assert options == {}


def test_a_batch_may_lack_the_auxiliary_target():
    batch = {"image": torch.ones(1), "points": torch.ones(1), "point_labels": torch.ones(1)}
    assert PreparePointsBatch()(batch, "cpu")[1][1] is None


def test_the_spacing_stays_with_the_image():
    batch = {"image": MetaTensor(torch.ones(1, 4, 2, 2, 2), affine=torch.diag(torch.tensor([2.0, 2.0, 3.0, 1.0])))}
    batch |= {"points": torch.ones(1), "point_labels": torch.ones(1)}
    image = PreparePointsBatch()(batch, "cpu")[0]
    assert image.pixdim.tolist() == [2, 2, 3]


def test_points_left_to_the_network_are_told_apart():
    batch = {"image": torch.ones(1), "points": torch.zeros(1, 16, 3), "point_labels": torch.ones(1)}
    options = PreparePointsBatch(num_points=8, uncertain_share=0.5)(batch, "cpu")[3]
    assert options == {"candidates": 12, "uncertain": 4}


def test_the_sizes_of_padded_images_are_told_to_the_network():
    batch = {"image": torch.ones(1), "points": torch.zeros(1, 16, 3), "point_labels": torch.ones(1)}
    options = PreparePointsBatch()(batch | {"image_size": torch.tensor([[3, 4, 5]])}, "cpu")[3]
    assert options["sizes"].tolist() == [[3, 4, 5]]


def test_images_of_one_size_train_a_network_that_takes_no_other():
    item = {"image": torch.rand(1, 16, 16, 16), "label": torch.rand(2, 16, 16, 16) > 0.5}
    items = [SamplePointsd(num_points=8, border_balance=0)(item) for _ in range(2)]
    image, (labels, _), points, options = PreparePointsBatch()(list_data_collate(items), "cpu")
    assert options == {}
    assert PyramidOSSNet(1, 2)(image, *points, **options)[0].shape == labels.shape


def test_the_image_is_a_target_beside_its_regions():
    batch = {"image": MetaTensor(torch.rand(1, 4, 2, 2, 2)), "label": MetaTensor(torch.ones(1, 3, 2, 2, 2))}
    image, (regions, target) = PrepareReconstructionBatch()(batch, "cpu")
    assert target is image
    assert type(image) is type(regions) is torch.Tensor
    assert torch.equal(image, batch["image"].as_tensor())
    assert torch.equal(regions, batch["label"].as_tensor())
