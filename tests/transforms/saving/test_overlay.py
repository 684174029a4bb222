"""Pictures: the patient's right is on the viewer's left, whatever the array's orientation."""

import itertools

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from custom_nets.errors import InputError
from custom_nets.transforms.saving import overlay, overlay_figure
from custom_nets.transforms.saving.overlay import OverlaySettings, SaveOverlayd
from custom_nets.transforms.saving.overlay_figure import PLANES, draw_overlay, largest_sections, to_ras

pytest.importorskip("matplotlib")

# Points in RAS millimetres of a head 40 x 60 x 50 mm, all on one slice of each plane through (10, 30, 25).
RIGHT, LEFT, FRONT, BACK, TOP, BOTTOM = (35, 30, 25), (5, 30, 25), (10, 55, 25), (10, 5, 25), (10, 30, 45), (10, 30, 5)
BRAIN = ("WT", "TC", "ET")
PICTURE = OverlaySettings(["FLAIR", "T1", "T1ce", "T2"], ["FLAIR", "T1ce"], dpi=40)
ORIENTATIONS = ["RAS", "LPS", "LAS", "ASR", "SPL", "PIR", "IRP"]


def reorient(volume, affine, codes):
    """Turns an array to the given axis codes; world positions stay."""
    image = nibabel.Nifti1Image(volume, affine)
    turn = nibabel.orientations.ornt_transform(nibabel.io_orientation(affine), nibabel.orientations.axcodes2ornt(codes))
    turned = image.as_reoriented(turn)
    return np.asarray(turned.dataobj), turned.affine


def with_marker(point, codes):
    """A head with one bright voxel, in an array of the given orientation."""
    volume = np.zeros((40, 60, 50), dtype=np.float32)
    volume[point] = 1
    return reorient(volume, np.eye(4), codes)


@pytest.mark.parametrize("codes", ORIENTATIONS)
@pytest.mark.parametrize(
    ("plane", "marker", "side"),
    [
        (0, RIGHT, "left"), (0, LEFT, "right"), (0, FRONT, "top"), (0, BACK, "bottom"),
        (1, RIGHT, "left"), (1, LEFT, "right"), (1, TOP, "top"), (1, BOTTOM, "bottom"),
        (2, FRONT, "left"), (2, BACK, "right"), (2, TOP, "top"), (2, BOTTOM, "bottom"),
    ],
)  # fmt: skip
def test_each_direction_is_on_its_side_of_the_picture(codes, plane, marker, side):
    volume, affine = with_marker(marker, codes)
    turned, _ = to_ras(volume[None], affine)
    picture = PLANES[plane].cut(turned[0], marker[PLANES[plane].axis])
    (row, column), (rows, columns) = np.argwhere(picture)[0], picture.shape
    centre = {"left": column < columns / 2, "right": column > columns / 2, "top": row < rows / 2}
    assert centre.get(side, row > rows / 2)


def test_letters_name_the_sides():
    assert [plane.letters for plane in PLANES] == [tuple("RLAP"), tuple("RLSI"), tuple("APSI")]


def test_the_turned_affine_puts_voxels_where_they_were():
    for codes in ("".join(c) for c in itertools.product("RL", "AP", "SI")):
        volume, affine = with_marker((35, 55, 45), codes)
        turned, ras = to_ras(volume[None], affine)
        np.testing.assert_allclose(ras @ [*np.argwhere(turned[0])[0], 1], [35, 55, 45, 1])


def test_slices_go_through_the_largest_section():
    tumour = np.zeros((20, 20, 20), dtype=bool)
    tumour[3:10, 5, 6] = True
    tumour[8, 2:15, 6] = True
    assert largest_sections(tumour) == (8, 5, 6)


def test_without_a_tumour_slices_go_through_the_middle():
    assert largest_sections(np.zeros((20, 30, 41), dtype=bool)) == (10, 15, 20)


