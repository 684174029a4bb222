"""OccupancyInferer on grids of another spacing, against analytic shapes in world millimetres."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from monai.data import MetaTensor, decollate_batch
from monai.data.utils import compute_shape_offset
from monai.transforms import Compose, EnsureTyped, Flipd, Invertd, ResampleToMatch
from scipy.spatial.transform import Rotation
from torch import nn

from custom_nets.errors import InputError
from custom_nets.inferers import OccupancyInferer
from custom_nets.inferers.output_grid import spanning_grid
from custom_nets.networks import OccupancyNetwork
from custom_nets.transforms.saving.meshes import region_mesh
from tests.inferers.fields import build_inferer

Field = Callable[[np.ndarray], np.ndarray]


class AnalyticLatent(NamedTuple):
    affine: tuple[torch.Tensor, torch.Tensor]
    segmentation: torch.Tensor | None


class AnalyticNetwork(nn.Module, OccupancyNetwork):
    """An occupancy network whose logits are known functions of the place in world millimetres, one a region."""

    accepts_positions = True

    def __init__(self, *fields: Field, segmentation: torch.Tensor | None = None) -> None:
        super().__init__()
        self.fields = fields
        self.segmentation = segmentation
        self.calls: list[torch.Tensor] = []

    def encode(self, image: torch.Tensor) -> AnalyticLatent:
        affine = image.affine if isinstance(image, MetaTensor) else torch.eye(4, dtype=torch.float64)
        affine = affine.expand(len(image), 4, 4)
        return AnalyticLatent((affine[:, :3, :3], affine[:, :3, 3]), self.segmentation)

    def decode(self, latent: AnalyticLatent, image: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        assert type(image) is torch.Tensor
        self.calls.append(points)
        matrix, origin = latent.affine
        world = (points[0].double() @ matrix[0].T + origin[0]).numpy()
        return torch.from_numpy(np.stack([field(world) for field in self.fields], axis=-1)).float()[None]


class WholeVoxels(nn.Module, OccupancyNetwork):
    def encode(self, image: torch.Tensor) -> None:
        return None

    def decode(self, latent: None, image: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        assert points.dtype == torch.int64
        return points.sum(dim=-1, keepdim=True).float()


def ball(centre: np.ndarray, radius: float) -> Field:
    return lambda world: radius - np.linalg.norm(world - centre, axis=-1)


def ellipsoid(centre: np.ndarray, radii: tuple[float, float, float]) -> Field:
    return lambda world: 4 * (1 - np.linalg.norm((world - centre) / radii, axis=-1))


def to_affine(spacing: tuple[float, ...], matrix: np.ndarray | None = None) -> np.ndarray:
    """Columns of `matrix`, each as long as its spacing, and an origin off zero."""
    matrix = np.eye(3) if matrix is None else matrix / np.linalg.norm(matrix, axis=0)
    affine = np.eye(4)
    affine[:3, :3] = matrix * spacing
    affine[:3, 3] = (-31.0, 17.5, 4.25)
    return affine


TURN = Rotation.from_euler("xyz", (20, -35, 50), degrees=True).as_matrix()
AFFINES = {
    "isotropic": to_affine((1.0, 1.0, 1.0)),
    "anisotropic": to_affine((0.7, 1.1, 2.5)),
    "flipped and permuted": to_affine((1.0, 0.8, 1.5), np.eye(3)[:, [2, 0, 1]] * (-1, -1, 1)),
    "rotated": to_affine((0.9, 1.2, 2.0), TURN),
    "rotated, mirrored and sheared": to_affine(
        (1.0, 1.3, 0.8), TURN @ np.array([[-1, 0.2, 0], [0, 1, 0.1], [0, 0, 1]])
    ),
}
SPACINGS: tuple[float | tuple[float, float, float], ...] = (0.5, 0.37, 1.7, 3.0, (0.6, 1.3, 2.9), 40.0)
SHAPE = (14, 11, 9)

every_affine = pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES.keys())
every_spacing = pytest.mark.parametrize("spacing", SPACINGS, ids=str)


def meta_image(affine: np.ndarray, shape: tuple[int, ...] = SHAPE) -> MetaTensor:
    return MetaTensor(torch.zeros(1, 2, *shape), affine=torch.from_numpy(affine))


def centre_of(affine: np.ndarray, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """The middle of an image's box in world millimetres."""
    return affine[:3, :3] @ ((np.array(shape) - 1) / 2) + affine[:3, 3]


