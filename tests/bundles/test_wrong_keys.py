"""What a person types, and what they see when it is wrong."""

import json
import logging
import multiprocessing
import os
import re
import shutil
import sys
from typing import NamedTuple

import monai.bundle
import pytest
import torch
from fire.parser import DefaultParseValue
from monai.bundle import ConfigWorkflow

from custom_nets.bundle_keys import RENAMED, choose_start_method
from custom_nets.errors import find_input_error
from tests.bundles.bundle import SMALLEST, Bundle, command
from tests.conftest import REPOSITORY

BUNDLES = list(SMALLEST)
PAGE = REPOSITORY / "docs" / "wrong_keys.md"


class Row(NamedTuple):
    """What is typed after `python -m monai.bundle run --config_file ...`, and what is said."""

    bundle: str
    configs: list[str]
    typed: str
    line: str


def read_page() -> list[Row]:
    rows: list[Row] = []
    for text in PAGE.read_text(encoding="utf-8").splitlines():
        if heading := re.fullmatch(r"`(\w+)`, ([\w, ]+):", text):
            place = (heading[1], heading[2].split(", "))
        elif row := re.fullmatch(r"\| `(.+)` \| `(.+)` \|", text):
            rows.append(Row(*place, row[1], row[2]))
    return rows


TABLE = read_page()


@pytest.fixture(autouse=True)
def hook(monkeypatch):
    """A run changes what this process shows of errors."""
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)


def typed_keys(typed: str) -> dict:
    """Returns the arguments of `monai.bundle.run` for what is typed, as fire reads it."""
    first, *rest = typed.split()
    if not first.startswith("--"):
        return {"run_id": first}
    return {first.removeprefix("--"): DefaultParseValue(rest[0]) if rest else True}