def ball_item(shape=(30, 36, 28), spacing=(1.0, 1.0, 2.0)):
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    far = np.linalg.norm(grid - np.array(shape) / 2, axis=-1)
    affine = torch.diag(torch.tensor([-spacing[0], -spacing[1], spacing[2], 1.0], dtype=torch.float64))
    image = torch.tensor(np.where(far < 13, 100 + far, 0), dtype=torch.float32)
    regions = torch.tensor(np.stack([far < r for r in (7, 5, 3)]).astype(np.float32))
    return {
        "case": "c1",
        "image": MetaTensor(image.expand(4, *shape).clone(), affine=affine),
        "pred": MetaTensor(regions, affine=affine),
        "label": MetaTensor(regions.clone(), affine=affine),
    }


def draw(item, label="label", **options):
    return draw_overlay(
        item["image"][[0, 2]], item["pred"], item["pred"].affine, BRAIN, item.get(label), "c1", **options
    )


def test_a_row_a_channel_and_a_column_a_plane():
    assert len(draw(ball_item()).axes) == 6


def test_all_pictures_have_one_scale_both_ways():
    figure = draw(ball_item(spacing=(1.0, 0.5, 3.0)))
    scales = []
    for axes in figure.axes:
        inches = axes.get_position().size * figure.get_size_inches()
        scales += list(inches / [np.ptp(axes.get_xlim()), np.ptp(axes.get_ylim())])
    np.testing.assert_allclose(scales, scales[0])


def test_a_voxel_is_drawn_as_large_as_it_is():
    figure = draw(ball_item(spacing=(1.0, 0.5, 3.0)))
    for axes, (row_mm, column_mm) in zip(figure.axes, [(0.5, 1), (3, 1), (3, 0.5)] * 2, strict=True):
        left, right, bottom, top = axes.images[0].get_extent()
        rows, columns = axes.images[0].get_array().shape
        assert ((top - bottom) / rows, (right - left) / columns) == pytest.approx((row_mm, column_mm))


def test_the_legend_tells_volumes_of_prediction_and_label():
    item = ball_item()
    texts = [text.get_text() for text in draw(item).legends[0].get_texts()]
    ml = float((item["pred"][0] > 0.5).sum()) * 2 / 1000
    assert texts[0] == f"WT  {ml:.1f} ml (label {ml:.1f})"
    assert texts[-1] == "label"


def test_without_label_the_legend_names_regions_only():
    texts = [text.get_text() for text in draw(ball_item(), label="none").legends[0].get_texts()]
    assert [text.split()[0] for text in texts] == ["WT", "TC", "ET"]


def test_the_picture_is_written_and_the_item_unchanged(tmp_path):
    item = ball_item()
    assert SaveOverlayd(tmp_path, BRAIN, PICTURE, label_key="label")(item) == item
    assert (tmp_path / "c1" / "c1_overlay.png").read_bytes().startswith(b"\x89PNG")


def test_an_empty_prediction_and_a_missing_label_still_give_a_picture(tmp_path):
    item = ball_item()
    del item["label"]
    item["pred"] = item["pred"] * 0
    SaveOverlayd(tmp_path, BRAIN, PICTURE, label_key="label")(item)
    assert (tmp_path / "c1" / "c1_overlay.png").exists()


@pytest.mark.parametrize("axis", [1, 2, 3])
@pytest.mark.parametrize("kept", [slice(10, 11), slice(10, 12)])
def test_a_scan_of_one_or_two_slices_has_a_picture(tmp_path, axis, kept):
    item = ball_item()
    for key in ("image", "pred", "label"):
        part = [slice(None)] * 4
        part[axis] = kept
        item[key] = item[key][tuple(part)]
    SaveOverlayd(tmp_path, BRAIN, PICTURE, label_key="label")(item)
    assert (tmp_path / "c1" / "c1_overlay.png").exists()


