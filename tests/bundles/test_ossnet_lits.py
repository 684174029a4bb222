"""The bundle ossnet_lits: its configs agree, and the whole path runs from files to patient space."""

import csv
import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow

from custom_nets.datasets import datalist, load_split
from custom_nets.networks import PyramidOSSNet
from tests.bundles.bundle import Bundle, command, launch
from tests.conftest import REPOSITORY

OSSNET = Bundle("ossnet_lits")
BUNDLE, config, parse, run = OSSNET.folder, OSSNET.config, OSSNET.parse, OSSNET.run

# A network and a run as small as the configs allow, for phantoms with voxels of about 8 mm.
TINY = {
    "spacing": 8.0,
    "downsampling": 1,
    "channels": [8, 8, 8],
    "hidden_features": 16,
    "epochs": 1,
    "epoch_length": 2,
    "batch_size": 2,
    "num_points": 64,
    "num_workers": 0,
    "val_interval": 1,
    "validation": 1,
    "test": 1,
    "coarse_step": 32,
    "candidate_step": 16,
}
PLAIN = {"save_meshes": False, "save_overlay": False}


def places(dataset_dir: Path, folder: Path) -> dict[str, str]:
    return {"dataset_dir": str(dataset_dir), "ckpt_dir": str(folder / "models"), "output_dir": str(folder / "eval")}


def copy_case(phantoms: Path, number: int, folder: Path, **names: str) -> None:
    """Copies a phantom, under other names where there are any: `volume` and `segmentation`, each a path in `folder`."""
    for kind in ("volume", "segmentation"):
        file = folder / (names.get(kind, f"{kind}-{number}") + ".nii.gz")
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(phantoms / f"{kind}-{number}.nii.gz", file)


def results(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("[!.]*") if path.is_dir())


@pytest.fixture(scope="session")
def trained(abdomen_phantoms, tmp_path_factory) -> dict:
    """A run of two steps: keys that the other steps take over."""
    keys = {**places(abdomen_phantoms, tmp_path_factory.mktemp("run")), **TINY}
    run("training", "train", **keys)
    return keys


@pytest.fixture(scope="session")
def inferred(trained, tmp_path_factory) -> Path:
    """What inference writes for two of the phantoms, one without a tumour."""
    folder = tmp_path_factory.mktemp("inferred")
    for number in (1, 3):
        copy_case(Path(trained["dataset_dir"]), number, folder / "data")
    keys = {**trained, "dataset_dir": str(folder / "data"), "output_dir": str(folder)}
    run("inferring", "inference", **keys, save_probabilities=True)
    return folder


@pytest.mark.parametrize("override", ["demo", "overfit"])
def test_small_set_ups_keep_the_network_of_the_bundle(override):
    assert isinstance(parse("train", override).get_parsed_content("network_def"), PyramidOSSNet)


@pytest.mark.parametrize(
    ("variant", "parameters"),
    [("onet", 9_057_237), ("a", 9_409_177), ("b", 9_409_520), ("c", 10_866_490), ("d", 10_866_833)],
)
def test_paper_restores_the_published_network(variant, parameters):
    net = parse("train", "paper", variant=variant).get_parsed_content("network_def")
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert net.coordinates == "voxel"
    assert net.grid_size == (256, 256, 256)


def test_paper_restores_the_published_sampling():
    parser = parse("train", "paper")
    assert parser["border_balance"] == 0.5
    assert parser["uncertain_share"] == 0
    assert parser["regions"] == ["liver"]


@pytest.mark.parametrize("first", ["train", "inference"])
def test_paper_stretches_every_scan_to_one_size(first):
    assert parse(first, "paper")["image_size"] == [512, 512, 512]
    parser = parse(first, "paper", image_size=[16, 16, 16])
    stretch = parser.get_parsed_content("preprocessing").transforms[-1]
    assert stretch({"image": torch.rand(1, 8, 6, 3)})["image"].shape == (1, 16, 16, 16)


