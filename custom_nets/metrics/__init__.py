"""Metrics that MONAI lacks."""

from custom_nets.metrics.detection import count_detections
from custom_nets.metrics.lesions import (
    RegionLesionDice,
    RegionLesionHausdorff95,
    compute_lesion_dice,
    compute_lesion_hausdorff95,
    count_lesions,
    score_lesions,
)
from custom_nets.metrics.points import PointOverlap
from custom_nets.metrics.regions import RegionDice, RegionHausdorff95, RegionIoU, RegionSurfaceDice
from custom_nets.metrics.report import SaveCaseMetrics, write_case_metrics

__all__ = [
    "PointOverlap",
    "RegionDice",
    "RegionHausdorff95",
    "RegionIoU",
    "RegionLesionDice",
    "RegionLesionHausdorff95",
    "RegionSurfaceDice",
    "SaveCaseMetrics",
    "compute_lesion_dice",
    "compute_lesion_hausdorff95",
    "count_detections",
    "count_lesions",
    "score_lesions",
    "write_case_metrics",
]