def test_an_image_of_other_channels_is_an_error_that_names_the_expected_ones(tmp_path):
    item = ball_item()
    item["image"] = item["image"][:1]
    with pytest.raises(InputError, match="case c1: 'image': expected the channels FLAIR, T1, T1ce, T2, got 1"):
        SaveOverlayd(tmp_path, BRAIN, PICTURE)(item)
    assert not list(tmp_path.iterdir())


def test_the_channels_shown_are_those_of_the_names(tmp_path, monkeypatch):
    seen = []
    real = overlay.draw_overlay
    monkeypatch.setattr(overlay, "draw_overlay", lambda *a, **k: seen.append((a[0], a[6])) or real(*a, **k))
    item = ball_item()
    item["image"] *= torch.tensor([1.0, 2, 3, 4])[:, None, None, None]
    SaveOverlayd(tmp_path, BRAIN, OverlaySettings(["T2", "FLAIR", "T1", "T1ce"], ["T1ce", "FLAIR"], dpi=40))(item)
    [(image, names)] = seen
    assert torch.equal(image, item["image"][[3, 1]])
    assert names == ("T1ce", "FLAIR")


@pytest.mark.parametrize("channels", [[0], [2], [0, 2], [1, 2], [0, 1, 2, 3], [3, 1], [0, 1, 3], [1, 1], []])
def test_the_channels_shown_are_those_named(channels):
    image = torch.arange(4.0)[:, None, None, None].expand(4, 2, 2, 2)
    assert overlay._take_channels(image, channels)[:, 0, 0, 0].tolist() == channels


def test_an_image_on_another_grid_is_brought_to_the_predictions():
    item = ball_item()
    affine = item["image"].affine.clone()
    affine[:3, 3] += affine[:3, :3] @ torch.full((3,), 4.0, dtype=torch.float64)
    smaller = MetaTensor(item["image"].as_tensor()[:, 4:-4, 4:-4, 4:-4].clone(), affine=affine)
    moved = SaveOverlayd._on_grid(smaller, item["pred"], "bilinear")
    inside = (slice(None), *[slice(5, -5)] * 3)
    np.testing.assert_allclose(moved[inside], item["image"][inside], atol=1e-2)


def test_drawing_leaves_pyplot_alone():
    from matplotlib import _pylab_helpers

    draw(ball_item())
    assert not _pylab_helpers.Gcf.figs


def test_an_unknown_channel_is_an_error_that_names_the_channels():
    with pytest.raises(InputError, match="modality 'T1ce' is unknown; expected any of T1, T2"):
        OverlaySettings(["T1", "T2"], ["T1ce"])


def ct_item():
    """A CT of a trunk in air with a liver, and in it a tumour far from the liver's largest section."""
    shape = (40, 36, 30)
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    far = np.linalg.norm((grid - [20, 18, 15]) / [14, 12, 40], axis=-1)
    liver = np.linalg.norm(grid - [15, 17, 14], axis=-1) < 9
    tumour = np.linalg.norm(grid - [10, 20, 17], axis=-1) < 2
    affine = torch.diag(torch.tensor([2.0, 2, 3, 1], dtype=torch.float64))
    image = torch.tensor(np.where(far < 1, 40, -1000) + 30 * liver - 20 * tumour)[None]
    image[:, 0] = -3024
    regions = torch.tensor(np.stack([liver, tumour])).half()
    return {
        "case": "c1",
        "image": MetaTensor(image.to(torch.int16), affine=affine),
        "pred": MetaTensor(regions, affine=affine),
    }


def draw_ct(item, label=None, **options):
    names = {"window": [-200, 250], **options}
    return draw_overlay(item["image"], item["pred"], item["pred"].affine, ("liver", "tumour"), label, "c1", **names)


def captions(figure):
    """Millimetres that the axial, coronal and sagittal picture name."""
    return [int(axes.texts[4].get_text().split("=")[1].split()[0]) for axes in figure.axes]


