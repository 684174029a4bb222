"""PyramidOSSNet."""

import dataclasses

import pytest
import torch
from monai.data import MetaTensor

from custom_nets.errors import InputError
from custom_nets.inferers import OccupancyInferer, SearchSettings
from custom_nets.networks import OSSNet, PyramidOSSNet, PyramidSettings

SIZE = (20, 24, 18)
SETTINGS = {field.name for field in dataclasses.fields(PyramidSettings)}


def small(**keys) -> PyramidOSSNet:
    torch.manual_seed(0)
    settings = PyramidSettings(**{name: keys.pop(name) for name in list(keys) if name in SETTINGS})
    return PyramidOSSNet(2, 3, **{"channels": (8, 16, 16), "hidden_features": 16, **keys}, settings=settings).eval()


def an_image(batch=1, size=SIZE):
    return torch.randn(batch, 2, *size, generator=torch.Generator().manual_seed(1))


def some_points(batch=1, n=50, size=SIZE):
    generator = torch.Generator().manual_seed(2)
    return torch.stack([torch.randint(0, side, (batch, n), generator=generator) for side in size], dim=-1)


def every_point(size=SIZE):
    return torch.cartesian_prod(*[torch.arange(side) for side in size])[None]


def test_the_decoder_costs_at_most_a_tenth_of_variant_c():
    def multiply_adds(decoder):
        return sum(m.weight.numel() for m in decoder.modules() if isinstance(m, torch.nn.Linear))

    variant_c = OSSNet("c")
    patches = sum(343 * 343 * c.weight.shape[0] * c.weight.shape[1] for c in (variant_c.decoder.patch_mapping.conv1,))
    assert multiply_adds(PyramidOSSNet().decoder) <= 250_000
    assert multiply_adds(PyramidOSSNet().decoder) * 10 <= multiply_adds(variant_c.decoder) + patches


