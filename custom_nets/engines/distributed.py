"""Training, evaluation and inference by several processes: what MONAI's engines lack for it."""

from __future__ import annotations

from typing import Any

import numpy as np
from ignite.engine import Events
from monai.data import Dataset
from monai.engines import SupervisedEvaluator
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from custom_nets.distributed import gather_items
from custom_nets.engines.case_by_case import CaseEvaluator
from custom_nets.errors import InputError


def distribute(network: nn.Module) -> DistributedDataParallel:
    """Wraps a network for training by all processes; use the network itself for everything else.

    On GPUs its batch norms become synchronised ones, in place: names and parameters stay. PyTorch has none for CPUs,
    where each process normalises by its own images; so does a norm that is no `BatchNorm` of PyTorch's, on any device.

    Args:
        network: on the device of this process. Parameters that a loss never reaches do no harm, as long as these are
            the same ones in every step.
    """
    if next(network.parameters()).is_cuda:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    return DistributedDataParallel(network, static_graph=True)


def share_cases(dataset: Dataset) -> list[int]:
    """Returns the indices of this process's share: every case is in one share, which may be empty.

    Shares follow each other in the order of the ranks, so that what is gathered rank by rank has the order of the data
    set. For the `sampler` of a loader. MONAI's `DistributedSampler` needs a case for every process.

    Args:
        dataset: of items; every process must have the same, and waits here until all have listed theirs, so
            that none takes the first results of another for cases.

    Raises:
        InputError: when the processes have different cases.
    """
    names = [str(item.get("case", item)) for item in dataset.data]  # in MONAI Label a case is its files
    if any(others != names for others in gather_items([names])):
        msg = "the processes of this job see different cases; dataset_dir must be the same folder on every machine"
        raise InputError(msg)
    return np.array_split(range(len(names)), distributed.get_world_size())[distributed.get_rank()].tolist()


class RankEvaluator(SupervisedEvaluator):
    """MONAI's evaluator for one of several processes, each with a loader of its own cases.

    A process without a case takes part in gathering all the same: MONAI's leaves the others waiting. All use the
    buffers that the first process has, as its network is the one that is saved: in training, the running statistics of
    norms that are not synchronised differ.
    """

    def run(self, global_epoch: int = 1) -> None:  # type: ignore[override]
        """Evaluates the cases of this process, see `monai.engines.Evaluator`."""
        self._share_buffers()
        if self.state.epoch_length:
            super().run(global_epoch)
            return
        self.state.epoch = self.state.max_epochs = max(global_epoch, 1)
        for event in (Events.STARTED, Events.EPOCH_STARTED, Events.EPOCH_COMPLETED, Events.COMPLETED):
            self.fire_event(event)

    def _share_buffers(self) -> None:
        buffers = list(self.network.buffers())
        shared: list[Any] = [[buffer.cpu() for buffer in buffers]]
        distributed.broadcast_object_list(shared)
        for buffer, value in zip(buffers, shared[0], strict=True):
            buffer.copy_(value)


class RankCaseEvaluator(CaseEvaluator, RankEvaluator):
    """A `CaseEvaluator` for one of several processes: all end alike, with the cases that any of them left out."""
