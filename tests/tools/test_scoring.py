"""Scores of results that exist: files that belong together, and numbers that other programs give, too."""

import csv
import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.metrics import compute_surface_dice
from scipy import ndimage

from custom_nets.datasets import datalist
from custom_nets.errors import InputError
from custom_nets.tools import write_abdomen_phantoms, write_brain_phantoms
from custom_nets.tools.scoring import match_cases, parse_labels, score_case, score_results
from tests.bundles.bundle import SMALLEST, Bundle
from tests.tools.test_cli import call

AFFINE = np.diag([1.0, 2.0, 1.5, 1.0])


@pytest.fixture(scope="module")
def brains(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("brains")
    write_brain_phantoms(folder, 3, (40, 40, 28), seed=5, progress=False)
    return folder


def save(file: Path, voxels: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels.astype(np.uint8), affine), file)
    return file


def shifted(item: dict, folder: Path, name: str) -> Path:
    """A result: the label, one voxel aside."""
    label = nibabel.load(item["label"])
    return save(folder / name, np.roll(np.asarray(label.dataobj), 1, axis=0), label.affine)


NAMINGS = {
    "ours": "{case}/{case}_prediction.nii.gz",
    "nnU-Net's": "{case}.nii.gz",
    "with an ending": "{case}_seg.nii.gz",
    "in folders": "{case}/result.nii.gz",
}


@pytest.mark.parametrize("naming", NAMINGS)
def test_cases_are_matched_by_name(naming, brains, tmp_path):
    for item in datalist(brains):
        shifted(item, tmp_path, NAMINGS[naming].format(case=item["case"]))
    if naming == "ours":
        save(tmp_path / "BraTS20_Training_001" / "BraTS20_Training_001_probabilities.nii.gz", np.zeros((2, 2, 2)))
    pairs, record = match_cases(tmp_path, brains)
    assert [pair.case for pair in pairs] == [f"BraTS20_Training_00{number}" for number in (1, 2, 3)]
    assert all(pair.case in pair.result for pair in pairs)
    assert record.name == "brats2018"


def test_labels_may_lie_in_a_folder_alone(brains, tmp_path):
    for item in datalist(brains):
        shifted(item, tmp_path / "results", f"{item['case']}.nii.gz")
        (tmp_path / "labels").mkdir(exist_ok=True)
        shutil.copy(item["label"], tmp_path / "labels")
    pairs, _ = match_cases(tmp_path / "results", tmp_path / "labels")
    assert [pair.case for pair in pairs] == [f"BraTS20_Training_00{number}" for number in (1, 2, 3)]


def test_the_pairs_of_lits_are_known(tmp_path):
    write_abdomen_phantoms(tmp_path / "data", 2, spacing=10.0, progress=False)
    (tmp_path / "results").mkdir()
    for number in (0, 1):
        shutil.copy(tmp_path / "data" / f"segmentation-{number}.nii.gz", tmp_path / "results")
    report = json.loads(score_results(tmp_path / "results", tmp_path / "data", tmp_path / "scores").read_text())
    assert [case["case"] for case in report["cases"]] == ["volume-0", "volume-1"]
    assert report["summary"]["liver"]["dice"]["mean"] == 1
    for case in report["cases"]:
        counts = case["regions"]["tumour"]
        assert counts["lits_lesions"] == counts["lits_lesions_detected"] == counts["lits_predicted"]


def test_other_numbers_are_read_by_their_record_or_as_typed(brains, tmp_path):
    item = datalist(brains)[0]
    label = nibabel.load(item["label"])
    voxels = np.asarray(label.dataobj)
    save(tmp_path / "results" / f"{item['case']}.nii.gz", np.where(voxels == 4, 3, voxels), label.affine)
    places = (tmp_path / "results", Path(item["label"]).parent, tmp_path / "scores")
    with pytest.raises(InputError, match=r"label numbers 3 are unknown .* of the results --results_dataset"):
        score_results(*places)
    report = json.loads(score_results(*places, results_dataset="brats2023").read_text())
    assert report["summary"]["mean"]["dice"]["mean"] == 1
    report = json.loads(score_results(*places, labels="tumour=1,2,3,4 oedema=2").read_text())
    assert list(report["summary"]) == ["tumour", "oedema", "mean"]
    assert report["summary"]["tumour"]["dice"]["mean"] == 1


