"""Synthetic abdomens: their promises, their difficulty, and the files they become."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from custom_nets.errors import InputError
from custom_nets.tools.phantoms.abdomen import PADDING, AbdomenPhantom, abdomen_phantom, write_abdomen_phantoms
from custom_nets.tools.phantoms.abdomen_grid import ScanGrid

COARSE = (6.0, 6.0, 6.0)
CASES = range(1, 13)


def _millilitres(phantom: AbdomenPhantom, number: int = 1) -> float:
    return float((phantom.label >= number).sum() * abs(np.linalg.det(phantom.affine[:3, :3])) / 1000)


def _centroid(phantom: AbdomenPhantom, mask: np.ndarray) -> np.ndarray:
    return phantom.affine[:3, :3] @ np.argwhere(mask).mean(axis=0) + phantom.affine[:3, 3]


def _codes(phantom: AbdomenPhantom) -> str:
    return "".join(nibabel.aff2axcodes(phantom.affine))


def _dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / max(1, a.sum() + b.sum()))


@pytest.fixture(scope="module")
def cohort() -> dict[int, AbdomenPhantom]:
    return {case: abdomen_phantom(0, case, COARSE) for case in CASES}


@pytest.fixture(scope="module")
def measured() -> AbdomenPhantom:
    return abdomen_phantom(0, 2, (2.5, 2.5, 2.0), tumour_diameters=[10, 24, 16])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_abdomen_phantoms(tmp_path_factory.mktemp("abdomens"), 2, 8.0, seed=5, progress=False)


def test_image_and_label_have_their_types_and_one_shape(cohort: dict[int, AbdomenPhantom]) -> None:
    for image, label, affine in cohort.values():
        assert (image.dtype, label.dtype, affine.dtype) == (np.int16, np.uint8, np.float64)
        assert image.shape == label.shape
        assert image.flags.c_contiguous


def test_same_arguments_give_the_same_bytes_on_many_threads(cohort: dict[int, AbdomenPhantom]) -> None:
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda case: abdomen_phantom(0, case, COARSE), (4, 5, 4)))
    for phantom in (together[0], together[2]):
        assert phantom.image.tobytes() == cohort[4].image.tobytes()
        assert phantom.label.tobytes() == cohort[4].label.tobytes()
        assert phantom.affine.tobytes() == cohort[4].affine.tobytes()


def test_another_seed_is_another_abdomen(cohort: dict[int, AbdomenPhantom]) -> None:
    assert _millilitres(abdomen_phantom(1, 1, COARSE)) != pytest.approx(_millilitres(cohort[1]), rel=0.005)


def test_liver_lies_on_the_right_in_world_coordinates(cohort: dict[int, AbdomenPhantom]) -> None:
    for phantom in cohort.values():
        liver = phantom.label > 0
        body = (phantom.image > -300) & (phantom.image < 1000)
        assert _centroid(phantom, liver)[0] > 30
        assert _centroid(phantom, liver)[0] > _centroid(phantom, body)[0] + 20


def test_spine_is_behind_and_lungs_are_above_the_liver(cohort: dict[int, AbdomenPhantom]) -> None:
    for phantom in cohort.values():
        liver = _centroid(phantom, phantom.label > 0)
        lungs = ndimage.binary_erosion((phantom.image > -920) & (phantom.image < -780))
        assert _centroid(phantom, phantom.image > 250)[1] < liver[1]
        assert _centroid(phantom, lungs)[2] > liver[2] + 40


def test_liver_has_a_plausible_volume(cohort: dict[int, AbdomenPhantom]) -> None:
    for phantom in cohort.values():
        assert 1100 < _millilitres(phantom) < 2000


def test_liver_is_whole_and_in_one_piece(cohort: dict[int, AbdomenPhantom]) -> None:
    for phantom in cohort.values():
        liver = np.pad(phantom.label > 0, 1)
        pieces, count = ndimage.label(liver)
        assert np.bincount(pieces.ravel())[1:].max() > 0.99 * liver.sum()
        assert count < 4
        for axis in range(3):
            assert not liver.take((1, -2), axis=axis).any()


def test_labels_are_those_of_lits_and_some_livers_are_healthy(cohort: dict[int, AbdomenPhantom]) -> None:
    found = {tuple(np.unique(phantom.label).tolist()) for phantom in cohort.values()}
    assert found == {(0, 1), (0, 1, 2)}


def test_orientation_varies(cohort: dict[int, AbdomenPhantom]) -> None:
    codes = {_codes(phantom) for phantom in cohort.values()}
    assert len(codes) > 4
    assert any(code[2] not in "SI" for code in codes)


def test_some_scans_are_oblique_and_all_keep_right_angles(cohort: dict[int, AbdomenPhantom]) -> None:
    angles = []
    for phantom in cohort.values():
        directions = phantom.affine[:3, :3] / 6
        np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=1e-9)
        straight = np.sign(directions) * (np.abs(directions) > 0.7)
        angles.append(np.degrees(np.arccos(np.clip((np.trace(straight.T @ directions) - 1) / 2, -1, 1))))
    assert min(angles) < 0.01
    assert 1.5 < max(angles) <= 8.01


def test_world_anatomy_does_not_depend_on_the_voxel_size(cohort: dict[int, AbdomenPhantom]) -> None:
    for case in (1, 2, 7):
        other = abdomen_phantom(0, case, (3.0, 4.0, 5.0))
        assert _millilitres(other) == pytest.approx(_millilitres(cohort[case]), rel=0.02)
        here, there = (_centroid(phantom, phantom.label > 0) for phantom in (other, cohort[case]))
        np.testing.assert_allclose(here, there, atol=0.6)


def test_interpolated_surfaces_keep_the_volume_of_those_at_the_voxels() -> None:
    coarse, fine = (abdomen_phantom(0, 1, (s, s, 4.0), tumour_diameters=[]) for s in (4.0, 1.9))
    assert _millilitres(fine) == pytest.approx(_millilitres(coarse), rel=0.01)


def test_requested_tumours_are_there_with_their_diameters(measured: AbdomenPhantom) -> None:
    pieces, count = ndimage.label(measured.label == 2, np.ones((3, 3, 3)))
    volumes = np.sort(np.bincount(pieces.ravel())[1:]) * 12.5
    assert count == 3
    np.testing.assert_allclose((6 * volumes / np.pi) ** (1 / 3), [10, 16, 24], rtol=0.06)


def test_tumours_lie_inside_the_liver(measured: AbdomenPhantom) -> None:
    around = ndimage.binary_dilation(measured.label == 2)
    assert (measured.label[around] > 0).all()


def test_no_tumours_can_be_requested() -> None:
    assert abdomen_phantom(0, 2, COARSE, tumour_diameters=[]).label.max() == 1


def test_tumours_are_darker_than_the_liver(measured: AbdomenPhantom) -> None:
    pieces, count = ndimage.label(measured.label == 2)
    liver = np.median(measured.image[measured.label == 1])
    for piece in range(1, count + 1):
        assert 3 < liver - measured.image[pieces == piece].mean() < 90


def test_some_scans_are_padded_outside_a_round_field_of_view(cohort: dict[int, AbdomenPhantom]) -> None:
    lowest = {int(phantom.image.min()) for phantom in cohort.values()}
    assert lowest == {-1024, *PADDING}


def test_padding_fills_the_corners_of_every_slice(cohort: dict[int, AbdomenPhantom]) -> None:
    for phantom in cohort.values():
        if phantom.image.min() not in PADDING:
            continue
        padded = phantom.image < -1024
        slices = np.moveaxis(padded, next(i for i, code in enumerate(_codes(phantom)) if code in "SI"), -1)
        assert (slices == slices[..., :1]).all()
        assert slices[[0, 0, -1, -1], [0, -1, 0, -1]].all()
        assert not (padded & (phantom.label > 0)).any()


def test_no_brightness_range_finds_the_liver(cohort: dict[int, AbdomenPhantom]) -> None:
    best = []
    for image, label, _ in cohort.values():
        smooth = ndimage.gaussian_filter(np.clip(image, -1000, 1000).astype(np.float32), 0.6)
        ranges = [(low, low + width) for low in range(50, 130, 10) for width in range(20, 120, 10)]
        best.append(max(_dice((smooth > low) & (smooth < high), label > 0) for low, high in ranges))
    assert 0.4 < np.mean(best) < 0.8  # chosen with the labels: no honest range does better


def test_a_number_draws_spacing_around_it() -> None:
    for case in (1, 2, 3):
        phantom = abdomen_phantom(3, case, 8.0)
        sizes = np.sqrt((phantom.affine[:3, :3] ** 2).sum(axis=0))
        slices = next(i for i, code in enumerate(_codes(phantom)) if code in "SI")
        plane = np.delete(sizes, slices)
        assert plane[0] == pytest.approx(plane[1])
        assert 6.8 <= plane[0] <= 9.2
        assert 7.2 <= sizes[slices] <= 14.4


def test_three_numbers_are_the_spacing_in_the_body(cohort: dict[int, AbdomenPhantom]) -> None:
    for case in (1, 2):
        phantom = abdomen_phantom(0, case, (7.0, 8.0, 9.0))
        sizes = dict(zip(_codes(phantom), np.sqrt((phantom.affine[:3, :3] ** 2).sum(axis=0)), strict=True))
        along = [next(size for code, size in sizes.items() if code in pair) for pair in ("LR", "AP", "SI")]
        np.testing.assert_allclose(along, (7, 8, 9))


def test_half_a_voxel_of_tissue_is_painted_as_half_its_signal() -> None:
    grid = ScanGrid((40, 40, 40), (4, 4, 4))
    x = grid.sites().points[0]
    layer = grid.layer(grid.find_box([-99] * 3, [99] * 3), x - grid.voxels[0][5], 100.0, 1)
    _, signal, label = next(grid.paint([layer], 0.0))
    np.testing.assert_allclose(signal[[4, 5, 6], 3, 3], (0, 50, 100), atol=10)
    assert label[[4, 5, 6], 3, 3].tolist() == [0, 0, 1]


def test_cases_are_written_in_the_layout_of_lits(written: list[Path]) -> None:
    assert [path.name for path in written] == ["volume-0.nii.gz", "volume-1.nii.gz"]
    names = {path.name for path in written[0].parent.iterdir()}
    assert names == {f"{kind}-{n}.nii.gz" for kind in ("volume", "segmentation") for n in (0, 1)}


def test_files_hold_the_phantom(written: list[Path]) -> None:
    phantom = abdomen_phantom(5, 2, 8.0)
    for name, volume in (("volume-1", phantom.image), ("segmentation-1", phantom.label)):
        image = nibabel.load(written[0].parent / f"{name}.nii.gz")
        assert image.get_data_dtype() == volume.dtype
        np.testing.assert_array_equal(np.asarray(image.dataobj), volume)
        np.testing.assert_allclose(image.affine, phantom.affine, atol=1e-4)


def test_writing_again_gives_identical_files_and_leaves_others_alone(written: list[Path]) -> None:
    root = written[0].parent
    before = {path: path.read_bytes() for path in root.glob("*.nii.gz")}
    foreign = root / "notes.txt"
    foreign.write_text("mine")
    write_abdomen_phantoms(root, 2, 8.0, seed=5, progress=False)
    assert {path: path.read_bytes() for path in root.glob("*.nii.gz")} == before
    assert foreign.read_text() == "mine"
    foreign.unlink()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cases": 0}, "cases is 0; expected a whole number of at least 1"),
        ({"seed": -1}, "seed is -1; expected a whole number of at least 0"),
        ({"spacing": 0}, "spacing is 0; expected one or three numbers from 0.3 to 20"),
        ({"spacing": (1, 1)}, r"spacing is \(1, 1\)"),
        ({"spacing": (1, 1, 50)}, r"spacing is \(1, 1, 50\)"),
        ({"spacing": "1.0"}, "spacing is '1.0'"),
        ({"spacing": float("nan")}, "spacing is nan"),
        ({"spacing": True}, "spacing is True"),
    ],
)
def test_bad_arguments_are_named(tmp_path: Path, arguments: dict[str, object], message: str) -> None:
    valid: dict[str, object] = {"cases": 1, "spacing": 8.0, "progress": False}
    with pytest.raises(InputError, match=message) as error:
        write_abdomen_phantoms(tmp_path / "new", **{**valid, **arguments})  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("diameters", [[0.5], [10, "6"], 10, [float("nan")]])
def test_bad_diameters_are_named(diameters: object) -> None:
    with pytest.raises(InputError, match=r"tumour_diameters is .*expected a list of numbers from 1 to 100"):
        abdomen_phantom(0, 1, COARSE, tumour_diameters=diameters)  # type: ignore[arg-type]


def test_tumours_that_find_no_place_are_an_error() -> None:
    with pytest.raises(InputError, match="a tumour of 90 mm has no place in this liver"):
        abdomen_phantom(0, 1, COARSE, tumour_diameters=[90, 90, 90])


def test_a_file_where_the_folder_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="it is a file"):
        write_abdomen_phantoms(tmp_path / "file", 1, 8.0, progress=False)


def test_progress_can_be_silenced(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_abdomen_phantoms(tmp_path, 1, 8.0, progress=False)
    assert capfd.readouterr() == ("", "")
