"""Every bundle in several processes: every case once, the results of one process, and an end where one dies."""

import json
import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from custom_nets.datasets import datalist, save_split
from tests.bundles.bundle import SMALLEST, Bundle, launch
from tests.conftest import REPOSITORY
from tests.processes import free_port, run_ranks

LOADERS = {"num_workers": 0}
PLAIN = {"save_meshes": False, "save_overlay": False}
all_bundles = pytest.mark.parametrize("name", list(SMALLEST))


@pytest.fixture(scope="session")
def untrained(data_of, tmp_path_factory) -> dict[str, dict]:
    """Keys of each bundle: a network without training, and a split with two cases for validation and one to train."""
    keys = {}
    for name, tiny in SMALLEST.items():
        folder = tmp_path_factory.mktemp(name)
        items = datalist(data_of[name])
        save_split(folder / "split.json", {"training": items[:1], "validation": items[1:3], "test": items[3:]})
        torch.manual_seed(0)
        network = Bundle(name).parse("inference", **tiny).get_parsed_content("network_def")
        torch.save(network.state_dict(), folder / "model.pt")
        places = {"dataset_dir": str(data_of[name]), "ckpt_dir": str(folder), "split_file": str(folder / "split.json")}
        keys[name] = {**tiny, **LOADERS, **places, "evaluation_section": "validation"}
    return keys


@pytest.mark.parametrize("step", ["train", "evaluate", "inference"])
def test_the_override_is_the_same_in_every_bundle(step):
    files = [Path(Bundle(name).config(f"multi_gpu_{step}")[0]).read_text() for name in SMALLEST]
    assert len(set(files)) == 1


def label_maps(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: np.asarray(nibabel.load(path).dataobj) for path in folder.glob("*/*_prediction.nii.gz")}


@all_bundles
def test_three_processes_infer_two_cases_as_one_does(name, untrained, tmp_path):
    bundle, keys = Bundle(name), {**untrained[name], **PLAIN}

    def work(_rank):
        bundle.run("inferring", "inference", "multi_gpu_inference", **keys, output_dir=str(tmp_path / "many"))

    run_ranks(3, work, join=False)
    bundle.run("inferring", "inference", **keys, output_dir=str(tmp_path / "one"))
    many, one = (label_maps(tmp_path / folder) for folder in ("many", "one"))
    assert len(one) == 2
    assert many.keys() == one.keys()
    for file, voxels in one.items():
        np.testing.assert_array_equal(many[file], voxels)
    assert (tmp_path / "many" / "cases.json").read_text() == (tmp_path / "one" / "cases.json").read_text()


@pytest.mark.parametrize(
    ("name", "count"), [("ossnet_brats", 2), ("ossnet_brats", 3), ("ossnet_lits", 3), ("nvnet_brats", 2)]
)
def test_several_processes_score_two_cases_as_one_does(name, count, untrained, tmp_path):
    bundle, keys = Bundle(name), untrained[name]
    configs = ["train", "evaluate"]
    if name == "ossnet_brats":
        # The random points of the paper's scores too.
        paper = json.loads((bundle.folder / "configs" / "paper.json").read_text())
        points = {key: value for key, value in paper.items() if key in ("+case_columns", "+additional_metrics")}
        (tmp_path / "points.json").write_text(json.dumps(points))
        configs.append(str(tmp_path / "points"))

    def work(_rank):
        bundle.run("evaluating", *configs, "multi_gpu_evaluate", **keys, output_dir=str(tmp_path / "many"))

    run_ranks(count, work, join=False)
    bundle.run("evaluating", *configs, **keys, output_dir=str(tmp_path / "one"))
    for file in ("metrics.csv", "metrics.json"):
        assert (tmp_path / "many" / file).read_text() == (tmp_path / "one" / file).read_text()


def test_a_share_smaller_than_a_batch_is_a_step(untrained, tmp_path):
    """Three cases for two processes, in batches of two: more than a batch in all, and no full one each."""
    items = datalist(untrained["nvnet_brats"]["dataset_dir"])
    save_split(tmp_path / "split.json", {"training": items[:3], "validation": items[3:]})
    keys = {**untrained["nvnet_brats"], "split_file": str(tmp_path / "split.json"), "batch_size": 2}
    keys |= {"output_dir": str(tmp_path), "device": "cpu"}

    def work(_rank):
        parser = Bundle("nvnet_brats").parse("train", "multi_gpu_train", **keys)
        assert len(parser.get_parsed_content("train#dataloader")) == 1

    run_ranks(2, work)


STANDALONE = ("--standalone", "--nproc_per_node=2")


