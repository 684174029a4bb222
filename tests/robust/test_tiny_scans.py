"""Scans of a few voxels, or of one slice, are inferred and trained on as any other."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch

from tests.bundles.bundle import SMALLEST, Bundle
from tests.robust import corpus

SHAPES = {"3": (3, 3, 3), "2": (2, 1, 1), "5": (1, 9, 30)}
KEYS = {
    **{name: SMALLEST[name] for name in ("ossnet_brats", "nvnet_brats")},
    # Groups of two channels: one channel of one voxel alone cannot be normalised.
    "ossnet_lits": {**SMALLEST["ossnet_lits"], "channels": [16, 16, 16]},
}


def write(name, root):
    rng = np.random.default_rng(0)
    for case, shape in SHAPES.items():
        label = np.zeros(shape, np.uint8)
        label.flat[0] = 1
        if name == "ossnet_lits":
            scan = rng.integers(-150, 200, shape).astype(np.int16)
            scan.flat[-1] = -1000
            corpus.save(root / f"volume-{case}.nii.gz", scan, corpus.CT_LPS)
            corpus.save(root / f"segmentation-{case}.nii.gz", label, corpus.CT_LPS)
        else:
            for end in corpus.ENDS:
                corpus.save(root / f"C_{case}" / f"C_{case}_{end}.nii.gz", rng.integers(1, 900, shape).astype(np.int16))
            corpus.save(root / f"C_{case}" / f"C_{case}_seg.nii.gz", label)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if "brats" in name else ()) for name in KEYS]
)
def test_tiny_scans_are_trained_on_and_inferred(name, tmp_path):
    write(name, tmp_path / "data")
    bundle, places = Bundle(name), {"dataset_dir": str(tmp_path / "data"), "ckpt_dir": str(tmp_path)}
    split = {"training": [], "validation": []}
    for case in SHAPES:
        named = f"volume-{case}" if name == "ossnet_lits" else f"C_{case}"
        split["validation" if case == "3" else "training"].append(named)
    (tmp_path / "split.json").write_text(json.dumps(split))
    keys = {**KEYS[name], "num_workers": 0, **places}
    trained = {"epochs": 1, "val_interval": 1, "split_file": str(tmp_path / "split.json")}
    bundle.run("training", "train", **keys, **trained, output_dir=str(tmp_path / "eval"))
    assert all(weight.isfinite().all() for weight in torch.load(tmp_path / "model.pt").values())
    keys = {key: value for key, value in keys.items() if key not in ("num_points", "batch_size")}
    bundle.run("inferring", "inference", **keys, output_dir=str(tmp_path / "out"))
    shapes = {
        file.name.split("_prediction")[0][-1]: nib.load(file).shape
        for file in (tmp_path / "out").rglob("*_prediction.nii.gz")
    }
    assert shapes == SHAPES
