"""The processes of a job: their devices, and what they gather."""

import os

import ignite.distributed as idist
import pytest
import torch

from custom_nets.distributed import gather_items, join_ranks, rank_device
from custom_nets.errors import InputError
from tests.processes import run_ranks


def test_lists_are_gathered_in_the_order_of_the_ranks():
    lists = [["a", "b"], [], ["c"]]

    def work(rank):
        assert gather_items(lists[rank]) == ["a", "b", "c"]

    run_ranks(3, work)


def test_one_process_gathers_its_own():
    assert gather_items([1, 2]) == [1, 2]


def test_under_slurm_each_process_keeps_the_number_that_torchrun_gave_it(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_LOCALID", "0")  # of the one task a machine, torchrun itself

    def work(rank):
        assert idist.get_local_rank() == rank == int(os.environ["LOCAL_RANK"])
        assert os.environ["SLURM_JOB_ID"] == "7"

    run_ranks(2, work)


@pytest.mark.parametrize("start", [rank_device, lambda: join_ranks("cpu", 1)], ids=["device", "join"])
def test_a_process_that_torchrun_has_not_started_is_told_how(start, monkeypatch):
    for variable in ("RANK", "LOCAL_RANK"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(InputError, match="torchrun --standalone"):
        start()


@pytest.mark.parametrize(("gpus", "device"), [(0, "cpu"), (2, "cuda:1")])
def test_each_process_has_its_gpu_where_there_are_any(gpus, device, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert rank_device() == torch.device(device)


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match="--nproc_per_node 2"):
        rank_device()