@pytest.mark.parametrize(("override", "numbers"), [("variant", {0, 1, 2}), ("paper", {0, 1})])
def test_published_networks_train_and_infer(override, numbers, abdomen_phantoms, tmp_path):
    copy_case(abdomen_phantoms, 1, tmp_path / "data")
    keys = {**places(abdomen_phantoms, tmp_path), **TINY, "val_interval": 0}
    keys |= {"grid_size": [32, 32, 32], "image_size": [64, 64, 64], "variant": "a"}
    run("training", "train", override, **keys)
    assert "encoder.to_latent.conv.weight" in torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    keys |= {"dataset_dir": str(tmp_path / "data"), "output_dir": str(tmp_path)}
    run("inferring", "inference", override, **keys, **PLAIN)
    source = nibabel.load(tmp_path / "data" / "volume-1.nii.gz")
    result = nibabel.load(tmp_path / "volume-1" / "volume-1_prediction.nii.gz")
    assert result.shape == source.shape
    assert set(np.unique(result.dataobj)) <= numbers


@pytest.mark.parametrize(("workflow_type", "name"), [("train", "train"), ("infer", "inference")])
def test_every_property_that_monai_expects_is_there(workflow_type, name, abdomen_phantoms, tmp_path):
    keys = {**places(abdomen_phantoms, tmp_path), **TINY}
    workflow = ConfigWorkflow(config(name), workflow_type=workflow_type, logging_file=False, **keys)
    workflow.initialize()
    assert workflow.check_properties() == []


