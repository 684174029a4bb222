"""Settings travel with the weights: what a bundle was trained with is what it infers with."""

import json
import logging
import shutil
import zipfile

import pytest
import torch

from custom_nets.errors import InputError, find_input_error
from custom_nets.io.model_settings import settings_of, with_settings
from custom_nets.io.weights import read_state_dict
from custom_nets.tools import export_bundle, pack_bundle
from custom_nets.tools.bundle_config import read_bundle
from tests.bundles.bundle import SMALLEST, Bundle
from tests.tools.conftest import copy_bundle

TRAINING = {"num_workers": 0, "validation": 1, "epochs": 1, "epoch_length": 1, "val_interval": 1}


@pytest.fixture(scope="module")
def trained(data_of, tmp_path_factory):
    """The folder of each bundle's model, trained with other keys than its configs have."""
    folders = {}
    for name, keys in SMALLEST.items():
        folders[name] = tmp_path_factory.mktemp(name)
        places = {"dataset_dir": str(data_of[name]), "ckpt_dir": str(folders[name]), "output_dir": str(folders[name])}
        Bundle(name).run("training", "train", **TRAINING, **keys, **places)
    return folders


def search(name) -> dict:
    """Keys of the search alone, so that a large lattice does not hide the network's answer."""
    return {key: value for key, value in SMALLEST[name].items() if key.endswith("step")}


def infer(name, trained, data_of, output, **keys):
    places = {"dataset_dir": str(data_of[name]), "ckpt_dir": str(trained[name]), "output_dir": str(output)}
    workers = {"save_meshes": False, "save_overlay": False, "num_workers": 0}
    Bundle(name).run("inferring", "inference", **{**places, **workers, **search(name), **keys})
    files = sorted(output.glob("*/*_volumes.json"))
    return [json.loads(file.read_text())["regions"] for file in files]


@pytest.mark.parametrize("name", list(SMALLEST))
def test_without_keys_a_model_is_used_as_it_was_trained(name, trained, data_of, tmp_path, caplog):
    typed = {key: value for key, value in SMALLEST[name].items() if key not in ("num_points", "batch_size")}
    with caplog.at_level(logging.INFO):
        plain = infer(name, trained, data_of, tmp_path / "plain")
    same = infer(name, trained, data_of, tmp_path / "same", **typed)
    assert plain == same
    assert len(plain) == 4
    key = {"ossnet_brats": "image_size", "ossnet_lits": "spacing", "nvnet_brats": "crop_size"}[name]
    line = next(
        message for message in caplog.messages if message.startswith(f"as {trained[name]}/model.pt was trained:")
    )
    assert f"{key} {SMALLEST[name][key]} (config: " in line


@pytest.mark.parametrize(
    ("name", "keys"),
    [("ossnet_brats", {"image_size": [40, 40, 40]}), ("ossnet_lits", {"spacing": 7.0})],
)
def test_a_typed_key_that_cannot_be_meant_is_an_error(name, keys, trained, data_of, tmp_path):
    key, value = next(iter(keys.items()))
    with pytest.raises(RuntimeError) as raised:
        infer(name, trained, data_of, tmp_path, **keys)
    expected = f"{key} is {json.dumps(value)}, trained with {json.dumps(SMALLEST[name][key])}; leave these keys out"
    assert expected in find_input_error(raised.value)
    assert not list(tmp_path.glob("*/*"))


def test_another_window_is_a_warning(trained, data_of, tmp_path, caplog):
    infer("nvnet_brats", trained, data_of, tmp_path, crop_size=[32, 32, 32])
    assert "crop_size is [32, 32, 32], but" in caplog.text


def test_another_network_names_the_config_to_give(trained, data_of, tmp_path):
    with pytest.raises(RuntimeError) as raised:
        Bundle("ossnet_brats").run(
            "inferring", "inference", "variant", dataset_dir=str(data_of["ossnet_brats"]),
            ckpt_dir=str(trained["ossnet_brats"]), output_dir=str(tmp_path),
        )  # fmt: skip
    assert "is a PyramidOSSNet, but the configs build a OSSNet; give the config" in find_input_error(raised.value)


def test_the_record_tells_what_a_model_is(trained):
    record = settings_of(read_state_dict(trained["ossnet_lits"] / "model.pt"))
    assert record["keys"]["network_class"] == "custom_nets.networks.PyramidOSSNet"
    assert record["keys"]["spacing"] == 8.0
    assert record["keys"]["hu_window"] == [-200, 250]
    assert record["data"]["training"]["cases"] == 3
    assert record["data"]["validation"]["cases"] == 1
    assert "val_dice_liver" in record["scores"]
    assert record["versions"]["torch"] == torch.__version__
    assert "volume" not in json.dumps(record), "names of cases may be those of patients"


