"""The bundle nvnet_brats: its configs agree, and the whole path runs from files to patient space."""

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from monai.networks.nets import SegResNet

from custom_nets.datasets import datalist, load_split
from custom_nets.errors import find_input_error
from custom_nets.tools import convert_segresnet_checkpoint, write_submission
from tests.bundles.bundle import Bundle, command
from tests.conftest import REPOSITORY

NVNET = Bundle("nvnet_brats")

# A network and a run as small as the configs allow.
TINY = {
    "crop_size": [32, 32, 16],
    "init_filters": 8,
    "latent_size": 8,
    "epochs": 1,
    "epoch_length": 2,
    "num_workers": 0,
    "val_interval": 1,
    "validation": 1,
    "test": 1,
}
PICTURES_OFF = {"save_meshes": False, "save_overlay": False}


@pytest.fixture(scope="session")
def trained(phantoms, tmp_path_factory) -> dict:
    """A run of two steps with modality dropout: keys that the other steps take over."""
    folder = tmp_path_factory.mktemp("nvnet")
    keys = {
        "dataset_dir": str(phantoms),
        "ckpt_dir": str(folder / "models"),
        "output_dir": str(folder / "eval"),
        **TINY,
    }
    NVNET.run("training", "train", **keys, modality_dropout=0.3)
    return keys


@pytest.fixture
def incomplete(phantoms, tmp_path) -> Path:
    """A data set with one case, which lacks its first modality."""
    name = "BraTS20_Training_001"
    shutil.copytree(phantoms / name, tmp_path / "data" / name)
    (tmp_path / "data" / name / f"{name}_flair.nii.gz").unlink()
    return tmp_path / "data"


def test_the_default_is_the_papers_set_up():
    parser = NVNET.parse("train")
    assert [parser[key] for key in ("crop_size", "init_filters", "batch_size", "epochs", "learning_rate")] == [
        [160, 192, 128],
        32,
        1,
        300,
        1e-4,
    ]


def test_the_rate_falls_as_in_the_paper():
    """1e-4 (1 - e / 300)^0.9 in epoch e."""
    parser = NVNET.parse("train", **{**TINY, "epochs": 300}, device="cpu")
    scheduler = parser.get_parsed_content("lr_scheduler")
    for epoch in range(200):
        assert scheduler.get_last_lr()[0] == pytest.approx(1e-4 * (1 - epoch / 300) ** 0.9, rel=1e-6)
        scheduler.optimizer.step()
        scheduler.step()


def test_weight_decay_acts_on_kernels_alone():
    parser = NVNET.parse("train", **TINY, device="cpu")
    kernels, others = parser.get_parsed_content("optimizer").param_groups
    assert (kernels["weight_decay"], others["weight_decay"]) == (1e-5, 0)
    assert {p.ndim for p in kernels["params"]} == {5}
    assert {p.ndim for p in others["params"]} == {1, 2}
    number = sum(p.numel() for p in parser.get_parsed_content("network").parameters())
    assert sum(p.numel() for group in (kernels, others) for p in group["params"]) == number


@pytest.mark.parametrize(("workflow_type", "name"), [("train", "train"), ("infer", "inference")])
def test_every_property_that_monai_expects_is_there(workflow_type, name, phantoms, tmp_path):
    keys = {"dataset_dir": str(phantoms), "output_dir": str(tmp_path), "ckpt_dir": str(tmp_path), **TINY}
    workflow = ConfigWorkflow(NVNET.config(name), workflow_type=workflow_type, logging_file=False, **keys)
    workflow.initialize()
    assert workflow.check_properties() == []


def test_bias_correction_is_one_key_away(phantoms):
    """The image changes, its grid and its background do not."""
    pytest.importorskip("itk")
    item = datalist(phantoms)[0]
    plain, corrected = (
        NVNET.parse("inference", bias_correction=wanted).get_parsed_content("preprocessing")(dict(item))["image"]
        for wanted in (False, True)
    )
    assert torch.equal(plain.affine, corrected.affine)
    assert torch.equal(plain == 0, corrected == 0)
    assert (plain - corrected).abs().max() > 0.05