def test_training_leaves_checkpoints(trained):
    models = Path(trained["ckpt_dir"])
    state = torch.load(models / "model.pt", weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    whole = torch.load(models / "checkpoint_last.pt", weights_only=True)
    assert set(whole) == {"network", "optimizer", "lr_scheduler", "random_state", "trainer"}
    assert (models / "checkpoint_best.pt").is_file()


def test_training_leaves_logs(trained):
    output = Path(trained["output_dir"])
    entry = json.loads((output / "training.jsonl").read_text().splitlines()[-1])
    assert entry["epoch"] == 1
    assert np.isfinite(entry["loss"])
    assert {"val_dice", "val_dice_liver", "val_dice_tumour"} <= set(entry)
    assert list((output / "tensorboard").glob("events*"))


def test_training_leaves_its_split(trained):
    split = load_split(Path(trained["output_dir"]) / "split.json")
    assert {name: len(cases) for name, cases in split.items()} == {"training": 2, "validation": 1, "test": 1}


def test_a_run_goes_on_where_it_ended(trained, tmp_path):
    shutil.copytree(trained["ckpt_dir"], tmp_path / "models")
    keys = {**trained, **places(trained["dataset_dir"], tmp_path), "epochs": 2, "val_interval": 0}
    run("training", "train", **keys, resume=True)
    log = (tmp_path / "eval" / "training.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in log] == [2]


def test_scans_of_different_sizes_make_a_batch(trained):
    loader = parse("train", **trained).get_parsed_content("train#dataloader")
    shapes = [item["image"].shape for item in loader.dataset]
    assert shapes[0] != shapes[1]
    assert next(iter(loader))["image"].shape[0] == 2


@pytest.mark.parametrize("name", ["train", "inference"])
def test_the_window_of_hounsfield_units_is_a_key(name, trained):
    item = datalist(trained["dataset_dir"])[0]
    units = np.asarray(nibabel.load(item["image"]).dataobj)
    image = parse(name, **trained, hu_window=[0, 100]).get_parsed_content("preprocessing")(item)["image"]
    assert int((image == 100 / 128).sum()) == (units >= 100).sum()


def test_evaluation_writes_every_case_and_region(trained, tmp_path):
    split_file = f"{trained['output_dir']}/split.json"
    keys = {**trained, "output_dir": str(tmp_path), "evaluation_section": "training", "split_file": split_file}
    run("evaluating", "train", "evaluate", **keys)
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    cases = load_split(split_file)["training"]
    assert {(row["case"], row["region"]) for row in rows} == {(c, r) for c in cases for r in ("liver", "tumour")}
    assert all(np.isfinite(float(row[name])) for row in rows for name in ("dice", "iou", "hd95_mm"))


def test_a_label_without_tumour_trains_and_is_scored(abdomen_phantoms, tmp_path):
    copy_case(abdomen_phantoms, 3, tmp_path / "data")
    label = np.asarray(nibabel.load(tmp_path / "data" / "segmentation-3.nii.gz").dataobj)
    assert set(np.unique(label)) == {0, 1}
    run("training", "train", "overfit", **{**places(tmp_path / "data", tmp_path), **TINY})
    entry = json.loads((tmp_path / "eval" / "training.jsonl").read_text())
    assert np.isfinite(entry["loss"])
    assert 0 <= entry["val_dice_liver"] <= 1
    assert entry["val_dice_tumour"] in (0, 1)


@pytest.mark.parametrize("number", [1, 3])
def test_the_label_map_lies_on_the_grid_of_the_scan(number, inferred):
    source = nibabel.load(inferred / "data" / f"volume-{number}.nii.gz")
    result = nibabel.load(inferred / f"volume-{number}" / f"volume-{number}_prediction.nii.gz")
    assert result.shape == source.shape
    np.testing.assert_allclose(result.affine, source.affine, atol=1e-3)
    assert result.get_data_dtype() == np.uint8
    assert set(np.unique(result.dataobj)) <= {0, 1, 2}


def test_probabilities_lie_on_the_grid_of_the_scan(inferred):
    source = nibabel.load(inferred / "data" / "volume-1.nii.gz")
    probabilities = nibabel.load(inferred / "volume-1" / "volume-1_probabilities.nii.gz")
    assert probabilities.shape == (*source.shape, 2)
    np.testing.assert_allclose(probabilities.affine, source.affine, atol=1e-3)


def test_every_region_has_a_mesh(inferred):
    label = {path.name for path in (inferred / "volume-1").glob("*_label.obj")}
    assert label == {"volume-1_liver_label.obj", "volume-1_tumour_label.obj"}
    volumes = json.loads((inferred / "volume-1" / "volume-1_volumes.json").read_text())["regions"]
    for region in ("liver", "tumour"):
        assert (inferred / "volume-1" / f"volume-1_{region}.obj").is_file() == (volumes[region]["voxels"] > 0)


def test_no_tumour_is_no_mesh(inferred):
    assert [path.name for path in (inferred / "volume-3").glob("*_label.obj")] == ["volume-3_liver_label.obj"]


def test_tumours_are_counted_and_measured(inferred):
    label = np.asarray(nibabel.load(inferred / "data" / "segmentation-1.nii.gz").dataobj)
    report = json.loads((inferred / "volume-1" / "volume-1_volumes_label.json").read_text())
    tumour = report["regions"]["tumour"]
    assert tumour["voxels"] == (label == 2).sum()
    assert len(tumour["parts"]) == tumour["components"] > 0
    assert sum(part["ml"] for part in tumour["parts"]) == pytest.approx(tumour["ml"])
    assert "parts" not in report["regions"]["liver"]


@pytest.mark.parametrize("file", ["volume-1/volume-1_volumes.json", "volume-1/volume-1_overlay.png", "cases.json"])
def test_inference_writes(file, inferred):
    assert (inferred / file).stat().st_size > 0


def test_the_picture_is_the_same_as_of_the_file_read_again(trained, inferred, tmp_path):
    image_module = pytest.importorskip("PIL.Image")
    keys = {**trained, "dataset_dir": str(inferred / "data"), "output_dir": str(tmp_path), "save_meshes": False}
    run("inferring", "inference", **keys, reread_image=True)
    file = "volume-1/volume-1_overlay.png"
    pictures = [np.asarray(image_module.open(folder / file)) for folder in (inferred, tmp_path)]
    np.testing.assert_array_equal(*pictures)


def test_results_of_another_spacing_lie_where_the_scan_does(trained, inferred, tmp_path):
    file = inferred / "data" / "volume-1.nii.gz"
    keys = {**trained, "dataset_dir": str(file), "output_dir": str(tmp_path)}
    run("inferring", "inference", **keys, **PLAIN, output_spacing=12)
    result, source = nibabel.load(tmp_path / "volume-1" / "volume-1_prediction.nii.gz"), nibabel.load(file)
    np.testing.assert_allclose(nibabel.affines.voxel_sizes(result.affine), 12, rtol=1e-5)
    units = source.get_fdata()
    inside = np.argwhere(units > -200)  # what is darker is cropped
    corners = nibabel.affines.apply_affine(np.linalg.inv(result.affine) @ source.affine, [inside.min(0), inside.max(0)])
    assert (np.sort(corners, axis=0)[0] > -1).all()
    assert (np.sort(corners, axis=0)[1] < np.array(result.shape)).all()


def test_one_file_without_label_is_inferred(trained, tmp_path):
    file = shutil.copy(Path(trained["dataset_dir"]) / "volume-1.nii.gz", tmp_path / "volume-7.nii.gz")
    keys = {**trained, "dataset_dir": str(file), "output_dir": str(tmp_path / "out")}
    run("inferring", "inference", **keys, **PLAIN)
    names = {path.name for path in (tmp_path / "out" / "volume-7").iterdir()}
    assert names == {"volume-7_prediction.nii.gz", "volume-7_volumes.json"}


def test_one_file_with_its_label_beside_it_is_inferred(trained, tmp_path):
    keys = {**trained, "dataset_dir": f"{trained['dataset_dir']}/volume-3.nii.gz", "output_dir": str(tmp_path)}
    run("inferring", "inference", **keys, **PLAIN)
    assert results(tmp_path) == ["volume-3"]
    assert (tmp_path / "volume-3" / "volume-3_volumes_label.json").is_file()


def test_a_dicom_series_is_inferred_as_the_same_scan_in_one_file(trained, inferred, tmp_path):
    from tests.io.test_dicom import write_series  # skips where itk is not installed

    highdicom = pytest.importorskip("highdicom")
    # Right, front, up: the slices of a series run along their normal.
    scan, expected = (
        nibabel.as_closest_canonical(nibabel.load(inferred / name))
        for name in ("data/volume-1.nii.gz", "volume-1/volume-1_prediction.nii.gz")
    )
    write_series(tmp_path / "patient7", np.asarray(scan.dataobj), scan.affine, tags={"0020|0052": "1.2.3.9"})
    keys = {**trained, "dataset_dir": str(tmp_path / "patient7"), "output_dir": str(tmp_path / "out")}
    run("inferring", "inference", **keys, **PLAIN, dicom_formats=["seg", "rtstruct"])
    result = nibabel.load(tmp_path / "out" / "patient7" / "patient7_prediction.nii.gz")
    np.testing.assert_allclose(result.affine, scan.affine, atol=1e-2)
    assert result.shape == scan.shape
    assert np.mean(result.get_fdata() != expected.get_fdata()) < 1e-3
    segmentation = highdicom.seg.segread(tmp_path / "out" / "patient7" / "patient7_seg.dcm")
    for number, region in ((1, result.get_fdata() > 0), (2, result.get_fdata() == 2)):
        frames = segmentation.get_volume(segment_numbers=[number], allow_missing_positions=True).squeeze_channel()
        assert frames.array.sum() == region.sum()
    assert segmentation.SegmentSequence[0].SegmentAlgorithmName == "OSS-Net liver and liver tumour segmentation"
    assert (tmp_path / "out" / "patient7" / "patient7_rtstruct.dcm").is_file()


def test_a_faulty_case_does_not_stop_the_others(trained, tmp_path, caplog):
    data = tmp_path / "data"
    for number in (1, 3):
        copy_case(Path(trained["dataset_dir"]), number, data)
    (data / "volume-2.nii.gz").write_bytes((data / "volume-1.nii.gz").read_bytes()[:100])
    scan = nibabel.load(data / "volume-1.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.full(scan.shape, np.nan, np.float32), scan.affine), data / "volume-4.nii.gz")
    keys = {**trained, "dataset_dir": str(data), "output_dir": str(tmp_path / "out")}
    with pytest.raises(SystemExit) as ended:
        run("inferring", "inference", **keys, **PLAIN)
    assert ended.value.code == 3
    assert results(tmp_path / "out") == ["volume-1", "volume-3"]
    reasons = [message for message in caplog.messages if message.startswith("left out: ")]
    assert [reason.split(",")[0] for reason in reasons] == ["left out: case volume-2", "left out: case volume-4"]


def lits_2017(phantoms: Path, folder: Path) -> None:
    """Both training batches."""
    for number in range(3):
        copy_case(phantoms, number, folder / f"Training Batch {1 + number // 2}")


def decathlon(phantoms: Path, folder: Path) -> None:
    """Task03, three labelled cases and one without a label."""
    for number in range(3):
        copy_case(phantoms, number, folder, volume=f"imagesTr/liver_{number}", segmentation=f"labelsTr/liver_{number}")
    (folder / "imagesTs").mkdir()
    shutil.copy(phantoms / "volume-3.nii.gz", folder / "imagesTs" / "liver_3.nii.gz")
    (folder / "dataset.json").write_text('{"modality": {"0": "CT"}}')


@pytest.mark.parametrize(("write", "name"), [(lits_2017, "volume-"), (decathlon, "liver_")])
def test_the_layouts_of_both_releases_train(write, name, abdomen_phantoms, tmp_path):
    write(abdomen_phantoms, tmp_path / "data")
    keys = {**places(tmp_path / "data", tmp_path), **TINY, "test": 0, "epoch_length": 1, "val_interval": 0}
    run("training", "train", **keys)
    split = load_split(tmp_path / "eval" / "split.json")
    assert sorted(split["training"] + split["validation"]) == [f"{name}{number}" for number in range(3)]


@pytest.mark.parametrize(
    ("names", "key"),
    [(["train"], "training_cases"), (["train", "evaluate"], "validation_cases"), (["inference"], "dataset#data")],
    ids=["training", "evaluation", "inference"],
)
def test_cases_with_identity_affines_can_be_left_out(names, key, abdomen_phantoms, tmp_path):
    copy_case(abdomen_phantoms, 0, tmp_path)
    for name in ("volume", "segmentation"):
        image = nibabel.load(abdomen_phantoms / f"{name}-1.nii.gz")
        nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), np.eye(4)), tmp_path / f"{name}-28.nii.gz")
    keys = {**places(tmp_path, tmp_path), "split_file": None, "validation": 0, "evaluation_section": "training"}
    kept, left = (
        parse(*names, **keys, identity_affines=choice, test=0).get_parsed_content(key)
        for choice in ("keep", "leave_out")
    )
    assert [item["case"] for item in kept] == ["volume-0", "volume-28"]
    assert [item["case"] for item in left] == ["volume-0"]


