"""A bundle made for a data set that nobody knows: two disjoint labels with numbers of their own."""

import json
import re

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow

from custom_nets.datasets import get_record, record_names
from custom_nets.datasets.record import parse_record
from custom_nets.errors import InputError
from custom_nets.tools.bundle_checks import bundle_faults
from custom_nets.tools.planning.fingerprint import labelled_data, measure
from custom_nets.tools.planning.new_bundle import new_bundle, record_content

LABELS = {"background": 0, "core": 3, "left shell": 7}


def write_cases(root, cases=3, shape=(24, 28, 20), labelled=None, kind="MRI", labels=LABELS, vary=False):
    """Writes balls with a core (3), and a block beside them (7), in the layout of nnU-Net."""
    rng = np.random.default_rng(0)
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    for case in range(cases):
        label = np.zeros(shape, np.uint8)
        label[4:12, 6:16, 4:12] = 3
        label[14:20, 6:20, 4:14] = 7
        image = (rng.normal(100, 10, shape) + 20.0 * label - (0 if kind == "MRI" else 1000)).astype(np.float32)
        affine = np.diag([1.0, 1.0, 4.0 if vary and case else 2.0, 1.0])
        nib.save(nib.Nifti1Image(image, affine), root / "imagesTr" / f"knee_{case:03}_0000.nii.gz")
        if labelled is None or case < labelled:
            nib.save(nib.Nifti1Image(label, affine), root / "labelsTr" / f"knee_{case:03}.nii.gz")
    description = {"channel_names": {"0": kind}, "labels": labels, "file_ending": ".nii.gz", "name": "Knees"}
    (root / "dataset.json").write_text(json.dumps(description))
    return root


def run(bundle, step, *configs, **keys):
    files = [str(bundle / "configs" / f"{name}.json") for name in configs]
    workflow = ConfigWorkflow(files, run_id=step, workflow_type=None, logging_file=False, device="cpu", **keys)
    workflow.initialize()
    workflow.run()
    return workflow


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "kind", "vary", "grid", "scaling"),
    [
        ("ossnet", "MRI", False, "size", "nonzero"),
        ("ossnet", "MRI", True, "spacing", "nonzero"),
        ("ossnet", "density", False, "view", "whole"),
        ("ossnet", "CT", False, "spacing", "window"),
        ("nvnet", "CT", False, "crops", "window"),
    ],
)
def test_a_new_bundle_trains_and_writes_the_numbers_of_its_data(
    tmp_path, monkeypatch, network, kind, vary, grid, scaling
):
    if grid == "size":  # of large images alone
        monkeypatch.setattr("custom_nets.tools.planning.plan.SMALL", 0)
    data, bundle = write_cases(tmp_path / "data", kind=kind, vary=vary), tmp_path / "knees"
    small = {"channels": [8, 8, 8], "num_points": 64} if network == "ossnet" else {"init_filters": 8}
    plan = new_bundle(bundle, data, network)
    assert (plan.grid, plan.scaling) == (grid, scaling)
    assert bundle_faults(bundle, untrained=True) == []
    assert json.loads((bundle / "docs" / "plan.json").read_text())["keys"].keys() == plan.keys.keys()
    settings = {"dataset_dir": str(data), **small, **({"depths": [1, 1, 1]} if "depths" in plan.keys else {})}
    training = {"epochs": 1, "epoch_length": 2, "val_interval": 1, "num_workers": 0, "batch_size": 1}
    run(bundle, "training", "train", **settings, **training, output_dir=str(tmp_path / "eval"))
    run(bundle, "evaluating", "train", "evaluate", **settings, num_workers=0, output_dir=str(tmp_path / "eval"))
    weights = bundle / "models" / "model.pt"
    last = "decoder.6" if network == "ossnet" else "conv_final.2.conv"
    for index, number in enumerate((3, 7)):
        state = torch.load(weights, weights_only=True)
        state[f"{last}.weight"].zero_()
        state[f"{last}.bias"].copy_(torch.tensor([9.0, -9.0] if index == 0 else [-9.0, 9.0]))
        torch.save(state, weights)
        results = tmp_path / f"results{number}"
        run(bundle, "inferring", "inference", **settings, num_workers=0, save_meshes=False, output_dir=str(results))
        written = sorted(results.rglob("*prediction.nii.gz"))
        assert len(written) == 3
        for file in written:
            assert set(np.unique(nib.load(file).get_fdata())) - {0} == {number}


