"""Cleaning against masks made by hand and a flood fill."""

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.data import MetaTensor

from custom_nets.errors import InputError
from custom_nets.transforms.postprocessing import (
    DropSmallParts,
    DropSmallPartsd,
    DropSmallRegion,
    DropSmallRegiond,
    FillRegionHoles,
    FillRegionHolesd,
    KeepLargestRegion,
    KeepLargestRegiond,
)

NAMES = ("WT", "TC", "ET")

depths = arrays(np.uint8, (5, 4, 5), elements=st.sampled_from([0, 1, 1, 2, 3, 3]))
fills = st.sets(st.sampled_from(NAMES)).map(tuple)


def nested(depth):
    """Regions `[3, H, W, D]` from the number of regions that hold each voxel."""
    return torch.tensor(np.stack([depth > level for level in range(3)]).astype(np.float32))


def shell(side=7):
    """A hollow cube of enhancing tumour inside oedema: its inside belongs to no region."""
    depth = np.ones((side, side, side), dtype=np.uint8)
    depth[1:-1, 1:-1, 1:-1] = 3
    depth[2:-2, 2:-2, 2:-2] = 0
    return nested(depth)


def flooded(mask):
    """The mask with every hole filled, by walking in from outside one voxel at a time."""
    outside = np.pad(mask, 1)
    seen = np.zeros(outside.shape, dtype=bool)
    to_visit = [(0, 0, 0)]
    while to_visit:
        place = to_visit.pop()
        if any(not 0 <= i < size for i, size in zip(place, seen.shape, strict=True)) or seen[place] or outside[place]:
            continue
        seen[place] = True
        for axis in range(3):
            for step in (-1, 1):
                to_visit.append(tuple(i + step * (k == axis) for k, i in enumerate(place)))
    return ~seen[1:-1, 1:-1, 1:-1]


@settings(max_examples=50, deadline=None)
@given(depths)
def test_what_no_walk_from_outside_reaches_is_filled(depth):
    regions = nested(depth)
    filled = FillRegionHoles(NAMES, ("WT", "TC"))(regions)
    for channel, before in zip(filled[:2], regions[:2], strict=True):
        assert np.array_equal(channel > 0, flooded(before.numpy() > 0))


@settings(max_examples=50, deadline=None)
@given(depths, fills)
def test_filling_twice_is_filling_once(depth, fill):
    filler = FillRegionHoles(NAMES, fill=fill)
    once = filler(nested(depth))
    assert torch.equal(filler(once), once)


@settings(max_examples=50, deadline=None)
@given(depths, fills)
def test_filling_removes_nothing(depth, fill):
    regions = nested(depth)
    assert (FillRegionHoles(NAMES, fill=fill)(regions) >= regions).all()


@settings(max_examples=50, deadline=None)
@given(depths, fills)
def test_nested_regions_stay_nested_whichever_are_filled(depth, fill):
    filled = FillRegionHoles(NAMES, fill=fill)(nested(depth))
    assert (filled[:-1] >= filled[1:]).all()


def test_the_hole_of_an_enhancing_ring_becomes_tumour_core():
    ring = shell()
    filled = FillRegionHoles(NAMES, ("WT", "TC"))(ring)
    assert filled[0].all()
    assert filled[1, 1:-1, 1:-1, 1:-1].all()
    assert torch.equal(filled[2], ring[2])


def test_an_enhancing_ring_is_filled_on_request():
    assert FillRegionHoles(NAMES, fill="ET")(shell())[2, 3, 3, 3] == 1


def test_what_an_inner_region_gains_the_outer_ones_gain_too():
    assert FillRegionHoles(NAMES, fill="ET")(shell())[:, 3, 3, 3].tolist() == [1, 1, 1]


def test_a_hole_open_to_the_border_of_the_volume_stays():
    regions = shell()
    regions[:, 3, 3, :3] = 0
    assert torch.equal(FillRegionHoles(NAMES, ("WT", "TC"))(regions), regions)


