"""What MONAI's engines lack."""

from custom_nets.engines.checkpoints import EarlyStopping, ModelLoader, TrainingCheckpoints
from custom_nets.engines.distributed import RankEvaluator, distribute, share_cases
from custom_nets.engines.handlers import JsonLog, Progress, RandomState, RegionScores, loss_terms
from custom_nets.engines.parameter_groups import kernel_decay
from custom_nets.engines.prepare_batch import PreparePointsBatch, PrepareReconstructionBatch
from custom_nets.engines.reconstruction import ReconstructionPicture

__all__ = [
    "EarlyStopping",
    "JsonLog",
    "ModelLoader",
    "PreparePointsBatch",
    "PrepareReconstructionBatch",
    "Progress",
    "RandomState",
    "RankEvaluator",
    "ReconstructionPicture",
    "RegionScores",
    "TrainingCheckpoints",
    "distribute",
    "kernel_decay",
    "loss_terms",
    "share_cases",
]