def test_a_record_is_the_same_after_it_was_written():
    for name in record_names():
        record = get_record(name)
        if record.labels is None:
            continue
        again = parse_record(record_content(record), name)
        assert again.labels == record.labels
        assert again.channels == record.channels
        assert again.layouts == record.layouts
        assert (again.cases, again.mirrors, again.pairs) == (record.cases, record.mirrors, record.pairs)


def test_the_fingerprint_measures_what_is_there(tmp_path):
    fingerprint = measure(*labelled_data(write_cases(tmp_path / "data")))
    assert fingerprint.regions == ("core", "left shell")
    assert fingerprint.shapes == ((24, 28, 20),) * 3
    assert fingerprint.spacings == ((1.0, 1.0, 2.0),) * 3
    assert [(size.present, size.thinnest, size.thinnest_mm) for size in fingerprint.sizes] == [(1, 8, 8), (1, 6, 6)]
    assert 120 < fingerprint.intensities[0].low < 160 < 240 < fingerprint.intensities[0].high < 290
    assert fingerprint.mirrors == (1, 2)  # a label is named after a side
    assert not fingerprint.nested


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"cases": 1}, "holds 1 labelled case; at least 2"),
        ({"labelled": 0}, "no case has a label"),
        ({"cases": 4, "labelled": 1}, "3 of 4 cases have no label"),
        ({"shape": (64, 64, 1)}, "2D image"),
        ({"labels": {"background": 0}}, "nothing names its numbers"),
        ({"labels": {"background": 0, "core": 3}}, "label numbers 7 are not in the record"),
    ],
)
def test_data_that_no_bundle_can_learn_from_is_refused(tmp_path, settings, fault):
    data = write_cases(tmp_path / "data", **settings) if "shape" not in settings else _flat(tmp_path / "data")
    with pytest.raises(InputError, match=re.escape(fault)):
        new_bundle(tmp_path / "knees", data)
    assert not (tmp_path / "knees").exists()


@pytest.mark.parametrize(
    ("keys", "planned", "training"),
    [({"fold": 1, "folds": 3}, {"fold": 1, "folds": 3}, 4), ({"folds": 4}, {"folds": 4}, 4), ({}, {}, 5)],
)
def test_a_fold_is_planned_as_a_run_divides_the_cases(tmp_path, keys, planned, training):
    plan = new_bundle(tmp_path / "knees", write_cases(tmp_path / "data", cases=6), **keys)
    assert {key: plan.keys[key] for key in ("fold", "folds") if key in plan.keys} == planned
    assert f"of {training} training cases" in [c.reason for c in plan.choices if c.key == "batch_size"]


def test_a_fold_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"fold=5: the split has the folds 0 to 4"):
        new_bundle(tmp_path / "knees", write_cases(tmp_path / "data", cases=6), fold=5)


def _flat(root):
    """Cases of one slice."""
    write_cases(root)
    for file in [*(root / "imagesTr").iterdir(), *(root / "labelsTr").iterdir()]:
        image = nib.load(file)
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[..., 8:9], image.affine), file)
    return root


def test_a_bundle_that_is_there_stays(tmp_path):
    (tmp_path / "knees").mkdir()
    with pytest.raises(InputError, match="is there already"):
        new_bundle(tmp_path / "knees", tmp_path)
    with pytest.raises(InputError, match="expected a letter"):
        new_bundle(tmp_path / "9 knees", tmp_path)
