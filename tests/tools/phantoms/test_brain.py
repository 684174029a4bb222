"""Synthetic brains: their promises, their difficulty, and the files they become."""

from __future__ import annotations

import gzip
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from custom_nets.errors import InputError
from custom_nets.tools.phantoms.brain import MODALITIES, BrainPhantom, brain_phantom, write_brain_phantoms
from custom_nets.tools.phantoms.smooth_fields import SmoothField
from custom_nets.transforms.regions import LabelsToRegions

SHAPE = (64, 64, 48)
SMALL = (48, 40, 32)
FLAIR, T1, T1CE, T2 = range(4)


def _millilitres_per_voxel(shape: tuple[int, int, int]) -> float:
    return 240 * 240 * 155 / np.prod(shape) / 1000


def _dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / max(1, a.sum() + b.sum()))


@pytest.fixture(scope="module")
def cohort() -> dict[int, BrainPhantom]:
    return {case: brain_phantom(SHAPE, 0, case) for case in range(1, 7)}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_brain_phantoms(tmp_path_factory.mktemp("phantoms"), 2, SMALL, seed=5, progress=False)


def test_smooth_field_agrees_on_a_grid_and_at_points() -> None:
    field = SmoothField(np.random.default_rng(0), 20.0, (60, 70, 50))
    axes = [np.linspace(-r - 5, r, n, dtype=np.float32) for r, n in ((60, 9), (70, 11), (50, 7))]
    points = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(3, -1)
    np.testing.assert_allclose(field.on_axes(axes).ravel(), field.at(points), atol=1e-4)


def test_same_arguments_give_the_same_bytes_on_many_threads() -> None:
    alone = brain_phantom(SMALL, 3, 4)
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda case: brain_phantom(SMALL, 3, case), (4, 5, 4)))
    for phantom in (together[0], together[2]):
        assert phantom.images.tobytes() == alone.images.tobytes()
        assert phantom.label.tobytes() == alone.label.tobytes()


@pytest.mark.parametrize(("seed", "case"), [(1, 1), (0, 2)])
def test_another_seed_or_case_is_another_brain(seed: int, case: int) -> None:
    assert not np.array_equal(brain_phantom(SMALL, 0, 1).images > 0, brain_phantom(SMALL, seed, case).images > 0)


def test_anatomy_does_not_depend_on_the_voxel_size(cohort: dict[int, BrainPhantom]) -> None:
    double = brain_phantom(tuple(2 * n for n in SHAPE), 0, 1).images[0] > 0
    majority = double.reshape(64, 2, 64, 2, 48, 2).mean(axis=(1, 3, 5)) > 0.5
    assert _dice(majority, cohort[1].images[0] > 0) > 0.97


def test_images_and_label_have_their_shapes_and_types(cohort: dict[int, BrainPhantom]) -> None:
    phantom = cohort[1]
    assert (phantom.images.shape, phantom.images.dtype) == ((4, *SHAPE), np.int16)
    assert (phantom.label.shape, phantom.label.dtype) == (SHAPE, np.uint8)


def test_background_is_exactly_zero_in_the_same_voxels_of_all_modalities(cohort: dict[int, BrainPhantom]) -> None:
    for phantom in cohort.values():
        brain = phantom.images > 0
        assert (brain == brain[0]).all()
        assert ndimage.label(brain[0])[1] == 1
        assert ndimage.label(~brain[0])[1] == 1  # one background, no holes in the brain
        assert phantom.images.min() == 0


def test_brain_has_a_plausible_volume(cohort: dict[int, BrainPhantom]) -> None:
    for phantom in cohort.values():
        assert 1100 < (phantom.images[0] > 0).sum() * _millilitres_per_voxel(SHAPE) < 1700


def test_tumour_lies_in_the_brain_and_has_a_plausible_volume(cohort: dict[int, BrainPhantom]) -> None:
    for phantom in cohort.values():
        tumour = phantom.label > 0
        assert not tumour[phantom.images[0] == 0].any()
        assert 15 < tumour.sum() * _millilitres_per_voxel(SHAPE) < 120


def test_label_numbers_are_those_of_brats_2020(cohort: dict[int, BrainPhantom]) -> None:
    assert np.unique(cohort[1].label).tolist() == [0, 1, 2, 4]
    assert np.unique(cohort[3].label).tolist() == [0, 1, 2]


def test_regions_are_nested_and_each_is_smaller_than_the_one_around_it(cohort: dict[int, BrainPhantom]) -> None:
    for phantom in cohort.values():
        whole, core, enhancing = LabelsToRegions("brats2018")(phantom.label[None]).bool().numpy()
        assert 0.2 * whole.sum() < core.sum() < 0.75 * whole.sum()
        assert enhancing.sum() < core.sum()
        assert not (enhancing & ~core).any()


def test_necrosis_is_wrapped_in_enhancing_tumour(cohort: dict[int, BrainPhantom]) -> None:
    for case in (1, 2, 4, 5, 6):
        label = cohort[case].label
        around = ndimage.binary_dilation(label == 1) & (label != 1)
        assert (label[around] == 4).mean() > 0.6


def test_six_cases_hold_one_without_enhancing_tumour(cohort: dict[int, BrainPhantom]) -> None:
    assert [case for case, phantom in cohort.items() if not (phantom.label == 4).any()] == [3]


def test_six_cases_hold_some_with_several_lesions(cohort: dict[int, BrainPhantom]) -> None:
    lesions = [ndimage.label(phantom.label > 0, np.ones((3, 3, 3)))[1] for phantom in cohort.values()]
    assert lesions == [1, 2, 1, 1, 3, 1]


