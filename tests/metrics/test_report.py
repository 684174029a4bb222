"""Metrics on disk: a row a case and region, strict JSON, one writer among processes."""

import csv
import json

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.handlers import IgniteMetricHandler, from_engine

from custom_nets.engines import RankEvaluator
from custom_nets.errors import InputError
from custom_nets.metrics.regions import RegionDice, RegionHausdorff95, RegionIoU
from custom_nets.metrics.report import SaveCaseMetrics, summarise, write_case_metrics
from tests.processes import run_ranks

REGIONS = ("WT", "ET")
COLUMNS = {"val_dice": "dice", "val_iou": "iou", "val_hd95": "hd95_mm"}


def rows_of(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def report_of(folder):
    def refuse(constant):
        raise AssertionError(constant)

    return json.loads((folder / "metrics.json").read_text(), parse_constant=refuse)


def write(folder, dice, cases=("a", "b")):
    write_case_metrics(folder, cases, REGIONS, {"dice": np.array(dice)})


def test_a_row_a_case_and_region(tmp_path):
    write(tmp_path, [[0.5, 1], [0.25, 0]])
    assert [tuple(row.values()) for row in rows_of(tmp_path)] == [
        ("a", "WT", "0.5"),
        ("a", "ET", "1.0"),
        ("b", "WT", "0.25"),
        ("b", "ET", "0.0"),
    ]


def test_the_report_holds_each_case(tmp_path):
    write(tmp_path, [[0.5, 1], [0.25, 0]])
    assert report_of(tmp_path)["cases"][1] == {"case": "b", "regions": {"WT": {"dice": 0.25}, "ET": {"dice": 0.0}}}


def test_the_summary_is_that_of_cases(tmp_path):
    write(tmp_path, [[0.5, 1], [0.25, 0], [0.0, 0]], ("a", "b", "c"))
    summary = report_of(tmp_path)["summary"]
    assert summary["WT"]["dice"] == pytest.approx({"mean": 0.25, "median": 0.25, "std": np.sqrt(1 / 24), "cases": 3})
    assert summary["mean"]["dice"]["median"] == pytest.approx(0.125)


def test_nan_becomes_null_and_is_not_counted(tmp_path):
    write(tmp_path, [[np.nan, 1], [0.25, np.inf]])
    report = report_of(tmp_path)
    assert report["cases"][0]["regions"]["WT"]["dice"] is None
    assert report["summary"]["WT"]["dice"]["cases"] == 1


def test_no_finite_value_has_no_mean():
    assert summarise(np.array([np.nan])) == {"mean": None, "median": None, "std": None, "cases": 0}


def test_a_case_repeated_to_even_out_ranks_counts_once(tmp_path):
    write(tmp_path, [[0.5, 1], [0.25, 0], [0.5, 1]], ("a", "b", "a"))
    assert [row["case"] for row in rows_of(tmp_path)] == ["a", "a", "b", "b"]


def test_two_cases_of_one_name_are_both_kept(tmp_path):
    write(tmp_path, [[0.5, 1], [0.25, 0]], ("a", "a"))
    assert len(rows_of(tmp_path)) == 4


def test_a_shape_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"expected \(2, 2\)"):
        write(tmp_path, [[0.5], [0.25]])


def cases(count):
    """Nested boxes; the network below predicts the image, which lacks ET in every second case."""
    items = []
    for i in range(count):
        label = torch.zeros(2, 8, 8, 8)
        label[0, 1 : 3 + i % 4, 1:7, 1:7] = 1
        label[1, 2, 2, 2:4] = 1
        image = label.clone()
        image[1] *= i % 2
        affine = torch.diag(torch.tensor([1.0, 1, 2, 1]))
        items.append(
            {"case": f"case{i}", "image": MetaTensor(image, affine=affine), "label": MetaTensor(label, affine=affine)}
        )
    return items


def evaluate(folder, items, batch_size=1, **options):
    metrics = {"val_dice": RegionDice(), "val_iou": RegionIoU(), "val_hd95": RegionHausdorff95()}
    output = from_engine(["pred", "label"])
    handlers = {name: IgniteMetricHandler(metric_fn=m, output_transform=output) for name, m in metrics.items()}
    kind = RankEvaluator if torch.distributed.is_initialized() else SupervisedEvaluator
    evaluator = kind(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(items), batch_size=batch_size),
        network=torch.nn.Identity(),
        key_val_metric={"val_dice": handlers.pop("val_dice")},
        additional_metrics=handlers,
        val_handlers=[SaveCaseMetrics(folder, REGIONS, **({"metrics": COLUMNS} | options))],
    )
    evaluator.run()
    return evaluator


@pytest.mark.parametrize("batch_size", [1, 2])
def test_an_evaluator_writes_metrics_and_volumes_of_each_case(tmp_path, batch_size):
    evaluate(tmp_path, cases(3), batch_size)
    rows = rows_of(tmp_path)
    assert list(rows[0]) == ["case", "region", "dice", "iou", "hd95_mm", "volume_error_ml", "label_ml", "prediction_ml"]
    assert [row["case"] for row in rows[::2]] == ["case0", "case1", "case2"]
    assert [float(row["label_ml"]) for row in rows[::2]] == [36 * n * 2 / 1000 for n in (2, 3, 4)]
    missed = rows[1]
    assert (float(missed["dice"]), float(missed["prediction_ml"]), float(missed["label_ml"])) == (0, 0, 0.004)
    assert float(missed["hd95_mm"]) == pytest.approx(np.linalg.norm([8, 8, 16]), rel=1e-4)


def test_the_summary_agrees_with_the_evaluator(tmp_path):
    evaluator = evaluate(tmp_path, cases(3))
    assert report_of(tmp_path)["summary"]["mean"]["dice"]["mean"] == pytest.approx(evaluator.state.metrics["val_dice"])


def test_every_metric_is_written_when_none_is_named(tmp_path):
    evaluate(tmp_path, cases(1), metrics=None)
    assert list(rows_of(tmp_path)[0])[2:5] == ["val_dice", "val_iou", "val_hd95"]


def test_a_second_run_starts_anew(tmp_path):
    evaluator = evaluate(tmp_path, cases(2))
    evaluator.run()
    assert len(rows_of(tmp_path)) == 4


def test_a_metric_that_the_evaluator_lacks_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no metric 'val_nsd'.*val_dice"):
        evaluate(tmp_path, cases(1), metrics=["val_nsd"])


def test_several_processes_write_one_report_with_each_number_at_its_case(tmp_path):
    # The second process has none, and the others have another order than the names'.
    shares = [(3, 0, 4), (), (2, 1)]

    def work(rank):
        evaluate(tmp_path / f"rank{rank}", [cases(5)[i] for i in shares[rank]])

    run_ranks(3, work)
    assert [path.name for path in tmp_path.iterdir()] == ["rank0"]
    evaluate(tmp_path / "alone", cases(5))
    together, alone = rows_of(tmp_path / "rank0"), rows_of(tmp_path / "alone")
    assert [row["case"] for row in together[::2]] == ["case3", "case0", "case4", "case2", "case1"]
    assert sorted(map(str, together)) == sorted(map(str, alone))
