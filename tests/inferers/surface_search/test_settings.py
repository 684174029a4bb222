"""SearchSettings that make no sense."""

from __future__ import annotations

import pytest

from custom_nets.errors import InputError
from tests.inferers.fields import build_inferer


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "fast"}, "mode is 'fast'; expected one of surface, published, dense"),
        ({"prior": "yes"}, "prior is 'yes'; expected one of none, union, restrict"),
        ({"mode": "published", "prior": "union"}, "unknown to mode 'published'"),
        ({"coarse_step": 0}, "coarse_step is 0"),
        ({"coarse_step": 2.5}, "coarse_step is 2.5"),
        ({"threshold": 1.0}, "threshold is 1.0"),
        ({"prior_threshold": 0}, "prior_threshold is 0"),
        ({"scan_step": 2, "coarse_step": 4}, "scan_step is 2, finer than coarse_step"),
        ({"points_per_chunk": 0}, "points_per_chunk is 0"),
    ],
)
def test_bad_argument_is_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_inferer(**options)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"coarse_step": 1.5}, "coarse_step is 1.5; expected a whole number"),
        ({"candidate_step": 0}, "candidate_step is 0; expected a whole number"),
        ({"coarse_step": -1, "step_unit": "mm"}, "coarse_step is -1; expected a length above 0 in mm"),
        ({"step_unit": "cm"}, "step_unit is 'cm'; expected one of voxel, mm"),
    ],
)
def test_steps_that_make_no_sense_are_refused(keys: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_inferer(**keys)


@pytest.mark.parametrize("band", [0, -1, float("inf"), "some"])
def test_a_band_that_makes_no_sense_is_refused(band) -> None:
    with pytest.raises(InputError, match=r"band is .*; expected a width above 0, or all, or null"):
        build_inferer(band=band)