def start(bundle: str, *configs: str, **keys) -> ConfigWorkflow:
    workflow = ConfigWorkflow(
        Bundle(bundle).config(*configs), workflow_type=None, logging_file=False, **{"device": "cpu", **keys}
    )
    workflow.initialize()
    return workflow


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.bundle} {row.typed}")
def test_a_wrong_key_is_one_line(row, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    keys = {"output_dir": str(tmp_path / "out"), **typed_keys(row.typed)}
    with pytest.raises(RuntimeError) as raised:
        monai.bundle.run(config_file=Bundle(row.bundle).config(*row.configs), logging_file=False, **keys)
    assert find_input_error(raised.value) == row.line
    assert not (tmp_path / "out").exists()


def test_the_page_has_many_rows():
    assert len(TABLE) >= 100


@pytest.mark.parametrize("name", BUNDLES)
def test_what_the_bundle_ships_is_good(name):
    """Each list of overrides, after each main config that its documents name it with."""
    names = {file.stem for file in (REPOSITORY / "bundles" / name / "configs").glob("*.json")}
    for main in (("train",), ("inference",), ("train", "evaluate")):
        for override in sorted(names & {"demo", "overfit", "variant", "paper"}):
            start(name, *main, override)


WORDS = [
    ("nvnet_brats", "train", {"vae": "false"}, False),
    ("nvnet_brats", "train", {"vae": "FALSE"}, False),
    ("ossnet_brats", "inference", {"save_meshes": "False"}, False),
    ("ossnet_brats", "inference", {"save_probabilities": "TRUE"}, True),
    ("ossnet_brats", "train", {"early_stop_patience": "null"}, None),
    ("ossnet_brats", "train", {"cache_device": "none"}, None),
    ("ossnet_brats", "inference", {"load_model": "null"}, None),
    ("ossnet_brats", "inference", {"prior": "none"}, "none"),
    ("ossnet_brats", "inference", {"output_dir": 2024}, "2024"),
    ("ossnet_brats", "train", {"test": 0.2}, 0.2),
    ("ossnet_brats", "train", {"train#dataloader#pin_memory": "true"}, True),
]


@pytest.mark.parametrize(("bundle", "config", "keys", "meant"), WORDS, ids=lambda value: str(value))
def test_words_mean_what_they_say(bundle, config, keys, meant):
    assert start(bundle, config, **keys).parser[next(iter(keys))] is meant or meant not in (True, False, None)
    assert start(bundle, config, **keys).parser[next(iter(keys))] == meant


@pytest.mark.parametrize(("key", "meant"), [("load_model", None), ("prior", "none")])
def test_none_is_not_dropped(key, meant, monkeypatch):
    """MONAI leaves out arguments that are None."""
    seen = []
    monkeypatch.setattr(ConfigWorkflow, "run", lambda workflow: seen.append(workflow.parser[key]))
    files = Bundle("ossnet_brats").config("inference")
    monai.bundle.run(config_file=files, logging_file=False, device="cpu", **{key: None})
    assert seen == [meant]


@pytest.mark.parametrize("text", ["007", "2024.10", "a,b", "1e3", "[a]"])
def test_a_path_that_looks_like_something_else_stays_as_typed(text, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["run", "--output_dir", text])
    assert start("ossnet_brats", "train", output_dir=DefaultParseValue(text)).parser["output_dir"] == text


OLD = [("ossnet_lits", ("inference",), "one_liver", "false", False)]
OLD += [("ossnet_brats", ("train",), "reduction", 4, 4)]
OLD += [("ossnet_brats", ("train", "multi_gpu_train"), "minutes_to_wait", 7, 7)]


@pytest.mark.parametrize(("bundle", "configs", "old", "typed", "meant"), OLD, ids=lambda value: str(value))
def test_an_old_key_works_and_names_the_new_one(bundle, configs, old, typed, meant, caplog):
    workflow = ConfigWorkflow(Bundle(bundle).config(*configs), workflow_type=None, logging_file=False, **{old: typed})
    workflow.parser["initialize"] = workflow.parser["initialize"][:2]  # nothing joins other processes
    workflow.parser["device"] = "cpu"
    with caplog.at_level(logging.WARNING):
        workflow.initialize()
    assert workflow.parser[RENAMED[old]] == meant
    assert old not in workflow.parser
    assert f"{old} is now called {RENAMED[old]}; the old name works in this release only" in caplog.text


@pytest.mark.parametrize("name", BUNDLES)
def test_no_config_uses_an_old_key(name):
    for file in (REPOSITORY / "bundles" / name).rglob("*.json"):
        assert not [old for old in RENAMED if f'"{old}"' in file.read_text() or f"@{old}" in file.read_text()]


def test_a_key_without_effect_is_told(caplog, monkeypatch):
    monkeypatch.setattr(ConfigWorkflow, "run", lambda _: None)
    keys = {"device": "cpu", "epochs": 3, "num_workers": 0}
    with caplog.at_level(logging.WARNING):
        monai.bundle.run(config_file=Bundle("ossnet_brats").config("inference"), logging_file=False, **keys)
    assert "without effect on this run: epochs" in caplog.text


@pytest.mark.parametrize("name", BUNDLES)
def test_what_monai_label_sets_is_taken(name):
    """Read off monailabel/tasks/train/bundle.py of MONAI Label 0.8.5."""
    data = [{"image": "a.nii.gz", "label": "b.nii.gz"}]
    keys = {"bundle_root": str(REPOSITORY), "train#trainer#max_epochs": 3, "train#dataset#data": data}
    keys |= {"validate#dataset#data": data, "train#handlers": [], "device": "cpu"}
    keys |= {"displayable_configs": {"a": 1}, "tracking_uri": "file:x", "experiment_name": "x", "run_name": "x"}
    workflow = start(name, "train", **keys)
    assert workflow.parser["train#dataset#data"] == data
    assert workflow.parser.get_parsed_content("bundle_root") == str(REPOSITORY)


@pytest.mark.parametrize("key", ["ckpt_dir", "output_dir", "dataset_dir"])
def test_an_empty_path_is_no_folder(key):
    with pytest.raises(RuntimeError) as raised:
        start("ossnet_brats", "inference", **{key: ""})
    assert find_input_error(raised.value).startswith(f"{key} is ''; expected a text that is not empty")


def test_a_window_may_be_negative():
    assert start("ossnet_lits", "train", contrast_window=[-50, 150]).parser["contrast_window"] == [-50, 150]


def test_a_region_that_the_data_have_not_is_told_before_anything_is_written(phantoms, tmp_path):
    keys = {"dataset_dir": str(phantoms), "output_dir": str(tmp_path / "out"), "device": "cpu", "regions": ["WT", "XX"]}
    with pytest.raises(RuntimeError) as raised:
        monai.bundle.run("training", config_file=Bundle("ossnet_brats").config("train"), logging_file=False, **keys)
    assert "region 'XX' is unknown; expected any of WT, TC, ET" in find_input_error(raised.value)
    assert not (tmp_path / "out").exists()


def test_several_faults_are_a_line_each():
    with pytest.raises(RuntimeError) as raised:
        start("ossnet_brats", "train", epochs="ten", batch_size=0)
    assert len(find_input_error(raised.value).splitlines()) == 2


def test_an_override_file_is_checked_too(tmp_path):
    shutil.copytree(REPOSITORY / "bundles" / "ossnet_brats" / "configs", tmp_path / "configs")
    (tmp_path / "configs" / "mine.json").write_text(json.dumps({"lerning_rate": 1, "epochs": 3}))
    files = [str(tmp_path / "configs" / f"{name}.json") for name in ("train", "mine")]
    with pytest.raises(RuntimeError) as raised:
        ConfigWorkflow(files, workflow_type=None, logging_file=False).initialize()
    assert find_input_error(raised.value) == "unknown key 'lerning_rate'; did you mean learning_rate?"


def test_keys_and_parts_of_a_user_are_known(tmp_path):
    """A key that another refers to, and a metric beside those of the bundle."""
    shutil.copytree(REPOSITORY / "bundles" / "ossnet_brats" / "configs", tmp_path / "configs")
    metric = {"_target_": "IgniteMetricHandler", "metric_fn": {"_target_": "custom_nets.metrics.RegionIoU"}}
    mine = {"my_rate": 0.1, "learning_rate": "$@my_rate / 2", "additional_metrics#mine": metric}
    (tmp_path / "configs" / "mine.json").write_text(json.dumps(mine))
    files = [str(tmp_path / "configs" / f"{name}.json") for name in ("train", "mine")]
    ConfigWorkflow(files, workflow_type=None, logging_file=False, device="cpu").initialize()


@pytest.mark.parametrize(
    ("platform", "before", "method"),
    [("linux", None, "fork"), ("linux", "forkserver", "fork"), ("linux", "spawn", "spawn"), ("darwin", None, "spawn")],
)
def test_loaders_start_their_processes_so_that_monai_can_invert(platform, before, method, monkeypatch):
    """Python 3.14's forkserver it cannot, nor spawn where that is the default and not set."""
    chosen = [before]
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda allow_none: chosen[-1])
    monkeypatch.setattr(multiprocessing, "set_start_method", lambda name, force: chosen.append(name))
    choose_start_method()
    assert chosen[-1] == method


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_one_line():
    with pytest.raises(RuntimeError) as raised:
        start("ossnet_brats", "train", device="cuda")
    assert find_input_error(raised.value) == "device is 'cuda', but PyTorch finds no GPU here; give --device cpu"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("--lerning_rate 1", "error: unknown key 'lerning_rate'; did you mean learning_rate?"),
        ("--epochs ten", "error: epochs is 'ten'; expected a whole number, such as 50"),
        ("--inferer_mode densee", "error: inferer_mode is 'densee'; expected one of surface, published, dense"),
    ],
)
def test_the_command_ends_with_the_line(typed, line, tmp_path):
    files = ",".join(f"'{file}'" for file in Bundle("ossnet_brats").config("train"))
    done = command([], tmp_path, "--config_file", f"[{files}]", *typed.split(), "--output_dir", str(tmp_path / "out"))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == line
    assert "Traceback" not in done.stderr + done.stdout
    assert len((done.stdout + done.stderr).splitlines()) <= 10
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_debug_shows_the_traceback(tmp_path):
    file = Bundle("ossnet_brats").config("inference")[0]
    done = command([], tmp_path, "--config_file", file, "--dataset_dir", "nowhere", "--debug", "true")
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
