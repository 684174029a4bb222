"""The bundle ossnet_brats: its configs agree, and the whole path runs from files to patient space."""

import csv
import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from monai.transforms import Invertd

from custom_nets.datasets import datalist, load_split
from custom_nets.tools import stack_case
from tests.bundles.bundle import Bundle, command, launch
from tests.conftest import REPOSITORY

OSSNET = Bundle("ossnet_brats")
BUNDLE, config, parse, run = OSSNET.folder, OSSNET.config, OSSNET.parse, OSSNET.run

# A network and a run as small as the configs allow.
TINY = {
    "image_size": [32, 32, 32],
    "channels": [8, 8, 8],
    "hidden_features": 16,
    "epochs": 1,
    "epoch_length": 2,
    "batch_size": 1,
    "num_points": 64,
    "num_workers": 0,
    "val_interval": 1,
    "validation": 1,
    "test": 1,
    "coarse_step": 8,
    "scan_step": 8,
    "early_stop_patience": 5,
}


@pytest.fixture(scope="session")
def trained(phantoms, tmp_path_factory) -> dict:
    """A run of two steps: keys that the other steps take over."""
    folder = tmp_path_factory.mktemp("run")
    keys = {
        "dataset_dir": str(phantoms),
        "ckpt_dir": str(folder / "models"),
        "output_dir": str(folder / "eval"),
        **TINY,
    }
    run("training", "train", **keys)
    return keys


@pytest.mark.parametrize(
    ("variant", "parameters"),
    [("onet", 6_890_753), ("a", 7_245_438), ("b", 7_254_358), ("c", 8_695_733), ("d", 8_704_653)],
)
def test_paper_restores_the_published_network(variant, parameters):
    net = parse("train", "paper", variant=variant).get_parsed_content("network_def")
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert net.coordinates == "voxel"
    assert net.grid_size == (128, 128, 80)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_cached_cases_stay_on_the_device(device, phantoms, tmp_path):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    keys = {"dataset_dir": str(phantoms), "ckpt_dir": str(tmp_path), "output_dir": str(tmp_path), **TINY}
    keys |= {"device": device, "cache_device": device, "epochs": 2, "val_interval": 0, "num_workers": 2}
    workflow = run("training", "train", **keys)
    loader = workflow.parser.get_parsed_content("train#dataloader")
    assert loader.num_workers == 0
    for item in loader.dataset:
        assert {tensor.device.type for tensor in item.values()} == {device}
    losses = [json.loads(line)["loss"] for line in (tmp_path / "training.jsonl").read_text().splitlines()]
    assert len(losses) == 2
    assert all(map(np.isfinite, losses))


@pytest.mark.parametrize("override", ["variant", "paper"])
def test_published_variants_train(override, phantoms, tmp_path):
    keys = {"dataset_dir": str(phantoms), "ckpt_dir": str(tmp_path), "output_dir": str(tmp_path), **TINY}
    keys |= {"grid_size": [32, 32, 32], "val_interval": 0}
    run("training", "train", override, **keys)
    assert "encoder.to_latent.conv.weight" in torch.load(tmp_path / "model.pt", weights_only=True)


@pytest.mark.parametrize(("workflow_type", "name"), [("train", "train"), ("infer", "inference")])
def test_every_property_that_monai_expects_is_there(workflow_type, name, phantoms, tmp_path):
    keys = {"dataset_dir": str(phantoms), "output_dir": str(tmp_path), "ckpt_dir": str(tmp_path), **TINY}
    workflow = ConfigWorkflow(config(name), workflow_type=workflow_type, logging_file=False, **keys)
    workflow.initialize()
    assert workflow.check_properties() == []


def test_a_missing_model_is_one_line(phantoms, tmp_path):
    places = [f"--dataset_dir={phantoms}", f"--output_dir={tmp_path}", f"--ckpt_dir={tmp_path}"]
    done = command([], REPOSITORY, "--config_file", "bundles/ossnet_brats/configs/inference.json", *places)
    assert done.returncode != 0
    assert f"error: {tmp_path}/model.pt: there is no such model" in done.stderr
    assert "Traceback" not in done.stderr


