"""Region metrics against sets of voxels counted by hand and distances measured one by one."""

import time

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.handlers import IgniteMetricHandler
from monai.metrics import compute_hausdorff_distance

from custom_nets.errors import InputError
from custom_nets.metrics.regions import (
    RegionDice,
    RegionHausdorff95,
    RegionIoU,
    compute_region_dice,
    compute_region_hausdorff95,
    compute_region_iou,
)

SHAPE = (7, 6, 5)


def random_masks(seed, density):
    return torch.tensor(np.random.default_rng(seed).random((2, 1, 1, *SHAPE)) < density)


def surface(mask, spacing):
    """Millimetre positions of the voxels that have a face neighbour outside the mask."""
    padded = np.pad(mask, 1)
    neighbours = [np.roll(padded, step, axis)[1:-1, 1:-1, 1:-1] for axis in range(3) for step in (-1, 1)]
    return np.argwhere(mask & ~np.all(neighbours, axis=0)) * spacing


def brute_force_hausdorff95(a, b, spacing):
    first, second = surface(a, spacing), surface(b, spacing)
    distances = np.linalg.norm(first[:, None] - second[None], axis=-1)
    return max(np.percentile(distances.min(axis=1), 95), np.percentile(distances.min(axis=0), 95))


def empty_and_full():
    full = torch.zeros(1, 1, *SHAPE)
    full[..., 2:5, 2:5, 2:4] = 1
    return torch.zeros(1, 1, *SHAPE), full


@given(st.integers(0, 10_000), st.floats(0.05, 0.95))
def test_dice_and_iou_are_those_of_sets(seed, density):
    a, b = random_masks(seed, density)
    first, second = ({tuple(v) for v in np.argwhere(m[0, 0].numpy())} for m in (a, b))
    common, union = len(first & second), len(first | second)
    assume(union)
    assert float(compute_region_dice(a, b)) == pytest.approx(2 * common / (len(first) + len(second)))
    assert float(compute_region_iou(a, b)) == pytest.approx(common / union)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.floats(0.05, 0.9), st.tuples(*[st.floats(0.4, 5)] * 3))
def test_hausdorff_is_that_of_all_pairs_of_surface_voxels(seed, density, spacing):
    a, b = random_masks(seed, density)
    a[..., 0, 0, 0] = b[..., 1, 1, 1] = True
    true = brute_force_hausdorff95(a[0, 0].numpy(), b[0, 0].numpy(), spacing)
    assert float(compute_region_hausdorff95(a, b, spacing)) == pytest.approx(true, rel=1e-4, abs=1e-5)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # MONAI 1.6 warns of its own call
@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000))
def test_cropping_changes_nothing(seed):
    a, b = (torch.nn.functional.pad(mask, (9, 2, 0, 7, 4, 0)) for mask in random_masks(seed, 0.3))
    spacing = (1.0, 0.7, 2.5)
    uncropped = compute_hausdorff_distance(a, b, include_background=True, percentile=95, spacing=spacing)
    torch.testing.assert_close(compute_region_hausdorff95(a, b, spacing), uncropped)


def test_two_parallel_plates_are_their_gap_apart():
    a, b = torch.zeros(2, 1, 1, 9, 8, 7)
    a[..., 1, :, :] = b[..., 6, :, :] = 1
    assert float(compute_region_hausdorff95(a, b, (3.0, 1, 1))) == pytest.approx(15)


@pytest.mark.parametrize(
    ("metric", "value"),
    [(compute_region_dice, 1), (compute_region_iou, 1), (lambda p, y: compute_region_hausdorff95(p, y, 1.0), 0)],
)
def test_both_empty_is_agreement(metric, value):
    empty, _ = empty_and_full()
    assert float(metric(empty, empty)) == value


@pytest.mark.parametrize("missed", [True, False])
@pytest.mark.parametrize("metric", [compute_region_dice, compute_region_iou])
def test_a_missed_or_invented_region_scores_nothing(metric, missed):
    empty, full = empty_and_full()
    assert float(metric(empty, full) if missed else metric(full, empty)) == 0


@pytest.mark.parametrize("missed", [True, False])
def test_a_missed_or_invented_region_is_charged_the_diagonal(missed):
    pair = empty_and_full()
    distance = compute_region_hausdorff95(*(pair if missed else pair[::-1]), (1.0, 2.0, 4.0))
    assert float(distance) == pytest.approx(np.linalg.norm([7 * 1, 6 * 2, 5 * 4]))


def test_the_diagonal_of_a_brats_image_is_about_what_brats_charges():
    y = torch.zeros(1, 1, 240, 240, 155, dtype=torch.bool)
    y[..., 0, 0, 0] = True
    assert float(compute_region_hausdorff95(torch.zeros_like(y), y, 1.0)) == pytest.approx(373.13, abs=0.01)


def test_the_worst_distance_can_be_chosen():
    empty, full = empty_and_full()
    assert float(compute_region_hausdorff95(empty, full, 1.0, worst=374.0)) == 374