def test_without_a_record_each_number_is_a_region(tmp_path):
    label = np.zeros((8, 8, 8))
    label[2:6, 2:6, 2:6] = 1
    label[3, 3, 3] = 7
    save(tmp_path / "labels" / "knee_04.nii.gz", label)
    save(tmp_path / "results" / "knee_04.nii.gz", np.where(label == 7, 1, label))
    report = json.loads(score_results(tmp_path / "results", tmp_path / "labels", tmp_path).read_text())
    assert report["summary"]["1"]["dice"]["mean"] == pytest.approx(2 * 63 / (63 + 64), abs=1e-6)
    assert report["summary"]["7"]["dice"]["mean"] == 0


def test_cases_without_a_result_are_told_left_out_or_empty(brains, tmp_path, caplog):
    shifted(datalist(brains)[0], tmp_path / "results", "BraTS20_Training_001.nii.gz")
    with pytest.raises(InputError, match="2 of 3 labelled cases have no result: BraTS20_Training_002, BraTS20_Train"):
        match_cases(tmp_path / "results", brains)
    assert len(match_cases(tmp_path / "results", brains, missing="leave_out")[0]) == 1
    assert caplog.messages[-1].startswith(
        "2 of 3 labelled cases have no result, and are left out: BraTS20_Training_002"
    )
    report = json.loads(score_results(tmp_path / "results", brains, tmp_path, missing="empty").read_text())
    assert [case["regions"]["WT"]["dice"] for case in report["cases"]][1:] == [0, 0]


def test_two_results_of_a_case_are_refused(brains, tmp_path):
    item = datalist(brains)[0]
    for name in (f"{item['case']}.nii.gz", f"{item['case']}_seg.nii.gz"):
        shifted(item, tmp_path, name)
    with pytest.raises(InputError, match=f"case {item['case']}: two results"):
        match_cases(tmp_path, brains)


def test_other_grids_are_listed_before_anything_is_scored(brains, tmp_path):
    first, second, third = datalist(brains)
    shifted(first, tmp_path / "results", f"{first['case']}.nii.gz")
    save(tmp_path / "results" / f"{second['case']}.nii.gz", np.zeros((40, 40, 28)), np.eye(4))
    save(tmp_path / "results" / f"{third['case']}.nii.gz", np.zeros((40, 40, 27)), np.eye(4))
    with pytest.raises(InputError) as raised:
        score_results(tmp_path / "results", brains, tmp_path / "scores")
    header, *lines = str(raised.value).splitlines()
    assert header == "2 of 3 cases cannot be scored:"
    assert "affine differs" in lines[0]
    assert "shape (40, 40, 27)" in lines[1]
    assert not (tmp_path / "scores").exists()


@pytest.mark.parametrize("text", ["", "WT", "WT=", "WT=1,x", "WT=1, 2", "WT 1"])
def test_what_is_no_list_of_regions_is_one_line(text):
    with pytest.raises(InputError, match="expected names and numbers, such as 'WT=1,2,4"):
        parse_labels(text)


