"""The detection of lesions after LiTS' rules, on boxes counted by hand."""

import pytest
import torch

from custom_nets.errors import InputError
from custom_nets.metrics import count_detections


def mask(*boxes):
    """Bars of 2 x 2 voxels along the first axis, from one end to before the other."""
    volume = torch.zeros(1, 1, 30, 6, 6, dtype=torch.bool)
    for first, last in boxes:
        volume[0, 0, first:last, 2:4, 2:4] = True
    return volume


CASES = {
    "found": ([(0, 10)], [(0, 10)], (1, 1, 1, 1)),
    "two thirds of it": ([(0, 9)], [(0, 6)], (1, 1, 1, 1)),  # IoU 6 / 9
    "half of it is not enough": ([(0, 10)], [(0, 5)], (1, 0, 1, 0)),  # IoU is 1 / 2, not above
    "in two pieces": ([(0, 10)], [(0, 4), (6, 10)], (1, 1, 2, 2)),  # together 8 / 10
    "one prediction over two lesions": ([(0, 4), (6, 10)], [(0, 10)], (2, 2, 1, 1)),  # together 8 / 10
    "missed and invented": ([(0, 5)], [(10, 15)], (1, 0, 1, 0)),
    "one of two, and an invented one": ([(0, 5), (10, 15)], [(0, 5), (20, 25)], (2, 1, 2, 1)),
    "nothing there, nothing found": ([], [], (0, 0, 0, 0)),
    "invented alone": ([], [(0, 5)], (0, 0, 1, 0)),
}


@pytest.mark.parametrize("name", CASES)
def test_worked_out_by_hand(name):
    true, found, counts = CASES[name]
    assert tuple(count_detections(mask(*found), mask(*true))[0, 0].tolist()) == counts


def test_any_overlap_may_be_enough():
    assert count_detections(mask((9, 20)), mask((0, 10)), min_iou=0)[0, 0].tolist() == [1, 1, 1, 1]


def test_voxels_that_share_an_edge_alone_are_two_lesions():
    true = torch.zeros(1, 1, 4, 4, 4)
    true[0, 0, 0, 0, 0] = true[0, 0, 1, 1, 0] = 1
    assert count_detections(torch.zeros_like(true), true)[0, 0].tolist() == [2, 0, 0, 0]


def test_a_share_that_cannot_be_is_refused():
    with pytest.raises(InputError, match="min_iou is 1"):
        count_detections(mask(), mask(), min_iou=1)
