"""Handlers that MONAI and ignite lack."""

from custom_nets.handlers.checkpoints import EarlyStopping, TrainingCheckpoints
from custom_nets.handlers.progress import Progress
from custom_nets.handlers.random_state import RandomState
from custom_nets.handlers.reconstruction import ReconstructionPicture
from custom_nets.handlers.scores import JsonLog, RegionScores, loss_terms
from custom_nets.handlers.weights import LoadWeights

__all__ = [
    "EarlyStopping",
    "JsonLog",
    "LoadWeights",
    "Progress",
    "RandomState",
    "ReconstructionPicture",
    "RegionScores",
    "TrainingCheckpoints",
    "loss_terms",
]