def random_pair(seed: int) -> list[torch.Tensor]:
    random = np.random.default_rng(seed)
    fields = [ndimage.gaussian_filter(random.standard_normal((2, 20, 18, 16)), (0, 2, 2, 2)) for _ in range(2)]
    return [torch.from_numpy(field > 0.02) for field in (fields[0], fields[0] + 0.7 * fields[1])]


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_simple_itk(seed):
    sitk = pytest.importorskip("SimpleITK")
    pair = random_pair(seed)
    scores = score_case(*pair, AFFINE, 1.0, 3.0, 0.0)
    for region in range(2):
        images = [sitk.GetImageFromArray(part[region].numpy().astype(np.uint8).transpose(2, 1, 0)) for part in pair]
        for image in images:
            image.SetSpacing(np.diag(AFFINE)[:3].tolist())
        overlap = sitk.LabelOverlapMeasuresImageFilter()
        overlap.Execute(images[1], images[0])
        assert scores["dice"][region] == pytest.approx(overlap.GetDiceCoefficient(), abs=1e-6)
        assert scores["iou"][region] == pytest.approx(overlap.GetJaccardCoefficient(), abs=1e-6)
        volumes = [part[region].sum().item() * 3 / 1000 for part in pair]
        assert scores["volume_error_ml"][region] == pytest.approx(volumes[0] - volumes[1])
        contours = [sitk.LabelContour(sitk.ConstantPad(image, [1] * 3, [1] * 3)) for image in images]
        maps = [
            sitk.Abs(sitk.SignedMaurerDistanceMap(c, squaredDistance=False, useImageSpacing=True)) for c in contours
        ]
        arrays = [
            (sitk.GetArrayFromImage(c) > 0, sitk.GetArrayFromImage(m)) for c, m in zip(contours, maps, strict=True)
        ]
        directed = [np.percentile(arrays[1 - k][1][arrays[k][0]], 95) for k in (0, 1)]
        assert scores["hd95_mm"][region] == pytest.approx(max(directed), rel=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_surface_dice_is_that_of_monai(seed):
    found, true = random_pair(seed)
    scores = score_case(found, true, AFFINE, 1.0, 3.0, 0.0)
    padded = [torch.nn.functional.pad(part, [1] * 6)[None] for part in (found, true)]
    options = {"include_background": True, "spacing": (1.0, 2.0, 1.5), "use_subvoxels": True}
    expected = compute_surface_dice(*padded, [1.0, 1.0], **options)[0]
    np.testing.assert_allclose(scores["surface_dice"], expected, rtol=1e-5)


def test_scores_of_agreement_and_of_nothing():
    """A missed region and an invented one have the worst scores; two empty ones the best."""
    empty, ball = torch.zeros(3, 10, 10, 10, dtype=torch.bool), torch.zeros(3, 10, 10, 10, dtype=torch.bool)
    ball[:, 3:7, 3:7, 3:7] = True
    true, found = ball.clone(), ball.clone()
    found[1] = empty[1]
    true[2] = empty[2]
    scores = score_case(found, true, np.eye(4), 1.0, 3.0, 0.0)
    assert scores["dice"].tolist() == scores["surface_dice"].tolist() == scores["lesion_dice"].tolist() == [1, 0, 0]
    assert scores["lesion_hd95_mm"].tolist() == [0, 374, 374]
    assert scores["volume_error_ml"].tolist() == pytest.approx([0, -0.064, 0.064])
    nothing = score_case(empty, empty, np.eye(4), 1.0, 3.0, 0.0)
    assert nothing["dice"].tolist() == nothing["surface_dice"].tolist() == nothing["lesion_dice"].tolist() == [1, 1, 1]


def test_the_bundles_evaluation_and_its_results_have_the_same_scores(brains, tmp_path):
    """What `evaluating` says of cases is what `evaluate RESULTS LABELS` says of the files that `inferring` wrote."""
    bundle = Bundle("ossnet_brats")
    keys = {**SMALLEST["ossnet_brats"], "dataset_dir": str(brains), "num_workers": 0}
    keys = {name: value for name, value in keys.items() if name not in ("num_points", "batch_size")}
    torch.manual_seed(0)
    network = bundle.parse("inference", workflow=None, **keys).get_parsed_content("network_def")
    torch.save(network.state_dict(), tmp_path / "model.pt")
    keys |= {"load_model": str(tmp_path / "model.pt")}
    plain = {"save_meshes": False, "save_overlay": False}
    bundle.run("inferring", "inference", **keys, **plain, output_dir=str(tmp_path / "results"))
    evaluated = {**keys, "output_dir": str(tmp_path / "eval"), "evaluation_section": "all"}
    bundle.run("evaluating", "train", "evaluate", **evaluated)
    score_results(tmp_path / "results", brains, tmp_path / "scores")
    tables = []
    for folder in ("eval", "scores"):
        with (tmp_path / folder / "metrics.csv").open() as file:
            tables.append(list(csv.DictReader(file)))
    for ours, theirs in zip(*tables, strict=True):
        numbers = {name: float(value) for name, value in ours.items() if name not in ("case", "region")}
        assert numbers == pytest.approx({name: float(theirs[name]) for name in numbers}, rel=1e-4)


def test_the_command_prints_one_table(brains, tmp_path, monkeypatch, capsys):
    for item in datalist(brains):
        shifted(item, tmp_path / "results", f"{item['case']}.nii.gz")
    arguments = ("evaluate", str(tmp_path / "results"), str(brains), "--output_dir", str(tmp_path / "scores"))
    assert call(monkeypatch, *arguments, "--regions", "WT,ET") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "3 cases, mean (median)"
    assert lines[1].split() == ["WT", "ET", "mean"]
    assert "detection (LiTS: IoU above 0.5)" in lines
    assert lines[-1].endswith(f"results: {tmp_path}/scores/metrics.csv, {tmp_path}/scores/metrics.json")


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (("--tolerence", "1"), "unknown option --tolerence; did you mean --tolerance?"),
        (("--tolerance", "wide"), "tolerance is 'wide'; expected a number"),
        (("--missing", "skip"), "missing is 'skip'; expected refuse, leave_out or empty"),
        (("--configs", "variant"), "--configs has no effect on results; leave it out"),
    ],
)
def test_wrong_options_are_one_line(typed, line, brains, tmp_path, monkeypatch, capsys):
    assert call(monkeypatch, "evaluate", str(tmp_path), str(brains), *typed) == 2
    assert capsys.readouterr().err == f"error: {line}\n"
    assert not any(tmp_path.iterdir())
