"""Surfaces of regions against balls and other shapes whose volume, centre and topology are known."""

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.data import MetaTensor

from custom_nets.errors import InputError
from custom_nets.transforms.saving.meshes import (
    MeshSettings,
    SaveRegionMeshesd,
    above,
    as_array,
    bounding_box,
    region_in_box,
    region_mesh,
    signed_volume,
)

pytest.importorskip("mcubes")

small = st.floats(-0.3, 0.3)
affines = st.tuples(
    st.lists(small, min_size=9, max_size=9),
    st.permutations(range(3)),
    st.tuples(*[st.sampled_from([-1, 1])] * 3),
    st.tuples(*[st.floats(0.5, 4)] * 3),
    st.tuples(*[st.floats(-300, 300)] * 3),
)


def to_affine(parts):
    """Builds a sheared, permuted, mirrored, anisotropic affine of safe determinant."""
    shear, order, signs, spacing, origin = parts
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) + np.reshape(shear, (3, 3)) / 3)[:, list(order)] * signs * spacing
    affine[:3, 3] = origin
    return affine


def soft_ball(shape, centre, radius, steepness=2.0):
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    return 1 / (1 + np.exp(steepness * (np.linalg.norm(grid - centre, axis=-1) - radius)))


BALL = soft_ball((24, 26, 28), (11.3, 12.1, 14.6), 8.0)
BALL_VOXELS = 4 / 3 * np.pi * 8.0**3


def unmatched_edges(triangles):
    """Counts directed edges that lack their opposite: 0 for a closed surface of consistent winding."""
    edges = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]).tolist()
    found = {tuple(edge) for edge in edges}
    assert len(found) == len(edges)
    return sum((b, a) not in found for a, b in found)


def euler(vertices, triangles):
    return len(vertices) - 3 * len(triangles) // 2 + len(triangles)


@settings(max_examples=30, deadline=None)
@given(affines)
def test_volume_of_a_ball_is_positive_and_true_through_any_affine(parts):
    affine = to_affine(parts)
    true = BALL_VOXELS * abs(np.linalg.det(affine[:3, :3]))
    assert signed_volume(*region_mesh(BALL, affine)) == pytest.approx(true, rel=0.02)


@settings(max_examples=30, deadline=None)
@given(affines)
def test_centre_of_a_ball_is_where_the_affine_puts_it(parts):
    affine = to_affine(parts)
    vertices, _ = region_mesh(BALL, affine)
    # The inverse map gives the ball's centre in voxels, whatever the affine does to areas.
    voxels = (vertices - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    np.testing.assert_allclose((voxels.min(axis=0) + voxels.max(axis=0)) / 2, (11.3, 12.1, 14.6), atol=0.05)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 0.9))
def test_any_mask_gives_a_closed_surface(seed, density):
    mask = np.random.default_rng(seed).random((6, 7, 5)) < density
    mask[0, 0, 0] = True
    assert unmatched_edges(region_mesh(mask, np.eye(4))[1]) == 0


@pytest.mark.parametrize("threshold", [0, 1e-7, 0.3, 0.5, 0.9995])
def test_every_half_is_above_a_threshold_or_not_as_numpy_says(threshold):
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16).reshape(256, 256).T[::-1]
    halves = np.where(np.isnan(halves), np.float16(0), halves)
    np.testing.assert_array_equal(above(halves, threshold), halves > threshold)


def test_normals_of_a_ball_point_away_from_its_centre():
    vertices, triangles = region_mesh(BALL, np.diag([-1.0, 2, 3, 1]))
    corners = vertices[triangles]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    outwards = corners.mean(axis=1) - np.array([-11.3, 2 * 12.1, 3 * 14.6])
    assert (np.einsum("ti,ti->t", normals, outwards) > 0).all()


def test_a_ball_has_the_topology_of_a_sphere():
    assert euler(*region_mesh(BALL, np.eye(4))) == 2


def test_a_ring_has_the_topology_of_a_torus():
    ring = np.ones((5, 5, 1), dtype=np.uint8)
    ring[2, 2] = 0
    assert euler(*region_mesh(ring, np.eye(4))) == 0


def test_a_cavity_is_taken_off_the_volume():
    shell = BALL - soft_ball(BALL.shape, (11.3, 12.1, 14.6), 5.0)
    assert signed_volume(*region_mesh(shell, np.eye(4))) == pytest.approx(4 / 3 * np.pi * (8**3 - 5**3), rel=0.03)


