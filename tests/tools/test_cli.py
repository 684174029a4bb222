"""The command line."""

import json
import re
import sys

import nibabel
import numpy as np
import pytest
import torch
from monai.networks.nets import SegResNet

from custom_nets.metrics import write_case_metrics
from custom_nets.networks import OSSNet
from custom_nets.tools import cli, write_brain_phantoms
from tests.conftest import REPOSITORY
from tests.networks.ossnet.test_network import ours_to_published
from tests.tools.conftest import copy_bundle


def call(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["custom-nets", *arguments])
    try:
        cli.main()
    except SystemExit as exit_:
        return int(exit_.code or 0)
    return 0


def test_phantoms_are_written(monkeypatch, tmp_path, capsys):
    arguments = ("phantom", "brats", str(tmp_path), "--cases", "2", "--shape", "32", "32", "24", "--seed", "3")
    assert call(monkeypatch, *arguments) == 0
    case = tmp_path / "BraTS20_Training_002"
    assert nibabel.load(case / "BraTS20_Training_002_seg.nii.gz").shape == (32, 32, 24)
    assert "2 synthetic cases" in capsys.readouterr().out


def test_check_tells_what_is_seen(monkeypatch, tmp_path, capsys):
    call(monkeypatch, "phantom", "brats", str(tmp_path), "--cases", "2", "--shape", "32", "32", "24")
    assert call(monkeypatch, "check", str(tmp_path)) == 0
    assert "2 cases, 2 without fault (2 with a label)" in capsys.readouterr().out


def test_faulty_cases_are_listed(monkeypatch, tmp_path, capsys):
    call(monkeypatch, "phantom", "brats", str(tmp_path), "--cases", "2", "--shape", "32", "32", "24")
    (tmp_path / "BraTS20_Training_001" / "BraTS20_Training_001_t1.nii.gz").unlink()
    assert call(monkeypatch, "check", str(tmp_path)) == 2
    printed = capsys.readouterr()
    assert "2 cases, 1 without fault" in printed.out
    assert re.search("^fault: case BraTS20_Training_001.*T1 missing", printed.out, re.MULTILINE)
    last = printed.err.splitlines()[-1]
    assert last == "error: 1 of 2 cases cannot be used, each with a line above; mend them, or take them out"


def test_every_fault_is_listed(monkeypatch, tmp_path, capsys):
    write_brain_phantoms(tmp_path, 14, (32, 32, 24), progress=False)
    for number in range(1, 13):
        (tmp_path / f"BraTS20_Training_{number:03}" / f"BraTS20_Training_{number:03}_t1.nii.gz").write_bytes(b"")
    assert call(monkeypatch, "check", str(tmp_path), "--voxels", "false") == 2
    printed = capsys.readouterr()
    assert printed.out.count("\nfault: case ") == 12
    assert printed.err.startswith("error: 12 of 14 cases cannot be used")
    assert printed.err.count("\n") == 1


def test_a_case_is_stacked(monkeypatch, tmp_path):
    call(monkeypatch, "phantom", "brats", str(tmp_path), "--cases", "1", "--shape", "32", "32", "24")
    assert call(monkeypatch, "stack", str(tmp_path / "BraTS20_Training_001"), str(tmp_path / "out.nii.gz")) == 0
    assert nibabel.load(tmp_path / "out.nii.gz").shape == (32, 32, 24, 4)


def test_a_published_checkpoint_is_converted(monkeypatch, tmp_path, capsys):
    net = OSSNet.published("a", "brats")
    torch.save({ours_to_published(k): v for k, v in net.state_dict().items()}, tmp_path / "in.pt")
    target = str(tmp_path / "out.pt")
    assert (
        call(monkeypatch, "convert-ossnet", str(tmp_path / "in.pt"), target, "--variant", "a", "--dataset", "brats")
        == 0
    )
    assert "7,245,438 parameters" in capsys.readouterr().out
    net.load_state_dict(torch.load(target, weights_only=True), strict=True)


def test_a_wrong_variant_is_named(monkeypatch, tmp_path, capsys):
    net = OSSNet.published("a", "brats")
    torch.save({ours_to_published(k): v for k, v in net.state_dict().items()}, tmp_path / "in.pt")
    assert call(monkeypatch, "convert-ossnet", str(tmp_path / "in.pt"), str(tmp_path / "o.pt"), "--variant", "c") == 2
    assert "check the variant and the dataset" in capsys.readouterr().err


