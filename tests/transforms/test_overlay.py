"""Pictures: the patient's right is on the viewer's left, whatever the array's orientation."""

import itertools

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from custom_nets.errors import InputError
from custom_nets.transforms.overlay import SaveOverlayd
from custom_nets.transforms.overlay_figure import PLANES, draw_overlay, largest_sections, to_ras

pytest.importorskip("matplotlib")

# Points in RAS millimetres of a head 40 x 60 x 50 mm, all on one slice of each plane through (10, 30, 25).
RIGHT, LEFT, FRONT, BACK, TOP, BOTTOM = (35, 30, 25), (5, 30, 25), (10, 55, 25), (10, 5, 25), (10, 30, 45), (10, 30, 5)
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
    return draw_overlay(item["image"][[0, 2]], item["pred"], item["pred"].affine, item.get(label), "c1", **options)


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
    assert SaveOverlayd(label_key="label", output_dir=tmp_path, dpi=40)(item) == item
    assert (tmp_path / "c1" / "c1_overlay.png").read_bytes().startswith(b"\x89PNG")


def test_an_empty_prediction_and_a_missing_label_still_give_a_picture(tmp_path):
    item = ball_item()
    del item["label"]
    item["pred"] = item["pred"] * 0
    SaveOverlayd(label_key="label", output_dir=tmp_path, dpi=40)(item)
    assert (tmp_path / "c1" / "c1_overlay.png").exists()


def test_channels_that_the_image_lacks_are_left_out(tmp_path):
    item = ball_item()
    item["image"] = item["image"][:1]
    SaveOverlayd(output_dir=tmp_path, dpi=40)(item)
    assert (tmp_path / "c1" / "c1_overlay.png").exists()


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


def test_names_must_match_the_channels():
    with pytest.raises(InputError, match="2 channel names for 1 channels"):
        SaveOverlayd(channels=(0,))