def grid_in_world(
    affine: np.ndarray, spacing: float | tuple[float, ...], shape: tuple[int, ...], out_shape: tuple[int, ...]
) -> np.ndarray:
    """World positions `[H', W', D', 3]`: from the middle of the box, in steps of `spacing` along its unit edges."""
    edges = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0) * spacing
    steps = np.moveaxis(np.indices(out_shape), 0, -1) - (np.array(out_shape) - 1) / 2
    return centre_of(affine, shape) + steps @ edges.T


def world_of(result: MetaTensor) -> np.ndarray:
    """World positions `[H', W', D', 3]` of a result's voxels, by its affine."""
    affine = result.affine.reshape(-1, 4, 4)[0].numpy()
    return np.moveaxis(np.indices(result.shape[2:]), 0, -1) @ affine[:3, :3].T + affine[:3, 3]


def regions_for(affine: np.ndarray, shape: tuple[int, ...] = SHAPE) -> tuple[Field, ...]:
    """A ball in the middle, an ellipsoid off it, a small ball."""
    middle = centre_of(affine, shape)
    return (
        ball(middle, 3.5),
        ellipsoid(middle + np.array([1.2, -0.7, 0.4]), (4.5, 2.5, 3.5)),
        ball(middle + np.array([-1.0, 0.3, 0.9]), 1.6),
    )


def infer(image: torch.Tensor, network: nn.Module, **options: object) -> MetaTensor:
    return build_inferer(**options)(image, network)  # type: ignore[arg-type, return-value]


# where the voxels of the result lie


@every_affine
@every_spacing
def test_dense_result_is_the_analytic_one_at_the_grid_in_world(
    affine: np.ndarray, spacing: float | tuple[float, float, float]
) -> None:
    fields = regions_for(affine)
    result = infer(meta_image(affine), AnalyticNetwork(*fields), mode="dense", output_spacing=spacing)
    world = grid_in_world(affine, spacing, SHAPE, tuple(result.shape[2:]))
    expected = 1 / (1 + np.exp(-np.stack([field(world) for field in fields])))
    np.testing.assert_allclose(result[0].numpy(), expected, atol=1e-5)


@every_affine
@every_spacing
def test_affine_of_the_result_leads_to_the_same_places(
    affine: np.ndarray, spacing: float | tuple[float, float, float]
) -> None:
    result = infer(meta_image(affine), AnalyticNetwork(*regions_for(affine)), mode="dense", output_spacing=spacing)
    expected = grid_in_world(affine, spacing, SHAPE, tuple(result.shape[2:]))
    np.testing.assert_allclose(world_of(result), expected, atol=1e-9)


@every_affine
@every_spacing
def test_size_of_the_result_is_the_rounded_extent(
    affine: np.ndarray, spacing: float | tuple[float, float, float]
) -> None:
    result = infer(meta_image(affine), AnalyticNetwork(*regions_for(affine)), mode="dense", output_spacing=spacing)
    extent = np.array(SHAPE) * np.linalg.norm(affine[:3, :3], axis=0)
    np.testing.assert_array_equal(result.shape[2:], np.maximum(1, np.round(extent / spacing)))


@every_spacing
def test_no_voxel_centre_lies_outside_the_image_s_box(spacing: float | tuple[float, float, float]) -> None:
    network = AnalyticNetwork(ball(np.zeros(3), 1.0))
    infer(meta_image(AFFINES["rotated"]), network, mode="dense", output_spacing=spacing)
    points = torch.cat(network.calls, dim=1)[0]
    assert (points > -0.5).all()
    assert (points < torch.tensor(SHAPE) - 0.5).all()