def test_weights_of_a_segresnet_are_converted(monkeypatch, tmp_path, capsys):
    torch.save(SegResNet(init_filters=8, in_channels=4, out_channels=3).state_dict(), tmp_path / "zoo.pt")
    assert call(monkeypatch, "convert-segresnet", str(tmp_path / "zoo.pt"), str(tmp_path / "model.pt")) == 0
    assert "--init_filters 8 --final_norm true" in capsys.readouterr().out
    assert (tmp_path / "model.pt").is_file()


def test_a_submission_is_packed(monkeypatch, tmp_path, capsys):
    case = "BraTS20_Validation_001"
    image = nibabel.Nifti1Image(np.zeros((240, 240, 155), np.uint8), np.diag([-1, -1, 1, 1]))
    for name in (f"results/{case}/{case}_prediction.nii.gz", f"data/{case}/{case}_flair.nii.gz"):
        (tmp_path / name).parent.mkdir(parents=True)
        nibabel.save(image, tmp_path / name)
    places = (str(tmp_path / "results"), str(tmp_path / "out.zip"))
    assert call(monkeypatch, "submission", *places, "--release", "2020", "--dataset_dir", str(tmp_path / "data")) == 0
    assert "1 cases, no fault found" in capsys.readouterr().out
    assert (tmp_path / "out.zip").is_file()


def test_a_faulty_submission_is_listed(monkeypatch, tmp_path, capsys):
    call(monkeypatch, "phantom", "brats", str(tmp_path / "data"), "--cases", "2", "--shape", "32", "32", "24")
    (tmp_path / "results").mkdir()
    places = (str(tmp_path / "results"), str(tmp_path / "out.zip"))
    assert call(monkeypatch, "submission", *places, "--release", "2020", "--dataset_dir", str(tmp_path / "data")) == 2
    printed = capsys.readouterr()
    assert all(f"fault: case BraTS20_Training_00{number}" in printed.out for number in (1, 2))
    last = printed.err.splitlines()[-1]
    assert re.fullmatch(r"error: \d faults in .*out.zip is not written; mend and try again", last)
    assert not (tmp_path / "out.zip").exists()


def test_check_allows_for_missing_modalities(monkeypatch, tmp_path, capsys):
    call(monkeypatch, "phantom", "brats", str(tmp_path), "--cases", "1", "--shape", "32", "32", "24")
    (tmp_path / "BraTS20_Training_001" / "BraTS20_Training_001_t1.nii.gz").unlink()
    assert call(monkeypatch, "check", str(tmp_path), "--missing_modalities") == 0
    assert "1 cases, 1 without fault" in capsys.readouterr().out


def test_scores_are_a_table(monkeypatch, tmp_path, capsys):
    scores = torch.tensor([[0.5, 1.0], [0.7, 0.0]]).numpy()
    write_case_metrics(tmp_path, ["a", "b"], ["WT", "TC"], {"dice": scores})
    assert call(monkeypatch, "scores", str(tmp_path / "metrics.json")) == 0
    assert "dice    0.600 (0.600)  0.500 (0.500)" in capsys.readouterr().out


def test_scores_need_an_evaluation(monkeypatch, tmp_path, capsys):
    assert call(monkeypatch, "scores", str(tmp_path / "metrics.json")) == 2
    assert "run the evaluation of a bundle first" in capsys.readouterr().err


def test_info_is_json_for_bug_reports(monkeypatch, capsys):
    assert call(monkeypatch, "info", "--json") == 0
    assert {"torch", "monai", "device"} <= set(json.loads(capsys.readouterr().out))


def test_ct_phantoms_are_written_and_recognised(monkeypatch, tmp_path, capsys):
    assert call(monkeypatch, "phantom", "lits", str(tmp_path), "--cases", "2", "--spacing", "8") == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "segmentation-0.nii.gz",
        "segmentation-1.nii.gz",
        "volume-0.nii.gz",
        "volume-1.nii.gz",
    ]
    assert call(monkeypatch, "check", str(tmp_path)) == 0
    assert "2 cases, 2 without fault (2 with a label)" in capsys.readouterr().out