def test_paper_pads_as_published():
    pad = parse("inference", "paper").get_parsed_content("preprocessing").transforms[-1]
    image = pad({"image": torch.ones(1, 240, 240, 155)})["image"][0]
    assert image.shape == (256, 256, 160)
    inside = image.nonzero()
    assert inside.min(0).values.tolist() == [8, 8, 3]
    assert inside.max(0).values.tolist() == [247, 247, 157]


def test_training_leaves_checkpoints_and_logs(trained):
    models, output = Path(trained["ckpt_dir"]), Path(trained["output_dir"])
    state = torch.load(models / "model.pt", weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    whole = torch.load(models / "checkpoint_last.pt", weights_only=True)
    assert set(whole) == {"network", "optimizer", "lr_scheduler", "random_state", "trainer"}
    assert (models / "checkpoint_best.pt").is_file()
    entry = json.loads((output / "training.jsonl").read_text().splitlines()[-1])
    assert entry["epoch"] == 1
    assert np.isfinite(entry["loss"])
    assert {"val_dice", "val_dice_WT", "val_dice_TC", "val_dice_ET"} <= set(entry)
    assert list((output / "tensorboard").glob("events*"))
    assert {k: len(v) for k, v in load_split(output / "split.json").items()} == {
        "training": 2,
        "validation": 1,
        "test": 1,
    }


def test_a_run_goes_on_where_it_ended(trained, tmp_path):
    shutil.copytree(trained["ckpt_dir"], tmp_path / "models")
    keys = {**trained, "ckpt_dir": str(tmp_path / "models"), "output_dir": str(tmp_path), "epochs": 3}
    run("training", "train", **keys, resume=True)
    epochs = [json.loads(line)["epoch"] for line in (tmp_path / "training.jsonl").read_text().splitlines()]
    assert epochs == [2, 3]


def test_evaluation_writes_every_case_and_region(trained, tmp_path):
    split_file = f"{trained['output_dir']}/split.json"
    keys = {**trained, "output_dir": str(tmp_path), "evaluation_section": "test", "split_file": split_file}
    run("evaluating", "train", "evaluate", **keys)
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["region"] for row in rows] == ["WT", "TC", "ET"]
    assert {row["case"] for row in rows} == set(load_split(Path(trained["output_dir"]) / "split.json")["test"])
    assert all(np.isfinite(float(row[name])) for row in rows for name in ("dice", "iou", "hd95_mm"))


def test_inference_writes_patient_space_results(trained, phantoms, tmp_path):
    run("inferring", "inference", **{**trained, "output_dir": str(tmp_path)}, save_probabilities=True)
    for item in datalist(phantoms):
        folder = tmp_path / item["case"]
        source = nibabel.load(item["label"])
        result = nibabel.load(folder / f"{item['case']}_prediction.nii.gz")
        assert result.shape == source.shape
        np.testing.assert_allclose(result.affine, source.affine)
        assert result.get_data_dtype() == np.uint8
        assert set(np.unique(result.get_fdata())) <= {0, 1, 2, 4}
        probabilities = nibabel.load(folder / f"{item['case']}_probabilities.nii.gz")
        assert probabilities.shape == (*source.shape, 3)
        assert bytes(probabilities.header["descrip"]).rstrip(b"\0") == b"channels: WT, TC, ET"
        for name in ("volumes.json", "volumes_label.json", "overlay.png", "WT_label.obj"):
            assert (folder / f"{item['case']}_{name}").is_file()


def test_results_of_another_spacing_lie_where_the_image_does(trained, phantoms, tmp_path):
    """Phantom voxels are 6 x 6 x 5.54 mm; queried at 3 mm, the result covers the same patient."""
    item = datalist(phantoms)[0]
    keys = {**trained, "dataset_dir": str(Path(item["label"]).parent), "output_dir": str(tmp_path)}
    run("inferring", "inference", **keys, output_spacing=3, save_probabilities=True)
    folder = tmp_path / item["case"]
    result, source = nibabel.load(folder / f"{item['case']}_prediction.nii.gz"), nibabel.load(item["image"][0])
    np.testing.assert_allclose(nibabel.affines.voxel_sizes(result.affine), 3, rtol=1e-5)
    inside = np.argwhere(source.get_fdata() != 0)
    corners = nibabel.affines.apply_affine(np.linalg.inv(result.affine) @ source.affine, [inside.min(0), inside.max(0)])
    assert (np.sort(corners, axis=0)[0] > -1).all()
    assert (np.sort(corners, axis=0)[1] < np.array(result.shape)).all()