@pytest.mark.parametrize("factor", [0.5, 0.25])
def test_grid_of_a_whole_multiple_is_that_of_monai_s_spacing(factor: float) -> None:
    affine = to_affine((0.8, 1.2, 2.0))
    affine[:3, 3] = (40.0, 50.0, 60.0)
    wanted = affine.copy()
    wanted[:3, :3] *= factor
    shape, offset = compute_shape_offset(SHAPE, affine, wanted, scale_extent=True)
    spacing = tuple(factor * np.diag(affine)[:3])
    result = infer(meta_image(affine), AnalyticNetwork(ball(np.zeros(3), 1)), output_spacing=spacing)
    assert tuple(result.shape[2:]) == tuple(shape)
    np.testing.assert_allclose(result.affine[:3, 3], offset)


def test_image_s_own_spacing_gives_its_own_voxels_and_affine() -> None:
    affine = AFFINES["flipped and permuted"]
    network = AnalyticNetwork(*regions_for(affine))
    result = infer(meta_image(affine), network, mode="dense", output_spacing=(1.0, 0.8, 1.5))
    points = torch.cat(network.calls, dim=1)[0].numpy()
    np.testing.assert_allclose(points, np.indices(SHAPE).reshape(3, -1).T, atol=1e-5)
    np.testing.assert_allclose(result.affine, affine, atol=1e-9)


def test_positions_are_float32() -> None:
    network = AnalyticNetwork(ball(np.zeros(3), 1.0))
    infer(meta_image(AFFINES["rotated"]), network, output_spacing=0.8)
    assert {call.dtype for call in network.calls} == {torch.float32}


def test_whole_voxels_are_asked_as_integers_without_output_spacing() -> None:
    network = AnalyticNetwork(ball(np.zeros(3), 1.0))
    infer(meta_image(AFFINES["rotated"]), network)
    assert {call.dtype for call in network.calls} == {torch.int64}


def test_mesh_of_a_finer_result_lies_on_the_analytic_ball() -> None:
    pytest.importorskip("mcubes")
    shape = (18, 17, 16)
    affine = to_affine((1.0, 1.0, 1.0), AFFINES["rotated, mirrored and sheared"][:3, :3])
    centre = centre_of(affine, shape) + np.array([0.3, -0.2, 0.4])
    result = infer(meta_image(affine, shape), AnalyticNetwork(ball(centre, 6.0)), output_spacing=0.5)
    mesh = region_mesh(result[0, 0], result.affine)
    assert mesh is not None
    assert np.abs(np.linalg.norm(mesh[0] - centre, axis=1) - 6.0).max() < 0.015


# batches, plain tensors, meta data


def batch_of(*affines: np.ndarray) -> MetaTensor:
    image = MetaTensor(torch.zeros(len(affines), 2, *SHAPE), affine=torch.from_numpy(np.stack(affines)))
    image.is_batch = True
    return image


def test_each_item_of_a_batch_keeps_its_own_place() -> None:
    first, second = to_affine((1.0, 1.2, 2.0)), to_affine((1.0, 1.2, 2.0), TURN)
    fields = regions_for(first)
    together = infer(batch_of(first, second), AnalyticNetwork(*fields), mode="dense", output_spacing=0.9)
    alone = infer(meta_image(second), AnalyticNetwork(*fields), mode="dense", output_spacing=0.9)
    assert torch.equal(together.as_tensor()[1], alone.as_tensor()[0])
    torch.testing.assert_close(together.affine[1], alone.affine, rtol=0, atol=1e-12)


def test_one_affine_serves_a_whole_batch() -> None:
    affine = AFFINES["rotated"]
    image = MetaTensor(torch.zeros(2, 1, *SHAPE), affine=torch.from_numpy(affine))
    result = infer(image, AnalyticNetwork(*regions_for(affine)), mode="dense", output_spacing=0.9)
    assert torch.equal(result.as_tensor()[0], result.as_tensor()[1])
    assert result.affine.shape == (4, 4)


def test_plain_tensor_counts_as_one_millimetre_from_the_origin() -> None:
    result = infer(torch.zeros(2, 1, *SHAPE), AnalyticNetwork(ball(np.zeros(3), 2.0)), output_spacing=0.5)
    assert tuple(result.shape[2:]) == tuple(2 * size for size in SHAPE)
    np.testing.assert_allclose(world_of(result)[0, 0, 0], [-0.25, -0.25, -0.25])


def test_result_of_a_plain_tensor_decollates_into_items_with_an_affine_each() -> None:
    result = infer(torch.zeros(2, 1, *SHAPE), AnalyticNetwork(ball(np.zeros(3), 2.0)), output_spacing=0.5)
    assert [tuple(item.affine.shape) for item in decollate_batch(result)] == [(4, 4), (4, 4)]


