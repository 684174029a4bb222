"""Targets of inference are judged by the rows that were measured."""

import inference
import pytest
from _ball import NETWORKS, VOLUMES
from inference_targets import MEMORY, ON_A_GPU, ORIGINAL, RATIOS, C, faster, judged, peak

TWELVE = faster("C", ORIGINAL, C, 12)


def test_ratio_is_slow_over_fast() -> None:
    rows = {ORIGINAL: {"seconds": 60.0}, C: {"seconds": 4.0}}
    assert judged(TWELVE, rows)["figure"] == 15


@pytest.mark.parametrize(("seconds", "met"), [(4.9, "yes"), (5.1, "NO")])
def test_ratio_must_reach_its_limit(seconds: float, met: str) -> None:
    rows = {ORIGINAL: {"seconds": 60.0}, C: {"seconds": seconds}}
    assert judged(TWELVE, rows)["met"] == met


@pytest.mark.parametrize(("gibibytes", "met"), [(1.29, "yes"), (1.31, "NO")])
def test_peak_must_stay_within_its_limit(gibibytes: float, met: str) -> None:
    assert judged(peak("C", C, 1.3), {C: {"seconds": 1.0, "peak GiB": gibibytes}})["met"] == met


def test_peak_above_the_input_leaves_the_input_out() -> None:
    # 512 x 512 x 512 voxels of one channel in float32 are half a GiB.
    row = judged(peak("C", C, 4.0, "512"), {C: {"seconds": 1.0, "peak GiB": 3.0}})
    assert row["figure"] == 2.5


def test_limit_of_two_cores_judges_nothing_on_a_gpu() -> None:
    rows = {ORIGINAL: {"seconds": 60.0}, C: {"seconds": 30.0}}
    row = judged(faster("C", ORIGINAL, C, 12, of_cores=True), rows, on_cores=False)
    assert (row["figure"], row["met"], row["limit"]) == (2, "-", "at least 12 on two cores")


def test_missing_row_is_not_measured() -> None:
    assert judged(TWELVE, {C: {"seconds": 4.0}})["met"] == "not measured"


def test_extrapolated_row_has_no_peak() -> None:
    assert judged(peak("C", C, 1.3), {C: {"seconds": 1.0, "extrapolated from": "10 points"}})["met"] == "not measured"


def test_extrapolation_is_told() -> None:
    rows = {ORIGINAL: {"seconds": 60.0, "extrapolated from": "81,920 points"}, C: {"seconds": 4.0}}
    assert judged(TWELVE, rows)["extrapolated from"] == "81,920 points"


def test_targets_name_rows_that_can_be_measured() -> None:
    for size, network, method in (key for target in (*RATIOS, *MEMORY, *ON_A_GPU) for key in target.rows):
        assert size in VOLUMES
        assert network in NETWORKS or method.startswith(network)
        assert method in (*inference.SEARCHES, *inference.CONVOLUTIONAL, "original")