def test_training_images_are_crops_and_regions(phantoms, tmp_path):
    keys = {"dataset_dir": str(phantoms), "output_dir": str(tmp_path), **TINY}
    batch = next(iter(NVNET.parse("train", **keys).get_parsed_content("train#dataloader")))
    assert batch["image"].shape == (1, 4, 32, 32, 16)
    assert batch["label"].shape == (1, 3, 32, 32, 16)
    assert set(batch["label"].unique().tolist()) <= {0, 1}


def test_training_leaves_a_model_its_terms_and_a_picture(trained):
    output = Path(trained["output_dir"])
    state = torch.load(Path(trained["ckpt_dir"]) / "model.pt", weights_only=True)
    assert any(name.startswith("vae.") for name in state)
    entry = json.loads((output / "training.jsonl").read_text().splitlines()[-1])
    terms = entry["loss_dice"] + entry["loss_reconstruction"] + entry["loss_kl"]
    assert entry["loss"] == pytest.approx(terms, rel=1e-4)
    assert {"val_dice_WT", "val_dice_TC", "val_dice_ET"} <= set(entry)
    assert (output / "reconstruction.png").read_bytes().startswith(b"\x89PNG")


def test_cases_are_prepared_once(trained, tmp_path):
    before = sorted(Path(trained["output_dir"], "cache").iterdir())
    assert len(before) == 2
    places = {"ckpt_dir": str(tmp_path), "output_dir": str(tmp_path), "val_interval": 0}
    places |= {"cache_dir": str(before[0].parent), "split_file": f"{trained['output_dir']}/split.json"}
    NVNET.run("training", "train", **{**trained, **places}, modality_dropout=0.3)
    assert sorted(before[0].parent.iterdir()) == before


def test_training_without_the_branch(trained, tmp_path):
    keys = {**trained, "ckpt_dir": str(tmp_path), "output_dir": str(tmp_path), "val_interval": 0, "vae": False}
    NVNET.run("training", "train", **keys)
    entry = json.loads((tmp_path / "training.jsonl").read_text())
    assert "loss_reconstruction" not in entry
    assert not (tmp_path / "reconstruction.png").exists()


def test_evaluation_needs_no_branch(trained, tmp_path):
    keys = {**trained, "output_dir": str(tmp_path), "evaluation_section": "test"}
    keys |= {"split_file": f"{trained['output_dir']}/split.json", "crop_size": [16, 16, 16]}
    NVNET.run("evaluating", "train", "evaluate", **keys)
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert [case["case"] for case in report["cases"]] == load_split(keys["split_file"])["test"]


@pytest.mark.parametrize("mode", ["whole", "windows"])
def test_inference_writes_patient_space_results(trained, phantoms, tmp_path, mode):
    NVNET.run("inferring", "inference", **{**trained, "output_dir": str(tmp_path)}, inferer_mode=mode)
    for item in datalist(phantoms):
        folder = tmp_path / item["case"]
        source = nibabel.load(item["label"])
        result = nibabel.load(folder / f"{item['case']}_prediction.nii.gz")
        assert result.shape == source.shape
        np.testing.assert_allclose(result.affine, source.affine)
        assert result.get_data_dtype() == np.uint8
        assert set(np.unique(result.get_fdata())) <= {0, 1, 2, 4}
        for name in ("volumes.json", "volumes_label.json", "overlay.png", "WT_label.obj"):
            assert (folder / f"{item['case']}_{name}").is_file()