def test_a_hole_that_touches_the_outside_at_an_edge_alone_is_filled():
    depth = np.full((3, 3, 3), 3)
    depth[1, 1, 1] = depth[0, 0, 1] = 0
    filled = FillRegionHoles(NAMES, ("WT", "TC"))(nested(depth))
    assert filled[:, 1, 1, 1].tolist() == [1, 1, 0]
    assert not filled[:, 0, 0, 1].any()


def test_regions_without_voxels_stay_empty():
    assert not FillRegionHoles(NAMES, ("WT", "TC"))(torch.zeros(3, 4, 4, 4)).any()


def test_other_regions_can_be_named():
    depth = np.full((3, 3, 3), 1)
    depth[1, 1, 1] = 0
    assert FillRegionHoles(("liver", "tumour"), "liver")(nested(depth)[:2])[0].all()


def test_an_unknown_region_to_fill_is_an_error_that_names_the_regions():
    with pytest.raises(InputError, match="'liver' is unknown; expected any of WT, TC, ET"):
        FillRegionHolesd("pred", NAMES, fill=("WT", "liver"))


AFFINES = {
    "2 mm": np.diag([-2.0, 2, 2, 1]),
    "oblique": np.array([[1.2, -1.6, 0, 5], [1.6, 1.2, 0, -8], [0, 0, 2, 3], [0, 0, 0, 1]]),
    "sheared": np.array([[2.0, 1, 0.5, 0], [0, 2, 1, 0], [0, 0, 2, 0], [0, 0, 0, 1]]),
}
"""Grids whose voxels hold 8 mm3."""


def with_enhancing(voxels, affine, dtype=torch.float32):
    """10x10x10 voxels of tumour core, so many of them enhancing."""
    regions = torch.ones(3, 10, 10, 10, dtype=dtype)
    regions[2].view(-1)[voxels:] = 0
    return MetaTensor(regions, affine=torch.as_tensor(affine), meta={"case": "c1"})


@pytest.mark.parametrize("grid", AFFINES)
def test_the_affine_says_how_many_voxels_are_enough(grid):
    dropper = DropSmallRegion(NAMES, "ET", min_ml=0.4)
    assert not dropper(with_enhancing(49, AFFINES[grid]))[2].any()
    assert dropper(with_enhancing(50, AFFINES[grid]))[2].sum() == 50


def test_half_a_millilitre_is_500_voxels_of_1_mm3():
    assert DropSmallRegion(NAMES, "ET")(with_enhancing(500, np.eye(4)))[2].sum() == 500
    assert not DropSmallRegion(NAMES, "ET")(with_enhancing(499, np.eye(4)))[2].any()


@given(st.floats(-3, 3))
def test_rounding_of_a_turned_affine_does_not_drop_the_limit_itself(angle):
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    assert DropSmallRegion(NAMES, "ET")(with_enhancing(500, turn.astype(np.float32)))[2].any()


def test_a_dropped_region_stays_in_the_outer_ones():
    regions = with_enhancing(3, np.eye(4))
    assert torch.equal(DropSmallRegion(NAMES, "ET")(regions)[:2], regions[:2])


def test_parts_count_together():
    regions = with_enhancing(0, np.eye(4))
    regions[2, ::3] = 1
    assert DropSmallRegion(NAMES, "ET", min_ml=0.4)(regions)[2].sum() == 400


def test_zero_millilitres_drops_nothing():
    regions = with_enhancing(1, np.eye(4))
    assert torch.equal(DropSmallRegion(NAMES, "ET", min_ml=0)(regions), regions)


def test_regions_inside_a_dropped_one_go_with_it():
    cleaned = DropSmallRegion(NAMES, "TC", min_ml=2)(with_enhancing(600, np.eye(4)))
    assert cleaned.sum(dim=(1, 2, 3)).tolist() == [1000, 0, 0]


def test_an_unknown_region_to_drop_is_an_error_that_names_the_regions():
    with pytest.raises(InputError, match="'tumour' is unknown; expected any of WT, TC, ET"):
        DropSmallRegiond("pred", NAMES, "tumour")


