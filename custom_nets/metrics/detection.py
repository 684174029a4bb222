"""Detection of lesions as LiTS counts it: a lesion is found when enough of it and of the prediction agree."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

from custom_nets.errors import InputError
from custom_nets.metrics.regions import checked_masks, crop_to_union


def count_detections(y_pred: torch.Tensor, y: torch.Tensor, min_iou: float = 0.5) -> torch.Tensor:
    """Counts the lesions that were detected in each region, int64 `[B, R, 4]`.

    These are: lesions of the label, those of them that were detected, predicted lesions, those of them that detect one.
    Lesions are connected components whose voxels share a face. Each lesion of the label goes with the predicted one
    that covers most of it; label lesions that go with the same predicted one are taken together (a prediction may span
    several), and with them all predicted lesions that lie mostly on one of these (a lesion may be found in pieces).
    Such a group is detected when its intersection over union is above `min_iou`.

    So recall is the second number over the first, precision the fourth over the third, each summed over cases as LiTS
    does. (Its code counts a group as one detection, whatever it holds, so that pieces lower its precision.)

    Args:
        y_pred: binary prediction `[B, R, H, W, D]`.
        y: binary label `[B, R, H, W, D]`.
        min_iou: from 0 to below 1; 0 takes any overlap.

    Raises:
        InputError: when shapes differ, values are not binary, or `min_iou` is out of range.

    Source: the scoring of LiTS 2017, Bilic et al. 2023, https://doi.org/10.1016/j.media.2022.102680.
    """
    if not 0 <= min_iou < 1:
        msg = f"min_iou is {min_iou}; expected a share from 0 to below 1"
        raise InputError(msg)
    predicted, true = checked_masks(y_pred, y)
    result = torch.zeros((*predicted.shape[:2], 4), dtype=torch.int64)
    for b, r in np.ndindex(*result.shape[:2]):
        if bool(predicted[b, r].any() | true[b, r].any()):
            cut = [part.cpu().numpy() for part in crop_to_union(predicted[b, r], true[b, r])]
            result[b, r] = torch.tensor(_detections(cut[0], cut[1], min_iou))
    return result


def _detections(predicted: np.ndarray, true: np.ndarray, min_iou: float) -> tuple[int, int, int, int]:
    """Counts the detections in one region, masks `[h, w, d]`, see `count_detections`."""
    parts, found = ndimage.label(predicted)
    lesions, wanted = ndimage.label(true)
    table = np.zeros((wanted + 1, found + 1), dtype=np.int64)  # voxels by lesion and predicted lesion; 0 is neither
    np.add.at(table, (lesions, parts), 1)
    overlap = table[1:, 1:]
    of_lesion, of_part = table.sum(axis=1)[1:], table.sum(axis=0)[1:]
    if not overlap.any():
        return wanted, 0, found, 0
    part_of = np.where(overlap.any(axis=1), overlap.argmax(axis=1), -1)
    lesion_of = np.where(overlap.any(axis=0), overlap.argmax(axis=0), -1)
    detected, detecting = 0, 0
    for part in np.unique(part_of[part_of >= 0]):
        together = np.flatnonzero(part_of == part)
        pieces = np.flatnonzero(np.isin(lesion_of, together))
        common = overlap[np.ix_(together, pieces)].sum()
        if common / (of_lesion[together].sum() + of_part[pieces].sum() - common) > min_iou:
            detected += len(together)
            detecting += len(pieces)
    return wanted, detected, found, detecting
