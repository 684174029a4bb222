"""Additions to MONAI's engines."""

from custom_nets.engines.case_by_case import CaseDataset, CaseEvaluator
from custom_nets.engines.distributed import RankCaseEvaluator, RankEvaluator, distribute, share_cases
from custom_nets.engines.parameter_groups import kernel_decay
from custom_nets.engines.prepare_batch import PreparePointsBatch, PrepareReconstructionBatch

__all__ = [
    "CaseDataset",
    "CaseEvaluator",
    "PreparePointsBatch",
    "PrepareReconstructionBatch",
    "RankCaseEvaluator",
    "RankEvaluator",
    "distribute",
    "kernel_decay",
    "share_cases",
]