def test_one_4d_file_without_label_is_inferred(trained, phantoms, tmp_path):
    item = datalist(phantoms)[0]
    file = tmp_path / "BRATS_007.nii.gz"
    stack_case(item["image"], file)
    run("inferring", "inference", **{**trained, "dataset_dir": str(file), "output_dir": str(tmp_path / "out")})
    assert nibabel.load(tmp_path / "out" / "BRATS_007" / "BRATS_007_prediction.nii.gz").shape == (40, 40, 28)


def test_a_faulty_case_does_not_stop_the_others(trained, phantoms, tmp_path, caplog):
    shutil.copytree(phantoms, tmp_path / "data")
    (tmp_path / "data" / "BraTS20_Training_001" / "BraTS20_Training_001_t1ce.nii.gz").unlink()
    places = {"dataset_dir": str(tmp_path / "data"), "output_dir": str(tmp_path / "out")}
    with pytest.raises(SystemExit) as ended:
        run("inferring", "inference", **{**trained, **places}, save_meshes=False, save_overlay=False)
    assert ended.value.code == 3
    folders = sorted(path.name for path in (tmp_path / "out").glob("[!.]*") if path.is_dir())
    assert folders == [f"BraTS20_Training_00{n}" for n in (2, 3, 4)]
    assert "left out: case BraTS20_Training_001" in caplog.text


@pytest.mark.parametrize("axes", ["LPS", "RAS", "PIR", "SLA"])
def test_results_return_to_the_input_grid(phantoms, tmp_path, axes):
    """What is inside the brain before preprocessing is inside after it and its inverse, for any orientation."""
    item = dict(datalist(phantoms)[1])
    files = []
    for number, name in enumerate([*item["image"], item["label"]]):
        image = nibabel.load(name)
        turn = nibabel.orientations.ornt_transform(
            nibabel.io_orientation(image.affine), nibabel.orientations.axcodes2ornt(axes)
        )
        files.append(str(tmp_path / f"case_{('flair', 't1', 't1ce', 't2', 'seg')[number]}.nii.gz"))
        nibabel.save(image.as_reoriented(turn), files[-1])
    item.update(image=files[:4], label=files[4])
    preprocessing = parse("train", **TINY).get_parsed_content("preprocessing")
    data = preprocessing(item)
    data["pred"] = (data["image"][:1] != 0).float()
    inverse = Invertd("pred", preprocessing, orig_keys="image", nearest_interp=False)
    result = inverse(data)["pred"]
    expected = nibabel.load(files[0])
    assert tuple(result.shape[1:]) == expected.shape
    np.testing.assert_array_equal(np.asarray(result[0]) > 0.5, expected.get_fdata() != 0)
    np.testing.assert_allclose(result.affine, expected.affine, atol=1e-5)


@pytest.mark.parametrize(
    ("cwd", "configs", "run_id"),
    [(BUNDLE, "configs", ["inferring"]), (REPOSITORY, "bundles/ossnet_brats/configs", [])],
    ids=["bundle folder, run inferring", "repository root, run"],
)
def test_the_documented_command_works_from_both_folders(trained, tmp_path, cwd, configs, run_id):
    keys = {**trained, "output_dir": str(tmp_path), "save_overlay": False, "evaluation_section": "test"}
    keys["split_file"] = f"{trained['output_dir']}/split.json"
    options = [f"--{key}={value}" for key, value in keys.items()]
    done = launch(run_id, cwd, "--config_file", f"{configs}/inference.json", *options)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("*/*_prediction.nii.gz"))) == 1


def test_bad_input_is_one_line_before_any_step(phantoms, tmp_path):
    shutil.copytree(phantoms, tmp_path / "data")
    (tmp_path / "data" / "BraTS20_Training_002" / "BraTS20_Training_002_t2.nii.gz").unlink()
    done = command(["training"], REPOSITORY, "--config_file", "bundles/ossnet_brats/configs/train.json",
                   f"--dataset_dir={tmp_path / 'data'}", f"--output_dir={tmp_path}", f"--ckpt_dir={tmp_path}",
                   "--validation=1")  # fmt: skip
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode != 0
    assert len(errors) == 1
    assert "BraTS20_Training_002" in errors[0]
    assert "T2 missing" in errors[0]
    assert "Traceback" not in done.stderr
