"""OSSNet and its variants."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from custom_nets.errors import InputError
from custom_nets.networks import Latent, OSSNet, OSSNetSettings
from custom_nets.networks.geometry import resize_to_grid
from custom_nets.networks.ossnet.network import VARIANTS
from custom_nets.networks.ossnet.patches import PatchConvolution, gather_local_patches, gather_mid_range_patches
from custom_nets.tools import convert_ossnet_checkpoint, convert_ossnet_state_dict
from tests.networks.golden import Golden

SMALL = {"grid_size": (16, 16, 32), "encoder_channels": (4, 8, 8, 8), "hidden_features": 32, "in_channels": 2}


def published(golden: Golden) -> OSSNet:
    net = OSSNet.published("c", "brats")
    net.load_state_dict(convert_ossnet_state_dict(golden.published_state_dict(), net))
    return net


@pytest.fixture(params=["golden_c_brats_small", "golden_c_brats"])
def golden(request, golden_dir):
    return Golden(golden_dir / f"{request.param}.npz")


@pytest.mark.parametrize(
    ("dataset", "variant", "parameters", "entries"),
    [
        ("brats", "onet", 6_890_753, 190),
        ("brats", "a", 7_245_438, 198),
        ("brats", "b", 7_254_358, 198),
        ("brats", "c", 8_695_733, 231),
        ("brats", "d", 8_704_653, 231),
        ("lits", "onet", 9_057_237, 207),
        ("lits", "a", 9_409_177, 215),
        ("lits", "b", 9_409_520, 215),
        ("lits", "c", 10_866_490, 256),
        ("lits", "d", 10_866_833, 256),
    ],
)
def test_published_sizes(dataset, variant, parameters, entries):
    net = OSSNet.published(variant, dataset)
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert len(net.state_dict()) == entries


def test_golden_evaluation(golden):
    net = published(golden).eval()
    x = golden.inputs(1, 64, 1234)
    with torch.no_grad():
        latent = net.encoder(x["volume"])
        logits = net.decoder(latent, x["coordinates"], x["patches"])
    np.testing.assert_allclose(latent.vectors, golden["latent"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(latent.segmentation.sigmoid(), golden["segmentation"], atol=2e-5)
    np.testing.assert_allclose(logits[0, :, 0], golden["logits"], atol=1e-4)
    np.testing.assert_allclose(logits.sigmoid(), golden["prediction"], atol=2e-5)
    np.testing.assert_allclose(
        net.decoder.patch_mapping(x["patches"][:, :8])[0].detach(), golden["patch_features_first8points"], atol=1e-4
    )


def test_golden_batch_of_two(golden):
    net = published(golden).eval()
    x = golden.inputs(2, 32, 1235)
    with torch.no_grad():
        latent = net.encoder(x["volume"])
        logits = net.decoder(latent, x["coordinates"], x["patches"])
    np.testing.assert_allclose(logits[..., 0], golden["b2_logits"], atol=1e-4)
    np.testing.assert_allclose(latent.segmentation.sigmoid(), golden["b2_segmentation"], atol=2e-5)


def test_golden_training_step(golden_dir):
    from custom_nets.losses import OccupancyLoss
    from custom_nets.tools.conversion.ossnet_weights import published_to_ours

    golden = Golden(golden_dir / "golden_c_brats_small.npz")
    net = published(golden).train()
    x = golden.inputs(2, 32, 1235)
    latent = net.encoder(x["volume"])
    logits = net.decoder(latent, x["coordinates"], x["patches"])
    loss = OccupancyLoss()((logits, latent.segmentation), (x["labels"], x["target"]))
    loss.backward()
    np.testing.assert_allclose(logits.detach().sigmoid(), golden["train_prediction"], atol=2e-5)
    np.testing.assert_allclose(loss.item(), golden["train_total_loss"], rtol=1e-5)
    parameters = dict(net.named_parameters())
    ours = [parameters[published_to_ours(str(k))].grad.norm().item() for k in golden["train_grad_keys"]]
    np.testing.assert_allclose(ours, golden["train_grad_norms"], rtol=1e-3, atol=1e-7)
    state = net.state_dict()
    running = [state[published_to_ours(str(k))].item() for k in golden["train_running_keys"]]
    np.testing.assert_allclose(running, golden["train_running_values"], rtol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_decoding_points_equals_the_dense_network(variant):
    torch.manual_seed(0)
    net = OSSNet(variant, num_regions=3, settings=OSSNetSettings(points_per_chunk=500), **SMALL).eval()
    image = torch.randn(2, 2, 9, 20, 13)
    points = torch.stack([torch.randint(0, s, (2, 40)) for s in image.shape[2:]], dim=-1)
    with torch.no_grad():
        dense = net(image)
        logits, auxiliary = net(image, points)
    assert dense.shape == (2, 3, 9, 20, 13)
    expected = torch.stack([d[:, p[:, 0], p[:, 1], p[:, 2]].T for d, p in zip(dense, points, strict=True)])
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)
    assert (auxiliary is not None) == VARIANTS[variant].skip_encoder


@pytest.mark.parametrize("variant", VARIANTS)
def test_latent_vectors_have_the_contracted_shape(variant):
    net = OSSNet(variant, num_regions=2, settings=OSSNetSettings(latent_size=(2, 3, 4)), **SMALL)
    latent = net.encode(torch.randn(2, 2, 30, 31, 33))
    assert isinstance(latent, Latent)
    assert latent.vectors.shape == (2, 6 if VARIANTS[variant].skip_encoder else 1, 24)
    if latent.segmentation is not None:
        assert latent.segmentation.shape == (2, 2, 1, 1, 2)


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_reach_every_parameter(variant):
    torch.manual_seed(0)
    net = OSSNet(variant, **SMALL)
    logits, auxiliary = net(torch.randn(2, 2, 20, 20, 20), torch.randint(0, 20, (2, 30, 3)))
    # gamma and beta weights start at zero, so that a first step is needed before the latent conditions anything
    (logits.sum() + (0 if auxiliary is None else auxiliary.sum())).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())


def test_patch_convolution_equals_conv3d():
    torch.manual_seed(0)
    ours, reference = PatchConvolution(3, 2), nn.Conv3d(3, 2, 7, padding=3)
    ours.load_state_dict(reference.state_dict(), strict=True)
    patches = torch.randn(5, 3, 7, 7, 7)
    result = ours(patches.flatten(1))
    torch.testing.assert_close(result, reference(patches).flatten(1), atol=1e-5, rtol=1e-4)
    reference(patches).square().sum().backward()
    result.square().sum().backward()
    torch.testing.assert_close(ours.weight.grad, reference.weight.grad, atol=1e-3, rtol=1e-3)


def test_golden_patches(golden_dir):
    golden = np.load(golden_dir / "golden_data.npz")
    image = golden_image(golden)
    points = torch.from_numpy(golden["coordinates"])[None]
    np.testing.assert_allclose(gather_local_patches(image, points)[0], golden["local_patches"], atol=2e-5)
    np.testing.assert_allclose(gather_mid_range_patches(image, points)[0], golden["large_avg"], atol=2e-5)
    np.testing.assert_allclose(gather_mid_range_patches(image, points, "max")[0], golden["large_max"], atol=2e-5)


def golden_image(golden) -> torch.Tensor:
    rs = np.random.RandomState(11)
    raw = np.stack([rs.random_sample((20, 18, 11)) * 100 for _ in range(4)]).astype(np.float32)
    flat = raw.reshape(4, -1)
    image = (raw - flat.mean(1)[:, None, None, None]) / flat.std(1, ddof=1)[:, None, None, None]
    return torch.from_numpy(np.pad(image, ((0, 0), (2, 2), (3, 3), (3, 2))))[None]


def test_golden_reduced_volume(golden_dir):
    golden = np.load(golden_dir / "golden_data.npz")
    np.testing.assert_allclose(resize_to_grid(golden_image(golden), (12, 12, 8)), golden["volume_low"], atol=2e-5)


def test_resize_to_a_finer_grid_is_trilinear():
    image = torch.arange(4.0).reshape(1, 1, 4, 1, 1).expand(1, 1, 4, 4, 4)
    resized = resize_to_grid(image, (8, 4, 4))[0, 0, :, 0, 0]
    torch.testing.assert_close(resized, torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]))


@pytest.mark.parametrize("prepared", [False, True])
def test_voxel_coordinates_are_raw_indices(prepared):
    """The same point of images of different size: of unit coordinates alone the size changes the logits."""
    latent, point = Latent(torch.randn(1, 1, 2), None), torch.tensor([[[3, 1, 2]]])
    for coordinates, same in (("voxel", True), ("unit", False)):
        net = OSSNet("onet", **SMALL, settings=OSSNetSettings(coordinates)).eval()
        images = torch.zeros(1, 2, 10, 5, 4), torch.zeros(1, 2, 20, 9, 6)
        with torch.no_grad():
            found = [
                net.prepare_decoder(latent, image)(point) if prepared else net.decode(latent, image, point)
                for image in images
            ]
        assert torch.equal(*found) == same


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "e"}, "variant is 'e'; expected one of onet, a, b, c, d"),
        ({"grid_size": (8, 16, 16)}, r"grid_size is \(8, 16, 16\); expected at least 16 a side"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        OSSNet(**arguments)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"coordinates": "mm"}, "coordinates is 'mm'; expected unit or voxel"),
        ({"mid_range_pooling": "sum"}, "mid_range_pooling is 'sum'; expected mean or max"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        OSSNetSettings(**settings)


@pytest.mark.parametrize("dataset", ["brats", "lits"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_conversion_covers_every_key(variant, dataset):
    net = OSSNet.published(variant, dataset)
    state = {ours_to_published(key): value for key, value in net.state_dict().items()}
    converted = convert_ossnet_state_dict(state, OSSNet.published(variant, dataset))
    assert all(torch.equal(converted[key], value) for key, value in net.state_dict().items())


def ours_to_published(key: str) -> str:
    """The published names, written down from the published layout independently of the converter's rules."""
    parts = key.split(".")
    if parts[-1] in ("numerator", "denominator"):
        parts[-1] = f"weight_{parts[-1]}"
    room, last = ".".join(parts[:2]), parts[-1]
    if room == "encoder.blocks":
        layer = {
            "conv1": "main_mapping.0",
            "norm1": "main_mapping.1",
            "act1": "main_mapping.2",
            "conv2": "main_mapping.5",
        }
        layer |= {"norm2": "main_mapping.6", "skip": "residual_mapping", "act2": "final_activation"}
        return f"encoder.blocks.{parts[2]}.{layer[parts[3]]}.{last}"
    if room == "encoder.skips":
        return f"encoder.output_mappings.{parts[2]}.{ {'conv': 1, 'norm': 2, 'act': 3}[parts[3]] }.{last}"
    if room == "encoder.to_latent":
        return f"encoder.final_mapping.{ {'conv': 0, 'norm': 1, 'act': 2}[parts[2]] }.{last}"
    if room == "encoder.segmentation":
        return f"encoder.segmentation_mapping.0.{last}"
    if room == "decoder.patch_mapping":
        return f"decoder.patch_mapping.mapping.{ {'conv1': 0, 'act1': 1, 'conv2': 3, 'act2': 4}[parts[2]] }.{last}"
    if room == "decoder.to_logits":
        return f"decoder.final_mapping.0.{last}"
    block, layer_name = parts[2], parts[3]
    if layer_name.startswith("norm"):
        inner = f"linear_{parts[4]}" if parts[4] in ("gamma", "beta") else "normalization"
        return f"decoder.blocks.{block}.cnb_{layer_name[-1]}.{inner}.{last}"
    names = {"linear1": "linear_layer_1", "linear2": "linear_layer_2", "skip": "residual_mapping"}
    names |= {"act1": "activation", "act2": "final_activation"}
    return f"decoder.blocks.{block}.{names[layer_name]}.{last}"


