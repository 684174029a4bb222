"""What MONAI's engines lack."""

from custom_nets.engines.checkpoints import EarlyStopping, ModelLoader, TrainingCheckpoints
from custom_nets.engines.handlers import JsonLog, Progress, RandomState, RegionScores
from custom_nets.engines.prepare_batch import PreparePointsBatch

__all__ = [
    "EarlyStopping",
    "JsonLog",
    "ModelLoader",
    "PreparePointsBatch",
    "Progress",
    "RandomState",
    "RegionScores",
    "TrainingCheckpoints",
]
