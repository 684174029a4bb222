"""Several processes: every case once, whatever their number, and the scores of one process."""

from collections.abc import Sequence

import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.handlers import IgniteMetricHandler, from_engine

from custom_nets.distributed import gather_items
from custom_nets.engines import CaseDataset, RankCaseEvaluator, RankEvaluator, distribute, share_cases
from custom_nets.errors import InputError
from custom_nets.metrics import RegionDice
from custom_nets.networks import OSSNet
from tests.processes import run_ranks


def dataset(number: int) -> Dataset:
    items = []
    for case in range(number):
        label = torch.zeros(1, 4, 4, 4)
        label[:, : case + 1] = 1
        items.append({"case": f"case{case}", "image": label.roll(1, dims=1), "label": label})
    return Dataset(items)


@pytest.mark.parametrize("cases", [1, 2, 3, 7])
def test_every_case_is_in_one_share(cases):
    def work(_rank):
        assert gather_items(list(share_cases(dataset(cases)))) == list(range(cases))

    run_ranks(3, work)


def test_shares_differ_by_one_case_at_most():
    def work(_rank):
        assert gather_items([len(share_cases(dataset(7)))]) == [3, 2, 2]

    run_ranks(3, work)


def test_processes_with_different_cases_are_told():
    def work(rank):
        with pytest.raises(InputError, match="same folder on every machine"):
            share_cases(dataset(2 + rank))

    run_ranks(2, work)


def evaluator(cases: Dataset, share: Sequence[int], network: torch.nn.Module, kind=RankEvaluator) -> RankEvaluator:
    metric = IgniteMetricHandler(metric_fn=RegionDice(), output_transform=from_engine(["pred", "label"]))
    return kind(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(cases, batch_size=1, sampler=share),
        network=network,
        key_val_metric={"val_dice": metric},
    )


def test_a_process_without_a_case_has_the_scores_of_all():
    cases = dataset(2)

    def work(_rank):
        engine = evaluator(cases, share_cases(cases), torch.nn.Identity())
        for epoch in (1, 2):
            engine.run(epoch)
            assert engine.state.metric_details["val_dice"].flatten().tolist() == [0, 0.5]
            assert engine.state.metrics["val_dice"] == 0.25
            assert engine.state.epoch == epoch

    run_ranks(3, work)


def read(item: dict) -> dict:
    if item["case"] in ("case1", "case2"):
        raise InputError(f"case {item['case']}: damaged")
    return item


@pytest.mark.parametrize("number", [3, 2])
def test_a_faulty_case_is_left_out_by_all(number):
    """Three processes: of three cases two are faulty, or of two one, so that a process has none."""
    cases = CaseDataset(dataset(number).data, read, needs_label=True)

    def work(_rank):
        engine = evaluator(cases, share_cases(cases), torch.nn.Identity(), RankCaseEvaluator)
        with pytest.raises(SystemExit) as ended:
            engine.run()
        assert ended.value.code == 3
        assert engine.reasons() == ["case case1: damaged", "case case2: damaged"][: number - 1]
        assert engine.state.metric_details["val_dice"].flatten().tolist() == [0]

    run_ranks(3, work)


def test_all_processes_end_where_no_case_is_good():
    cases = CaseDataset(dataset(3).data[1:], read, needs_label=True)

    def work(_rank):
        with pytest.raises(InputError, match=r"all 2 cases were left out:\ncase case1: damaged\ncase case2: damaged"):
            evaluator(cases, share_cases(cases), torch.nn.Identity(), RankCaseEvaluator).run()

    run_ranks(3, work)


def test_all_evaluate_with_the_buffers_of_the_first():
    cases = dataset(1)

    def work(rank):
        network = torch.nn.Identity()
        network.register_buffer("running_mean", torch.tensor(float(rank)))
        evaluator(cases, share_cases(cases), network).run()
        assert network.running_mean.item() == 0

    run_ranks(2, work)


def test_names_of_parameters_stay():
    def work(_rank):
        network = OSSNet("c", grid_size=(16, 16, 16), hidden_features=8)
        names = list(network.state_dict())
        assert list(distribute(network).module.state_dict()) == names

    run_ranks(2, work)


@pytest.mark.gpu
def test_batch_norms_are_synchronised_on_gpus():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    network = OSSNet("c", grid_size=(16, 16, 16), hidden_features=8).cuda()
    names, norms = list(network.state_dict()), sum(isinstance(m, torch.nn.BatchNorm3d) for m in network.modules())
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("nccl", store=store, rank=0, world_size=1)
    try:
        wrapped = distribute(network)
    finally:
        torch.distributed.destroy_process_group()
    assert sum(isinstance(module, torch.nn.SyncBatchNorm) for module in wrapped.modules()) == norms > 0
    assert list(network.state_dict()) == names
