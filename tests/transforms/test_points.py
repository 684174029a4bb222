"""Border maps and point sampling."""

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset
from scipy import ndimage

from custom_nets.transforms.points import AuxiliaryTargetd, BorderMap, BorderMapd, SamplePoints, SamplePointsd


def test_golden_border(golden_dir):
    golden = np.load(golden_dir / "golden_border.npz")
    shape = tuple(golden["shape"])
    mask = np.unpackbits(golden["mask"], count=int(np.prod(shape))).reshape(shape)
    expected = np.unpackbits(golden["border"], count=int(np.prod(shape))).reshape(shape).astype(bool)
    np.testing.assert_array_equal(BorderMap()(mask[None])[0], expected)


@pytest.mark.parametrize("seed", range(5))
def test_border_equals_the_whole_volume_recipe(seed):
    rng = np.random.default_rng(seed)
    mask = ndimage.gaussian_filter(rng.standard_normal((30, 25, 20)), 2) > 0.1
    slopes = [ndimage.sobel(mask.astype(float), axis) for axis in range(3)]
    surface = np.sqrt(sum(s**2 for s in slopes)) > 0
    np.testing.assert_array_equal(BorderMap()(mask[None])[0], ndimage.maximum_filter(surface, 13))


def test_border_is_the_union_over_regions():
    regions = torch.zeros(2, 40, 40, 40)
    regions[0, 5:35, 5:35, 5:35] = 1
    regions[1, 18:22, 18:22, 18:22] = 1
    single = [BorderMap(2)(region[None]) for region in regions]
    assert torch.equal(BorderMap(2)(regions), single[0] | single[1])


def test_no_region_has_no_border():
    assert not BorderMap()(torch.zeros(1, 8, 8, 8)).any()


def test_uniform_sampling_draws_the_last_index():
    points = SamplePoints(2000, border_balance=0).set_random_state(0)((3, 4, 5))
    assert points.max(0).values.tolist() == [2, 3, 4]
    assert points.min(0).values.tolist() == [0, 0, 0]


def test_share_of_border_points():
    border = torch.zeros(1, 50, 50, 50, dtype=torch.bool)
    border[:, 20:30, 20:30, 20:30] = True  # 0.8 % of the volume
    points = SamplePoints(1000, border_balance=0.5).set_random_state(0)((50, 50, 50), border)
    near = border[0][tuple(points.T)].sum().item()
    assert 500 <= near <= 520


def test_border_points_are_drawn_without_replacement():
    border = torch.zeros(1, 20, 20, 20, dtype=torch.bool)
    border[0, :10, :10, :6] = True
    sampler = SamplePoints(1100, border_balance=0.5).set_random_state(1)
    flat = sampler.R.choice(np.flatnonzero(border), 550, replace=False)
    assert len(set(flat)) == 550
    points = sampler((20, 20, 20), border)
    assert points.shape == (1100, 3)


def test_small_border_is_taken_whole():
    border = torch.zeros(1, 20, 20, 20, dtype=torch.bool)
    border[0, 3, 3, :7] = True
    points = SamplePoints(500, border_balance=0.5).set_random_state(0)((20, 20, 20), border)
    hit = {tuple(p) for p in points.tolist()}
    assert {(3, 3, z) for z in range(7)} <= hit
    assert len(points) == 500


def test_point_labels_are_looked_up():
    regions = (torch.rand(3, 9, 10, 11) > 0.5).to(torch.uint8)
    item = SamplePointsd(num_points=64, border_balance=0).set_random_state(0)({"label": regions})
    x, y, z = item["points"].T
    assert torch.equal(item["point_labels"], regions[:, x, y, z].T.float())


def test_sampling_is_reproducible_and_differs_between_workers_items():
    data = [{"label": torch.ones(1, 30, 30, 30)} for _ in range(4)]

    def draw(workers: int) -> list[torch.Tensor]:
        transform = SamplePointsd(num_points=32, border_balance=0)
        transform.set_random_state(7)
        generator = torch.Generator().manual_seed(3)
        loader = DataLoader(Dataset(data, transform), batch_size=1, num_workers=workers, generator=generator)
        return [batch["points"] for batch in loader]

    first, second = draw(2), draw(2)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not any(torch.equal(first[i], first[j]) for i in range(4) for j in range(i))


