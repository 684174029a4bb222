"""Lesion-wise Dice against boxes counted by hand and the BraTS 2023 protocol written out lesion by lesion."""

import itertools
import math
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from scipy import ndimage

from custom_nets.errors import InputError
from custom_nets.metrics import (
    RegionLesionDice,
    RegionLesionHausdorff95,
    compute_lesion_dice,
    compute_lesion_hausdorff95,
    count_lesions,
    score_lesions,
)
from custom_nets.metrics.regions import compute_region_hausdorff95

SHAPE = (40, 20, 20)
NEAR = (slice(2, 6), slice(2, 6), slice(2, 6))  # 64 voxels
FAR = (slice(25, 35), slice(5, 15), slice(5, 15))  # 1000 voxels, 19 away
MERGED, APART = 2 * 6 / (6 + 12), 1 / 2  # one of two rods of 6 voxels found: of one lesion, of two
SPECK = (slice(15, 17), slice(15, 17), slice(15, 17))  # 8 voxels, at least 8 from both


def mask(*boxes, shape=SHAPE):
    tensor = torch.zeros(1, 1, *shape)
    for box in boxes:
        tensor[0, 0][box] = 1
    return tensor


def rod(*ends):
    """Bars one voxel thick along the first axis, from one end to before the other."""
    return mask(*[(slice(*end), 5, 5) for end in ends])


def score(predicted, label, spacing=1.0, **options):
    return float(compute_lesion_dice(predicted, label, spacing, **options))


def as_brats_does(predicted, true, dilation, threshold):
    """The published protocol at 1 mm, a full volume a lesion."""

    def grow(part):
        near = ndimage.generate_binary_structure(3, 2)
        return ndimage.binary_dilation(part, near, iterations=dilation) if dilation else part

    merged, lesions = ndimage.label(grow(true), np.ones((3, 3, 3)))
    parts, found = ndimage.label(predicted, np.ones((3, 3, 3)))
    scores, hit = [], set()
    for lesion in (true & (merged == i) for i in range(1, lesions + 1)):
        touching = set(np.unique(parts[grow(lesion)])) - {0}
        hit |= touching
        if lesion.sum() > threshold:
            whole = np.isin(parts, list(touching))
            scores.append(2 * (whole & lesion).sum() / (whole.sum() + lesion.sum()))
    scores += [0.0] * (found - len(hit))
    return np.mean(scores) if scores else 1.0


@settings(deadline=None)
@given(st.integers(0, 10_000), st.floats(0.0, 0.02), st.floats(0.0, 0.02), st.integers(0, 3), st.integers(0, 4))
def test_scores_are_those_of_the_published_protocol(seed, dense_prediction, dense_label, dilation, threshold):
    noise = np.random.default_rng(seed).random((2, 17, 15, 14))
    a, b = (ndimage.binary_dilation(n < p) for n, p in zip(noise, (dense_prediction, dense_label), strict=True))
    expected = as_brats_does(a, b, dilation, threshold)
    tensors = [torch.from_numpy(m)[None, None] for m in (a, b)]
    options = {"dilation": dilation, "min_volume": threshold / 1000}
    assert score(*tensors, **options) == pytest.approx(expected, abs=1e-6)


def test_found_lesions_score_one():
    assert score(mask(NEAR, FAR), mask(NEAR, FAR)) == 1


def test_a_lesion_half_found_scores_its_dice():
    half = (slice(2, 4), slice(2, 6), slice(2, 6))
    assert score(mask(half), mask(NEAR)) == pytest.approx(2 * 32 / (32 + 64))


def test_a_missed_small_lesion_weighs_as_much_as_a_large_one():
    assert score(mask(FAR), mask(NEAR, FAR)) == 0.5


def test_a_blob_over_two_lesions_is_charged_whole_to_each():
    assert score(rod((0, 30)), rod((0, 10), (20, 30))) == pytest.approx(2 * 10 / (30 + 10))


