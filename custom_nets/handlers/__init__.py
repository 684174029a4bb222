"""Handlers that MONAI and ignite lack."""

from custom_nets.handlers.bad_steps import BadSteps
from custom_nets.handlers.checkpoints import EarlyStopping, TrainingCheckpoints
from custom_nets.handlers.finished_cases import FinishedCases
from custom_nets.handlers.progress import Progress
from custom_nets.handlers.random_state import RandomState
from custom_nets.handlers.reconstruction import ReconstructionPicture
from custom_nets.handlers.results_page import ResultsPage
from custom_nets.handlers.scores import JsonLog, RegionScores, loss_terms
from custom_nets.handlers.summary_writer import SummaryWriter
from custom_nets.handlers.training_picture import TrainingPicture
from custom_nets.handlers.weights import LoadWeights

__all__ = [
    "BadSteps",
    "EarlyStopping",
    "FinishedCases",
    "JsonLog",
    "LoadWeights",
    "Progress",
    "RandomState",
    "ReconstructionPicture",
    "RegionScores",
    "ResultsPage",
    "SummaryWriter",
    "TrainingCheckpoints",
    "TrainingPicture",
    "loss_terms",
]
