"""Styles of synthetic brains: what makes the hard ones hard, and what stays as it is in all of them."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from custom_nets.errors import InputError
from custom_nets.tools import cli
from custom_nets.tools.phantoms import brain as phantoms
from custom_nets.tools.phantoms.brain import BrainPhantom, brain_phantom, write_brain_phantoms
from custom_nets.tools.phantoms.brain_styles import STYLES
from custom_nets.transforms.regions import LabelsToRegions

SHAPE = (64, 64, 48)
FINE = (80, 80, 60)
SMALL = (48, 40, 32)
CASES = range(1, 13)
FLAIR, T1, T1CE, T2 = range(4)

# Of the standard style, seed 0, cases 1 to 6: voxels of the labels 1, 2, 4; mean of all images.
RECORDED_COUNTS = [[64, 431, 129], [69, 619, 310], [867, 533, 0], [88, 384, 258], [100, 680, 353], [77, 381, 168]]
RECORDED_MEANS = [62.519, 49.175, 36.569, 44.562, 36.052, 42.199]


def _millilitres(shape: tuple[int, int, int]) -> float:
    return 240 * 240 * 155 / np.prod(shape) / 1000


def _lesions(phantom: BrainPhantom) -> np.ndarray:
    """Volumes (ml) of the separate lesions."""
    pieces, _ = ndimage.label(phantom.label > 0, np.ones((3, 3, 3)))
    return np.bincount(pieces.ravel())[1:] * _millilitres(phantom.label.shape)


def _relative_spread(phantom: BrainPhantom, channel: int) -> float:
    """Standard deviation over mean of the brain's signal: no gain changes it."""
    signal = phantom.images[channel][phantom.images[channel] > 0].astype(float)
    return signal.std() / signal.mean()


@pytest.fixture(scope="module")
def cohorts() -> dict[str, list[BrainPhantom]]:
    return {style: [brain_phantom(FINE, 0, case, style) for case in CASES] for style in ("hard", "shifted")}


@pytest.fixture(scope="module")
def standard() -> list[BrainPhantom]:
    return [brain_phantom(SHAPE, 0, case) for case in range(1, 7)]


def test_standard_is_the_default() -> None:
    default, named = brain_phantom(SMALL, 3, 2), brain_phantom(SMALL, 3, 2, "standard")
    assert (default.images == named.images).all()
    assert (default.label == named.label).all()


def test_standard_has_not_changed(standard: list[BrainPhantom]) -> None:
    # Recorded before there were styles; another processor may round a voxel differently.
    counts = [[int((phantom.label == n).sum()) for n in (1, 2, 4)] for phantom in standard]
    np.testing.assert_allclose(counts, RECORDED_COUNTS, rtol=0.01)
    np.testing.assert_allclose([phantom.images.mean() for phantom in standard], RECORDED_MEANS, rtol=1e-3)


@pytest.mark.parametrize("style", ["hard", "shifted"])
def test_same_arguments_give_the_same_bytes(style: str) -> None:
    first, again = brain_phantom(SMALL, 3, 4, style), brain_phantom(SMALL, 3, 4, style)
    assert first.images.tobytes() == again.images.tobytes()
    assert first.label.tobytes() == again.label.tobytes()


@pytest.mark.parametrize("style", ["hard", "shifted"])
def test_another_style_is_another_case(style: str) -> None:
    assert not np.array_equal(brain_phantom(SMALL, 3, 4, style).label, brain_phantom(SMALL, 3, 4).label)


@pytest.mark.parametrize("case", [1, 2, 3])
def test_lesions_do_not_depend_on_the_voxel_size(case: int) -> None:
    double = brain_phantom(tuple(2 * n for n in SHAPE), 0, case, "hard").label > 0
    majority = double.reshape(64, 2, 64, 2, 48, 2).mean(axis=(1, 3, 5)) > 0.5
    coarse = brain_phantom(SHAPE, 0, case, "hard").label > 0
    assert 2 * (majority & coarse).sum() / (majority.sum() + coarse.sum()) > 0.8


@pytest.mark.parametrize("style", ["hard", "shifted"])
def test_regions_are_nested_and_lie_in_the_brain(cohorts: dict[str, list[BrainPhantom]], style: str) -> None:
    for phantom in cohorts[style]:
        whole, core, enhancing = LabelsToRegions("brats2018")(phantom.label[None]).bool().numpy()
        assert (phantom.images[0][whole] > 0).all()
        assert 0 < core.sum() < whole.sum()
        assert not (core & ~whole).any()
        assert not (enhancing & ~core).any()


