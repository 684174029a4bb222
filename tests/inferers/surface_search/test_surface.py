"""The surface search against dense evaluation, and its promises about queries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from scipy import ndimage
from torch import nn

from custom_nets.errors import InputError
from tests.inferers.fields import FieldNetwork, build_inferer, image_for, random_field, run, signed_ball

CUBE = np.ones((3, 3, 3))
FACES = ndimage.generate_binary_structure(3, 1)


def wrong_components(result: np.ndarray, dense: np.ndarray, queried: np.ndarray) -> list[str]:
    """6-connected components of `dense` that hold an queried voxel and yet differ in `result`."""
    found = []
    for name, truth in (("foreground", dense), ("background", ~dense)):
        labels, count = ndimage.label(truth, structure=FACES)
        found += [
            f"{name} {n}"
            for n in range(1, count + 1)
            if queried[labels == n].any() and (result != dense)[labels == n].any()
        ]
    return found


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
def test_every_component_with_an_queried_voxel_equals_dense(
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
    queried = network.queried().numpy() > 0 if network.calls else np.zeros(shape, dtype=bool)
    dense = field.sigmoid() > threshold
    for r in range(regions):
        assert wrong_components((result > threshold)[0, r].numpy(), dense[0, r].numpy(), queried) == []


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    shape=st.tuples(*[st.integers(1, 17)] * 3),
    smoothness=st.sampled_from([0.0, 1.0, 2.0]),
    step=st.integers(1, 6),
)
def test_all_voxels_beside_a_surface_were_queried_and_no_voxel_twice(
    seed: int, shape: tuple[int, int, int], smoothness: float, step: int
) -> None:
    result, network, _ = run(random_field(seed, shape, smoothness), coarse_step=step)
    inside = (result > 0.5)[0, 0].numpy()
    pairs = {"footprint": FACES, "mode": "nearest"}
    beside = ndimage.maximum_filter(inside, **pairs) != ndimage.minimum_filter(inside, **pairs)
    queried = network.queried().numpy()
    assert queried[beside].all()
    assert queried.max() == 1


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


def test_queried_voxels_carry_the_probability_and_all_others_exactly_zero_or_one() -> None:
    field = 0.3 * signed_ball((30, 31, 29), (14, 15, 13), 9)
    result, network, _ = run(field)
    queried = network.queried() > 0
    torch.testing.assert_close(result[0, 0][queried], field.sigmoid()[0, 0][queried], rtol=1e-6, atol=0)
    assert set(result[0, 0][~queried].unique().tolist()) == {0.0, 1.0}


def test_interior_is_filled_without_queries() -> None:
    field = signed_ball((64, 64, 64), (32, 32, 32), 24)
    result, _, inferer = run(field)
    assert torch.equal(result > 0.5, field > 0)
    assert inferer.stats.queries < 0.7 * int((field > 0).sum())


def test_surface_queries_less_than_the_published_search() -> None:
    field = signed_ball((64, 64, 64), (32, 32, 32), 24)
    (_, _, surface), (_, _, published) = run(field), run(field, mode="published")
    assert surface.stats.queries < 0.6 * published.stats.queries


@pytest.mark.parametrize(("step", "limit"), [(8, 30_000), (4, 40_000)])
@pytest.mark.parametrize(("radius", "factor"), [(29.0, 1.0), (45.0, 2.2)])
def test_queries_for_a_ball_grow_with_its_surface(step: int, limit: int, radius: float, factor: float) -> None:
    shape = (256, 256, 160)
    field = signed_ball(shape, (127.5, 127.5, 79.5), radius)
    segmentation = nn.functional.adaptive_max_pool3d((field > 0).float(), (8, 8, 5)) * 12 - 6
    network, inferer = FieldNetwork(field, segmentation), build_inferer(coarse_step=step, prior="restrict")
    result = inferer(torch.empty(1, 1, 1, 1, 1).expand(1, 1, *shape), network)
    assert torch.equal(result > 0.5, field > 0)
    assert inferer.stats.queries < limit * factor


@pytest.mark.parametrize("step", [4, 8])
def test_doubling_the_resolution_queries_four_times_as_much(step: int) -> None:
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
    assert network.queried().max() == 1


@pytest.mark.parametrize("corner", [(0, 0, 0), (32, 27, 18), (0, 27, 9)])
def test_object_at_the_border_equals_dense(corner: tuple[int, int, int]) -> None:
    field = signed_ball((33, 28, 19), corner, 7.5)
    result, *_ = run(field)
    assert torch.equal(result > 0.5, field > 0)


@pytest.mark.parametrize(("value", "filled"), [(-4.0, 0.0), (4.0, 1.0)])
def test_constant_field_queries_the_lattice_only(value: float, filled: float) -> None:
    result, _, inferer = run(torch.full((1, 2, 9, 10, 5), value))
    assert inferer.stats.queries_per_stage == {"lattice": 3 * 4 * 2, "surface": 0}
    assert torch.equal(result.round(), torch.full_like(result, filled))


def test_a_voxel_where_only_one_region_changes_is_queried_for_all() -> None:
    outer, inner = signed_ball((32, 32, 32), (16, 16, 16), 12), signed_ball((32, 32, 32), (16, 16, 16), 5)
    field = torch.cat((outer, inner), dim=1)
    result, network, inferer = run(field)
    assert torch.equal(result > 0.5, field > 0)
    queried = network.queried() > 0
    torch.testing.assert_close(result[0][:, queried], field.sigmoid()[0][:, queried], rtol=1e-6, atol=0)
    assert inferer.stats.queries == int(queried.sum())


@pytest.mark.parametrize("regions", [1, 5, 17])
def test_many_regions(regions: int) -> None:
    field = torch.cat([signed_ball((20, 20, 20), (10, 10, 10), 2 + r / 3) for r in range(regions)], dim=1)
    result, *_ = run(field, coarse_step=2)
    assert torch.equal(result > 0.5, field > 0)


def test_infinite_logits_do_no_harm() -> None:
    field = torch.where(signed_ball((20, 20, 20), (9, 9, 9), 6) > 0, torch.inf, -torch.inf)
    result, *_ = run(field)
    assert torch.equal(result > 0.5, field > 0)


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
    assert network.queried().max() == 1


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
    assert network.queried().max() == 1


@pytest.mark.parametrize(("scan", "coarse"), [(12, 4), (6, 2), (5, 5), (16, 1), (7, 3)])
def test_scan_of_any_ratio_loses_nothing_that_the_prior_sees(scan: int, coarse: int) -> None:
    field = random_field(11, (30, 25, 33), 3.0)
    everywhere = torch.full((1, 1, 2, 2, 2), 9.0)
    plain, _, _ = run(field, everywhere, prior="restrict", coarse_step=coarse)
    result, network, _ = run(field, everywhere, prior="restrict", coarse_step=coarse, scan_step=scan)
    assert torch.equal(result > 0.5, plain > 0.5)
    assert network.queried().max() == 1


@pytest.mark.parametrize("mode", ["surface", "published"])
def test_restrict_to_nothing_queries_nothing(mode: str) -> None:
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
    assert network.queried().max() == 1


def test_candidates_lie_in_the_outermost_region_alone() -> None:
    field = organ_with_lesion(0.4)  # no voxel of a lesion is found, so that all further queries are candidates
    _, plain, _ = run(field, coarse_step=8)
    _, network, inferer = run(field, coarse_step=8, candidate_step=3)
    further = network.queried() - plain.queried()
    assert further.sum() == inferer.stats.queries_per_stage["candidates"]
    assert (field[0, 0][further > 0] > 0).all()


def test_one_region_has_no_candidates() -> None:
    _, _, inferer = run(organ_with_lesion(2.5)[:, :1], coarse_step=8, candidate_step=2)
    assert "candidates" not in inferer.stats.queries_per_stage


def test_steps_in_millimetres_are_whole_voxels_along_each_axis() -> None:
    field = torch.full((1, 1, 17, 33, 9), -5.0)
    image = MetaTensor(image_for(field), affine=torch.diag(torch.tensor([2.0, 0.5, 9.0, 1.0])))
    network, inferer = FieldNetwork(field), build_inferer(coarse_step=4, step_unit="mm")
    inferer(image, network)
    expected = torch.zeros(17, 33, 9, dtype=torch.int64)
    expected[::2, ::8, :] = 1
    assert torch.equal(network.queried(), expected)


@pytest.mark.parametrize(("band", "spacing"), [(3, None), (4.0, 2.0)])
def test_probabilities_within_a_band_are_the_networks(band, spacing) -> None:
    """Of a soft ball every voxel within the band has its own probability, which is also the dense result's there."""
    field = soft_ball(radius=9)
    image = image_for(field)
    unit = {} if spacing is None else {"step_unit": "mm"}
    if spacing is not None:
        image = MetaTensor(image, affine=torch.diag(torch.tensor([spacing] * 3 + [1.0])))
    network = FieldNetwork(field)
    found = build_inferer(coarse_step=8, band=band, **unit)(image, network)
    dense = build_inferer(mode="dense")(image, FieldNetwork(field))
    reach = band if spacing is None else round(band / spacing)
    inside = (dense[0, 0] > 0.5).numpy()
    rim = (ndimage.binary_dilation(inside) & ~inside) | (inside & ~ndimage.binary_erosion(inside))
    grown = ndimage.binary_dilation(rim, np.ones([2 * int(reach) + 1] * 3))
    assert (network.queried()[grown] == 1).all()
    np.testing.assert_allclose(found[0, 0].numpy()[grown], dense[0, 0].numpy()[grown], rtol=1e-6)
    assert network.queried()[~grown].float().mean() < 0.1


def test_a_band_without_end_is_dense() -> None:
    field = soft_ball(radius=6)
    found = build_inferer(band="all", coarse_step=8)(image_for(field), FieldNetwork(field))
    assert torch.equal(found, build_inferer(mode="dense")(image_for(field), FieldNetwork(field)))


def test_what_a_band_finds_is_followed() -> None:
    """A thin bar beside the ball, which the lattice misses: it is met within the band, then found whole."""
    field = soft_ball(radius=6)
    field[0, 0, 5:35, 29, 21] = 4.0
    assert build_inferer(coarse_step=4)(image_for(field), FieldNetwork(field))[0, 0, 5, 29, 21] == 0
    found = build_inferer(coarse_step=4, band=4)(image_for(field), FieldNetwork(field))
    assert (found[0, 0, 5:35, 29, 21] > 0.5).all()


def soft_ball(radius: float) -> torch.Tensor:
    """Logits that fall from the middle of a ball to beyond its surface, a quarter a voxel."""
    apart = torch.stack(torch.meshgrid(*[torch.arange(40.0)] * 3, indexing="ij")) - 19.7
    return ((radius - apart.norm(dim=0)) / 4)[None, None]