@pytest.mark.parametrize("name", ["model.pt", "checkpoint_best.pt", "checkpoint_last.pt"])
def test_every_file_of_a_run_has_it(trained, name):
    assert settings_of(read_state_dict(trained["nvnet_brats"] / name))["keys"]["init_filters"] == 8


def test_a_model_stays_a_plain_state_dict(trained):
    state = torch.load(trained["ossnet_brats"] / "model.pt", weights_only=True)
    assert all(isinstance(tensor, torch.Tensor) for tensor in state.values())
    network = Bundle("ossnet_brats").parse("train", **SMALLEST["ossnet_brats"]).get_parsed_content("network_def")
    network.load_state_dict(state, strict=True)


def test_training_goes_on_from_a_model_with_its_keys(trained, data_of, tmp_path, caplog):
    places = {"dataset_dir": str(data_of["nvnet_brats"]), "ckpt_dir": str(tmp_path), "output_dir": str(tmp_path)}
    with caplog.at_level(logging.INFO):
        Bundle("nvnet_brats").run(
            "training", "train", **TRAINING, **places, load_model=str(trained["nvnet_brats"] / "model.pt")
        )
    assert settings_of(read_state_dict(tmp_path / "model.pt"))["keys"]["crop_size"] == [32, 32, 16]
    assert "init_filters 8 (config: 32)" in caplog.text


def test_a_model_without_a_record_is_told(trained, data_of, tmp_path, caplog):
    state = dict(torch.load(trained["ossnet_lits"] / "model.pt", weights_only=True))
    torch.save(state, tmp_path / "model.pt")
    infer("ossnet_lits", {"ossnet_lits": tmp_path}, data_of, tmp_path / "results", **SMALLEST["ossnet_lits"])
    assert "model.pt does not tell how it was trained (older, or converted); taken for it: network_class" in caplog.text


def test_weights_that_were_changed_afterwards_are_told(trained, data_of, tmp_path, caplog):
    state = torch.load(trained["ossnet_lits"] / "model.pt", weights_only=True)
    next(iter(state.values())).mul_(1.01)
    torch.save(state, tmp_path / "model.pt")
    infer("ossnet_lits", {"ossnet_lits": tmp_path}, data_of, tmp_path / "results")
    assert "model.pt: its weights were changed after the training that it tells of" in caplog.text


def test_export_takes_them_over(trained, tmp_path):
    bundle = copy_bundle("ossnet_brats", tmp_path)
    shutil.copy(trained["ossnet_brats"] / "model.pt", bundle / "models" / "model.pt")
    export_bundle(bundle, tmp_path / "out", "torchscript", shape=(16, 24, 16))
    with pytest.raises(InputError, match=r"hidden_features is 8, trained with 16|does not fit the network"):
        export_bundle(bundle, tmp_path / "out", "torchscript", shape=(16, 24, 16), keys={"hidden_features": 8})
    parser, _ = read_bundle(bundle)
    assert parser["channels"] == [8, 8, 8]


def test_a_member_of_an_ensemble_that_was_trained_otherwise_is_refused(trained, data_of, tmp_path):
    model = trained["ossnet_brats"] / "model.pt"
    state = torch.load(model, weights_only=True)
    record = settings_of(state)
    record["keys"]["image_size"] = [40, 40, 40]
    torch.save(with_settings(state, record), tmp_path / "other.pt")
    with pytest.raises(RuntimeError) as raised:
        infer("ossnet_brats", trained, data_of, tmp_path / "out", ensemble=[str(model), str(tmp_path / "other.pt")])
    message = find_input_error(raised.value)
    assert message.startswith(f"{tmp_path / 'other.pt'}: image_size is [32, 32, 32], trained with [40, 40, 40]")


@pytest.mark.parametrize("name", list(SMALLEST))
def test_packed_configs_have_the_keys_of_the_model(name, trained, tmp_path):
    """MONAI Label reads the configs alone."""
    bundle = copy_bundle(name, tmp_path)
    shutil.copy(trained[name] / "model.pt", bundle / "models" / "model.pt")
    with zipfile.ZipFile(pack_bundle(bundle, tmp_path / "out")) as archive:
        configs = [json.loads(archive.read(f"{name}/configs/{step}.json")) for step in ("train", "inference")]
    keys = settings_of(read_state_dict(trained[name] / "model.pt"))["keys"]
    for config in configs:
        assert {key: config[key] for key in keys if key in config} == {k: v for k, v in keys.items() if k in config}
    assert any(
        configs[1][key] != value
        for key, value in json.loads((bundle / "configs" / "inference.json").read_text()).items()
        if key in keys
    )
