"""A cross-validation by the keys of a bundle alone: folders, splits, the ensemble and the table."""

import json
import shutil

import pytest
from monai.bundle import ConfigWorkflow

from custom_nets.datasets import load_folds, load_split
from custom_nets.errors import describe
from custom_nets.tools.fold_table import sum_up_folds
from tests.bundles.bundle import SMALLEST
from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, phantoms):
    """A bundle whose two folds were trained for a step."""
    folder = tmp_path_factory.mktemp("bundles") / "ossnet_brats"
    shutil.copytree(REPOSITORY / "bundles" / "ossnet_brats" / "configs", folder / "configs")
    for fold in (0, 1):
        training = {"epochs": 1, "epoch_length": 1, "val_interval": 0, "test": 1, "folds": 2}
        run(folder, phantoms, "training", "train", fold=fold, **training)
    return folder


def run(folder, data, step, *names, **keys):
    files = [str(folder / "configs" / f"{name}.json") for name in names]
    keys = {"device": "cpu", "num_workers": 0, "dataset_dir": str(data), **SMALLEST["ossnet_brats"], **keys}
    workflow = ConfigWorkflow(files, run_id=step, workflow_type=None, logging_file=False, **keys)
    workflow.initialize()
    workflow.run()


@pytest.mark.slow
def test_folds_and_their_ensemble_are_scored_where_the_table_finds_them(bundle, phantoms):
    splits = [bundle / "eval" / f"fold_{fold}" / "split.json" for fold in (0, 1)]
    assert load_folds(splits[0]) == load_folds(splits[1])
    assert load_split(splits[0])["validation"] == load_split(splits[1])["training"]
    for section in ("validation", "test"):
        for fold in (0, 1):
            run(bundle, phantoms, "evaluating", "train", "evaluate", fold=fold, evaluation_section=section)
    evaluated = {"ensemble_folds": True, "evaluation_section": "test"}
    run(bundle, phantoms, "evaluating", "train", "evaluate", **evaluated)
    summary = sum_up_folds(bundle)
    assert summary["all"]["cases"] == 3
    assert list(summary["test"]) == ["fold_0", "fold_1", "ensemble"]
    report = json.loads((bundle / "eval" / "ensemble" / "metrics.json").read_text())
    assert [row["case"] for row in report["cases"]] == load_split(splits[0])["test"]


def test_an_ensemble_is_not_scored_on_what_its_folds_were_trained_on(bundle, phantoms):
    with pytest.raises(RuntimeError) as raised:  # of MONAI, which wraps what a component raises
        run(bundle, phantoms, "evaluating", "train", "evaluate", ensemble_folds=True)
    assert "training cases of some folds" in describe(raised.value)


def test_a_fold_that_is_not_there_is_refused(bundle, phantoms, tmp_path):
    with pytest.raises(RuntimeError) as raised:
        run(bundle, phantoms, "training", "train", fold=5, folds=2, output_dir=str(tmp_path))
    assert "has the folds 0 to 1; give one of these" in describe(raised.value)