@pytest.mark.parametrize(
    ("cwd", "configs", "run_id"),
    [(BUNDLE, "configs", ["inferring"]), (REPOSITORY, "bundles/ossnet_lits/configs", [])],
    ids=["bundle folder, run inferring", "repository root, run"],
)
def test_the_documented_command_works_from_both_folders(trained, tmp_path, cwd, configs, run_id):
    keys = {**trained, **PLAIN, "output_dir": str(tmp_path), "evaluation_section": "test"}
    keys["split_file"] = f"{trained['output_dir']}/split.json"
    options = [f"--{key}={value}" for key, value in keys.items()]
    done = launch(run_id, cwd, "--config_file", f"{configs}/inference.json", *options)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("*/*_prediction.nii.gz"))) == 1


def test_bad_input_is_one_line_before_any_step(abdomen_phantoms, tmp_path):
    shutil.copytree(abdomen_phantoms, tmp_path / "data")
    (tmp_path / "data" / "segmentation-2.nii.gz").unlink()
    options = [f"--{key}={value}" for key, value in places(tmp_path / "data", tmp_path).items()]
    done = command(["training"], REPOSITORY, "--config_file", "bundles/ossnet_lits/configs/train.json", *options)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode != 0
    assert len(errors) == 1
    assert "1 of 4 cases have no label: volume-2" in errors[0]
    assert "Traceback" not in done.stderr