def test_indexing_the_result_of_a_plain_tensor_gives_an_item_with_its_affine() -> None:
    result = infer(torch.zeros(2, 1, *SHAPE), AnalyticNetwork(ball(np.zeros(3), 2.0)), output_spacing=0.5)
    assert torch.equal(result[1].affine, result.affine[1])  # type: ignore[attr-defined]


def test_meta_data_other_than_the_affine_are_the_image_s() -> None:
    image = MetaTensor(torch.zeros(1, 2, *SHAPE, dtype=torch.half), affine=torch.from_numpy(AFFINES["rotated"]))
    image.meta["filename_or_obj"] = "case.nii.gz"
    result = infer(image, AnalyticNetwork(ball(np.zeros(3), 2.0)), output_spacing=0.5)
    assert result.meta["filename_or_obj"] == "case.nii.gz"
    assert result.dtype == torch.float32


def test_image_itself_keeps_its_affine_and_record() -> None:
    image = meta_image(AFFINES["rotated"])
    image.applied_operations = [{"class": "Flip"}]
    infer(image, AnalyticNetwork(ball(np.zeros(3), 2.0)), output_spacing=0.5)
    np.testing.assert_array_equal(image.affine, AFFINES["rotated"])
    assert image.applied_operations == [{"class": "Flip"}]


def test_items_of_a_result_have_empty_records_of_their_own() -> None:
    image = batch_of(AFFINES["rotated"], AFFINES["rotated"])
    image.applied_operations = [[{"class": "Flip"}], [{"class": "Flip"}]]
    result = infer(image, AnalyticNetwork(ball(np.zeros(3), 2.0)), output_spacing=0.5)
    first, second = decollate_batch(result)
    first.push_applied_operation({"class": "Pad"})
    assert second.applied_operations == []


def test_pending_operations_of_the_image_are_left_off() -> None:
    image = meta_image(AFFINES["rotated"])
    image.push_pending_operation({"class": "Flip"})
    result = infer(image, AnalyticNetwork(ball(np.zeros(3), 2.0)), output_spacing=0.5)
    assert not result.has_pending_operations


def test_inverting_a_result_by_its_own_record_is_an_error() -> None:
    transform = Compose([EnsureTyped("image"), Flipd("image", spatial_axis=0)])
    image = transform({"image": meta_image(AFFINES["rotated"])[0]})["image"]
    result = infer(image[None], AnalyticNetwork(ball(np.zeros(3), 2.0)), output_spacing=0.5)
    with pytest.raises(RuntimeError) as error:
        Invertd("image", transform)({"image": result[0]})
    assert "empty 'applied_operations'" in str(error.value.__cause__)


def test_result_can_be_resampled_onto_the_image_s_voxels() -> None:
    affine = AFFINES["rotated, mirrored and sheared"]
    image, fields = meta_image(affine), regions_for(affine)
    fine = infer(image, AnalyticNetwork(*fields), mode="dense", output_spacing=(0.25, 0.25, 0.2))
    back = ResampleToMatch()(fine[0], img_dst=image[0], mode="bilinear", padding_mode="border")
    own = infer(image, AnalyticNetwork(*fields), mode="dense")
    np.testing.assert_allclose(back.numpy(), own[0].numpy(), atol=0.03)


# modes, priors, counts


@every_affine
@pytest.mark.parametrize("spacing", [0.5, 0.37, 1.3])
def test_surface_equals_dense_on_both_sides_of_the_threshold(affine: np.ndarray, spacing: float) -> None:
    fields = regions_for(affine)[:2]
    dense = infer(meta_image(affine), AnalyticNetwork(*fields), mode="dense", output_spacing=spacing)
    surface = infer(meta_image(affine), AnalyticNetwork(*fields), coarse_step=2, output_spacing=spacing)
    assert torch.equal(surface > 0.5, dense > 0.5)


