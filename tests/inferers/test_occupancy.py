"""OccupancyInferer against dense evaluation, the published search, and its own promises about queries."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from scipy import ndimage
from torch import nn

from custom_nets.errors import InputError
from custom_nets.inferers.occupancy import OccupancyInferer
from custom_nets.inferers.surface_search.lattice import (
    coarse_axis,
    dilate,
    fill_from_lattice,
    sample_segmentation,
    to_flat,
    to_points,
)
from custom_nets.inferers.surface_search.queries import item_of

CUBE = np.ones((3, 3, 3))
FACES = ndimage.generate_binary_structure(3, 1)


class FieldLatent(NamedTuple):
    field: torch.Tensor
    segmentation: torch.Tensor | None


class FieldNetwork(nn.Module):
    """An occupancy network that looks its logits up in a stored field `[B, R, H, W, D]` and keeps a record."""

    def __init__(self, field: torch.Tensor, segmentation: torch.Tensor | None = None) -> None:
        super().__init__()
        self.field = field.float()
        self.segmentation = segmentation
        self.calls: list[torch.Tensor] = []

    def encode(self, image: torch.Tensor) -> FieldLatent:
        assert image.shape[2:] == self.field.shape[2:]
        return FieldLatent(self.field, self.segmentation)

    def decode(self, latent: FieldLatent, image: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        assert type(image) is torch.Tensor
        assert points.dtype == torch.int64
        assert len(latent.field) == len(image) == len(points) == 1
        self.calls.append(points[0])
        i, j, k = points[0].unbind(dim=-1)
        return latent.field[0][:, i, j, k].T[None]

    def asked(self) -> torch.Tensor:
        """How often each voxel was asked `[H, W, D]` (batches of one)."""
        count = torch.zeros(self.field.shape[2:], dtype=torch.int64)
        points = torch.cat(self.calls)
        return count.index_put_(
            tuple(points.unbind(dim=-1)), torch.ones(len(points), dtype=torch.int64), accumulate=True
        )


def image_for(field: torch.Tensor, channels: int = 1) -> torch.Tensor:
    return torch.zeros(len(field), channels, *field.shape[2:])


def signed_ball(shape: tuple[int, int, int], centre: tuple[float, ...], radius: float) -> torch.Tensor:
    """Logits `[1, 1, H, W, D]`: distance to the sphere in voxels, positive inside."""
    grid = torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in shape], indexing="ij")
    distance = sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)).sqrt()
    return (radius - distance)[None, None]


def random_field(
    seed: int, shape: tuple[int, ...], smoothness: float, batch: int = 1, regions: int = 1
) -> torch.Tensor:
    """Smooth random logits `[batch, regions, *shape]` with several objects."""
    noise = np.random.default_rng(seed).standard_normal((batch, regions, *shape))
    smooth = ndimage.gaussian_filter(noise, (0, 0, *[smoothness] * 3))
    return torch.from_numpy(3 * smooth / max(smooth.std(), 1e-3) - 1.5).float()


def run(field: torch.Tensor, segmentation: torch.Tensor | None = None, **options: object) -> tuple:
    network = FieldNetwork(field, segmentation)
    inferer = OccupancyInferer(**options)  # type: ignore[arg-type]
    return inferer(image_for(field), network), network, inferer


def wrong_components(result: np.ndarray, dense: np.ndarray, asked: np.ndarray) -> list[str]:
    """6-connected components of `dense` that hold an asked voxel and yet differ in `result`."""
    found = []
    for name, truth in (("foreground", dense), ("background", ~dense)):
        labels, count = ndimage.label(truth, structure=FACES)
        found += [
            f"{name} {n}"
            for n in range(1, count + 1)
            if asked[labels == n].any() and (result != dense)[labels == n].any()
        ]
    return found


# surface mode: what it guarantees


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    shape=st.tuples(*[st.integers(1, 17)] * 3),
    smoothness=st.sampled_from([0.0, 0.7, 1.5, 3.0]),
    regions=st.integers(1, 3),
    step=st.integers(1, 6),
    threshold=st.sampled_from([0.2, 0.5, 0.9]),
    prior=st.sampled_from(["none", "union", "restrict"]),
    candidate_step=st.sampled_from([None, 1, 2]),
)
def test_every_component_with_an_asked_voxel_equals_dense(
    seed: int,
    shape: tuple[int, int, int],
    smoothness: float,
    regions: int,
    step: int,
    threshold: float,
    prior: str,
    candidate_step: int | None,
) -> None:
    field = random_field(seed, shape, smoothness, regions=regions)
    segmentation = random_field(seed + 1, (3, 2, 4), 0, regions=regions)
    keys = {"coarse_step": step, "candidate_step": candidate_step, "threshold": threshold, "prior": prior}
    result, network, _ = run(field, segmentation, **keys)
    asked = network.asked().numpy() > 0 if network.calls else np.zeros(shape, dtype=bool)
    dense = field.sigmoid() > threshold
    for r in range(regions):
        assert wrong_components((result > threshold)[0, r].numpy(), dense[0, r].numpy(), asked) == []


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    shape=st.tuples(*[st.integers(1, 17)] * 3),
    smoothness=st.sampled_from([0.0, 1.0, 2.0]),
    step=st.integers(1, 6),
)
def test_all_voxels_beside_a_surface_were_asked_and_no_voxel_twice(
    seed: int, shape: tuple[int, int, int], smoothness: float, step: int
) -> None:
    result, network, _ = run(random_field(seed, shape, smoothness), coarse_step=step)
    inside = (result > 0.5)[0, 0].numpy()
    pairs = {"footprint": FACES, "mode": "nearest"}
    beside = ndimage.maximum_filter(inside, **pairs) != ndimage.minimum_filter(inside, **pairs)
    asked = network.asked().numpy()
    assert asked[beside].all()
    assert asked.max() == 1


@pytest.mark.parametrize("shape", [(40, 37, 26), (1, 33, 30), (3, 2, 41), (29, 30, 1)])
@pytest.mark.parametrize("step", [2, 3, 4])
def test_smooth_objects_equal_dense(shape: tuple[int, int, int], step: int) -> None:
    field = torch.cat([random_field(seed, shape, 4.0, regions=2) for seed in (3, 4)])
    result, *_ = run(field, coarse_step=step)
    dense = field.sigmoid() > 0.5
    # Scraps below the lattice's spacing may be missed; all else must agree.
    for b in range(2):
        for r in range(2):
            wrong, truth = ((result > 0.5) != dense)[b, r].numpy(), dense[b, r].numpy()
            for side in (truth, ~truth):
                labels, _ = ndimage.label(side, structure=CUBE)
                bad = set(np.unique(labels[wrong & side]))
                extents = [max(s.stop - s.start for s in box) for box in ndimage.find_objects(labels)]
                assert all(extents[n - 1] < 3 * step for n in bad)


def test_asked_voxels_carry_the_probability_and_all_others_exactly_zero_or_one() -> None:
    field = 0.3 * signed_ball((30, 31, 29), (14, 15, 13), 9)
    result, network, _ = run(field)
    asked = network.asked() > 0
    torch.testing.assert_close(result[0, 0][asked], field.sigmoid()[0, 0][asked], rtol=1e-6, atol=0)
    assert set(result[0, 0][~asked].unique().tolist()) == {0.0, 1.0}


def test_interior_is_filled_without_queries() -> None:
    field = signed_ball((64, 64, 64), (32, 32, 32), 24)
    result, _, inferer = run(field)
    assert torch.equal(result > 0.5, field > 0)
    assert inferer.stats.queries < 0.7 * int((field > 0).sum())


def test_surface_asks_less_than_the_published_search() -> None:
    field = signed_ball((64, 64, 64), (32, 32, 32), 24)
    (_, _, surface), (_, _, published) = run(field), run(field, mode="published")
    assert surface.stats.queries < 0.6 * published.stats.queries


@pytest.mark.parametrize(("step", "limit"), [(8, 30_000), (4, 40_000)])
@pytest.mark.parametrize(("radius", "factor"), [(29.0, 1.0), (45.0, 2.2)])
def test_queries_for_a_ball_grow_with_its_surface(step: int, limit: int, radius: float, factor: float) -> None:
    shape = (256, 256, 160)
    field = signed_ball(shape, (127.5, 127.5, 79.5), radius)
    segmentation = nn.functional.adaptive_max_pool3d((field > 0).float(), (8, 8, 5)) * 12 - 6
    network, inferer = FieldNetwork(field, segmentation), OccupancyInferer(coarse_step=step, prior="restrict")
    result = inferer(torch.empty(1, 1, 1, 1, 1).expand(1, 1, *shape), network)
    assert torch.equal(result > 0.5, field > 0)
    assert inferer.stats.queries < limit * factor


@pytest.mark.parametrize("step", [4, 8])
def test_doubling_the_resolution_asks_four_times_as_much(step: int) -> None:
    queries = []
    for side in (48, 96, 192):
        field = signed_ball((side, side, side), (side / 2.1,) * 3, side / 3)
        _, _, inferer = run(field, coarse_step=step * side // 48)
        queries.append(inferer.stats.queries)
    assert queries[1] < 4.5 * queries[0]
    assert queries[2] < 4.5 * queries[1]


def test_hollow_shell_keeps_its_hole() -> None:
    outer, inner = signed_ball((40, 40, 40), (20, 20, 20), 16), signed_ball((40, 40, 40), (20, 20, 20), 9)
    field = torch.minimum(outer, -inner)
    result, *_ = run(field)
    assert torch.equal(result > 0.5, field > 0)


def test_coarse_false_positives_are_repaired() -> None:
    # Single bright voxels exactly on the lattice: interpolation makes blobs of them, the truth is one voxel each.
    field = torch.full((1, 1, 20, 20, 20), -3.0)
    field[..., ::8, ::8, ::8] = 9.0
    result, *_ = run(field)
    assert torch.equal(result > 0.5, field > 0)


def test_thin_winding_object_is_followed_from_one_seed() -> None:
    field = torch.full((1, 1, 21, 21, 21), -5.0)
    for row in range(1, 20, 2):  # a wire of one voxel, hit by the lattice only at its start
        field[0, 0, row, 1:20, 1] = 5.0
        field[0, 0, row + 1, 19 if row % 4 == 1 else 1, 1] = 5.0
    for voxel in ((0, 0, 0), (0, 0, 1), (0, 1, 1)):  # face to face from a lattice point to its end
        field[0, 0][voxel] = 5.0
    result, network, _ = run(field)
    assert (field[0, 0, ::4, ::4, ::4] > 0).sum() == 1
    assert torch.equal(result > 0.5, field > 0)
    assert network.asked().max() == 1


@pytest.mark.parametrize("corner", [(0, 0, 0), (32, 27, 18), (0, 27, 9)])
def test_object_at_the_border_equals_dense(corner: tuple[int, int, int]) -> None:
    field = signed_ball((33, 28, 19), corner, 7.5)
    result, *_ = run(field)
    assert torch.equal(result > 0.5, field > 0)


@pytest.mark.parametrize(("value", "filled"), [(-4.0, 0.0), (4.0, 1.0)])
def test_constant_field_asks_the_lattice_only(value: float, filled: float) -> None:
    result, _, inferer = run(torch.full((1, 2, 9, 10, 5), value))
    assert inferer.stats.queries_per_stage == {"lattice": 3 * 4 * 2, "surface": 0}
    assert torch.equal(result.round(), torch.full_like(result, filled))


def test_a_voxel_where_only_one_region_changes_is_asked_for_all() -> None:
    outer, inner = signed_ball((32, 32, 32), (16, 16, 16), 12), signed_ball((32, 32, 32), (16, 16, 16), 5)
    field = torch.cat((outer, inner), dim=1)
    result, network, inferer = run(field)
    assert torch.equal(result > 0.5, field > 0)
    asked = network.asked() > 0
    torch.testing.assert_close(result[0][:, asked], field.sigmoid()[0][:, asked], rtol=1e-6, atol=0)
    assert inferer.stats.queries == int(asked.sum())


@pytest.mark.parametrize("regions", [1, 5, 17])
def test_many_regions(regions: int) -> None:
    field = torch.cat([signed_ball((20, 20, 20), (10, 10, 10), 2 + r / 3) for r in range(regions)], dim=1)
    result, *_ = run(field, coarse_step=2)
    assert torch.equal(result > 0.5, field > 0)


def volumes_in_memory(shape: tuple[int, ...]) -> int:
    """Tensors of this size and of a rim around it."""
    sizes = {tuple(shape), tuple(side + 2 for side in shape)}
    # Just plain tensors: those of a compiler, which others may have left, have sizes that are no numbers.
    return sum(type(o) is torch.Tensor and tuple(o.shape[-3:]) in sizes for o in gc.get_objects())


@pytest.mark.parametrize("mode", ["surface", "published", "dense"])
def test_nothing_of_a_volume_stays_in_memory(mode: str) -> None:
    # Counted at once, without the collector of circular references: what waits for it is as large as the volume.
    gc.collect()
    gc.disable()
    try:
        field = signed_ball((24, 24, 24), (12, 12, 12), 8)
        network, inferer = FieldNetwork(field), OccupancyInferer(mode=mode)
        image = image_for(field)
        before = volumes_in_memory(field.shape[2:])
        inferer(image, network)
        assert volumes_in_memory(field.shape[2:]) <= before
    finally:
        gc.enable()


def test_infinite_logits_do_no_harm() -> None:
    field = torch.where(signed_ball((20, 20, 20), (9, 9, 9), 6) > 0, torch.inf, -torch.inf)
    result, *_ = run(field)
    assert torch.equal(result > 0.5, field > 0)


# priors


def small_object_off_the_lattice() -> tuple[torch.Tensor, torch.Tensor]:
    field = torch.full((1, 1, 32, 32, 32), -5.0)
    field[..., 17:20, 17:20, 17:20] = 5.0
    segmentation = torch.full((1, 1, 4, 4, 4), -5.0)
    segmentation[..., 2, 2, 2] = 5.0
    return field, segmentation


def test_object_between_lattice_points_is_missed_without_prior() -> None:
    field, segmentation = small_object_off_the_lattice()
    result, *_ = run(field, segmentation)
    assert not (result > 0.5).any()


def test_union_finds_what_the_lattice_misses() -> None:
    field, segmentation = small_object_off_the_lattice()
    result, network, _ = run(field, segmentation, prior="union")
    assert torch.equal(result > 0.5, field > 0)
    assert network.asked().max() == 1


def test_union_loses_nothing_where_the_prior_is_empty() -> None:
    field = signed_ball((32, 32, 32), (16, 16, 16), 8)
    empty = torch.full((1, 1, 2, 2, 2), -9.0)
    (result, _, inferer), (_, _, plain) = run(field, empty, prior="union"), run(field)
    assert torch.equal(result > 0.5, field > 0)
    assert inferer.stats.queries == plain.stats.queries


def test_restrict_sees_only_what_the_prior_sees() -> None:
    seen, unseen = signed_ball((48, 48, 48), (12, 12, 12), 6), signed_ball((48, 48, 48), (36, 36, 36), 6)
    segmentation = torch.full((1, 1, 6, 6, 6), -9.0)
    segmentation[..., :3, :3, :3] = 9.0
    result, _, inferer = run(torch.maximum(seen, unseen), segmentation, prior="restrict")
    assert torch.equal(result > 0.5, seen > 0)
    assert inferer.stats.queries_per_stage["lattice"] < 13**3 / 2


def test_restrict_follows_an_object_beyond_the_prior() -> None:
    field = signed_ball((48, 48, 48), (24, 24, 24), 20)
    segmentation = torch.full((1, 1, 8, 8, 8), -9.0)
    segmentation[..., 1:3, 3:5, 3:5] = 9.0
    result, *_ = run(field, segmentation, prior="restrict")
    assert torch.equal(result > 0.5, field > 0)


def test_scan_finds_what_the_prior_misses() -> None:
    seen, unseen = signed_ball((64, 64, 64), (12, 12, 12), 6), signed_ball((64, 64, 64), (43, 46, 41), 9)
    segmentation = torch.full((1, 1, 8, 8, 8), -9.0)
    segmentation[..., :3, :3, :3] = 9.0
    field = torch.maximum(seen, unseen)
    lost, _, _ = run(field, segmentation, prior="restrict", coarse_step=4)
    result, network, inferer = run(field, segmentation, prior="restrict", coarse_step=4, scan_step=16)
    assert torch.equal(lost > 0.5, seen > 0)
    assert torch.equal(result > 0.5, field > 0)
    assert inferer.stats.queries_per_stage["scan"] == 5**3  # every 16th voxel and the last one
    assert network.asked().max() == 1


@pytest.mark.parametrize(("scan", "coarse"), [(12, 4), (6, 2), (5, 5), (16, 1), (7, 3)])
def test_scan_of_any_ratio_loses_nothing_that_the_prior_sees(scan: int, coarse: int) -> None:
    field = random_field(11, (30, 25, 33), 3.0)
    everywhere = torch.full((1, 1, 2, 2, 2), 9.0)
    plain, _, _ = run(field, everywhere, prior="restrict", coarse_step=coarse)
    result, network, _ = run(field, everywhere, prior="restrict", coarse_step=coarse, scan_step=scan)
    assert torch.equal(result > 0.5, plain > 0.5)
    assert network.asked().max() == 1


@pytest.mark.parametrize("mode", ["surface", "published"])
def test_restrict_to_nothing_asks_nothing(mode: str) -> None:
    field = signed_ball((16, 16, 16), (8, 8, 8), 5).repeat(1, 2, 1, 1, 1)
    result, network, _ = run(field, torch.full((1, 2, 2, 2, 2), -9.0), mode=mode, prior="restrict")
    assert network.calls == []
    assert torch.equal(result, torch.zeros_like(field))


@pytest.mark.parametrize(
    "options", [{"prior": "union"}, {"prior": "restrict"}, {"mode": "published", "prior": "restrict"}]
)
def test_prior_without_segmentation_says_what_to_set(options: dict[str, str]) -> None:
    with pytest.raises(InputError, match="set prior to 'none'"):
        run(signed_ball((8, 8, 8), (4, 4, 4), 2), **options)


# published mode


@pytest.mark.parametrize("name", ["shell_bar", "ball", "empty", "full"])
@pytest.mark.parametrize(("published", "prior"), [("standard", "none"), ("optimized", "restrict")])
def test_published_search_is_reproduced(golden_dir: Path, name: str, published: str, prior: str) -> None:
    golden = np.load(golden_dir / "golden_mise.npz")
    shape = tuple(golden["resolution"])
    voxels = int(np.prod(shape))

    def unpack(key: str, *leading: int) -> np.ndarray:
        bits = np.unpackbits(golden[f"{name}_{key}"], count=voxels * int(np.prod(leading)))
        return bits.reshape(*leading, *shape).astype(bool)

    field = torch.from_numpy(unpack("field"))[None, None] * 10.0 - 5.0
    segmentation = torch.from_numpy(golden["seg"]).double().logit()
    result, network, inferer = run(field, segmentation, mode="published", prior=prior)

    counts = golden[f"{name}_{published}_counts"].tolist()
    assert list(inferer.stats.queries_per_stage.values()) == counts
    points, start = torch.cat(network.calls).numpy(), 0
    for expected, count in zip(unpack(f"{published}_eval", 3), counts, strict=True):
        evaluated = np.zeros(shape, dtype=bool)
        evaluated[tuple(points[start : start + count].T)] = True
        np.testing.assert_array_equal(evaluated, expected)
        start += count
    np.testing.assert_array_equal((result > 0.5)[0, 0].numpy(), unpack(f"{published}_grid"))


@pytest.mark.parametrize("prior", ["none", "restrict"])
def test_published_search_takes_any_size(prior: str) -> None:
    field = signed_ball((23, 18, 5), (12, 9, 2), 7)
    result, *_ = run(field, torch.full((1, 1, 2, 2, 1), 3.0), mode="published", prior=prior)
    assert torch.equal(result > 0.5, field > 0)


# all modes


@pytest.mark.parametrize("shape", [(7, 5, 3), (1, 1, 1), (2, 80, 90)])
def test_dense_is_the_sigmoid_of_every_logit(shape: tuple[int, int, int]) -> None:
    field = random_field(0, shape, 0.5, batch=2, regions=3)
    result, _, inferer = run(field, mode="dense")
    torch.testing.assert_close(result, field.sigmoid(), rtol=1e-6, atol=0)
    assert inferer.stats.fraction == 1


@pytest.mark.parametrize("mode", ["surface", "published", "dense"])
def test_chunk_size_bounds_the_calls_and_changes_nothing(mode: str) -> None:
    field = random_field(5, (19, 22, 13), 2.0, regions=2)
    results = []
    for chunk in (1 << 20, 100, 7):
        result, network, _ = run(field, mode=mode, points_per_chunk=chunk)
        results.append(result)
        assert max(map(len, network.calls)) <= chunk
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("mode", ["surface", "published", "dense"])
def test_batch_items_are_independent(mode: str) -> None:
    fields = [random_field(seed, (19, 22, 13), 2.0) for seed in (6, 7)]
    together, _, inferer = run(torch.cat(fields), mode=mode)
    for index, field in enumerate(fields):
        alone, _, single = run(field, mode=mode)
        assert torch.equal(together[index], alone[0])
        assert inferer.stats.queries_per_item[index] == single.stats.queries


@pytest.mark.parametrize("mode", ["surface", "published", "dense"])
def test_stats_count_the_points_given_to_decode(mode: str) -> None:
    field = random_field(8, (19, 22, 13), 2.0, batch=2)
    _, network, inferer = run(field, mode=mode)
    stats = inferer.stats
    assert stats.queries == sum(map(len, network.calls)) == sum(stats.queries_per_stage.values())
    assert stats.voxels == 2 * 19 * 22 * 13
    assert stats.fraction == stats.queries / stats.voxels
    assert min(stats.encode_seconds, stats.decode_seconds, stats.search_seconds) > 0


def test_stats_start_anew_with_each_call() -> None:
    field = signed_ball((16, 16, 16), (8, 8, 8), 5)
    inferer = OccupancyInferer()
    counts = []
    for _ in range(2):
        inferer(image_for(field), FieldNetwork(field))
        counts.append(inferer.stats.queries)
    assert counts[0] == counts[1]


def test_meta_data_of_the_image_is_kept() -> None:
    field = signed_ball((16, 16, 16), (8, 8, 8), 5)
    affine = torch.diag(torch.tensor([1.0, 2.0, 3.0, 1.0], dtype=torch.float64))
    image = MetaTensor(image_for(field, 4).half(), affine=affine, meta={"filename_or_obj": "case.nii.gz"})
    result = OccupancyInferer()(image, FieldNetwork(field))
    assert isinstance(result, MetaTensor)
    assert torch.equal(result.affine, affine)
    assert result.meta["filename_or_obj"] == "case.nii.gz"
    assert result.dtype == torch.float32


def test_non_contiguous_image_and_field() -> None:
    field = signed_ball((16, 18, 20), (8, 8, 8), 5).permute(0, 1, 4, 2, 3)
    image = torch.zeros(1, 1, 16, 18, 20).permute(0, 1, 4, 2, 3)
    assert torch.equal(OccupancyInferer()(image, FieldNetwork(field)) > 0.5, field > 0)


def test_wrapped_network_is_looked_through() -> None:
    field = signed_ball((16, 16, 16), (8, 8, 8), 5)
    wrapper = nn.Module()
    wrapper.module = FieldNetwork(field)
    assert torch.equal(OccupancyInferer()(image_for(field), wrapper) > 0.5, field > 0)


def test_latent_may_be_none() -> None:
    class Checkerboard(nn.Module):
        def encode(self, image: torch.Tensor) -> None:
            return None

        def decode(self, latent: None, image: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
            return (points.sum(dim=-1, keepdim=True) % 2).float() - 0.5

    result = OccupancyInferer(coarse_step=1)(torch.zeros(2, 1, 6, 7, 5), Checkerboard())
    assert int((result > 0.5).sum()) == 2 * 105


def test_item_of_slices_every_tensor_of_a_nested_latent() -> None:
    latent = {"a": [torch.arange(3), None], "b": FieldLatent(torch.eye(3), None), "c": (torch.arange(3), "name")}
    item = item_of(latent, 1)
    assert item["a"] == [torch.tensor([1]), None]
    assert isinstance(item["b"], FieldLatent)
    assert item["b"].field.tolist() == [[0, 1, 0]]
    assert item["c"] == (torch.tensor([1]), "name")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_equals_cpu() -> None:
    field = random_field(9, (40, 37, 26), 2.0, regions=2)
    segmentation = random_field(10, (4, 4, 4), 0.0, regions=2)
    for mode, prior in (("surface", "none"), ("surface", "union"), ("surface", "restrict"), ("published", "restrict")):
        inferer = OccupancyInferer(mode=mode, prior=prior)
        expected = inferer(image_for(field), FieldNetwork(field, segmentation))
        result = inferer(image_for(field).cuda(), FieldNetwork(field.cuda(), segmentation.cuda()))
        assert result.is_cuda
        assert torch.equal(result.cpu() > 0.5, expected > 0.5)


# messages


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "fast"}, "mode is 'fast'; expected one of surface, published, dense"),
        ({"prior": "yes"}, "prior is 'yes'; expected one of none, union, restrict"),
        ({"mode": "published", "prior": "union"}, "unknown to mode 'published'"),
        ({"coarse_step": 0}, "coarse_step is 0"),
        ({"coarse_step": 2.5}, "coarse_step is 2.5"),
        ({"threshold": 1.0}, "threshold is 1.0"),
        ({"prior_threshold": 0}, "prior_threshold is 0"),
        ({"scan_step": 2, "coarse_step": 4}, "scan_step is 2, finer than coarse_step"),
        ({"points_per_chunk": 0}, "points_per_chunk is 0"),
    ],
)
def test_bad_argument_is_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        OccupancyInferer(**options)  # type: ignore[arg-type]


def test_ordinary_network_is_refused() -> None:
    with pytest.raises(InputError, match="Conv3d has no method encode and decode"):
        OccupancyInferer()(torch.zeros(1, 1, 4, 4, 4), nn.Conv3d(1, 1, 1))


def test_image_without_batch_axis_is_refused() -> None:
    with pytest.raises(InputError, match="has 4 axes"):
        OccupancyInferer()(torch.zeros(1, 4, 4, 4), FieldNetwork(torch.zeros(1, 1, 4, 4, 4)))


# geometry


@given(shape=st.tuples(*[st.integers(1, 6)] * 3))
def test_points_and_flat_indices_are_inverse(shape: tuple[int, int, int]) -> None:
    flat = torch.arange(int(np.prod(shape)))
    points = to_points(flat, shape)
    assert torch.equal(to_flat(points, shape), flat)
    np.testing.assert_array_equal(points.numpy(), np.indices(shape).reshape(3, -1).T)


@pytest.mark.parametrize(
    ("size", "step", "expected"), [(9, 4, [0, 4, 8]), (10, 4, [0, 4, 8, 9]), (1, 4, [0]), (3, 8, [0, 2])]
)
def test_coarse_axis_holds_the_last_index(size: int, step: int, expected: list[int]) -> None:
    assert coarse_axis(size, step, torch.device("cpu")).tolist() == expected


@pytest.mark.parametrize("radius", [1, 2, 4])
@pytest.mark.parametrize("shape", [(9, 8, 7), (1, 3, 12)])
def test_dilate_equals_scipy(radius: int, shape: tuple[int, int, int]) -> None:
    mask = np.random.default_rng(0).random(shape) < 0.02
    expected = ndimage.binary_dilation(mask, np.ones([2 * radius + 1] * 3))
    np.testing.assert_array_equal(dilate(torch.from_numpy(mask), radius).numpy(), expected)


def test_fill_reproduces_a_linear_field() -> None:
    grid = torch.stack(torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in (50, 11, 6)], indexing="ij"))
    plane = grid[0] - 2 * grid[1] + 0.5 * grid[2] - 10.3
    axes = tuple(coarse_axis(n, 4, torch.device("cpu")) for n in plane.shape)
    out = torch.zeros(1, *plane.shape)
    fill_from_lattice(out, plane[axes[0]][:, axes[1]][:, :, axes[2]][None], axes)  # type: ignore[arg-type]
    assert torch.equal(out[0] > 0, plane > 0)


def test_sampled_segmentation_equals_the_resized_one() -> None:
    segmentation, shape = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)), (30, 17, 21)
    axes = tuple(coarse_axis(n, 3, torch.device("cpu")) for n in shape)
    resized = nn.functional.interpolate(segmentation[None], shape, mode="trilinear", align_corners=False)[0]
    expected = resized[:, axes[0]][:, :, axes[1]][:, :, :, axes[2]]
    torch.testing.assert_close(sample_segmentation(segmentation, axes, shape), expected)  # type: ignore[arg-type]


def test_fine_segmentation_keeps_single_voxels() -> None:
    segmentation = torch.zeros(1, 32, 32, 32)
    segmentation[0, 13, 14, 15] = 1.0
    axes = tuple(coarse_axis(n, 4, torch.device("cpu")) for n in (32, 32, 32))
    assert sample_segmentation(segmentation, axes, (32, 32, 32)).max() > 0.5  # type: ignore[arg-type]


# candidates, steps in millimetres, half precision


def organ_with_lesion(lesion_radius: float, shape: tuple[int, int, int] = (40, 40, 40)) -> torch.Tensor:
    """Logits `[1, 2, H, W, D]`: an organ, and a lesion in it that falls between the points of a lattice of step 8."""
    return torch.cat([signed_ball(shape, (20, 20, 20), 15), signed_ball(shape, (20, 20, 20), lesion_radius)], dim=1)


def test_a_small_lesion_between_the_lattice_points_is_found_among_the_candidates() -> None:
    field = organ_with_lesion(2.5)
    without, _, _ = run(field, coarse_step=8)
    result, network, inferer = run(field, coarse_step=8, candidate_step=2)
    assert (without[0, 1] > 0.5).sum() == 0
    assert torch.equal(result > 0.5, field > 0)
    assert inferer.stats.queries_per_stage["candidates"] > 0
    assert network.asked().max() == 1


def test_candidates_lie_in_the_outermost_region_alone() -> None:
    field = organ_with_lesion(0.4)  # no voxel of a lesion is found, so that all further questions are candidates
    _, plain, _ = run(field, coarse_step=8)
    _, network, inferer = run(field, coarse_step=8, candidate_step=3)
    further = network.asked() - plain.asked()
    assert further.sum() == inferer.stats.queries_per_stage["candidates"]
    assert (field[0, 0][further > 0] > 0).all()


def test_one_region_has_no_candidates() -> None:
    _, _, inferer = run(organ_with_lesion(2.5)[:, :1], coarse_step=8, candidate_step=2)
    assert "candidates" not in inferer.stats.queries_per_stage


def test_steps_in_millimetres_are_whole_voxels_along_each_axis() -> None:
    field = torch.full((1, 1, 17, 33, 9), -5.0)
    image = MetaTensor(image_for(field), affine=torch.diag(torch.tensor([2.0, 0.5, 9.0, 1.0])))
    network, inferer = FieldNetwork(field), OccupancyInferer(coarse_step=4, step_unit="mm")
    inferer(image, network)
    expected = torch.zeros(17, 33, 9, dtype=torch.int64)
    expected[::2, ::8, :] = 1
    assert torch.equal(network.asked(), expected)


@pytest.mark.parametrize("mode", ["surface", "published", "dense"])
def test_half_precision_results_hold_the_same_regions(mode: str) -> None:
    field = random_field(3, (21, 18, 24), 2.0, regions=2)
    field = torch.where(field.abs() < 0.002, 0.002, field)  # no voxel that rounding brings to the threshold
    full, _, _ = run(field, mode=mode)
    half, _, _ = run(field, mode=mode, output_dtype=torch.float16)
    assert half.dtype == torch.float16
    assert torch.equal(half > 0.5, full > 0.5)
    torch.testing.assert_close(half.float(), full, atol=3e-4, rtol=0)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"coarse_step": 1.5}, "coarse_step is 1.5; expected a whole number"),
        ({"candidate_step": 0}, "candidate_step is 0; expected a whole number"),
        ({"coarse_step": -1, "step_unit": "mm"}, "coarse_step is -1; expected a length above 0 in mm"),
        ({"step_unit": "cm"}, "step_unit is 'cm'; expected one of voxel, mm"),
    ],
)
def test_steps_that_make_no_sense_are_refused(keys: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        OccupancyInferer(**keys)