def test_a_missed_case_worsens_the_mean():
    empty, full = empty_and_full()
    metric = RegionHausdorff95(spacing=1.0)
    metric(full, full)
    metric(empty, full)
    assert float(metric.aggregate()) == pytest.approx(np.linalg.norm(SHAPE) / 2)


def test_spacing_is_that_of_the_labels_affine():
    a, b = torch.zeros(2, 1, 1, 9, 8, 7)
    a[..., 1, :, :] = b[..., 6, :, :] = 1
    label = MetaTensor(b, affine=torch.diag(torch.tensor([-3.0, 1, 1, 1])))
    assert float(RegionHausdorff95()(a, label)) == pytest.approx(15)


def test_each_case_of_a_list_has_its_own_spacing():
    a, b = torch.zeros(2, 1, 9, 8, 7)
    a[:, 1], b[:, 6] = 1, 1
    labels = [MetaTensor(b, affine=torch.diag(torch.tensor([side, 1.0, 1, 1]))) for side in (3.0, 2.0)]
    torch.testing.assert_close(RegionHausdorff95()([a, a], labels), torch.tensor([[15.0], [10.0]]))


def test_each_case_of_a_batch_has_its_own_spacing():
    a, b = torch.zeros(2, 2, 1, 9, 8, 7)
    a[:, :, 1], b[:, :, 6] = 1, 1
    affines = torch.stack([torch.diag(torch.tensor([side, 1.0, 1, 1])) for side in (3.0, 2.0)])
    label = MetaTensor(b, meta={"affine": affines})
    label.is_batch = True
    torch.testing.assert_close(RegionHausdorff95()(a, label), torch.tensor([[15.0], [10.0]]))


def test_a_spacing_given_to_the_call_wins():
    a, b = torch.zeros(2, 1, 1, 9, 8, 7)
    a[..., 1, :, :] = b[..., 6, :, :] = 1
    assert float(RegionHausdorff95(spacing=1.0)(a, MetaTensor(b), spacing=2.0)) == pytest.approx(10)


def test_without_spacing_there_are_no_millimetres():
    with pytest.raises(InputError, match="spacing"):
        RegionHausdorff95()(*empty_and_full())


@pytest.mark.parametrize("metric", [RegionDice(), RegionIoU(), RegionHausdorff95(spacing=1.0)])
def test_probabilities_are_refused(metric):
    with pytest.raises(InputError, match="prediction must be binary"):
        metric(torch.full((1, 1, *SHAPE), 0.7), torch.ones(1, 1, *SHAPE))


def test_nan_is_refused():
    with pytest.raises(InputError, match="label must be binary"):
        RegionDice()(torch.ones(1, 1, *SHAPE), torch.full((1, 1, *SHAPE), torch.nan))


def test_shapes_must_agree():
    with pytest.raises(InputError, match="on one grid"):
        RegionDice()(torch.ones(1, 3, *SHAPE), torch.ones(1, 1, *SHAPE))


def test_half_precision_counts_are_exact():
    y = torch.ones(1, 1, 50, 50, 50, dtype=torch.float16)
    assert float(compute_region_dice(y, y)) == 1


def test_aggregate_reduces_to_one_number_a_region():
    empty, full = empty_and_full()
    metric = RegionDice(reduction="mean_batch")
    metric(torch.cat([full, empty], 1), torch.cat([full, full], 1))
    metric(torch.cat([full, full], 1), torch.cat([full, full], 1))
    torch.testing.assert_close(metric.aggregate(), torch.tensor([1.0, 0.5]))


def test_aggregating_nothing_is_an_error():
    with pytest.raises(ValueError, match="no case"):
        RegionDice().aggregate()


def test_an_ignite_handler_reports_the_mean_and_keeps_each_case():
    empty, full = empty_and_full()
    engine = Engine(lambda _, batch: batch)
    IgniteMetricHandler(metric_fn=RegionDice()).attach(engine, "dice")
    engine.run([([full[0]], [full[0]]), ([empty[0]], [full[0]])])
    assert engine.state.metrics["dice"] == pytest.approx(0.5)
    torch.testing.assert_close(engine.state.metric_details["dice"], torch.tensor([[1.0], [0.0]]))


def test_hausdorff_of_a_brats_sized_tumour_is_quick():
    axes = [torch.arange(n, dtype=torch.float32) for n in (240, 240, 155)]
    squares = [(axis - centre) ** 2 for axis, centre in zip(axes, (110, 120, 70), strict=True)]
    far = (squares[0][:, None, None] + squares[1][None, :, None] + squares[2]).sqrt()[None, None]
    start = time.perf_counter()
    distance = compute_region_hausdorff95(far <= 30, far <= 27, 1.0)
    assert time.perf_counter() - start < 3  # half a second on an idle machine
    assert float(distance) == pytest.approx(3, abs=0.7)