@pytest.mark.parametrize("mode", ["surface", "dense"])
def test_chunk_size_changes_nothing(mode: str) -> None:
    affine = AFFINES["rotated"]
    many, few = (
        infer(
            meta_image(affine),
            AnalyticNetwork(*regions_for(affine)),
            mode=mode,
            output_spacing=0.7,
            points_per_chunk=n,
        )
        for n in (1 << 20, 97)
    )
    assert torch.equal(many, few)


def test_coarse_step_counts_voxels_of_the_result() -> None:
    inferer = build_inferer(coarse_step=4, output_spacing=0.5)
    inferer(torch.zeros(1, 1, 16, 16, 8), AnalyticNetwork(lambda world: np.full(len(world), -5.0)))
    assert inferer.stats.queries == 9 * 9 * 5  # 32 x 32 x 16 voxels: every fourth and the last


def test_stats_count_the_voxels_of_the_result() -> None:
    inferer = build_inferer(mode="dense", output_spacing=0.5)
    inferer(torch.zeros(2, 1, 4, 5, 6), AnalyticNetwork(ball(np.zeros(3), 2.0)))
    assert inferer.stats.voxels == inferer.stats.queries == 2 * 8 * 10 * 12


def small_ball_off_the_lattice() -> tuple[torch.Tensor, Field, torch.Tensor]:
    """Ball of 0.6 mm between the lattice points of a 0.5 mm grid, and a prior whose one positive cell holds it."""
    segmentation = torch.full((1, 1, 4, 4, 4), -5.0)
    segmentation[..., 2, 2, 2] = 5.0
    return torch.zeros(1, 1, 16, 16, 16), ball(np.array([8.75, 8.75, 8.75]), 0.6), segmentation


def test_small_object_is_missed_at_double_resolution_without_prior() -> None:
    image, field, segmentation = small_ball_off_the_lattice()
    result = infer(image, AnalyticNetwork(field, segmentation=segmentation), output_spacing=0.5)
    assert not (result > 0.5).any()


@pytest.mark.parametrize("prior", ["union", "restrict"])
def test_prior_is_no_hindrance_at_double_resolution(prior: str) -> None:
    affine = AFFINES["rotated"]
    field = ball(centre_of(affine), 3.5)
    segmentation = torch.full((1, 1, 3, 3, 3), -5.0)
    segmentation[..., 1, 1, 1] = 5.0
    options: dict[str, object] = {"output_spacing": (0.45, 0.6, 1.0)}
    dense = infer(meta_image(affine), AnalyticNetwork(field), mode="dense", **options)
    found = infer(meta_image(affine), AnalyticNetwork(field, segmentation=segmentation), prior=prior, **options)
    assert torch.equal(found > 0.5, dense > 0.5)


def test_union_finds_the_small_object_at_double_resolution() -> None:
    image, field, segmentation = small_ball_off_the_lattice()
    dense = infer(image, AnalyticNetwork(field), mode="dense", output_spacing=0.5)
    result = infer(image, AnalyticNetwork(field, segmentation=segmentation), prior="union", output_spacing=0.5)
    assert (dense > 0.5).any()
    assert torch.equal(result > 0.5, dense > 0.5)


