"""Several processes of one job within a test, without starting Python anew."""

import os
import socket
from collections.abc import Callable

import torch

from custom_nets.distributed import join_ranks, leave_ranks

TIMEOUT = 60


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def run_ranks(count: int, work: Callable[[int], None], join: bool = True) -> None:
    """Runs `work(rank)` in processes that know each other as those of torchrun do.

    They are forked, so that nothing is imported again: for work without a backward pass, whose threads forbid it.

    Args:
        count: of processes.
        work: raises where something is wrong.
        join: whether they meet before the work, and part after it.
    """
    port = free_port()

    def start(rank: int) -> None:
        torch.set_num_threads(1)
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE=str(count))
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
        if join:
            join_ranks("cpu", minutes=TIMEOUT / 60)
        work(rank)
        if join:
            leave_ranks()

    processes = torch.multiprocessing.start_processes(start, nprocs=count, join=False, start_method="fork")
    try:
        while not processes.join(timeout=TIMEOUT):
            assert any(process.exitcode is not None for process in processes.processes), "the processes wait for ever"
    finally:
        for process in processes.processes:
            process.kill()
