"""The cohort of the benchmark of missed lesions."""

from itertools import combinations

import numpy as np
import pytest
import torch
from _truth import TruthNetwork
from prior_recall import CELLS, DIAMETERS, SHAPE, SURE, Lesion, draw_lesions, field_of
from torch.nn.functional import adaptive_max_pool3d

from custom_nets.inferers import OccupancyInferer, SearchSettings

# The second lies far from the first. Its diameter exceeds the diagonal of a cubic cell of 8 voxels, so that a lattice
# of that step has a point in it wherever it lies.
KEPT, MISSED = Lesion(np.array([60.0, 60, 60]), 8), Lesion(np.array([120.5, 130.5, 110.5]), 15)


def found(keys: dict[str, int]) -> list[bool]:
    cells = adaptive_max_pool3d((field_of([KEPT]) > 0).float(), CELLS)
    network = TruthNetwork(field_of([KEPT, MISSED]), cells[None] * 2 * SURE - SURE)
    result = OccupancyInferer(SearchSettings(prior="restrict", **keys))(torch.zeros(1, 1, *SHAPE), network)[0, 0] > 0.5
    return [bool(result[tuple(lesion.centre.astype(int))]) for lesion in (KEPT, MISSED)]


def test_lesions_lie_apart() -> None:
    lesions = draw_lesions(np.random.default_rng(0), 2)
    assert len(lesions) == 2 * len(DIAMETERS)
    for a, b in combinations(lesions, 2):
        assert np.linalg.norm(a.centre - b.centre) > (a.diameter + b.diameter) / 2


def test_field_is_the_signed_distance_near_a_lesion() -> None:
    expected = (4 - (torch.arange(float(SHAPE[0])) - 60).abs()).clamp(min=-SURE)
    torch.testing.assert_close(field_of([KEPT])[0, :, 60, 60], expected)


def test_field_has_as_many_positive_voxels_as_the_ball() -> None:
    volume = float((field_of([MISSED]) > 0).sum())
    assert volume == pytest.approx(np.pi / 6 * MISSED.diameter**3, rel=0.03)


def test_missed_lesion_is_lost_without_a_scan() -> None:
    assert found({"coarse_step": 4}) == [True, False]


def test_scan_finds_the_missed_lesion_again() -> None:
    assert found({"coarse_step": 4, "scan_step": 8}) == [True, True]