@torch.no_grad()
def test_decoding_points_equals_the_dense_network():
    net, image = small(points_per_chunk=1000), an_image()
    dense = net(image)
    logits = net.decode(net.encode(image), image, every_point())
    torch.testing.assert_close(logits[0].T.reshape(dense[0].shape), dense[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("spacing", [None, 1.5])
@torch.no_grad()
def test_voxel_centres_are_positions_like_any_other(spacing):
    net, image = small(spacing=spacing), an_image()
    latent, points = net.encode(image), every_point()
    torch.testing.assert_close(
        net.decode(latent, image, points), net.decode(latent, image, points.float()), atol=1e-6, rtol=1e-6
    )


@torch.no_grad()
def test_logits_are_continuous_between_voxels():
    net, image = small(), an_image()
    latent, points = net.encode(image), some_points().float()
    there = net.decode(latent, image, points)
    near = net.decode(latent, image, points + 1e-3)
    far = net.decode(latent, image, points + 0.4)
    assert (near - there).abs().max() < 0.02 * (far - there).abs().max().clamp(min=0.1)


@torch.no_grad()
def test_the_order_of_points_does_not_matter():
    net, image = small(), an_image()
    latent, points = net.encode(image), some_points()
    order = torch.randperm(points.shape[1])
    torch.testing.assert_close(
        net.decode(latent, image, points[:, order]), net.decode(latent, image, points)[:, order], atol=1e-6, rtol=1e-6
    )


@torch.no_grad()
def test_chunks_do_not_matter():
    net, image = small(), an_image()
    whole = OccupancyInferer(SearchSettings("dense"))(image, net)
    torch.testing.assert_close(
        OccupancyInferer(SearchSettings("dense"), points_per_chunk=77)(image, net), whole, atol=1e-6, rtol=1e-6
    )


@torch.no_grad()
def test_items_of_a_batch_do_not_see_each_other():
    net, image, points = small(), an_image(2), some_points(2)
    together = net(image, points)
    alone = net(image[1:], points[1:])
    torch.testing.assert_close(together[0][1:], alone[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together[1][1:], alone[1], atol=1e-5, rtol=1e-5)


def test_gradients_reach_every_parameter_from_the_points_alone():
    net = small().train()
    net(an_image(2), some_points(2))[0].square().sum().backward()
    without = {name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    assert without == {"encoder.segmentation.weight", "encoder.segmentation.bias"}


@pytest.mark.parametrize("top_down", [False, True])
def test_gradients_reach_every_level(top_down):
    net = small(top_down=top_down)
    latent = net.encode(an_image())
    for level in latent.features:
        level.retain_grad()
    net.decode(latent, an_image(), some_points()).sum().backward()
    assert all(level.grad.abs().sum() > 0 for level in latent.features)


@pytest.mark.parametrize(("downsampling", "grid"), [(2, (10, 12, 9)), (4, (5, 6, 5)), ((4, 4, 1), (5, 6, 18))])
def test_the_encoder_sees_the_downsampled_image(downsampling, grid):
    features = small(downsampling=downsampling, channels=(8,)).encode(an_image()).features
    assert features[0].shape == (1, *grid, 8)


def test_downsampling_is_the_mean_of_the_cells():
    net, seen = small(channels=(8,)), []
    net.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    net.encode(an_image())
    torch.testing.assert_close(seen[0], torch.nn.functional.avg_pool3d(an_image(), 2))


def test_odd_sizes_are_rounded_up_to_whole_cells():
    assert [f.shape[1:4] for f in small().encode(an_image(size=(21, 17, 9))).features] == [
        (12, 12, 8),
        (6, 6, 4),
        (3, 3, 2),
    ]


@pytest.mark.parametrize(("downsampling", "cells"), [(2, 8), (4, 8), (8, 8), (1, 4)])
def test_the_auxiliary_segmentation_is_an_eighth_of_the_image_or_finer(downsampling, cells):
    net = PyramidOSSNet(2, downsampling=downsampling, channels=(8, 8, 8), hidden_features=8)
    assert net.encode(torch.zeros(1, 2, 32, 64, 32)).segmentation.shape == (1, 3, 32 // cells, 64 // cells, 32 // cells)


def test_features_lie_where_the_image_has_them():
    """A bright spot is felt where it is, not half a cell beside it: mirrored images give mirrored logits."""
    net = small(neighbourhood=0, channels=(8, 8)).double()
    with torch.no_grad():
        for module in net.encoder.modules():
            if isinstance(module, torch.nn.Conv3d):  # symmetric kernels
                module.weight += module.weight.flip(2)
        net.decoder[0].weight[:, -3:] = 0  # no coordinates
        image = an_image().double()
        logits, mirrored = net(image), net(image.flip(2))
    torch.testing.assert_close(mirrored.flip(2), logits, atol=1e-9, rtol=1e-9)


@torch.no_grad()
def test_neighbourhoods_in_millimetres_follow_the_spacing():
    """The same 1.5 mm in an image of 1 mm, and in one with every second voxel removed along the last axis."""
    net = small(spacing=2.0)
    affine = torch.diag(torch.tensor([1.0, 1.0, 2.0, 1.0]))
    assert torch.allclose(net.encode(MetaTensor(an_image(), affine=affine)).spacing, torch.tensor([[1.0, 1.0, 2.0]]))
    step = net._step(net.encode(MetaTensor(an_image(), affine=affine)))
    torch.testing.assert_close(step, torch.tensor([[2.0, 2.0, 1.0]]))


def test_plain_images_count_as_one_millimetre():
    assert small().encode(an_image(2)).spacing.tolist() == [[1, 1, 1], [1, 1, 1]]


@torch.no_grad()
def test_images_may_travel_in_half_precision():
    net, image, points = small(), an_image(), some_points()
    torch.testing.assert_close(net(image.half(), points)[0], net(image, points)[0], atol=1e-2, rtol=1e-2)


def test_trains_under_autocast():
    net, image, points = small().train(), an_image(2), some_points(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, _ = net(image, points)
    logits.float().square().mean().backward()
    torch.testing.assert_close(logits.float(), net(image, points)[0], atol=0.1, rtol=0.1)


def test_learns_what_only_the_neighbourhood_shows():
    """Single bright voxels: pooled away in the encoder, plain in the raw neighbourhood."""
    torch.manual_seed(0)
    net = PyramidOSSNet(
        1, 1, downsampling=4, channels=(8, 8), hidden_features=32, settings=PyramidSettings(hidden_layers=2)
    )
    optimizer = torch.optim.AdamW(net.parameters(), 5e-3)
    for _ in range(60):
        image = (torch.rand(1, 1, 16, 16, 16) < 0.5).float()
        points = torch.randint(0, 16, (1, 1024, 3))
        target = image[0, 0][tuple(points[0].T)][None, :, None]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(net(image, points)[0], target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert ((net.eval()(image) > 0) == image.bool()).float().mean() > 0.97


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"neighbourhood": 4}, "neighbourhood is 4; expected an odd number"),
        ({"downsampling": 0}, "downsampling is 0; expected at least 1"),
        ({"spacing": 0}, "spacing is 0; expected a length above 0 in mm, or null"),
        ({"contrast": (0.5,)}, "contrast is"),
        ({"contrast": (0.7, 0.2)}, r"contrast is \(0.7, 0.2\); expected two intensities, low before high"),
        ({"depths": (1, 2)}, "depths is \\[1, 2\\], channels is"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        small(**arguments)


def test_the_former_name_of_downsampling_is_taken_with_a_line_that_names_the_new_one():
    with pytest.warns(FutureWarning, match="`reduction` is deprecated; its new name is `downsampling`"):
        net = PyramidOSSNet(2, 1, channels=(8, 8), hidden_features=8, reduction=(4, 4, 1))
    assert net.downsampling == (4, 4, 1)


def test_depths_are_the_convolutions_of_each_level():
    levels = small(depths=(3, 1, 2)).encoder.levels
    assert [sum(isinstance(m, torch.nn.Conv3d) for m in level.modules()) for level in levels] == [3, 1, 2]


@torch.no_grad()
def test_top_down_brings_what_is_far_to_the_middle_levels():
    """A voxel at one end changes the second level at the other end only through the coarsest one."""
    image = torch.zeros(1, 2, 16, 16, 64)
    changed = image.clone()
    changed[..., 0] = 5
    for top_down, moves in ((False, False), (True, True)):
        net = small(top_down=top_down, norm="batch", channels=(8, 8, 8, 8))
        far = [net.encode(i).features[1][..., 8, :] for i in (image, changed)]
        assert (not torch.equal(far[0], far[1])) == moves


@torch.no_grad()
def test_a_traced_network_takes_any_number_of_points():
    net, image = small(), an_image()
    traced = torch.jit.trace(net, (image, some_points()))
    points = some_points(n=80)
    torch.testing.assert_close(traced(image, points)[0], net(image, points)[0])


def test_padé_is_chosen_by_name():
    net = small(act="pade").train()
    net(an_image(), some_points())[0].sum().backward()
    assert any("numerator" in name for name, _ in net.named_parameters())


def scan(spacing, field=(48.0, 40.0, 36.0)):
    """A smooth image of one scene, sampled at the centres of voxels of some spacing."""
    size = [round(length / voxel) for length, voxel in zip(field, spacing, strict=True)]
    axes = [(torch.arange(n) + 0.5) * voxel for n, voxel in zip(size, spacing, strict=True)]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    image = torch.stack([torch.sin(x / 9 + y / 14), torch.cos(z / 11 - y / 10)])[None]
    return MetaTensor(image, affine=torch.diag(torch.tensor([*spacing, 1.0])))


@torch.no_grad()
def test_scans_of_one_scene_with_other_voxels_give_the_same_answers():
    net = small(spacing=1.0, downsampling=2, channels=(8, 8))
    coarse, fine = scan((1.0, 1.0, 2.0)), scan((0.5, 1.0, 1.0))
    there = torch.tensor([[[20.0, 18.0, 9.0], [30.0, 11.0, 12.0], [10.0, 30.0, 5.0]]])  # voxels of the coarse scan
    millimetres = (there + 0.5) * torch.tensor([1.0, 1.0, 2.0])
    elsewhere = millimetres / torch.tensor([0.5, 1.0, 1.0]) - 0.5
    a, b = net.decode(net.encode(coarse), coarse, there), net.decode(net.encode(fine), fine, elsewhere)
    torch.testing.assert_close(a, b, atol=0.02, rtol=0)
    assert a.std() > 0.01


def test_the_encoders_grid_counts_millimetres():
    net = small(spacing=1.5, downsampling=2, channels=(8, 8))  # cells of 3 mm, in pairs
    latent = net.encode_spaced(torch.rand(1, 2, 60, 60, 20), torch.tensor([[0.75, 0.8, 5.0]]))
    assert latent.features[0].shape[1:4] == (16, 16, 34)


@torch.no_grad()
def test_contrast_adds_a_stretched_view_of_the_image():
    """With weights that ignore the first view, the network is that of the clipped and stretched image."""
    size = (20, 24, 16)  # the encoder's own: what is clipped is not averaged first
    net, plain, image = small(contrast=(0.2, 0.7), downsampling=1), small(downsampling=1), an_image(size=size)
    state = plain.state_dict()
    first = next(key for key in state if key.startswith("encoder.levels.0") and state[key].ndim == 5)
    state[first] = torch.cat([torch.zeros_like(state[first]), state[first]], dim=1)
    features, raw = 8 + 16 + 16, 2 * 27
    weight = state["decoder.0.weight"]
    unseen = torch.zeros(len(weight), raw)
    state["decoder.0.weight"] = torch.cat([weight[:, :features], unseen, weight[:, features:]], dim=1)
    net.load_state_dict(state)
    stretched = (image.clamp(0.2, 0.7) - 0.2) / 0.5
    inner = torch.minimum(some_points(size=size).clamp(min=1), torch.tensor(size) - 2)  # neighbourhoods lie within
    torch.testing.assert_close(
        net.decode(net.encode(image), image, inner), plain.decode(plain.encode(stretched), stretched, inner)
    )


def test_images_on_one_grid_are_answered_in_a_padded_batch_as_alone():
    net = small(grid_size=(8, 12, 8)).eval()
    sizes = [(20, 24, 18), (12, 30, 9)]
    images = [an_image(size=size) for size in sizes]
    batch = torch.zeros(2, 2, 20, 30, 18)
    for place, image in zip(batch, images, strict=True):
        place[:, : image.shape[2], : image.shape[3], : image.shape[4]] = image[0]
    points = torch.cat([some_points(size=size) for size in sizes])
    with torch.no_grad():
        together, segmentation = net(batch, points, sizes=torch.tensor(sizes))
        alone = [net(image, points[i : i + 1]) for i, image in enumerate(images)]
    torch.testing.assert_close(together, torch.cat([logits for logits, _ in alone]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(segmentation, torch.cat([logits for _, logits in alone]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"grid_size": (8, 12, 10)}, "three multiples of 4, for 3 levels"),
        ({"grid_size": (8, 12)}, "three multiples of 4, for 3 levels"),
        ({"grid_size": (8, 8, 8), "spacing": 1.0}, "expected one of them"),
    ],
)
def test_grids_that_cannot_be_are_refused(keys, said):
    with pytest.raises(InputError, match=said):
        small(**keys)


@pytest.mark.parametrize("network", [small(), OSSNet("c", 2, 3, grid_size=(32, 32, 32))])
def test_images_of_different_sizes_are_no_batch_without_a_grid(network):
    with pytest.raises(InputError, match=r"one grid alone|images of one size"):
        network(an_image(2), some_points(2), sizes=torch.tensor([SIZE, SIZE]))
