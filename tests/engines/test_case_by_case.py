"""A case that fails is left out, whatever its fault; the others go on, and the end says who and why."""

import csv
import json

import pytest
import torch
from monai.data import DataLoader, MetaTensor
from monai.handlers import IgniteMetricHandler, from_engine
from monai.inferers import SimpleInferer
from monai.transforms import Compose, Lambdad, MapTransform

from custom_nets.engines import CaseDataset, CaseEvaluator
from custom_nets.errors import InputError, describe
from custom_nets.metrics import RegionDice, SaveCaseMetrics


class Read(MapTransform):
    """Fails as told by the entry."""

    def __call__(self, data):
        item = dict(data)
        for key in self.key_iterator(item):
            if isinstance(item[key], str):
                raise InputError(f"case {item['case']}, file {key}: {item[key]}")
            if isinstance(item[key], Exception):
                raise item[key]
            item[key] = torch.full((1, 4, 4, 4), float(item[key]))
        return item


class CaseList(list):
    left_out = ("case Z, file z: damaged",)


def infer(items, network=None, workers=0, postprocessing=None):
    """Returns the cases inferred, and what the run raised."""
    done = []
    keep = Lambdad("case", lambda case: done.append(case) or case)
    dataset = CaseDataset(items, Read(["image", "label"], allow_missing_keys=True))
    evaluator = CaseEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(dataset, batch_size=1, num_workers=workers),
        network=network or torch.nn.Identity(),
        inferer=SimpleInferer(),
        postprocessing=Compose([*(postprocessing or []), keep]),
    )
    try:
        evaluator.run()
    except (SystemExit, InputError) as error:
        return done, error
    return done, None


def cases(**images):
    return [{"case": case, "image": image} for case, image in images.items()]


def test_all_good():
    assert infer(cases(A=1, B=2)) == (["A", "B"], None)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("fault", ["damaged", RuntimeError("odd\nlong"), MemoryError("no memory")])
def test_one_that_cannot_be_read(fault, workers, caplog):
    done, error = infer(cases(A=1, B=fault, C=3), workers=workers)
    assert done == ["A", "C"]
    assert isinstance(error, SystemExit)
    assert error.code == 3
    assert caplog.messages[-1].startswith("1 of 3 cases were left out:\ncase B")


class Fails(torch.nn.Module):
    """Fails for one image."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, image):
        if image.max() == 2:
            raise self.error
        return image


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("out of memory"), ValueError("NaN")])
def test_one_whose_inference_fails(error, caplog):
    done, ended = infer(cases(A=1, B=2, C=3), Fails(error))
    assert (done, ended.code) == (["A", "C"], 3)
    assert f"case B: {describe(error)}" in caplog.messages[-1]


def test_one_whose_results_cannot_be_written():
    def write(image):
        if image.max() == 2:
            raise OSError("disk full")
        return image

    done, ended = infer(cases(A=1, B=2), postprocessing=[Lambdad("image", write)])
    assert (done, ended.code) == (["A"], 3)


def test_a_label_at_fault_is_a_warning(caplog):
    items = [{"case": "A", "image": 1, "label": "holds 3.5"}, {"case": "B", "image": 1, "label": 1}]
    assert infer(items) == (["A", "B"], None)
    assert caplog.messages == ["label not used: case A, file label: holds 3.5"]


def test_all_left_out():
    done, error = infer(cases(A="damaged", B="empty"))
    assert done == []
    assert str(error) == "all 2 cases were left out:\ncase A, file image: damaged\ncase B, file image: empty"


def test_cases_left_out_before_count(caplog):
    done, error = infer(CaseList(cases(A=1)))
    assert (done, error.code) == (["A"], 3)
    assert caplog.messages[-1] == "1 of 2 cases were left out:\ncase Z, file z: damaged"


class FailingDice(RegionDice):
    """Cannot score an empty prediction."""

    def _compute_tensor(self, y_pred, y, **_):
        if not y_pred.any():
            raise MemoryError("no memory")
        return super()._compute_tensor(y_pred, y)


def evaluate(items, folder):
    """Returns what the run raised; scores are in the folder."""
    transform = Compose([Read(["image", "label"]), Lambdad(["image", "label"], MetaTensor)])
    metrics = [
        IgniteMetricHandler(kind(), output_transform=from_engine(["pred", "label"]))
        for kind in (RegionDice, FailingDice)
    ]
    evaluator = CaseEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(CaseDataset(items, transform, needs_label=True), batch_size=1),
        network=torch.nn.Identity(),
        key_val_metric={"first": metrics[0]},
        additional_metrics={"second": metrics[1]},
        val_handlers=[SaveCaseMetrics(folder, ["WT"], ["first", "second"])],
    )
    with pytest.raises((SystemExit, InputError)) as ended:
        evaluator.run()
    return ended.value


def labelled(**images):
    return [{"case": case, "image": image, "label": 1} for case, image in images.items()]


def test_evaluation_scores_the_others(tmp_path):
    """Cases that cannot be read, have a label that cannot be, or cannot be scored by the second of two metrics."""
    items = labelled(A=1, B="damaged", C=0, D=1, E=1)
    items[3]["label"] = "holds 3.5"
    assert evaluate(items, tmp_path).code == 3
    with (tmp_path / "metrics.csv").open() as file:
        assert [(row["case"], row["first"], row["second"]) for row in csv.DictReader(file)] == [
            ("A", "1.0", "1.0"),
            ("E", "1.0", "1.0"),
        ]
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert [line[:6] for line in report["left_out"]] == ["case B", "case C", "case D"]
    assert report["summary"]["WT"]["first"]["cases"] == 2


def test_an_evaluation_without_any_case_writes_no_scores(tmp_path):
    error = evaluate(labelled(A="damaged", B=0), tmp_path)
    assert str(error).startswith("all 2 cases were left out:\ncase A, file image: damaged\ncase B: ")
    assert not list(tmp_path.iterdir())