@pytest.mark.parametrize("least", [-1, float("nan")])
def test_a_volume_that_is_none_is_an_error(least):
    with pytest.raises(InputError, match="0 to drop nothing"):
        DropSmallRegion(NAMES, "ET", min_ml=least)


def test_a_tensor_without_affine_cannot_be_measured():
    with pytest.raises(InputError, match="case c1: 'pred' has no affine"):
        DropSmallRegiond("pred", NAMES, "ET")({"case": "c1", "pred": torch.ones(3, 2, 2, 2)})


BOTH = pytest.mark.parametrize(
    "cleaner", [FillRegionHoles(NAMES, fill=NAMES), DropSmallRegion(NAMES, "ET", min_ml=100)]
)


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.uint8, torch.bool])
def test_type_and_metadata_stay(cleaner, dtype):
    regions = MetaTensor(shell().to(dtype), affine=torch.as_tensor(AFFINES["2 mm"]), meta={"case": "c1"})
    cleaned = cleaner(regions)
    assert isinstance(cleaned, MetaTensor)
    assert cleaned.dtype == dtype
    assert torch.equal(cleaned.affine, regions.affine)
    assert cleaned.meta["case"] == "c1"


@BOTH
def test_the_input_is_not_changed(cleaner):
    regions = MetaTensor(shell(), affine=torch.eye(4))
    assert not torch.equal(cleaner(regions), regions)
    assert torch.equal(regions, shell())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@BOTH
def test_the_device_stays(cleaner):
    regions = MetaTensor(shell().cuda(), affine=torch.eye(4))
    assert torch.equal(cleaner(regions).cpu(), cleaner(regions.cpu()))
    assert cleaner(regions).is_cuda


def test_probabilities_become_1_where_a_hole_is_filled_and_stay_elsewhere():
    probabilities = 0.1 + 0.6 * shell()
    filled = FillRegionHoles(NAMES, ("WT", "TC"))(probabilities)
    holes = FillRegionHoles(NAMES, ("WT", "TC"))(shell()) != shell()
    assert (filled[holes] == 1).all()
    assert torch.equal(filled[~holes], probabilities[~holes])


def test_probabilities_become_0_where_a_region_is_dropped_and_stay_elsewhere():
    probabilities = MetaTensor(0.1 + 0.6 * shell(), affine=torch.eye(4))
    dropped = DropSmallRegion(NAMES, "ET", min_ml=100)(probabilities)
    assert not dropped[2].any()
    assert torch.equal(dropped[:2], probabilities[:2])


@BOTH
def test_names_and_channels_must_agree(cleaner):
    with pytest.raises(InputError, match=r"shape \(2, 4, 4, 4\); expected \[3, H, W, D\]"):
        cleaner(MetaTensor(torch.ones(2, 4, 4, 4), affine=torch.eye(4)))


@pytest.mark.parametrize(
    "cleaner", [FillRegionHolesd("pred", NAMES, fill=NAMES), DropSmallRegiond("pred", NAMES, "ET", min_ml=100)]
)
def test_the_dictionary_forms_clean_their_keys_alone(cleaner):
    regions = MetaTensor(shell(), affine=torch.eye(4))
    item = {"pred": regions, "label": regions}
    after = cleaner(item)
    assert not torch.equal(after["pred"], regions)
    assert after["label"] is regions
    assert item["pred"] is regions


def test_both_follow_each_other_in_any_order():
    regions = MetaTensor(shell(), affine=torch.eye(4))
    fill, drop = FillRegionHoles(NAMES, ("WT", "TC")), DropSmallRegion(NAMES, "ET", min_ml=1)
    assert torch.equal(fill(drop(regions)), drop(fill(regions)))


LIVER = ("liver", "tumour")


def two_livers():
    """A liver of 4x4x4 voxels and a false one of 3x3x3, a tumour in each, the probabilities 0.3 round them."""
    regions = torch.full((2, 12, 9, 8), 0.3)
    regions[0, 1:5, 1:5, 1:5] = 0.9
    regions[0, 7:10, 5:8, 4:7] = 0.8
    regions[1, 2:4, 2, 2] = 0.7
    regions[1, 8, 6, 5:7] = 0.6
    return regions