def _mean_signals(phantom: BrainPhantom) -> np.ndarray:
    """Mean signal `[label 0, 1, 2, 4; modality]`, each modality relative to its median in the brain."""
    images, label = phantom
    brain = images[0] > 0
    medians = np.array([np.median(image[brain]) for image in images])
    return np.array([images[:, brain & (label == n)].mean(axis=1) / medians for n in (0, 1, 2, 4)])


def test_tissues_have_the_contrast_that_a_radiologist_expects(cohort: dict[int, BrainPhantom]) -> None:
    # The bias field may turn one case's contrast around, not that of several.
    signals = np.mean([_mean_signals(cohort[case]) for case in (1, 2, 4, 5, 6)], axis=0)
    healthy, necrosis, oedema, enhancing = signals
    assert oedema[FLAIR] > 1.2 * max(healthy[FLAIR], necrosis[FLAIR])
    assert oedema[T2] > 1.15 * healthy[T2]
    assert necrosis[T2] > 1.1 * oedema[T2]
    assert necrosis[T1] < 0.85 * oedema[T1] < 0.85 * healthy[T1]
    assert enhancing[T1CE] > 1.3 * max(healthy[T1CE], necrosis[T1CE], oedema[T1CE])
    assert enhancing[T1] < healthy[T1]


def test_no_flair_threshold_finds_the_tumours(cohort: dict[int, BrainPhantom]) -> None:
    thresholds = np.arange(-1, 4, 0.05)
    scores = []
    for images, label in cohort.values():
        brain = images[FLAIR] > 0
        flair = images[FLAIR][brain].astype(float)
        normalised = (flair - flair.mean()) / flair.std()
        scores.append([_dice(normalised > threshold, label[brain] > 0) for threshold in thresholds])
    best = np.mean(scores, axis=0).max()  # chosen with the labels: no honest threshold does better
    assert 0.25 < best < 0.6


def test_cases_are_written_in_the_layout_of_brats_2020(written: list[Path]) -> None:
    assert [folder.name for folder in written] == ["BraTS20_Training_001", "BraTS20_Training_002"]
    for folder in written:
        expected = {f"{folder.name}_{name}.nii.gz" for name in (*MODALITIES, "seg")}
        assert {path.name for path in folder.iterdir()} == expected


def test_files_hold_the_phantom(written: list[Path]) -> None:
    phantom = brain_phantom(SMALL, 5, 2)
    folder = written[1]
    for name, volume in zip((*MODALITIES, "seg"), (*phantom.images, phantom.label), strict=True):
        image = nibabel.load(folder / f"{folder.name}_{name}.nii.gz")
        assert image.get_data_dtype() == volume.dtype
        np.testing.assert_array_equal(np.asarray(image.dataobj), volume)


def test_affine_is_lps_and_keeps_the_field_of_view(written: list[Path]) -> None:
    for path in written[0].iterdir():
        image = nibabel.load(path)
        assert nibabel.aff2axcodes(image.affine) == ("L", "P", "S")
        np.testing.assert_allclose(np.multiply(image.header.get_zooms(), SMALL), (240, 240, 155), rtol=1e-6)
        np.testing.assert_allclose(image.affine[:3, 3], (0, 239, 0))
        assert image.header.get_xyzt_units()[0] == "mm"


def test_writing_again_gives_identical_files_and_leaves_others_alone(written: list[Path]) -> None:
    root = written[0].parent
    foreign = written[0] / "notes.txt"
    foreign.write_text("mine")
    before = {path: path.read_bytes() for path in root.rglob("*.nii.gz")}
    write_brain_phantoms(root, 2, SMALL, seed=5, progress=False)
    assert {path: path.read_bytes() for path in root.rglob("*.nii.gz")} == before
    assert foreign.read_text() == "mine"
    foreign.unlink()


def test_interrupted_writing_keeps_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "BraTS20_Training_001"
    folder.mkdir()
    old = folder / f"{folder.name}_flair.nii.gz"
    old.write_bytes(b"old")

    def interrupt(*_: object, **__: object) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(gzip, "compress", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_brain_phantoms(tmp_path, 1, SMALL, progress=False)
    assert [(path.name, path.read_bytes()) for path in folder.iterdir()] == [(old.name, b"old")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cases": 0}, "cases is 0; expected a whole number of at least 1"),
        ({"cases": 2.5}, "cases is 2.5"),
        ({"cases": True}, "cases is True"),
        ({"seed": -1}, "seed is -1; expected a whole number of at least 0"),
        ({"shape": (48, 48)}, "three whole numbers of at least 16"),
        ({"shape": (48, 48, 8)}, r"shape is \(48, 48, 8\)"),
        ({"shape": (48, 48, 32.5)}, "three whole numbers"),
        ({"shape": "48"}, "three whole numbers"),
        ({"shape": 48}, "three whole numbers"),
    ],
)
def test_bad_arguments_are_named(tmp_path: Path, arguments: dict[str, object], message: str) -> None:
    valid: dict[str, object] = {"cases": 1, "shape": SMALL, "progress": False}
    with pytest.raises(InputError, match=message) as error:
        write_brain_phantoms(tmp_path / "new", **{**valid, **arguments})  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    assert not (tmp_path / "new").exists()


def test_a_file_where_the_folder_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="it is a file"):
        write_brain_phantoms(tmp_path / "file", 1, SMALL, progress=False)


def test_progress_can_be_silenced(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_brain_phantoms(tmp_path, 1, SMALL, progress=False)
    assert capfd.readouterr() == ("", "")