def test_predicted_pieces_of_one_lesion_are_taken_together():
    assert score(rod((0, 4), (6, 10)), rod((0, 10))) == pytest.approx(2 * 8 / (8 + 10))


def test_a_false_positive_is_a_lesion_of_dice_zero():
    assert score(mask(NEAR, FAR, SPECK), mask(NEAR, FAR)) == pytest.approx(2 / 3)


def test_false_positives_can_be_ignored():
    assert score(mask(NEAR, FAR, SPECK), mask(NEAR, FAR), count_false_positives=False) == 1


def test_voxels_that_share_a_corner_are_one_lesion():
    label = mask((0, 0, 0), (1, 1, 1))
    assert score(mask((0, 0, 0)), label, dilation=0) == pytest.approx(2 / 3)


# 3 mm on each side close a gap of 6 voxels, as between 5 and 12, and not one of 7.
@pytest.mark.parametrize(("start", "expected"), [(12, MERGED), (13, APART)])
def test_components_that_meet_when_dilated_are_one_lesion(start, expected):
    assert score(rod((0, 6)), rod((0, 6), (start, start + 6))) == pytest.approx(expected)


def test_a_prediction_beside_a_lesion_scores_nothing():
    assert score(rod((10, 20)), rod((0, 10)), dilation=0) == 0


# The bar ends at 9, so its dilation at 12: from 13 on a prediction is a false positive besides the missed lesion.
@pytest.mark.parametrize(("start", "expected"), [(12, 1 / 2), (13, 1 / 3)])
def test_a_prediction_within_the_dilation_is_no_false_positive(start, expected):
    assert score(mask((slice(start, 15), 5, 5), FAR), mask((slice(0, 10), 5, 5), FAR)) == pytest.approx(expected)


def test_dilation_is_in_millimetres_along_each_axis():
    label = rod((0, 6), (9, 15))  # 3 voxels between
    assert score(rod((0, 6)), label, spacing=(1.0, 4, 4)) == pytest.approx(MERGED)
    assert score(rod((0, 6)), label, spacing=(4.0, 1, 1)) == APART


def test_a_spacing_with_the_rounding_of_float32_dilates_alike():
    assert score(rod((0, 6)), rod((0, 6), (12, 18)), spacing=1.0000001) == pytest.approx(MERGED)


def test_small_lesions_apart():
    assert score(mask(FAR), mask(NEAR, FAR), max_volume=0.5) == 0
    assert score(mask(NEAR), mask(NEAR, FAR), max_volume=0.5) == 1


def test_large_lesions_apart():
    assert score(mask(FAR), mask(NEAR, FAR), min_volume=0.5, max_volume=math.inf) == 1


def test_a_volume_is_of_the_voxels_size():
    # 64 voxels of 1 x 2 x 5 mm are 0.64 ml
    options = {"spacing": (1.0, 2.0, 5.0), "max_volume": 0.7}
    assert score(mask(NEAR), mask(NEAR, FAR), **options) == 1
    assert math.isnan(score(mask(NEAR), mask(NEAR, FAR), **(options | {"max_volume": 0.6})))


def test_a_lesion_of_just_the_volume_belongs_to_the_range_below():
    assert score(mask(FAR), mask(FAR), max_volume=1.0) == 1
    assert math.isnan(score(mask(FAR), mask(FAR), min_volume=1.0, max_volume=math.inf))


def test_a_prediction_on_a_lesion_out_of_range_is_no_false_positive():
    half = (slice(25, 30), slice(5, 15), slice(5, 15))
    assert score(mask(NEAR, half), mask(NEAR, FAR), max_volume=0.1) == 1


def test_a_false_positive_in_the_range_counts():
    assert score(mask(NEAR, SPECK), mask(NEAR), max_volume=0.1) == 0.5


@pytest.mark.parametrize("limits", [{"max_volume": 0.5}, {"min_volume": 0.01, "max_volume": 0.5}])
def test_a_false_positive_above_the_range_does_not_count(limits):
    assert score(mask(NEAR, FAR), mask(NEAR), **limits) == 1