def test_the_largest_part_stays_and_the_other_goes():
    kept = KeepLargestRegion(LIVER, "liver")(two_livers())
    assert (kept[0, 1:5, 1:5, 1:5] == 0.9).all()
    assert not kept[0, 7:10, 5:8, 4:7].any()


def test_a_tumour_in_a_false_liver_goes_with_it():
    kept = KeepLargestRegion(LIVER, "liver")(two_livers())
    assert (kept[1] > 0.5).sum() == (kept[1, 2:4, 2, 2] > 0.5).sum() == 2


def test_what_is_below_the_threshold_stays():
    regions = two_livers()
    outside = regions[0] <= 0.5
    assert torch.equal(KeepLargestRegion(LIVER, "liver")(regions)[:, outside], regions[:, outside])


def test_outer_regions_stay_where_an_inner_one_is_cleaned():
    regions = two_livers()
    regions[1, 8, 6, 6] = 0.3
    kept = KeepLargestRegion(LIVER, region="tumour")(regions)
    assert torch.equal(kept[0], regions[0])
    assert (kept[1] > 0.5).sum() == 2


def test_one_part_is_left_as_it_is():
    regions = two_livers()[:, :6]
    assert torch.equal(KeepLargestRegion(LIVER, "liver")(regions), regions)


def test_no_part_is_left_as_it_is():
    assert torch.equal(KeepLargestRegion(LIVER, "liver")(torch.zeros(2, 3, 3, 3)), torch.zeros(2, 3, 3, 3))


def test_parts_that_share_a_corner_are_one():
    regions = torch.zeros(2, 6, 6, 6)
    regions[0, :3, :3, :3] = regions[0, 3, 3, 3] = 1
    assert torch.equal(KeepLargestRegion(LIVER, "liver")(regions), regions)


def sizes_of_parts(mask):
    """Sizes of the parts of a mask, found voxel by voxel; corners connect."""
    left, sizes = set(map(tuple, np.argwhere(mask).tolist())), []
    while left:
        front, size = [left.pop()], 0
        while front:
            here, size = front.pop(), size + 1
            near = {voxel for voxel in left if max(abs(a - b) for a, b in zip(voxel, here, strict=True)) == 1}
            left -= near
            front += near
        sizes.append(size)
    return sizes


@settings(max_examples=40, deadline=None)
@given(arrays(bool, (4, 5, 4)))
def test_what_is_kept_is_one_part_as_large_as_the_largest(mask):
    kept = KeepLargestRegion(["liver"], "liver")(torch.tensor(mask)[None])[0].numpy()
    assert sizes_of_parts(kept) == sorted(sizes_of_parts(mask))[-1:]
    assert not (kept & ~mask).any()


def in_place(cleaner, regions):
    """The result, and whether it is the given tensor."""
    cleaned = cleaner(regions)
    return cleaned, cleaned.data_ptr() == regions.data_ptr()


@pytest.mark.parametrize("kind", [KeepLargestRegiond, FillRegionHolesd])
def test_in_place_needs_no_copy_and_gives_the_same(kind):
    names = {"regions": LIVER, ("region" if kind is KeepLargestRegiond else "fill"): "liver"}
    regions = two_livers()
    regions[0, 2, 3, 3] = 0
    copied, shares = in_place(kind("pred", **names).cleaner, regions)
    assert not shares
    assert not torch.equal(copied, regions)
    written, shares = in_place(kind("pred", **names, in_place=True).cleaner, regions)
    assert shares
    assert torch.equal(written, copied)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.uint8, torch.bool])
def test_keeping_the_largest_keeps_type_and_metadata(dtype):
    regions = MetaTensor((two_livers() > 0.5).to(dtype), affine=torch.as_tensor(AFFINES["2 mm"]), meta={"case": "c1"})
    kept = KeepLargestRegiond("pred", LIVER, "liver")({"case": "c1", "pred": regions})["pred"]
    assert kept.dtype == dtype
    assert torch.equal(kept.affine, regions.affine)
    assert kept.sum(dim=(1, 2, 3)).tolist() == [64, 2]