@pytest.mark.parametrize("style", ["hard", "shifted"])
def test_most_cases_have_several_lesions(cohorts: dict[str, list[BrainPhantom]], style: str) -> None:
    counts = [len(_lesions(phantom)) for phantom in cohorts[style]]
    assert np.mean(np.array(counts) > 1) > 0.5
    assert max(counts) <= 4


@pytest.mark.parametrize("style", ["hard", "shifted"])
def test_a_share_of_the_lesions_is_small(cohorts: dict[str, list[BrainPhantom]], style: str) -> None:
    volumes = np.concatenate([_lesions(phantom) for phantom in cohorts[style]])
    assert 0.2 < np.mean(volumes < 1) < 0.6
    assert volumes.min() > 0.1


def test_some_hard_cases_have_no_enhancing_tumour_and_most_have_some(cohorts: dict[str, list[BrainPhantom]]) -> None:
    without = [not (phantom.label == 4).any() for phantom in cohorts["hard"]]
    assert 0 < np.mean(without) < 0.5


def test_enhancing_tumour_is_a_smaller_part_than_in_the_standard(
    cohorts: dict[str, list[BrainPhantom]], standard: list[BrainPhantom]
) -> None:
    hard, easy = (
        np.median([(p.label == 4).sum() / (p.label > 0).sum() for p in cases]) for cases in (cohorts["hard"], standard)
    )
    assert hard < 0.7 * easy


def test_oedema_fades_beyond_its_label(cohorts: dict[str, list[BrainPhantom]]) -> None:
    brighter = []
    for phantom in cohorts["hard"]:
        flair, tumour = phantom.images[FLAIR], phantom.label > 0
        away = ndimage.distance_transform_edt(~tumour, sampling=[240 / FINE[0], 240 / FINE[1], 155 / FINE[2]])
        deep = ndimage.distance_transform_edt(flair > 0) > 6  # without cortex, which is brighter than white matter
        near, far = (flair[deep & (away > low) & (away <= high)].mean() for low, high in ((1, 5), (9, 15)))
        brighter.append(near > 1.03 * far)
    assert np.mean(brighter) > 0.7


def test_every_scanner_shows_the_same_brain_in_its_own_contrast(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    for scanner in (*STYLES["hard"].scanners, *STYLES["shifted"].scanners):
        style = replace(STYLES["hard"], scanners=(scanner,))
        monkeypatch.setattr(phantoms, "get_style", lambda _, style=style: style)
        phantom = brain_phantom(SHAPE, 0, 1, "hard")
        looks.append([_relative_spread(phantom, channel) for channel in (FLAIR, T1, T1CE, T2)])
    for one, other in combinations(np.array(looks), 2):
        assert (np.abs(one / other - 1) > 0.1).any()


def test_a_cohort_is_taken_with_every_scanner() -> None:
    for style in (STYLES["hard"], STYLES["shifted"]):
        drawn = [phantoms._draw_session(np.random.default_rng(seed), style).scanner for seed in range(30)]
        assert all(scanner in drawn for scanner in style.scanners)


def test_no_shifted_case_comes_from_a_hard_scanner() -> None:
    assert not any(scanner in STYLES["hard"].scanners for scanner in STYLES["shifted"].scanners)


def test_shifted_scanners_have_more_noise_than_all_hard_ones_on_average() -> None:
    noise = {name: [np.mean(s.noise) for s in STYLES[name].scanners] for name in ("hard", "shifted")}
    assert min(noise["shifted"]) > np.max(noise["hard"])


def test_files_are_written_in_a_style(tmp_path: Path) -> None:
    (folder,) = write_brain_phantoms(tmp_path, 1, SMALL, seed=5, progress=False, style="hard")
    stored = nibabel.load(folder / f"{folder.name}_t2.nii.gz")
    np.testing.assert_array_equal(np.asarray(stored.dataobj), brain_phantom(SMALL, 5, 1, "hard").images[T2])


def test_the_command_knows_styles(tmp_path: Path) -> None:
    cli.phantom("brats", str(tmp_path), 1, SMALL, 5, style="shifted")
    stored = nibabel.load(tmp_path / "BraTS20_Training_001" / "BraTS20_Training_001_seg.nii.gz")
    np.testing.assert_array_equal(np.asarray(stored.dataobj), brain_phantom(SMALL, 5, 1, "shifted").label)


def test_an_unknown_style_is_named_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="style 'easy' is unknown; expected one of standard, hard, shifted"):
        write_brain_phantoms(tmp_path / "new", 1, SMALL, progress=False, style="easy")
    assert not (tmp_path / "new").exists()