def test_golden_key_listing_is_the_published_one(golden):
    net = OSSNet.published("c", "brats")
    listed = dict(zip(golden["keys"].tolist(), golden["shapes"].tolist(), strict=True))
    ours = {ours_to_published(k): "x".join(str(n) for n in v.shape) for k, v in net.state_dict().items()}
    assert ours == listed


def test_conversion_names_the_faulty_keys():
    state = {ours_to_published(k): v for k, v in OSSNet.published("c", "brats").state_dict().items()}
    state["decoder.final_mapping.0.weight"] = torch.zeros(3, 512)
    state["surprise"] = torch.zeros(1)
    del state["encoder.segmentation_mapping.0.weight"]
    with pytest.raises(InputError) as error:
        convert_ossnet_state_dict(state, OSSNet.published("c", "brats"))
    assert "1 missing: encoder.segmentation.weight" in str(error.value)
    assert "1 unexpected: surprise" in str(error.value)
    assert "1 wrongly shaped: decoder.final_mapping.0.weight ((3, 512), expected (1, 512))" in str(error.value)


def test_converted_file_loads_strictly(tmp_path):
    net = OSSNet.published("onet", "brats")
    torch.save({ours_to_published(k): v for k, v in net.state_dict().items()}, tmp_path / "in.pt")
    convert_ossnet_checkpoint(tmp_path / "in.pt", tmp_path / "out.pt", "onet", "brats")
    loaded = torch.load(tmp_path / "out.pt", weights_only=True)
    OSSNet.published("onet", "brats").load_state_dict(loaded, strict=True)