def test_an_unknown_region_to_keep_is_an_error_that_names_the_regions():
    with pytest.raises(InputError, match="'WT' is unknown; expected any of liver, tumour"):
        KeepLargestRegion(LIVER, region="WT")


def test_the_largest_of_other_channels_than_named_is_an_error():
    with pytest.raises(InputError, match=r"case c1: 'pred' has shape \(3, 4, 4, 4\); expected \[2, H, W, D\]"):
        KeepLargestRegiond("pred", LIVER, "liver")({"case": "c1", "pred": torch.ones(3, 4, 4, 4)})


class TestRegionsBesideEachOther:
    """Of a record whose regions share no voxel, unlike the nested ones above."""

    @pytest.fixture
    def record(self, tmp_path):
        content = {
            "title": "Kidneys",
            "layouts": ["nnunet"],
            "channels": {"CT": {"kind": "CT"}},
            "labels": {1: "kidney", 2: "cyst"},
            "regions": {"kidney": {"numbers": [1], "written": 1}, "cyst": {"numbers": [2], "written": 2}},
        }
        file = tmp_path / "kidneys.yaml"
        file.write_text(yaml.safe_dump(content))
        return str(file)

    @pytest.fixture
    def regions(self):
        """A kidney with a hole of one voxel and a cyst of one within it, and a stray voxel of kidney."""
        kidney, cyst = torch.zeros(2, 9, 9, 9)
        kidney[1:8, 1:6, 1:6] = 1
        kidney[3, 3, 3] = kidney[5, 3, 3] = 0
        cyst[5, 3, 3] = 1
        kidney[8, 8, 8] = 1
        return MetaTensor(torch.stack([kidney, cyst]), affine=torch.diag(torch.tensor([10.0, 10.0, 10.0, 1.0])))

    def test_a_hole_is_filled_and_a_neighbour_within_is_none(self, record, regions):
        filled = FillRegionHoles(["kidney", "cyst"], "kidney", dataset=record)(regions)
        assert filled[0, 3, 3, 3] == 1
        assert filled[0, 5, 3, 3] == 0
        assert torch.equal(filled[1], regions[1])

    def test_small_parts_go_by_themselves(self, record, regions):
        kept = DropSmallParts(["kidney", "cyst"], min_ml=1.5, dataset=record)(regions)  # a voxel is 1 ml
        assert kept[0].sum() == regions[0].sum() - 1
        assert kept[0, 8, 8, 8] == 0
        assert kept[1].sum() == 0
        assert torch.equal(DropSmallParts(["kidney", "cyst"], min_ml=1.0, dataset=record)(regions), regions)

    def test_the_record_of_the_item_counts(self, record, regions):
        names = ["kidney", "cyst"]
        item = {"pred": regions, "dataset": record, "case": "a"}
        cleaned = FillRegionHolesd("pred", names, names, dataset=record)(item)["pred"]
        assert torch.equal(cleaned, FillRegionHoles(names, names, dataset=record)(regions))
        cleaned = DropSmallPartsd("pred", names, 1.5, dataset=record)(item)["pred"]
        assert torch.equal(cleaned, DropSmallParts(names, 1.5, dataset=record)(regions))


def test_a_small_part_takes_what_lies_within_it_along():
    outer, inner = torch.zeros(2, 6, 6, 6)
    outer[0:2, 0:2, 0:2] = inner[0, 0, 0] = 1
    outer[4, 4, 4] = inner[4, 4, 4] = 1
    regions = MetaTensor(torch.stack([outer, inner]), affine=torch.diag(torch.tensor([10.0, 10.0, 10.0, 1.0])))
    kept = DropSmallParts(["outer", "inner"], min_ml=2.0)(regions)
    assert kept[:, 4, 4, 4].tolist() == [0, 0]
    assert kept[0].sum() == 8  # a small inner part stays in the outer region
    assert kept[1].sum() == 0
    with pytest.raises(InputError, match="min_ml is -1"):
        DropSmallParts(["outer"], min_ml=-1)