def torchrun(run_id: str, configs: list[str], keys: dict, options: tuple[str, ...] = STANDALONE):
    launcher = ("-m", "torch.distributed.run", *options, "-m")
    arguments = [f"--{key}={value}" for key, value in keys.items()]
    return launch([run_id], REPOSITORY, "--config_file", str(configs), *arguments, launcher=launcher)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "override", "validation", "extra"),
    [
        ("ossnet_brats", ["variant"], 2, {"grid_size": [32, 32, 32]}),
        ("nvnet_brats", [], 1, {}),
    ],
    ids=["ossnet_brats, a variant with batch norm", "nvnet_brats, one case to validate"],
)
def test_two_processes_train_and_save_what_they_validated(
    name, override, validation, extra, data_of, tmp_path, monkeypatch
):
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")  # a compiled activation costs more here than it gains
    bundle = Bundle(name)
    keys = {
        **SMALLEST[name],
        **LOADERS,
        "dataset_dir": str(data_of[name]),
        "ckpt_dir": str(tmp_path / "models"),
        **extra,
    }
    keys |= {"output_dir": str(tmp_path), "epochs": 2, "val_interval": 2, "validation": validation, "test": 0}
    done = torchrun("training", bundle.config("train", *override, "multi_gpu_train"), keys)
    assert done.returncode == 0, done.stderr
    log = [json.loads(line) for line in (tmp_path / "training.jsonl").read_text().splitlines()]
    steps = -(-(4 - validation) // 2)
    assert [entry["iteration"] for entry in log] == [steps, 2 * steps]
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2  # of training and validation, from one process
    bundle.run("evaluating", "train", *override, "evaluate", **keys)
    summary = json.loads((tmp_path / "metrics.json").read_text())["summary"]
    assert summary["mean"]["dice"]["cases"] == validation
    assert summary["mean"]["dice"]["mean"] == pytest.approx(log[-1]["val_dice"], abs=1e-6)


def two_torchruns(configs: list[str], keys: dict) -> list:
    """Two launchers with a process each, as two machines have them."""
    endpoint = f"--rdzv_endpoint=localhost:{free_port()}"
    options = ("--nnodes=2", "--nproc_per_node=1", "--rdzv_backend=c10d", endpoint, "--rdzv_id=7")
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda _: torchrun("training", configs, keys, options), range(2)))


@pytest.mark.slow
def test_two_machines_train(data_of, tmp_path):
    """Two torchruns that find each other; parameters that no loss reaches, and a process that has none to validate."""
    bundle = Bundle("ossnet_lits")
    keys = {**SMALLEST[bundle.name], **LOADERS, "dataset_dir": str(data_of[bundle.name]), "auxiliary_weight": 0}
    keys |= {"ckpt_dir": str(tmp_path / "models"), "output_dir": str(tmp_path), "validation": 1, "val_interval": 1}
    keys |= {"epochs": 1}
    configs = bundle.config("train", "multi_gpu_train")
    runs = two_torchruns(configs, keys)
    if any("RendezvousConnectionError" in done.stderr for done in runs):
        # A launcher that ends first may take the meeting place from the other, once in some twenty times.
        (tmp_path / "training.jsonl").unlink(missing_ok=True)
        runs = two_torchruns(configs, keys)
    assert [done.returncode for done in runs] == [0, 0], "\n".join(done.stderr for done in runs)
    entries = [json.loads(line) for line in (tmp_path / "training.jsonl").read_text().splitlines()]
    assert [(entry["iteration"], "val_dice" in entry) for entry in entries] == [(2, True)]
    state = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    assert not any(key.startswith("module.") for key in state)


def with_a_damaged_case(data: Path, folder: Path) -> tuple[Path, str]:
    """Copies phantoms of brains, and damages what no header tells of the third."""
    shutil.copytree(data, folder / "data")
    case = "BraTS20_Training_003"
    file = folder / "data" / case / f"{case}_t2.nii.gz"
    content = bytearray(file.read_bytes())
    content[-8] ^= 255
    file.write_bytes(content)
    return folder / "data", case


def test_several_processes_leave_a_case_out_of_the_scores_as_one_does(untrained, data_of, tmp_path):
    bundle = Bundle("nvnet_brats")
    data, case = with_a_damaged_case(data_of[bundle.name], tmp_path)
    keys = {**untrained[bundle.name], "dataset_dir": str(data)}
    configs = ["train", "evaluate"]

    def work(_rank):
        with pytest.raises((RuntimeError, SystemExit)):
            bundle.run("evaluating", *configs, "multi_gpu_evaluate", **keys, output_dir=str(tmp_path / "many"))

    run_ranks(2, work, join=False)
    with pytest.raises((RuntimeError, SystemExit)):
        bundle.run("evaluating", *configs, **keys, output_dir=str(tmp_path / "one"))
    one, many = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "many"))
    assert one == many
    assert len(one["cases"]) == 1
    assert one["left_out"][0].startswith(f"case {case}, file ")


@pytest.mark.slow
def test_a_case_that_fails_is_left_out_by_several_processes(untrained, data_of, tmp_path):
    bundle = Bundle("ossnet_brats")
    data, case = with_a_damaged_case(data_of[bundle.name], tmp_path)
    keys = {**untrained[bundle.name], **PLAIN, "dataset_dir": str(data), "split_file": None}
    configs = bundle.config("inference", "multi_gpu_inference")
    done = torchrun("inferring", configs, {**keys, "output_dir": str(tmp_path / "out")})
    assert done.returncode == 1  # of torchrun, whatever those of its processes are
    for told in (done.stdout + done.stderr, done.stderr[done.stderr.index("Root Cause") :]):
        assert re.search(rf"1 of 4 cases were left out:\n\s*case {case}, file ", told)
    assert "exitcode  : 3" in done.stderr
    assert not [line for line in done.stderr.splitlines() if "Traceback" in line and "[rank" in line]
    assert len(label_maps(tmp_path / "out")) == 3


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_job_with_a_message(untrained, tmp_path):
    bundle = Bundle("nvnet_brats")
    die = {"inferring": ["$os.kill(os.getpid(), 9) if os.environ['RANK'] == '1' else None", "$@evaluator.run()"]}
    (tmp_path / "die.json").write_text(json.dumps(die))
    keys = {**untrained[bundle.name], **PLAIN, "output_dir": str(tmp_path / "out")}
    configs = [*bundle.config("inference", "multi_gpu_inference"), str(tmp_path / "die.json")]
    started = time.monotonic()
    done = torchrun("inferring", configs, keys)
    assert done.returncode != 0
    assert "Signal 9 (SIGKILL) received by PID" in done.stderr
    assert "[rank0]: Traceback" not in done.stderr
    assert time.monotonic() - started < 120  # and not the minutes that a process may wait for another