@pytest.mark.parametrize("content", [b"not a checkpoint", b""])
def test_unreadable_checkpoint_is_one_clear_line(tmp_path, content):
    (tmp_path / "in.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"in\.pt: cannot be read"):
        convert_ossnet_checkpoint(tmp_path / "in.pt", tmp_path / "out.pt", "c", "brats")


def test_checkpoint_with_code_is_refused(tmp_path):
    torch.save(nn.Linear(1, 1), tmp_path / "in.pt")
    with pytest.raises(InputError, match="holds code, which is never run"):
        convert_ossnet_checkpoint(tmp_path / "in.pt", tmp_path / "out.pt", "c", "brats")


def test_latent_length_is_the_product_of_its_grid():
    net = OSSNet("c", grid_size=(33, 47, 16))
    assert net.encode(torch.randn(1, 4, 40, 50, 20)).vectors.shape[-1] == math.prod((2, 2, 1))


@pytest.mark.parametrize("variant", ["a", "d"])
def test_trains_under_autocast(variant):
    torch.manual_seed(0)
    net = OSSNet(variant, **SMALL)
    image, points = torch.randn(2, 2, 20, 20, 32), torch.randint(0, 20, (2, 30, 3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, _ = net(image, points)
    logits.float().square().mean().backward()
    reference, _ = net(image, points)
    torch.testing.assert_close(logits.float(), reference, atol=0.1, rtol=0.1)
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in net.parameters())


def test_images_may_travel_in_half_precision():
    net = OSSNet("c", **SMALL).eval()
    image, points = torch.randn(1, 2, 20, 20, 32), torch.randint(0, 20, (1, 30, 3))
    with torch.no_grad():
        torch.testing.assert_close(net(image.half(), points)[0], net(image, points)[0], atol=1e-2, rtol=1e-2)


def test_golden_training_sample(golden_dir):
    golden = np.load(golden_dir / "golden_data.npz")
    shape = tuple(golden["label_shape"])
    label = np.unpackbits(golden["label"], count=math.prod(shape)).reshape(shape[-3:])
    points = torch.from_numpy(golden["train_coordinates"]).long()
    np.testing.assert_array_equal(label[tuple(points.T)], golden["train_labels"][:, 0])
    net = OSSNet("d", num_regions=1, grid_size=(16, 16, 16))
    patches = net.gather_patches(golden_image(golden), points[None, :8])
    np.testing.assert_allclose(patches[0], golden["train_patches_first8"], atol=2e-5)