def test_restrict_sees_only_what_the_prior_sees_at_double_resolution() -> None:
    seen, unseen = ball(np.array([6.0, 6.0, 6.0]), 3.0), ball(np.array([18.0, 18.0, 18.0]), 3.0)
    segmentation = torch.full((1, 1, 6, 6, 6), -9.0)
    segmentation[..., :3, :3, :3] = 9.0
    image = torch.zeros(1, 1, 24, 24, 24)
    network = AnalyticNetwork(lambda world: np.maximum(seen(world), unseen(world)), segmentation=segmentation)
    result = infer(image, network, prior="restrict", output_spacing=0.5)
    alone = infer(image, AnalyticNetwork(seen), mode="dense", output_spacing=0.5)
    assert torch.equal(result > 0.5, alone > 0.5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_makes_the_same_positions() -> None:
    grid = spanning_grid(meta_image(AFFINES["rotated"]), (0.7, 0.8, 0.9))
    flat = torch.arange(math.prod(grid.shape))
    torch.testing.assert_close(grid.positions(flat.cuda()).cpu(), grid.positions(flat))


# what the network is given, and what it may ask for


def test_encode_is_given_the_image_as_it_came() -> None:
    class Keeps(WholeVoxels):
        def encode(self, image: torch.Tensor) -> None:
            self.image = image

    network, image = Keeps(), meta_image(AFFINES["rotated"])
    infer(image, network)
    assert network.image is image


def test_decode_is_given_a_latent_without_meta_data() -> None:
    class MetaLatent(WholeVoxels):
        def encode(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:  # type: ignore[override]
            return image.mean(dim=1), (image.sum(dim=1),)  # type: ignore[return-value]

        def decode(self, latent: tuple, image: torch.Tensor, points: torch.Tensor) -> torch.Tensor:  # type: ignore
            assert type(latent[0]) is type(latent[1][0]) is torch.Tensor
            return super().decode(None, image, points)

    image = batch_of(AFFINES["rotated"], AFFINES["isotropic"])
    assert infer(image, MetaLatent()).shape == (2, 1, *SHAPE)


@pytest.mark.parametrize(("wanted", "preferred", "expected"), [(None, 300, 300), (100, 300, 100), (None, None, 1386)])
def test_chunks_are_what_the_user_or_else_the_network_wants(
    wanted: int | None, preferred: int | None, expected: int
) -> None:
    network = AnalyticNetwork(ball(np.zeros(3), 1.0))
    network.preferred_chunk = lambda device: preferred  # type: ignore[assignment]
    infer(torch.zeros(1, 1, *SHAPE), network, mode="dense", points_per_chunk=wanted)
    assert max(call.shape[1] for call in network.calls) == expected  # 1386 voxels: fewer than the default


# messages


@pytest.mark.parametrize("spacing", [0, -1.0, float("nan"), float("inf"), (1, 2), (1, 2, 0), (1, 2, None), "fine", []])
def test_output_spacing_that_is_no_length_is_refused(spacing: object) -> None:
    with pytest.raises(InputError, match=r"output_spacing is .*expected null, or one length above 0 in mm, or three"):
        OccupancyInferer(output_spacing=spacing)  # type: ignore[arg-type]


def test_published_search_refuses_another_spacing() -> None:
    with pytest.raises(InputError, match=r"output_spacing is 0\.5, but mode 'published' knows whole voxels only"):
        build_inferer(mode="published", output_spacing=0.5)


def test_network_of_whole_voxels_is_refused() -> None:
    message = (
        r"^output_spacing: WholeVoxels reads whole voxels; leave it null, or use a network that takes continuous "
        r"positions \(PyramidOSSNet\)$"
    )
    with pytest.raises(InputError, match=message):
        infer(torch.zeros(1, 1, *SHAPE), WholeVoxels(), output_spacing=0.5)


def test_items_of_different_spacing_are_refused() -> None:
    image = batch_of(to_affine((1.0, 1.0, 1.0)), to_affine((1.0, 1.0, 1.01)))
    with pytest.raises(InputError, match=r"different spacings, 1 x 1 x 1 and 1 x 1 x 1\.01 mm"):
        infer(image, AnalyticNetwork(ball(np.zeros(3), 1.0)), output_spacing=0.5)


def test_spacings_that_differ_by_a_header_s_rounding_are_one() -> None:
    rotated = torch.from_numpy(to_affine((0.7, 0.7, 3.0), TURN)).float().double().numpy()
    image = batch_of(to_affine((0.7, 0.7, 3.0)), rotated)
    assert len(infer(image, AnalyticNetwork(ball(np.zeros(3), 1.0)), output_spacing=1.0)) == 2


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_affine_without_spacing_is_refused(value: float) -> None:
    affine = np.eye(4)
    affine[1, 1] = value
    with pytest.raises(InputError, match=f"affine gives the spacing 1 x {value:g} x 1 mm"):
        infer(meta_image(affine), AnalyticNetwork(ball(np.zeros(3), 1.0)), output_spacing=0.5)


def test_affine_for_other_than_the_batch_s_items_is_refused() -> None:
    image = MetaTensor(torch.zeros(2, 1, *SHAPE), affine=torch.eye(4).repeat(3, 1, 1))
    with pytest.raises(InputError, match=r"affine has shape \[3, 4, 4\]; expected \[4, 4\] or \[2, 4, 4\]"):
        infer(image, AnalyticNetwork(ball(np.zeros(3), 1.0)), output_spacing=0.5)
