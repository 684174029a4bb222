"""Metrics that MONAI lacks."""

from custom_nets.metrics.points import PointOverlap
from custom_nets.metrics.regions import RegionDice, RegionHausdorff95, RegionIoU
from custom_nets.metrics.report import SaveCaseMetrics, write_case_metrics

__all__ = ["PointOverlap", "RegionDice", "RegionHausdorff95", "RegionIoU", "SaveCaseMetrics", "write_case_metrics"]
