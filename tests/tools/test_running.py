"""`custom-nets infer`, `train` and `evaluate`: what they run, and what a person sees of it."""

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from custom_nets.datasets import datalist, recognise
from custom_nets.errors import InputError
from custom_nets.logs import show_logs
from custom_nets.tools.command_line import parse_arguments
from tests.bundles.bundle import SMALLEST
from tests.conftest import REPOSITORY
from tests.processes import run_module
from tests.tools.conftest import copy_bundle
from tests.tools.test_cli import call

TINY = {**SMALLEST["ossnet_brats"], "epochs": 1, "epoch_length": 2, "num_workers": 0, "val_interval": 1}
TINY |= {"validation": 1, "test": 1, "device": "cpu"}
SEARCH = {key: TINY[key] for key in ("coarse_step", "scan_step", "device")}


def typed(keys: dict) -> list[str]:
    return [text for key, value in keys.items() for text in (f"--{key}", str(value))]


def custom_nets(*arguments: str) -> subprocess.CompletedProcess:
    return run_module("custom_nets", arguments, REPOSITORY)


def start_custom_nets(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "custom_nets", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(scope="module")
def trained(phantoms, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    """A bundle that was trained for two steps, and what the command printed."""
    bundle = copy_bundle("ossnet_brats", tmp_path_factory.mktemp("bundles"))
    return bundle, custom_nets("train", str(bundle), str(phantoms), *typed(TINY))


def test_a_training_ends_with_its_best_score(trained):
    bundle, done = trained
    assert done.returncode == 0, done.stderr
    *_, last = done.stdout.splitlines()
    assert re.fullmatch(rf"{bundle}/models/model.pt: epoch 1, best val_dice 0\.\d{{4}}", last)
    assert "training: 2 of 4 cases (BraTS 2018 to 2022)" in done.stdout.splitlines()
    assert "ignite" not in done.stdout + done.stderr
    assert "monai" not in done.stdout + done.stderr


def test_an_inference_takes_few_lines(trained, phantoms, tmp_path):
    bundle, _ = trained
    data = tmp_path / "data"
    for item in datalist(phantoms)[:3]:
        (data / item["case"]).mkdir(parents=True)
        for file in item["image"]:
            (data / item["case"] / Path(file).name).symlink_to(file)
    (data / "BraTS20_Training_002" / "BraTS20_Training_002_t1.nii.gz").unlink()
    done = start_custom_nets("infer", str(bundle), str(data), str(tmp_path / "out"), *typed(SEARCH))
    assert done.returncode == 3
    settings, found, left_out, last, count, why = done.stdout.splitlines()
    assert settings.startswith(f"as {bundle}/models/model.pt was trained: ")
    assert found.startswith("3 cases: BraTS 2018 to 2022")
    assert left_out.startswith("left out: case BraTS20_Training_002, file ")
    assert re.fullmatch(rf"2 cases in [\d.]+ s, 1 left out; results: {tmp_path}/out", last)
    assert [count, why] == ["1 of 3 cases were left out:", left_out.removeprefix("left out: ")]
    assert {line.split(":")[0] for line in done.stderr.splitlines()} <= {"", "inferring"}  # a bar, redrawn in one line


def test_verbose_tells_all(caplog, monkeypatch):
    for name in ("ignite", "monai.bundle.scripts"):
        monkeypatch.setattr(logging.getLogger(name), "level", logging.CRITICAL)
    monkeypatch.setattr(logging.getLogger(), "handlers", [caplog.handler])
    show_logs(verbose=False)
    logging.getLogger("ignite.engine").info("hidden")
    show_logs(verbose=True)
    logging.getLogger("ignite.engine").info("loaded")
    assert caplog.messages == ["loaded"]
    assert "ignite.engine - INFO - loaded" in caplog.text


def test_an_outside_set_is_evaluated_whole(trained, phantoms, tmp_path):
    keys = {**SEARCH, "evaluation_section": "all", "output_dir": str(tmp_path)}
    done = custom_nets("evaluate", str(trained[0]), str(phantoms), *typed(keys))
    assert done.returncode == 0, done.stderr
    assert "all: 4 of 4 cases (BraTS 2018 to 2022)" in done.stdout
    assert "4 cases, mean (median)" in done.stdout
    assert len(json.loads((tmp_path / "metrics.json").read_text())["cases"]) == 4
    assert not (tmp_path / "split.json").exists()


@pytest.mark.parametrize("verb", ["infer", "train"])
def test_what_is_no_bundle_is_one_line(monkeypatch, capsys, verb, tmp_path):
    others = [str(tmp_path)] * (2 if verb == "infer" else 1)
    assert call(monkeypatch, verb, str(tmp_path), *others) == 2
    assert f"{tmp_path}: is no bundle, it has no configs/metadata.json" in capsys.readouterr().err


def keyed(bundle: str, input: tuple[str, ...], output_dir: str, *, configs: tuple[str, ...] = (), **keys: object):  # noqa: A002
    """Takes several inputs."""


@pytest.mark.parametrize(
    "arguments",
    [
        ["b", "one", "two", "out", "--epochs", "3", "--configs", "variant,paper"],
        ["b", "--epochs", "3", "one", "two", "--configs=variant,paper", "out"],
        ["--output_dir", "out", "--configs", "variant", "paper", "--epochs", "3", "--bundle=b", "--input", "one,two"],
    ],
)
def test_keys_may_stand_anywhere(arguments):
    meant = {"bundle": "b", "input": ("one", "two"), "output_dir": "out", "configs": ("variant", "paper"), "epochs": 3}
    assert parse_arguments(keyed, arguments, "custom-nets keyed") == meant


def files_of_a_case(phantoms: Path) -> list[str]:
    return datalist(phantoms)[0]["image"]


def test_files_are_a_case_by_their_names(phantoms):
    files = files_of_a_case(phantoms)
    (item,) = datalist(files[::-1], "ignore", modalities=["FLAIR", "T1", "T1ce", "T2"])
    assert (item["case"], item["image"]) == ("BraTS20_Training_001", files)


def test_files_whose_names_do_not_tell_are_taken_in_their_order(phantoms, tmp_path):
    files = [str(tmp_path / f"scan{number}.nii.gz") for number in range(4)]
    for file, source in zip(files, files_of_a_case(phantoms), strict=True):
        Path(file).symlink_to(source)
    (entry,) = recognise(files[::-1], modalities=["FLAIR", "T1", "T1ce", "T2"])
    assert entry.line.endswith("4 files, taken in their order for FLAIR, T1, T1ce, T2: their names do not tell")
    (item,) = datalist(files[::-1], "ignore", modalities=["FLAIR", "T1", "T1ce", "T2"])
    assert item["image"] == files[::-1]


def test_several_folders_are_the_cases_in_them(phantoms):
    folders = [str(phantoms / f"BraTS20_Training_00{number}") for number in (3, 1)]
    (entry,) = recognise(folders)
    assert sorted(case.case for case in entry.cases) == ["BraTS20_Training_001", "BraTS20_Training_003"]


def test_a_file_too_few_is_told(phantoms):
    with pytest.raises(InputError, match="T2"):
        datalist(files_of_a_case(phantoms)[:3], "ignore", modalities=["FLAIR", "T1", "T1ce", "T2"])


def test_a_run_leaves_the_logs_of_its_process_alone(trained, phantoms, tmp_path, monkeypatch):
    """A program that runs a bundle keeps its warnings and levels."""
    from custom_nets.tools.running import infer_with_bundle

    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    level = logging.getLogger("monai.bundle").level
    torch.manual_seed(0)
    keys = {**SEARCH, "save_meshes": False, "save_overlay": False, "logging_file": False}
    infer_with_bundle(trained[0], [phantoms / "BraTS20_Training_001"], tmp_path, keys=keys)
    assert logging.getLogger("monai.bundle").level == level