def test_slices_go_through_the_region_in_focus():
    assert captions(draw_ct(ct_item(), focus="tumour")) == [17 * 3, 20 * 2, 10 * 2]


def test_slices_go_through_the_outermost_region_without_a_focus():
    assert captions(draw_ct(ct_item())) == [14 * 3, 17 * 2, 15 * 2]


def test_a_focus_that_is_not_predicted_is_looked_for_in_the_label():
    item = ct_item()
    label = item["pred"].clone()
    item["pred"][1] = 0
    assert captions(draw_ct(item, label, focus="tumour")) == [17 * 3, 20 * 2, 10 * 2]


def test_without_a_focus_anywhere_slices_go_through_the_outermost_region():
    item = ct_item()
    item["pred"][1] = 0
    assert captions(draw_ct(item, focus="tumour")) == [14 * 3, 17 * 2, 15 * 2]


def test_an_unknown_focus_is_an_error_that_names_the_regions():
    with pytest.raises(InputError, match="'lesion' is unknown; expected any of WT, TC, ET"):
        SaveOverlayd(".", BRAIN, OverlaySettings(["FLAIR"], focus="lesion"))


def test_a_window_makes_its_limits_black_and_white():
    item = ct_item()
    item["image"][0, 15, 17, 10:14] = torch.tensor([-150, 25, 250, 900], dtype=torch.int16)
    sagittal = draw_ct(item).axes[2].images[0].get_array()
    shown = (np.array([-200, -150, 25, 40, 70, 250]) + 200) / 450
    np.testing.assert_allclose(np.unique(sagittal.round(4)), shown, atol=1e-4)


def test_air_round_the_trunk_is_cut_off():
    rows, columns = draw_ct(ct_item()).axes[0].images[0].get_array().shape
    assert (rows, columns) == (23 + 12, 27 + 12)


def test_half_precision_draws_what_single_precision_draws():
    item = ct_item()
    single = {**item, "pred": item["pred"].float(), "image": item["image"].float()}
    for one, other in zip(draw_ct(item).axes, draw_ct(single).axes, strict=True):
        assert np.array_equal(one.images[0].get_array(), other.images[0].get_array())
        assert np.array_equal(one.images[1].get_array(), other.images[1].get_array())


def test_turned_volumes_are_views():
    volumes = np.zeros((2, 5, 6, 7), dtype=np.float16)
    turned, _ = to_ras(volumes, np.array([[0, -1, 0, 0], [0, 0, 2.0, 0], [-1, 0, 0, 0], [0, 0, 0, 1]]))
    assert turned.shape == (2, 6, 7, 5)
    assert np.shares_memory(turned, volumes)


def test_a_plane_is_cut_without_a_copy():
    volume = np.zeros((5, 6, 7), dtype=np.float16)[::-1, :, ::-1]
    assert all(np.shares_memory(plane.cut(volume, 3), volume) for plane in PLANES)


def test_an_image_on_the_predictions_grid_is_not_resampled():
    item = ct_item()
    assert SaveOverlayd._on_grid(item["image"], item["pred"], "bilinear") is item["image"]


def test_nothing_but_air_still_gives_a_picture():
    item = ct_item()
    item["image"][:] = -1000
    item["pred"][:] = 0
    assert captions(draw_ct(item)) == [15 * 3, 18 * 2, 20 * 2]


def test_percentiles_of_a_large_image_come_from_a_sample(monkeypatch):
    volume = np.random.default_rng(0).normal(100, 10, (40, 40, 40)).astype(np.float32)
    volume[:4] = 0
    whole = overlay_figure._channel(volume, None).window
    monkeypatch.setattr(overlay_figure, "_SAMPLE", 8000)
    sampled = overlay_figure._channel(volume, None).window
    assert sampled != whole
    assert sampled == pytest.approx(whole, rel=0.03)