def test_a_false_positive_below_the_range_does_not_count():
    assert score(mask(NEAR, SPECK), mask(NEAR), min_volume=0.01, max_volume=0.5) == 1


def test_without_a_range_a_false_positive_of_any_size_counts():
    assert score(mask(NEAR, SPECK), mask(NEAR), min_volume=0.01) == 0.5


@pytest.mark.parametrize("predicted", [mask(), mask(NEAR), mask(SPECK), mask(FAR)])
def test_no_lesion_in_the_range_is_nan_whatever_is_predicted(predicted):
    assert math.isnan(score(predicted, mask(FAR), max_volume=0.5))


def test_both_empty_is_agreement():
    assert score(mask(), mask()) == 1


def test_both_empty_has_no_lesion_in_a_range():
    assert math.isnan(score(mask(), mask(), max_volume=1.0))


def test_an_invented_lesion_scores_nothing():
    assert score(mask(NEAR), mask()) == 0


def test_lesions_all_left_out_and_nothing_invented_is_agreement():
    assert score(mask(NEAR), mask(NEAR), min_volume=0.1) == 1


def test_each_region_and_case_is_scored_by_itself():
    first = torch.cat([mask(NEAR), mask(NEAR, FAR)], 1)
    second = torch.cat([mask(NEAR, SPECK), mask()], 1)
    scores = compute_lesion_dice(torch.cat([first, second]), mask(NEAR, FAR).expand(2, 2, -1, -1, -1), 1.0)
    torch.testing.assert_close(scores, torch.tensor([[0.5, 1.0], [1 / 3, 0.0]]))


def test_each_case_has_its_own_spacing():
    label = rod((0, 6), (9, 15)).expand(2, -1, -1, -1, -1)
    scores = compute_lesion_dice(rod((0, 6)).expand_as(label), label, [[1.0, 4, 4], [4.0, 1, 1]])
    torch.testing.assert_close(scores, torch.tensor([[MERGED], [APART]]))


def test_a_case_without_such_a_lesion_leaves_the_mean():
    metric = RegionLesionDice(spacing=1.0, max_volume=0.5)
    metric(mask(NEAR), mask(NEAR, FAR))
    metric(mask(FAR), mask(FAR))
    metric(mask(FAR), mask(NEAR, FAR))
    assert float(metric.aggregate()) == 0.5


def test_aggregating_keeps_the_nan_of_a_case():
    metric = RegionLesionDice(spacing=1.0, max_volume=0.5)
    metric(mask(FAR), mask(FAR))
    metric.aggregate()
    assert metric.get_buffer().isnan().all()


@pytest.mark.parametrize(
    "options", [{"max_volume": 0.05}, {"min_volume": 0.05}, {"dilation": 0}, {"count_false_positives": False}]
)
def test_the_metric_passes_its_options_on(options):
    found, close = (slice(0, 6), 1, 1), (slice(9, 15), 1, 1)
    pair = mask(found, SPECK), mask(found, close, FAR)
    value = float(RegionLesionDice(spacing=1.0, **options)(*pair))
    assert value == score(*pair, **options) != score(*pair)


def test_spacing_is_that_of_the_labels_affine():
    label = MetaTensor(rod((0, 6), (9, 15)), affine=torch.diag(torch.tensor([-4.0, 1, 1, 1])))
    assert float(RegionLesionDice()(rod((0, 6)), label)) == APART


def test_a_spacing_given_to_the_call_wins():
    label = MetaTensor(rod((0, 6), (9, 15)))
    assert float(RegionLesionDice(spacing=1.0)(rod((0, 6)), label, spacing=4.0)) == APART


def test_without_spacing_there_are_no_millimetres():
    with pytest.raises(InputError, match="spacing"):
        RegionLesionDice()(mask(NEAR), mask(NEAR))


def test_probabilities_are_refused():
    with pytest.raises(InputError, match="prediction must be binary"):
        score(mask(NEAR) * 0.7, mask(NEAR))


