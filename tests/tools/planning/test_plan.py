"""Plans from fingerprints of headers alone: bounds that must hold for any data, and what must differ between data."""

import math

import pytest

from custom_nets.datasets.record import Channel
from custom_nets.errors import InputError
from custom_nets.tools.planning.examples import example_fingerprints
from custom_nets.tools.planning.fingerprint import Fingerprint, Intensities, RegionSizes, correct_spacing
from custom_nets.tools.planning.plan import BESIDE, LEAST_STEPS, HeldOut, make_plan

CT = (Channel("CT", "CT"),)


def mri(count: int) -> tuple[Channel, ...]:
    return tuple(Channel(f"M{number}", "MRI") for number in range(count))


def headers(channels, regions, shape, spacing, cases=40, **more) -> Fingerprint:
    names = tuple(f"region {number}" for number in range(regions))
    return Fingerprint("data", channels, names, (shape,) * cases, (spacing,) * cases, **more)


DATA = example_fingerprints()


@pytest.fixture
def little_memory(monkeypatch):
    """Every step takes 1 GiB: an estimate takes seconds, and decides nothing here."""
    monkeypatch.setattr("custom_nets.tools.planning.plan.estimate_training_memory", lambda *_: 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", DATA)
def test_occupancy_plans_make_sense(name):
    data = DATA[name]
    plan = make_plan(data, "ossnet", 8.0)
    keys = plan.keys
    assert plan.training_memory + BESIDE <= 8.0
    assert all(choice.reason for choice in plan.choices)
    assert 3 <= len(keys["channels"]) <= 5
    assert 50 <= keys["epochs"] <= 2000
    if data.is_ct:
        finest = min(data.spacing)
        assert finest * 0.95 <= keys["spacing"] <= 4 * finest
        assert isinstance(keys["downsampling"], int)
        cells = [
            n * mm / keys["spacing"] / keys["downsampling"] for n, mm in zip(data.shapes[0], data.spacing, strict=True)
        ]
        assert keys["spacing"] <= keys["coarse_step"] <= 8 * keys["spacing"]
    else:
        if plan.grid == "view":
            cells, size = keys["grid_size"], data.shapes[0]
            step = [side / cell for side, cell in zip(size, cells, strict=True)]
        else:
            size, step = keys["image_size"], keys["downsampling"]
            assert all(side <= planned <= 1.2 * side + 8 for side, planned in zip(data.shapes[0], size, strict=True))
            cells = [side / d for side, d in zip(size, step, strict=True)]
        lengths = [d * mm for d, mm in zip(step, data.spacing, strict=True)]
        assert max(lengths) <= max(2 * min(lengths), max(data.spacing))  # as isotropic as the voxels let them be
    assert 500 < math.prod(cells) <= 3_100_000
    assert min(cells) > 5


def test_thick_slices_are_downsampled_within_the_slice_alone(little_memory):
    assert make_plan(DATA["thick MR of four organs"]).keys["downsampling"][2] == 1
    assert make_plan(DATA["thick MR of four organs"]).keys["downsampling"][0] > 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Task04 hippocampus", "Task01 brain tumour"])
def test_crops_of_nvnet_fit_image_and_memory(name):
    small, large = (make_plan(DATA[name], "nvnet", memory) for memory in (4.0, 24.0))
    for plan, memory in ((small, 4.0), (large, 24.0)):
        crop = plan.keys["crop_size"]
        assert plan.training_memory + BESIDE <= memory
        assert all(side % 8 == 0 and side < whole + 16 for side, whole in zip(crop, DATA[name].shapes[0], strict=True))
    assert math.prod(small.keys["crop_size"]) <= math.prod(large.keys["crop_size"])


@pytest.mark.slow
def test_less_memory_means_coarser_cells():
    small, large = (make_plan(DATA["long CT"], memory=memory) for memory in (2.0, 80.0))
    assert small.keys["downsampling"] > large.keys["downsampling"]
    assert small.training_memory < large.training_memory


def test_no_memory_is_refused():
    with pytest.raises(InputError, match="give --memory of a larger device"):
        make_plan(DATA["Task01 brain tumour"], memory=0.5)


@pytest.mark.parametrize(
    ("name", "network"), [("Task01 brain tumour", "ossnet"), ("long CT", "ossnet"), ("Task04 hippocampus", "nvnet")]
)
def test_a_memory_that_no_network_fits_is_refused(name, network, monkeypatch):
    monkeypatch.setattr("custom_nets.tools.planning.plan.estimate_training_memory", lambda *_: 4.0)
    assert make_plan(DATA[name], network, 4.0 + BESIDE).training_memory == 4.0
    with pytest.raises(InputError, match="give --memory of a larger device"):
        make_plan(DATA[name], network, 4.0)


def test_intensities_decide_the_scaling(little_memory):
    bone = Intensities(least=-1024, low=150, median=400, high=1500, zeros=0)
    window = make_plan(headers(CT, 1, (64, 64, 64), (1.0, 1.0, 1.0), intensities=(bone,))).keys
    assert window["contrast_window"] == [150, 1500]
    assert window["hu_window"][0] < 150 < 1500 < window["hu_window"][1] <= 3071
    for least, scaling in ((0.0, "nonzero"), (-3.0, "whole")):
        voxels = Intensities(least=least, low=1, median=2, high=3, zeros=0.5)
        assert make_plan(headers(mri(1), 1, (64, 64, 64), (1.0,) * 3, intensities=(voxels,))).scaling == scaling


def test_small_lesions_make_a_fine_lattice(little_memory):
    thin, thick = (RegionSizes("lesion", 1.0, voxels, 1.0 * voxels) for voxels in (2.0, 30.0))
    steps = [make_plan(headers(CT, 1, (200, 200, 200), (1.0,) * 3, sizes=(size,))).keys for size in (thin, thick)]
    assert steps[0]["coarse_step"] <= 1.0 < steps[1]["coarse_step"]


def test_what_a_person_should_know_is_said(little_memory):
    rare = RegionSizes("gallbladder", 0.1, 8.0, 8.0)
    notes = make_plan(headers(mri(1), 1, (64, 64, 64), (1.0,) * 3, sizes=(rare,), mirrors=(1, 2))).notes
    assert any("gallbladder is in 10 %" in note for note in notes)
    assert any("left and right" in note for note in notes)


def test_spacings_that_differ_are_brought_to_one(little_memory):
    varied = Fingerprint("data", mri(1), ("a",), ((64, 64, 64),) * 4, ((1.0,) * 3, (1.0,) * 3, (2.0,) * 3, (2.0,) * 3))
    assert make_plan(varied).grid == "spacing"


def seconds_by_cells(network, shape, batch_size, points):
    """A machine that takes a microsecond a cell and image."""
    cells = [side / step for side, step in zip(shape[1:], network.downsampling, strict=True)]
    return 1e-6 * math.prod(cells) * batch_size


def test_a_training_of_some_minutes_has_coarser_cells_and_so_many_epochs(little_memory):
    data = headers(mri(1), 2, (160, 160, 160), (1.0,) * 3)
    whole, short = make_plan(data), make_plan(data, minutes=2, timer=seconds_by_cells)
    assert short.step_seconds * LEAST_STEPS <= 120
    assert min(short.keys["downsampling"]) > min(whole.keys["downsampling"])
    steps = (40 - round(0.12 * 40)) // short.keys["batch_size"]
    assert short.keys["epochs"] * steps * short.step_seconds == pytest.approx(0.9 * 120, rel=0.1)
    assert whole.step_seconds is None


def test_too_few_minutes_are_told_and_make_a_plan_all_the_same(little_memory):
    data = headers(mri(1), 2, (160, 160, 160), (1.0,) * 3)
    plan = make_plan(data, minutes=1, timer=lambda *_: 60.0)
    assert plan.keys["epochs"] == 1
    assert any("1 minutes are too few" in note and "--minutes 1112" in note for note in plan.notes)
    with pytest.raises(InputError, match="minutes is 0"):
        make_plan(data, minutes=0)


def test_few_slices_are_not_thinned_out_even_where_headers_claim_isotropic_voxels(little_memory):
    claimed = headers(mri(3), 1, (256, 256, 28), (1.0,) * 3)
    corrected = correct_spacing(claimed)
    assert corrected.spacing[:2] == (1.0, 1.0)
    assert 4 < corrected.spacing[2] < 8
    plan = make_plan(corrected)
    assert plan.keys["downsampling"] == [2, 2, 1]
    assert any("headers claim voxels of 1 x 1 x 1 mm" in note and "--spacing" in note for note in plan.notes)
    assert make_plan(claimed, minutes=1, timer=seconds_by_cells).keys["grid_size"][2] >= 28


@pytest.mark.parametrize(
    ("channels", "shape", "spacing"),
    [
        (mri(1), (240, 240, 155), (1.0, 1.0, 1.0)),  # a head
        (mri(1), (256, 256, 28), (0.9, 0.9, 6.0)),  # thick slices that are told
        (CT, (512, 512, 60), (1.0, 1.0, 1.0)),  # whose network reads headers
    ],
)
def test_spacings_that_may_be_true_are_believed(channels, shape, spacing):
    data = headers(channels, 1, shape, spacing)
    assert correct_spacing(data) is data


def test_small_images_are_seen_on_one_grid(little_memory):
    plan = make_plan(DATA["Task04 hippocampus"])
    assert plan.grid == "view"
    assert plan.keys["grid_size"] == [24, 32, 24]
    assert plan.keys["batch_size"] == 4
    assert {"image_size", "downsampling"}.isdisjoint(plan.keys)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "finer"), [("Task02 heart", "downsampling"), ("Task01 brain tumour", None)])