def test_a_region_that_fills_the_volume_is_closed_half_a_voxel_outside_it():
    vertices, triangles = region_mesh(torch.ones(4, 5, 6), np.diag([1, 1, 3.0, 1]))
    assert unmatched_edges(triangles) == 0
    np.testing.assert_allclose(vertices.max(axis=0), [3.5, 4.5, 3 * 5.5])
    np.testing.assert_allclose(vertices.min(axis=0), [-0.5, -0.5, -1.5])


def test_the_surface_lies_where_the_logit_crosses_that_of_the_threshold():
    logits = np.linspace(-5, 5, 11)[:, None, None] * np.ones((11, 3, 3))
    threshold = 1 / (1 + np.exp(-2.3))
    assert region_mesh(1 / (1 + np.exp(-logits)), np.eye(4), threshold)[0][:, 0].min() == pytest.approx(7.3)


def test_the_surface_of_a_mask_lies_half_way():
    mask = np.zeros((11, 5, 5))
    mask[4:] = 1
    assert region_mesh(mask, np.eye(4))[0][:, 0].min() == pytest.approx(3.5)


def test_lps_turns_the_first_two_axes_and_keeps_the_outside_outside():
    ras, triangles = region_mesh(BALL, np.eye(4))
    lps, lps_triangles = region_mesh(BALL, np.eye(4), space="LPS")
    np.testing.assert_allclose(lps, ras * [-1, -1, 1])
    assert signed_volume(lps, lps_triangles) == pytest.approx(signed_volume(ras, triangles))


def test_an_empty_region_has_no_surface():
    assert region_mesh(torch.full((4, 4, 4), 0.5), np.eye(4)) is None


def test_a_field_with_nan_is_refused():
    field = torch.ones(4, 4, 4)
    field[2, 2, 2] = torch.nan
    with pytest.raises(InputError, match="NaN"):
        region_mesh(field, np.eye(4))


@pytest.mark.parametrize("bad", [{"space": "RAI"}, {"threshold": 0.0}, {"threshold": 1.0}])
def test_bad_options_are_refused(bad):
    with pytest.raises(InputError):
        region_mesh(BALL, np.eye(4), **bad)


REGIONS = ("WT", "TC", "ET")


def item(*masks, key="pred"):
    return {"case": "c1", key: MetaTensor(torch.stack(masks), affine=torch.eye(4))}


def test_one_file_a_region_and_format(tmp_path):
    ball = torch.tensor(BALL)
    data = item(ball, ball, ball)
    result = SaveRegionMeshesd("pred", tmp_path, REGIONS, MeshSettings(formats=("obj", "ply", "stl")))(data)
    expected = {f"c1_{region}.{kind}" for region in REGIONS for kind in ("obj", "ply", "stl")}
    assert {f.name for f in (tmp_path / "c1").iterdir()} == {*expected, "regions.mtl"}
    assert result == data


def test_an_empty_region_leaves_no_file_of_an_earlier_run(tmp_path):
    ball = torch.tensor(BALL)
    save = SaveRegionMeshesd("pred", tmp_path, regions=("WT", "ET"))
    save(item(ball, ball))
    save(item(ball, 0 * ball))
    assert [f.name for f in (tmp_path / "c1").glob("*.obj")] == ["c1_WT.obj"]


def test_two_keys_need_two_suffixes(tmp_path):
    with pytest.raises(InputError, match="suffix"):
        SaveRegionMeshesd(["pred", "label"], tmp_path, REGIONS)


def test_prediction_and_label_side_by_side(tmp_path):
    ball = torch.tensor(BALL)[None]
    data = {"case": "c1", "pred": MetaTensor(ball), "label": MetaTensor(ball)}
    SaveRegionMeshesd(
        ["pred", "label"], tmp_path, regions=("WT",), name=("prediction", "label"), suffix=("", "_label")
    )(data)
    assert {f.name for f in (tmp_path / "c1").glob("*.obj")} == {"c1_WT.obj", "c1_WT_label.obj"}
    assert (tmp_path / "c1/c1_WT_label.obj").read_text().startswith("# c1 WT, label, RAS mm\n")


def test_a_tensor_without_affine_is_refused(tmp_path):
    with pytest.raises(InputError, match="no affine"):
        SaveRegionMeshesd("pred", tmp_path, regions=("WT",))({"case": "c", "pred": torch.ones(1, 4, 4, 4)})


def test_wrong_number_of_channels_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"WT, TC, ET"):
        SaveRegionMeshesd("pred", tmp_path, REGIONS)(item(torch.tensor(BALL)))


