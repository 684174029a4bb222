"""The table of a cross-validation, against numbers worked out by hand, and what no table can be made of."""

import json

import numpy as np
import pytest

from custom_nets.datasets import save_split
from custom_nets.errors import InputError
from custom_nets.metrics.report import write_case_metrics
from custom_nets.tools.fold_table import format_folds, format_folds_json, sum_up_folds


def write_fold(folder, cases, dice, regions=("a", "b")):
    write_case_metrics(folder, cases, regions, {"dice": np.array(dice), "iou": np.array(dice) / 2})


@pytest.fixture
def evaluated(tmp_path):
    """A bundle of two folds, and their ensemble on a test of two cases."""
    for fold, (held_out, tested) in enumerate([([[0.2, 0.4], [0.4, 0.6]], 0.5), ([[0.9, 0.7]], 0.3)]):
        place = tmp_path / "eval" / f"fold_{fold}"
        write_fold(place, [f"{fold}{number}" for number in range(len(held_out))], held_out)
        write_fold(place / "test", ["x", "y"], [[tested, tested], [tested, tested + 0.2]])
    write_fold(tmp_path / "eval" / "ensemble", ["x", "y"], [[0.7, 0.7], [0.9, 0.9]])
    return tmp_path


def test_folds_are_averaged_over_their_cases(evaluated):
    summary = sum_up_folds(evaluated)
    assert summary["regions"] == ["a", "b", "mean"]
    assert summary["folds"]["fold_0"] == pytest.approx({"cases": 2, "a": 0.3, "b": 0.5, "mean": 0.4})
    assert summary["all"] == pytest.approx({"cases": 3, "a": 0.5, "b": 1.7 / 3, "mean": (0.3 + 0.5 + 0.8) / 3})
    assert summary["spread"]["mean"] == pytest.approx(0.4 / np.sqrt(2))
    assert sum_up_folds(evaluated / "eval", "iou")["all"]["a"] == pytest.approx(0.25)


def test_the_ensemble_is_compared_with_each_fold(evaluated):
    test = sum_up_folds(evaluated)["test"]
    assert list(test) == ["fold_0", "fold_1", "ensemble"]
    assert test["ensemble"] == pytest.approx({"cases": 2, "a": 0.8, "b": 0.8, "mean": 0.8})
    assert test["fold_1"]["gain"] == pytest.approx(0.45)
    assert test["fold_1"]["p"] == pytest.approx(0.5)  # two signs, both up


def test_the_table_holds_every_fold(evaluated):
    table = format_folds(sum_up_folds(evaluated))
    for words in ("fold_0", "fold_1", "spread", "ensemble", "0.300", "+0.4500"):
        assert words in table
    assert json.loads(format_folds_json(sum_up_folds(evaluated)))["all"]["cases"] == 3


def spoil_common_case(place):
    write_fold(place / "eval" / "fold_1", ["00"], [[0.5, 0.5]])


def spoil_regions(place):
    write_fold(place / "eval" / "fold_1", ["10"], [[0.5]], ["a"])


def spoil_split(place):
    for fold, folds in enumerate([[["00"], ["10"]], [["10"], ["00"]]]):
        save_split(place / "eval" / f"fold_{fold}" / "split.json", {"training": ["00"]}, folds=folds, fold=fold)


def spoil_test(place):
    write_fold(place / "eval" / "fold_1" / "test", ["z"], [[0.5, 0.5]])


def spoil_score(place):
    write_fold(place / "eval" / "fold_1", ["10"], [[np.nan, 0.5]])


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (spoil_common_case, "folds were scored on the same cases"),
        (spoil_regions, "fold_1: other regions than a, b, mean"),
        (spoil_split, "divides the cases otherwise than"),
        (spoil_test, "its test has other cases than the ensemble's"),
        (spoil_score, "the dice of a case is no number"),
    ],
)
def test_folds_that_do_not_belong_together_are_refused(evaluated, spoil, fault):
    spoil(evaluated)
    with pytest.raises(InputError, match=fault):
        sum_up_folds(evaluated)


def test_folds_that_are_not_there_are_refused(evaluated, tmp_path):
    with pytest.raises(InputError, match="holds no scores of folds"):
        sum_up_folds(tmp_path / "eval" / "ensemble")
    with pytest.raises(InputError, match="holds no 'hausdorff'; give a score that is a column"):
        sum_up_folds(evaluated, "hausdorff")