def test_large_cards_have_finer_cells_where_the_decoder_gains_and_larger_batches(name, finer):
    usual, large = (make_plan(DATA[name], memory=memory) for memory in (8.0, 80.0))
    assert large.keys["batch_size"] == 4 * usual.keys["batch_size"]
    assert (math.prod(large.keys["downsampling"]) < math.prod(usual.keys["downsampling"])) == (finer is not None)
    assert large.training_memory + BESIDE <= 80
    reasons = {choice.key: choice.reason for choice in large.choices}
    assert "the least planned" in reasons["downsampling"]


def test_a_fold_is_held_out(little_memory):
    plan = make_plan(headers(mri(1), 1, (64, 64, 64), (1.0,) * 3), held_out=HeldOut(2, 4, 10))
    assert (plan.keys["fold"], plan.keys["folds"]) == (2, 4)
    assert "validation" not in plan.keys
    assert "30 training cases" in next(choice.reason for choice in plan.choices if choice.key == "batch_size")


def test_images_of_varied_sizes_have_no_common_view(little_memory):
    shapes = ((36, 48, 40),) * 8 + ((72, 96, 80),) * 4
    varied = Fingerprint("data", mri(1), ("a",), shapes, ((1.0,) * 3,) * 12)
    same_length = Fingerprint("data", mri(1), ("a",), shapes, ((1.0,) * 3,) * 8 + ((0.5,) * 3,) * 4)
    assert make_plan(varied, minutes=1, timer=seconds_by_cells).grid == "size"
    assert make_plan(same_length, minutes=1, timer=seconds_by_cells).grid == "spacing"
    one = Fingerprint("data", mri(1), ("a",), shapes[:8], ((1.0,) * 3,) * 8)
    assert make_plan(one, minutes=1, timer=seconds_by_cells).grid == "view"