def test_a_surface_of_fewer_triangles_is_closed_and_where_it_was():
    pytest.importorskip("fast_simplification")
    x, y, z = np.meshgrid(*[np.arange(48) - 23.5] * 3, indexing="ij")
    ball = (np.sqrt(x**2 + 1.4 * y**2 + 2 * z**2) < 20).astype(np.float32)
    affine = np.diag([-0.8, 0.8, 2.0, 1])
    affine[:3, 3] = (300, -500, 900)
    whole, simple = region_mesh(ball, affine), region_mesh(ball, affine, max_triangles=1000)
    assert len(whole[1]) > 10_000
    assert len(simple[1]) <= 1000
    assert unmatched_edges(simple[1]) == 0
    assert signed_volume(*simple) == pytest.approx(signed_volume(*whole), rel=0.02)
    np.testing.assert_allclose(simple[0].min(0), whole[0].min(0), atol=1)
    np.testing.assert_allclose(simple[0].max(0), whole[0].max(0), atol=1)


def test_fewer_triangles_than_a_surface_has_are_refused():
    with pytest.raises(InputError, match="mesh_triangles is 3; expected at least 4, or null"):
        MeshSettings(max_triangles=3)


def test_an_unknown_format_is_refused():
    with pytest.raises(InputError, match="vtk"):
        MeshSettings(formats=["obj", "vtk"])


def test_surface_of_a_real_tumour_encloses_about_its_voxels(real_case_dir):
    image = nibabel.load(real_case_dir / "BraTS20_Training_901_seg.nii.gz")
    mask = np.asarray(image.dataobj) > 0
    vertices, triangles = region_mesh(mask, image.affine)
    assert unmatched_edges(triangles) == 0
    # A mask's corners are cut off by the surface.
    assert signed_volume(vertices, triangles) == pytest.approx(mask.sum(), rel=0.05)


def test_surface_of_a_real_tumour_lies_within_a_voxel_of_its_box(real_case_dir):
    image = nibabel.load(real_case_dir / "BraTS20_Training_901_seg.nii.gz")
    mask = np.asarray(image.dataobj) > 0
    centres = np.argwhere(mask) @ image.affine[:3, :3].T + image.affine[:3, 3]
    vertices, _ = region_mesh(mask, image.affine)
    np.testing.assert_allclose(vertices.min(axis=0), centres.min(axis=0) - 0.5)
    np.testing.assert_allclose(vertices.max(axis=0), centres.max(axis=0) + 0.5)


@settings(max_examples=40, deadline=None)
@given(arrays(bool, (4, 5, 6)), st.permutations(range(3)), st.integers(0, 2))
def test_a_box_is_where_the_voxels_begin_and_end(mask, turn, margin):
    turned = mask.transpose(turn)
    places = np.argwhere(turned)
    box = bounding_box(turned, margin)
    if not len(places):
        assert box is None
    else:
        ends = zip(places.min(axis=0), places.max(axis=0), strict=True)
        assert box == tuple(slice(max(low - margin, 0), high + 1 + margin) for low, high in ends)


def test_the_box_of_a_field_is_that_of_its_mask():
    field = np.random.default_rng(0).random((6, 7, 8)).astype(np.float16)
    assert bounding_box(field, inside=lambda plane: plane > 0.98) == bounding_box(field > 0.98)


def test_a_region_in_its_box_is_the_region():
    field = np.zeros((6, 7, 8), dtype=np.float16)
    field[2, 3:5, 6] = 0.75
    mask, box = region_in_box(field, 0.5)
    assert (mask.all(), box) == (True, (slice(2, 3), slice(3, 5), slice(6, 7)))


def test_a_region_without_voxels_has_an_empty_box():
    mask, box = region_in_box(np.zeros((6, 7, 8)), 0.5)
    assert mask.size == np.zeros((6, 7, 8))[box].size == 0


def test_an_array_shares_the_memory_of_a_turned_tensor():
    tensor = MetaTensor(torch.zeros(2, 3, 4, 5)).permute(0, 3, 2, 1)
    assert as_array(tensor).ctypes.data == tensor.data_ptr()


def test_half_precision_gives_the_surface_of_single_precision():
    field = np.round(np.random.default_rng(0).random((6, 7, 8)) * 64) / 64
    (half, _), (single, _) = (region_mesh(field.astype(kind), np.eye(4)) for kind in (np.float16, np.float64))
    np.testing.assert_allclose(half, single, atol=1e-5)
