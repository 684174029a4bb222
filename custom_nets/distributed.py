"""The processes of a job that torchrun starts, its ranks: the device of each, how they meet, what they exchange."""

from __future__ import annotations

import logging
import os
from datetime import timedelta
from itertools import chain
from typing import Any, TypeVar

import ignite.distributed as idist
import torch
from torch import distributed

from custom_nets.errors import InputError

T = TypeVar("T")


def rank_device() -> torch.device:
    """Returns the GPU of this process, the CPU on a machine without one.

    Raises:
        InputError: when torchrun has not started this process, or more processes than the machine has GPUs.
    """
    local = _number("LOCAL_RANK")
    if not torch.cuda.is_available():
        return torch.device("cpu")
    gpus = torch.cuda.device_count()
    if local >= gpus:
        msg = (
            f"process {local + 1} of this machine has no GPU of its own, there are {gpus}; give --nproc_per_node {gpus}"
        )
        raise InputError(msg)
    return torch.device("cuda", local)


def join_ranks(device: str | torch.device, minutes: float, backend: str | None = None) -> None:
    """Lets this process meet the others of its job; the first one alone logs what is not at least a warning.

    Args:
        device: of this process; becomes PyTorch's current one.
        minutes: how long a process waits for another before the job ends. It must cover what one has to do more than
            another between two exchanges; torchrun notices a process that died at once, whatever this is.
        backend: PyTorch's name; None takes `nccl` for GPUs and `gloo` for CPUs.

    Raises:
        InputError: when torchrun has not started this process.
    """
    rank = _number("RANK")
    on_gpu = str(device).startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(device)
    if not distributed.is_initialized():
        distributed.init_process_group(backend or ("nccl" if on_gpu else "gloo"), timeout=timedelta(minutes=minutes))
        _meet_in_ignite()
    if rank > 0:
        logging.disable(logging.INFO)


def leave_ranks() -> None:
    """Ends the exchange with the other processes, at the end of a job."""
    distributed.destroy_process_group()


def gather_items(items: list[T]) -> list[T]:
    """Concatenates the lists of all processes, in the order of their ranks; a list may be empty.

    Every process must call this, and gets the same list. One that is alone gets its own.

    Args:
        items: anything that can be pickled; tensors on the CPU.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return items
    parts: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(parts, items)
    return list(chain.from_iterable(parts))


def _meet_in_ignite() -> None:
    """Lets ignite set itself up, in which all processes take part, before each goes its own way.

    Under Slurm it would replace torchrun's LOCAL_RANK by the number of the task, and there is one task a machine.
    """
    job = os.environ.pop("SLURM_JOB_ID", None)
    try:
        idist.sync()
    finally:
        if job is not None:
            os.environ["SLURM_JOB_ID"] = job


def _number(variable: str) -> int:
    """Reads a number that torchrun gives to each of its processes."""
    if variable not in os.environ:
        msg = (
            "multi_gpu_*.json is for processes that torchrun starts; leave it out, or start with "
            "torchrun --standalone --nproc_per_node GPUS -m monai.bundle run ..."
        )
        raise InputError(msg)
    return int(os.environ[variable])
