"""Metrics that MONAI lacks."""

from custom_nets.metrics.lesions import RegionLesionDice, compute_lesion_dice
from custom_nets.metrics.points import PointOverlap
from custom_nets.metrics.regions import RegionDice, RegionHausdorff95, RegionIoU
from custom_nets.metrics.report import SaveCaseMetrics, write_case_metrics

__all__ = [
    "PointOverlap",
    "RegionDice",
    "RegionHausdorff95",
    "RegionIoU",
    "RegionLesionDice",
    "SaveCaseMetrics",
    "compute_lesion_dice",
    "write_case_metrics",
]
