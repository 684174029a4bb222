"""An inference that was cut short goes on where it ended, and makes anew what is not whole or not of this model."""

import json
import multiprocessing
import shutil
import time

import nibabel
import numpy as np
import pytest
import torch

from tests.bundles.bundle import infer_smallest, save_untrained
from tests.tools.conftest import NAMES

QUICK = {"save_meshes": False, "save_overlay": False, "num_workers": 0}


@pytest.fixture(scope="module")
def results(data_of, tmp_path_factory):
    """Of each bundle the model and the results of one inference."""
    made = {}
    for name in NAMES:
        folder = tmp_path_factory.mktemp(name)
        save_untrained(name, folder)
        infer(name, data_of, folder, folder / "results")
        made[name] = folder
    return made


def infer(name, data_of, folder, output, **keys):
    infer_smallest(name, data_of[name], folder, output, **{**QUICK, **keys})


def made_again(name, data_of, folder, output, **keys) -> set[str]:
    """Names of the cases whose label maps were written by an inference that skips the finished ones."""
    before = {file: file.stat().st_mtime_ns for file in output.glob("*/*_prediction.nii.gz")}
    infer(name, data_of, folder, output, skip_existing=True, **keys)
    after = {file: file.stat().st_mtime_ns for file in output.glob("*/*_prediction.nii.gz")}
    assert len(after) == 4
    return {file.parent.name for file in after if after[file] != before.get(file)}


@pytest.fixture(params=NAMES)
def copied(request, results, data_of):
    return request.param, data_of, results[request.param], results[request.param] / "results"


def test_what_is_finished_is_left_as_it_is(copied):
    assert made_again(*copied) == set()


def test_what_is_missing_damaged_or_unrecorded_is_made_again(copied):
    output = copied[-1]
    missing, damaged, unrecorded, _ = sorted(
        folder for folder in output.iterdir() if folder.name[0] != "." and folder.is_dir()
    )
    shutil.rmtree(missing)
    file = next(damaged.glob("*_volumes.json"))
    file.write_text(file.read_text()[:-3])
    (output / ".finished" / f"{unrecorded.name}.json").unlink()
    assert made_again(*copied) == {missing.name, damaged.name, unrecorded.name}
    assert made_again(*copied) == set()


def test_other_settings_or_another_model_make_all_again(copied, tmp_path):
    name, data_of, folder, output = copied
    state = torch.load(folder / "model.pt", weights_only=True)
    next(iter(state.values())).add_(0.01)
    torch.save(state, tmp_path / "model.pt")
    assert len(made_again(name, data_of, tmp_path, output)) == 4
    assert len(made_again(name, data_of, tmp_path, output, save_probabilities=True)) == 4
    assert made_again(name, data_of, tmp_path, output, save_probabilities=True) == set()


def test_without_the_key_all_are_made(copied):
    name, data_of, folder, output = copied
    before = {file: file.stat().st_mtime_ns for file in output.glob("*/*_prediction.nii.gz")}
    infer(name, data_of, folder, output)
    assert all(file.stat().st_mtime_ns != time for file, time in before.items())


@pytest.mark.slow
def test_a_killed_inference_leaves_whole_files_and_goes_on(results, data_of, tmp_path):
    """Nine kills at moments spread over an inference, over the three bundles."""
    for name in NAMES:
        output = tmp_path / name
        keys = {"save_meshes": True, "save_overlay": False}
        for share in (0.2, 0.5, 0.8):
            began = time.monotonic()
            process = multiprocessing.get_context("fork").Process(
                target=infer, args=(name, data_of, results[name], output), kwargs={**keys, "skip_existing": True}
            )
            process.start()
            while process.is_alive() and len(list(output.glob("[!.]*/*"))) < 16 * share:
                time.sleep(0.002)
                assert time.monotonic() - began < 120
            process.kill()
            process.join()
            for file in output.glob("[!.]*/*"):
                if file.name.startswith("."):
                    continue  # unfinished, and named so
                assert (file.parent / f"{file.parent.name}_prediction.nii.gz").is_file(), "the label map comes first"
                if file.name.endswith(".nii.gz"):
                    np.asarray(nibabel.load(file).dataobj)
                elif file.suffix == ".json":
                    json.loads(file.read_text())
        infer(name, data_of, results[name], output, skip_existing=True, **keys)
        infer(name, data_of, results[name], tmp_path / f"{name} at once", **keys)
        whole = {path.relative_to(output): path.read_bytes() for path in output.glob("[!.]*/*") if path.is_file()}
        once = tmp_path / f"{name} at once"
        assert whole == {path.relative_to(once): path.read_bytes() for path in once.glob("[!.]*/*") if path.is_file()}


def test_a_case_that_was_left_out_is_not_finished(results, data_of, tmp_path, monkeypatch):
    """Its label map was written before the picture failed."""
    name, output = "ossnet_lits", tmp_path / "results"

    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("custom_nets.transforms.saving.volumes.region_volumes", fail)
        with pytest.raises((RuntimeError, SystemExit)):
            infer(name, data_of, results[name], output)
    assert len(list(output.glob("*/*_prediction.nii.gz"))) == 4
    assert len(made_again(name, data_of, results[name], output)) == 4