def test_an_ensemble_of_flips_and_checkpoints_tells_its_doubt(trained, phantoms, tmp_path):
    model = f"{trained['ckpt_dir']}/model.pt"
    other = torch.load(model, weights_only=True)
    other["conv_final.2.conv.bias"] += 1
    torch.save(other, tmp_path / "other.pt")
    case = datalist(phantoms)[0]
    keys = {**trained, **PICTURES_OFF, "dataset_dir": str(Path(case["label"]).parent), "output_dir": str(tmp_path)}
    keys |= {"mirror_axes": [0, 1, 2], "ensemble": [model, str(tmp_path / "other.pt")]}
    NVNET.run("inferring", "inference", **keys, save_uncertainty=True, save_probabilities=True)
    doubt = nibabel.load(tmp_path / case["case"] / f"{case['case']}_uncertainty.nii.gz")
    assert doubt.shape == (40, 40, 28, 3)
    inside = nibabel.load(case["image"][0]).get_fdata() != 0
    assert 0.05 < np.median(doubt.get_fdata()[inside]) < 0.5
    assert nibabel.load(tmp_path / case["case"] / f"{case['case']}_probabilities.nii.gz").shape == (40, 40, 28, 3)


def test_results_make_a_submission(trained, phantoms, tmp_path):
    """All checks but the shape, which phantoms of this size cannot have, pass for what inference writes."""
    NVNET.run("inferring", "inference", **{**trained, **PICTURES_OFF, "output_dir": str(tmp_path / "results")})
    with pytest.raises(ValueError, match="shape") as error:
        write_submission(tmp_path / "results", tmp_path / "out.zip", 2020)
    faults = str(error.value).splitlines()[1:]
    assert len(faults) == 4
    assert all("240" in fault for fault in faults)


def test_an_absent_modality_is_accepted_by_a_model_trained_so(trained, incomplete, tmp_path):
    keys = {**trained, **PICTURES_OFF, "dataset_dir": str(incomplete), "output_dir": str(tmp_path / "out")}
    NVNET.run("inferring", "inference", **keys)
    assert len(list((tmp_path / "out").glob("*/*_prediction.nii.gz"))) == 1


def test_an_absent_modality_is_refused_by_any_other_model(trained, incomplete, tmp_path):
    state = torch.load(f"{trained['ckpt_dir']}/model.pt", weights_only=True)
    state["modality_dropout.trained"] = torch.tensor(False)
    torch.save(state, tmp_path / "model.pt")
    keys = {**trained, "dataset_dir": str(incomplete), "ckpt_dir": str(tmp_path), "output_dir": str(tmp_path)}
    with pytest.raises(Exception, match=r".") as error:
        NVNET.run("inferring", "inference", **keys)
    message = find_input_error(error.value)
    assert "FLAIR missing" in message
    assert "modality_dropout" in message


def test_weights_of_the_model_zoo_run(phantoms, tmp_path):
    torch.save(SegResNet(init_filters=16, in_channels=4, out_channels=3).state_dict(), tmp_path / "zoo.pt")
    convert_segresnet_checkpoint(tmp_path / "zoo.pt", tmp_path / "model.pt")
    keys = {**PICTURES_OFF, "dataset_dir": str(next(phantoms.iterdir())), "ckpt_dir": str(tmp_path)}
    keys |= {"output_dir": str(tmp_path), "init_filters": 16, "final_norm": True, "num_workers": 0}
    NVNET.run("inferring", "inference", **keys)
    assert len(list(tmp_path.glob("*/*_prediction.nii.gz"))) == 1


@pytest.mark.parametrize("key", ["crop_size=[100,96,96]", "init_filters=12", "modality_dropout=1.5"])
def test_a_key_that_cannot_be_is_one_line(phantoms, tmp_path, key):
    options = [f"--dataset_dir={phantoms}", f"--output_dir={tmp_path}", f"--ckpt_dir={tmp_path}", f"--{key}"]
    done = command(["training"], REPOSITORY, "--config_file", *NVNET.config("train"), *options)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode != 0
    assert len(errors) == 1
    assert key.split("=")[0] in errors[0]
    assert "Traceback" not in done.stderr
