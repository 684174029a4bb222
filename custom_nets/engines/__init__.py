"""What MONAI's engines lack."""

from custom_nets.engines.checkpoints import EarlyStopping, TrainingCheckpoints
from custom_nets.engines.handlers import JsonLog, Progress, RandomState, RegionScores
from custom_nets.engines.prepare_batch import PreparePointsBatch

__all__ = [
    "EarlyStopping",
    "JsonLog",
    "PreparePointsBatch",
    "Progress",
    "RandomState",
    "RegionScores",
    "TrainingCheckpoints",
]