def test_oddities_of_ct_cases_are_told(monkeypatch, tmp_path, capsys):
    scan = np.linspace(-1000, 100, 125).reshape(5, 5, 5)
    for name, values in (("volume-28", scan.astype(np.int16)), ("segmentation-28", np.zeros((5, 5, 5)))):
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / f"{name}.nii.gz")
    assert call(monkeypatch, "check", str(tmp_path)) == 0
    printed = capsys.readouterr().out
    assert "1 of 1 cases have the identity as affine" in printed
    assert "1 of 1 cases have labels stored as floats" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lits", "--shape", "32", "32", "24"), "--shape has no effect on phantoms of lits"),
        (("lits", "--style", "hard"), "--style has no effect on phantoms of lits"),
        (("brats", "--spacing", "3"), "--spacing has no effect on phantoms of brats"),
        (("kidney",), "dataset is 'kidney'; expected brats or lits"),
    ],
)
def test_options_without_effect_are_refused(monkeypatch, tmp_path, capsys, arguments, message):
    assert call(monkeypatch, "phantom", arguments[0], str(tmp_path), *arguments[1:]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("bundle", ["ossnet_brats", "ossnet_lits", "nvnet_brats"])
def test_memory_is_told_by_part(monkeypatch, capsys, bundle):
    folder = REPOSITORY / "bundles" / bundle
    assert call(monkeypatch, "memory", str(folder), "--shape", "64", "64", "48", "--device", "cpu") == 0
    sizes = {line.split()[0]: float(line.split()[1]) for line in capsys.readouterr().out.splitlines()[:-1]}
    assert set(sizes) == {"image", "weights", "encoder", "points", "search", "result", "peak"}
    assert sizes["peak"] >= sizes["image"]


def test_memory_takes_keys_and_configs(monkeypatch, capsys):
    call_of = ("memory", str(REPOSITORY / "bundles" / "ossnet_brats"), "--shape", "96", "96", "96", "--device", "cpu")
    call(monkeypatch, *call_of, "--configs", "variant", "--variant", "c")
    small = capsys.readouterr().out
    call(monkeypatch, *call_of, "--configs", "variant", "--variant", "d", "--points_per_chunk", "20000")
    assert float(capsys.readouterr().out.split("points")[1].split()[0]) > float(small.split("points")[1].split()[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere", "--shape", "1", "2", "3"), "expected the folder of a bundle"),
        (("bundles/ossnet_brats", "--shape", "64", "64"), "expected three numbers of voxels"),
    ],
)
def test_memory_of_nothing_is_one_line(monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(REPOSITORY)
    assert call(monkeypatch, "memory", *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_bundle_is_packed_and_fetched(monkeypatch, tmp_path, capsys):
    bundle = copy_bundle("ossnet_brats", tmp_path)
    assert call(monkeypatch, "pack", str(bundle), "--output_dir", str(tmp_path / "dist")) == 0
    assert "ossnet_brats_v0.1.0.zip (" in capsys.readouterr().out
    arguments = ("fetch", "ossnet_brats", "--source", str(tmp_path / "dist"), "--bundle_dir", str(tmp_path / "there"))
    assert call(monkeypatch, *arguments) == 0
    assert f"ossnet_brats is in {tmp_path / 'there' / 'ossnet_brats'}" in capsys.readouterr().out
    (tmp_path / "there" / "ossnet_brats" / "models" / "mine.pt").write_bytes(b"")
    assert call(monkeypatch, *arguments) == 0
    assert "kept as" in capsys.readouterr().out


def test_a_version_in_numbers_is_a_version(monkeypatch, tmp_path, capsys):
    """Fire reads 0.1 as a number; the message must not name another."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "model_info.json").write_text('{"x_v0.2": {}}')
    assert call(monkeypatch, "fetch", "x", "--source", str(tmp_path), "--version", "0.1") == 2
    assert "has no x 0.1 (it has 0.2)" in capsys.readouterr().err


def test_a_bundle_without_weights_is_not_packed(monkeypatch, tmp_path, capsys):
    bundle = copy_bundle("ossnet_brats", tmp_path)
    (bundle / "models" / "model.pt").unlink()
    assert call(monkeypatch, "pack", str(bundle), "--output_dir", str(tmp_path / "dist")) == 2
    printed = capsys.readouterr().err
    assert "models/model.pt: missing" in printed
    assert "Traceback" not in printed