def test_a_negative_dilation_is_refused():
    with pytest.raises(ValueError, match="0 mm or more, got -1"):
        RegionLesionDice(dilation=-1)


def test_an_empty_range_is_refused():
    with pytest.raises(ValueError, match="min_volume 2 ml and at most max_volume 1 ml"):
        RegionLesionDice(min_volume=2, max_volume=1)


def test_dozens_of_lesions_in_a_brats_sized_image_are_quick():
    starts = [range(20, last, 35) for last in (195, 195, 125)]
    boxes = [tuple(slice(start, start + 15) for start in corner) for corner in itertools.product(*starts)]
    label = mask(*boxes, shape=(240, 240, 155))
    assert len(boxes) == 75
    start = time.perf_counter()
    assert score(label.roll(1, dims=2), label) == pytest.approx(14 / 15)
    assert time.perf_counter() - start < 5  # well under a second on an idle machine


def distance(predicted, label, spacing=1.0, **options):
    return float(compute_lesion_hausdorff95(predicted, label, spacing, **options))


def test_distances_of_lesions_worked_out_by_hand():
    """One lesion found exactly (0), one missed (374), one invented (374); a speck below the limit does not count."""
    label = mask(NEAR, FAR)
    assert distance(label, label) == 0
    assert distance(mask(NEAR), label) == pytest.approx(374 / 2)
    assert distance(mask(NEAR, SPECK), label) == pytest.approx((0 + 374 + 374) / 3)
    assert distance(mask(), label) == 374
    assert distance(mask(FAR), mask()) == 374
    assert distance(mask(), mask()) == 0
    assert distance(mask(NEAR), mask(NEAR, SPECK), min_volume=0.05) == 0  # 8 voxels of 1 mm are 0.008 ml
    assert distance(mask(NEAR), label, worst=100.0) == pytest.approx(100 / 2)


def test_the_distance_of_a_lesion_is_that_of_all_that_touches_it():
    """A rod of 12 voxels found in its first 6: the 95th percentile of 1 to 6 voxels beyond the end, in mm."""
    label, found = rod((2, 14)), rod((2, 8))
    expected = float(compute_region_hausdorff95(found, label, 2.0))
    assert distance(found, label, spacing=2.0) == pytest.approx(expected)
    assert expected == pytest.approx(np.percentile([0] * 6 + [2, 4, 6, 8, 10, 12], 95))


def test_lesions_are_counted_by_hand():
    label = mask(NEAR, FAR)
    assert count_lesions(mask(NEAR, SPECK), label, 1.0)[0, 0].tolist() == [2, 1, 1]
    assert count_lesions(mask(), mask(NEAR, SPECK), 1.0, min_volume=0.05)[0, 0].tolist() == [1, 1, 0]
    assert count_lesions(mask(), mask(), 1.0)[0, 0].tolist() == [0, 0, 0]


def test_the_metric_of_distances_is_its_function():
    label = MetaTensor(mask(NEAR, FAR)[0], affine=torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0])))[None]
    metric = RegionLesionHausdorff95(dilation=1.0, worst=50.0)
    metric(mask(FAR), label)
    assert float(metric.aggregate()) == distance(mask(FAR), label, 2.0, dilation=1.0, worst=50.0) == 25


def test_all_scores_of_one_pass_are_those_of_each():
    pair = torch.cat([mask(NEAR, SPECK), mask()]), torch.cat([mask(NEAR, FAR), mask()])
    scores = score_lesions(*pair, 1.0, 0.001, 2.0)
    assert torch.equal(scores.dice, compute_lesion_dice(*pair, 1.0, min_volume=0.001, dilation=2.0))
    assert torch.equal(scores.hausdorff95, compute_lesion_hausdorff95(*pair, 1.0, 0.001, 2.0))
    assert torch.equal(scores.counts, count_lesions(*pair, 1.0, 0.001, 2.0))
