"""Plans from fingerprints of headers alone: bounds that must hold for any data, and what must differ between data."""

import math

import pytest

from custom_nets.datasets.record import Channel
from custom_nets.errors import InputError
from custom_nets.tools.planning.examples import example_fingerprints
from custom_nets.tools.planning.fingerprint import Fingerprint, Intensities, RegionSizes
from custom_nets.tools.planning.plan import BESIDE, make_plan

CT = (Channel("CT", "CT"),)


def mri(count: int) -> tuple[Channel, ...]:
    return tuple(Channel(f"M{number}", "MRI") for number in range(count))


def headers(channels, regions, shape, spacing, cases=40, **more) -> Fingerprint:
    names = tuple(f"region {number}" for number in range(regions))
    return Fingerprint("data", channels, names, (shape,) * cases, (spacing,) * cases, **more)


DATA = example_fingerprints()


@pytest.mark.slow
@pytest.mark.parametrize("name", DATA)
def test_occupancy_plans_make_sense(name):
    data = DATA[name]
    plan = make_plan(data, "ossnet", 8.0)
    keys = plan.keys
    assert plan.training_memory + BESIDE <= 8.0
    assert all(choice.reason for choice in plan.choices)
    assert 3 <= len(keys["channels"]) <= 5
    assert 50 <= keys["epochs"] <= 500
    if data.is_ct:
        finest = min(data.spacing)
        assert finest * 0.95 <= keys["spacing"] <= 4 * finest
        assert isinstance(keys["downsampling"], int)
        cells = [
            n * mm / keys["spacing"] / keys["downsampling"] for n, mm in zip(data.shapes[0], data.spacing, strict=True)
        ]
        assert keys["spacing"] <= keys["coarse_step"] <= 8 * keys["spacing"]
    else:
        size, step = keys["image_size"], keys["downsampling"]
        assert all(side <= planned <= 1.2 * side + 8 for side, planned in zip(data.shapes[0], size, strict=True))
        cells = [side / d for side, d in zip(size, step, strict=True)]
        lengths = [d * mm for d, mm in zip(step, data.spacing, strict=True)]
        assert max(lengths) <= max(2 * min(lengths), max(data.spacing))  # as isotropic as the voxels let them be
    assert 500 < math.prod(cells) <= 3_100_000
    assert min(cells) > 5


def test_thick_slices_are_downsampled_within_the_slice_alone():
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


def test_intensities_decide_the_scaling():
    bone = Intensities(least=-1024, low=150, median=400, high=1500, zeros=0)
    window = make_plan(headers(CT, 1, (64, 64, 64), (1.0, 1.0, 1.0), intensities=(bone,))).keys
    assert window["contrast_window"] == [150, 1500]
    assert window["hu_window"][0] < 150 < 1500 < window["hu_window"][1] <= 3071
    for least, scaling in ((0.0, "nonzero"), (-3.0, "whole")):
        voxels = Intensities(least=least, low=1, median=2, high=3, zeros=0.5)
        assert make_plan(headers(mri(1), 1, (64, 64, 64), (1.0,) * 3, intensities=(voxels,))).scaling == scaling


def test_small_lesions_make_a_fine_lattice():
    thin, thick = (RegionSizes("lesion", 1.0, voxels, 1.0 * voxels) for voxels in (2.0, 30.0))
    steps = [make_plan(headers(CT, 1, (200, 200, 200), (1.0,) * 3, sizes=(size,))).keys for size in (thin, thick)]
    assert steps[0]["coarse_step"] <= 1.0 < steps[1]["coarse_step"]


def test_what_a_person_should_know_is_said():
    rare = RegionSizes("gallbladder", 0.1, 8.0, 8.0)
    notes = make_plan(headers(mri(1), 1, (64, 64, 64), (1.0,) * 3, sizes=(rare,), mirrors=(1, 2))).notes
    assert any("gallbladder is in 10 %" in note for note in notes)
    assert any("left and right" in note for note in notes)


def test_spacings_that_differ_are_brought_to_one():
    varied = Fingerprint("data", mri(1), ("a",), ((64, 64, 64),) * 4, ((1.0,) * 3, (1.0,) * 3, (2.0,) * 3, (2.0,) * 3))
    assert make_plan(varied).grid == "spacing"