def test_auxiliary_target_is_the_golden_one(golden_dir):
    golden = np.load(golden_dir / "golden_data.npz")
    shape = tuple(golden["label_shape"])
    label = np.unpackbits(golden["label"], count=int(np.prod(shape))).reshape(shape)
    item = AuxiliaryTargetd(size=(8, 8, 5))({"label": torch.from_numpy(label.reshape(1, *shape[-3:]))})
    np.testing.assert_array_equal(item["auxiliary_target"], golden["train_segmentation"])


def test_dictionary_form_writes_the_border():
    item = BorderMapd()({"label": torch.ones(1, 5, 5, 5)})
    assert item["border"].shape == (1, 5, 5, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_points": 0}, "num_points and oversampling must be at least 1"),
        ({"oversampling": 0}, "num_points and oversampling must be at least 1"),
        ({"border_balance": 1.5}, "shares that add up to at most 1"),
        ({"border_balance": 0.6, "uncertain_share": 0.5}, "shares that add up to at most 1"),
        ({"uncertain_share": -0.1}, "shares that add up to at most 1"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SamplePoints(**arguments)


def test_candidates_come_last():
    border = torch.zeros(1, 30, 30, 30)
    border[:, :10] = 1
    sampler = SamplePoints(num_points=100, border_balance=0.7, uncertain_share=0.3, oversampling=4)
    sampler.set_random_state(0)
    points = sampler((30, 30, 30), border)
    assert points.shape == (70 + 4 * 30, 3)
    assert (points[:70, 0] < 10).all()
    assert (points[70:, 0] >= 10).any()


def two_regions():
    """A large region and a small one in it `[2, 40, 40, 40]`."""
    regions = torch.zeros(2, 40, 40, 40, dtype=torch.uint8)
    regions[0, 8:32, 8:32, 8:32] = 1
    regions[1, 18:21, 18:21, 18:21] = 1
    return regions


def test_each_region_may_keep_its_own_border():
    regions = two_regions()
    both = BorderMap(radius=2, per_region=True)(regions)
    for index in range(2):
        assert torch.equal(both[index : index + 1], BorderMap(radius=2)(regions[index : index + 1]))


def test_a_small_region_gives_as_many_border_points_as_a_large_one():
    border = BorderMapd(radius=2, per_region=True)({"label": two_regions()})["border"]
    points = SamplePoints(400, border_balance=0.5).set_random_state(0)((40, 40, 40), border)
    near = border[1][tuple(points.T)].sum().item()
    assert 100 <= near <= 105  # the share, and what uniform points happen to hit


def test_a_region_without_voxels_leaves_its_share_to_the_others():
    regions = two_regions()
    regions[1] = 0
    border = BorderMap(radius=2, per_region=True)(regions)
    points = SamplePoints(400, border_balance=0.5).set_random_state(0)((40, 40, 40), border)
    assert border[0][tuple(points.T)].sum().item() >= 200


def test_auxiliary_cells_of_a_fixed_size_follow_the_image():
    label = torch.zeros(1, 9, 8, 5)
    label[0, 8, 7, 4] = 1
    target = AuxiliaryTargetd(cell=4)({"label": label})["auxiliary_target"]
    assert target.shape == (1, 3, 2, 2)
    assert target.sum() == target[0, 2, 1, 1] == 1


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.float32])
@pytest.mark.parametrize(
    "keys", [{"size": (3, 2, 5)}, {"size": (5, 3, 2)}, {"size": (24, 4, 5)}, {"cell": 2}, {"cell": 5}]
)
def test_the_auxiliary_target_is_max_pooled(keys, dtype):
    label = torch.rand(2, 12, 8, 10, generator=torch.Generator().manual_seed(0)) > 0.97
    target = AuxiliaryTargetd(**keys)({"label": label.to(dtype)})["auxiliary_target"]
    pooling = torch.nn.functional
    expected = (
        pooling.adaptive_max_pool3d(label.float(), keys["size"])
        if "size" in keys
        else pooling.max_pool3d(label.float(), keys["cell"], ceil_mode=True)
    )
    assert target.dtype == torch.float32
    assert torch.equal(target, expected)


@pytest.mark.parametrize("keys", [{}, {"size": (2, 2, 2), "cell": 4}])
def test_the_auxiliary_target_has_one_kind_of_size(keys):
    with pytest.raises(ValueError, match="give either size or cell"):
        AuxiliaryTargetd(**keys)
