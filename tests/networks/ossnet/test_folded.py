"""OSS-Net's decoder folded for one volume, against the decoder as it is trained."""

import copy

import pytest
import torch

from custom_nets.networks import OSSNet, OSSNetSettings
from custom_nets.networks.ossnet.network import VARIANTS
from custom_nets.networks.pade import activation as pade_module
from custom_nets.networks.pade import fused as fused_pade_module
from custom_nets.networks.pade.activation import PadeActivation
from custom_nets.networks.pade.fused import biased_pade_

SIZE = (40, 33, 26)


def network(variant: str, **keys) -> OSSNet:
    """A small network every weight and statistic of which matters, with logits of about 1."""
    torch.manual_seed(0)
    hidden, settings = keys.pop("hidden_features", 48), OSSNetSettings(**keys)
    net = OSSNet(variant, 2, 3, (16, 16, 32), (4, 8, 8, 8), hidden_features=hidden, settings=settings).eval()
    with torch.no_grad():
        for parameter in net.decoder.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        for name, buffer in net.decoder.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.add_(torch.rand_like(buffer))
        if net.coordinates == "unit":
            net.decoder.blocks[0].linear1.weight[:, :3] *= 20
        image = torch.randn(1, 2, *SIZE)
        net.decoder.to_logits.weight /= net.decode(net.encode(image), image, points_of(SIZE)).abs().mean()
    return net


def points_of(size: tuple[int, ...], count: int = 200) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.stack([torch.randint(0, side, (1, count), generator=generator) for side in size], dim=-1)


@pytest.mark.parametrize("variant", list(VARIANTS))
@pytest.mark.parametrize("coordinates", ["unit", "voxel"])
def test_folded_equals_plain(variant, coordinates):
    net = network(variant, coordinates=coordinates)
    image, points = torch.randn(1, 2, *SIZE), points_of(SIZE)
    with torch.no_grad():
        latent = net.encode(image)
        expected = net.decode(latent, image, points)
        found = net.prepare_decoder(latent, image)(points)
    assert expected.std(dim=1).min() > 2e-3  # points differ by much more than the tolerance
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_a_first_block_without_a_layer_in_its_skip():
    net = network("onet", hidden_features=network("onet").decoder.blocks[0].linear1.in_features)
    assert isinstance(net.decoder.blocks[0].skip, torch.nn.Identity)
    image, points = torch.randn(1, 2, *SIZE), points_of(SIZE)
    with torch.no_grad():
        latent = net.encode(image)
        expected = net.decode(latent, image, points)
        torch.testing.assert_close(net.prepare_decoder(latent, image)(points), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_folded_pools_mid_range_patches_as_the_network_does(pooling):
    net = network("d", mid_range_pooling=pooling)
    image, points = torch.randn(1, 2, *SIZE), points_of(SIZE)
    with torch.no_grad():
        latent = net.encode(image)
        torch.testing.assert_close(
            net.prepare_decoder(latent, image)(points), net.decode(latent, image, points), atol=1e-4, rtol=0
        )


def test_each_item_is_folded_with_its_own_latent():
    net = network("c")
    image, points = torch.randn(2, 2, *SIZE), points_of(SIZE).expand(2, -1, -1)
    with torch.no_grad():
        latent = net.encode(image)
        expected = net.decode(latent, image, points)
        for item in range(2):
            part = type(latent)(latent.vectors[item : item + 1], None)
            found = net.prepare_decoder(part, image[item : item + 1])(points[:1])
            torch.testing.assert_close(found[0], expected[item], atol=1e-4, rtol=0)
    assert (expected[0] - expected[1]).abs().max() > 1e-2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near(dtype):
    net = network("c")
    image, points = torch.randn(1, 2, *SIZE), points_of(SIZE)
    with torch.no_grad():
        latent = net.encode(image)
        found = net.prepare_decoder(latent, image, dtype)(points)
        expected = net.decode(latent, image, points)
    assert found.dtype == torch.float32
    assert 0 < (found - expected).abs().mean() < 0.01 * expected.abs().mean()


def test_positions_keep_float32_in_half_precision():
    net = network("onet", coordinates="voxel")
    image = torch.randn(1, 2, 8, 8, 1200)
    points = torch.stack([torch.full((400,), 4), torch.full((400,), 4), torch.arange(800, 1200)], dim=-1)[None]
    with torch.no_grad():
        latent = net.encode(image)
        steps = net.prepare_decoder(latent, image, torch.bfloat16)(points).diff(dim=1)
        expected = net.decode(latent, image, points).diff(dim=1)
    # bfloat16 has steps of 4 there: rounded positions would leave three of four differences at 0.
    assert (steps.abs().amax(dim=-1) > 0).float().mean() > 0.5
    assert (expected.abs().amax(dim=-1) > 0).all()


def test_autocast_sets_the_precision():
    net = network("c")
    image, points = torch.randn(1, 2, *SIZE), points_of(SIZE)
    with torch.no_grad():
        latent = net.encode(image)
        half = net.prepare_decoder(latent, image, torch.bfloat16)(points)
        with torch.autocast("cpu", torch.bfloat16):
            bound = net.prepare_decoder(latent, image)
            assert torch.equal(bound(points), half)


def test_weights_are_left_as_they_were():
    net = network("d")
    before = copy.deepcopy(net.state_dict())
    image = torch.randn(1, 2, *SIZE)
    with torch.no_grad():
        net.prepare_decoder(net.encode(image), image)(points_of(SIZE))
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("rows", [3, 700])
@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_biased_pade_equals_the_activation(rows, compiled, dtype):
    torch.manual_seed(0)
    x, bias = torch.randn(rows, 96).to(dtype), torch.randn(96)
    activation = PadeActivation()
    expected = activation(x.float() + bias).to(dtype)
    with torch.no_grad():
        found = biased_pade_(x, bias, activation.numerator, activation.denominator, compiled)
    assert found is x
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


def test_memory_that_runs_out_does_not_end_the_use_of_a_kernel():
    """The caller queries fewer points then; the plain form would take more memory, and time ever after."""
    calls = []

    def kernel(x, *_):
        calls.append(len(x))
        if len(x) > 1:
            raise torch.OutOfMemoryError("no memory")
        return x

    run = fused_pade_module._with_fallback(kernel, at_least=1)
    with pytest.raises(torch.OutOfMemoryError):
        run(torch.ones(2, 3), *[torch.ones(3)] * 3)
    run(torch.ones(1, 3), *[torch.ones(3)] * 3)
    assert calls == [2, 1]


@pytest.mark.parametrize("wanted", [True, False])
def test_activations_are_compiled_where_it_is_wanted(wanted, monkeypatch):
    """Both in training and in the folded decoder."""
    if not pade_module.has_kernels("cpu"):
        pytest.skip("no compiler here")
    caches = (fused_pade_module._kernel, pade_module._kernels)
    for module, kernels in zip((fused_pade_module, pade_module), caches, strict=True):
        monkeypatch.setattr(module, "_COMPILE_FROM", 1)
        kernels.cache_clear()
    ran = set()
    monkeypatch.setattr(torch, "compile", lambda function, **_: lambda *args: ran.add(function) or function(*args))
    net = OSSNet(
        "c", 1, 1, grid_size=(32, 32, 32), hidden_features=16, settings=OSSNetSettings(compile_activations=wanted)
    )
    image, points = torch.randn(1, 1, 20, 20, 20), torch.randint(0, 20, (1, 100, 3))
    net(image, points)[0].sum().backward()
    net.eval()
    with torch.no_grad():
        net.prepare_decoder(net.encode(image), image)(points)
    for kernels in caches:
        kernels.cache_clear()
    functions = {pade_module._pade_forward, pade_module._pade_backward, fused_pade_module._plain}
    assert ran == (functions if wanted else set())


def test_one_compiled_kernel_serves_all_layers_and_sizes(monkeypatch):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(fused_pade_module._plain, dynamic=True, backend=backend)
    monkeypatch.setattr(fused_pade_module, "_kernel", lambda *_: compiled)
    for variant in ("c", "d"):
        net = network(variant)
        image = torch.randn(1, 2, *SIZE)
        with torch.no_grad():
            bound = net.prepare_decoder(net.encode(image), image)
            for count in (200, 77, 200):
                bound(points_of(SIZE, count))
    assert len(graphs) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_triton_kernel_equals_the_plain_form(dtype):
    x, bias = torch.randn(5000, 343, device="cuda").to(dtype), torch.randn(343, device="cuda")
    activation = PadeActivation().cuda()
    with torch.no_grad():
        coefficients = (activation.numerator, -activation.denominator)
        expected = fused_pade_module._plain(x.clone(), bias, *coefficients)
        found = fused_pade_module._kernel("cuda", True)(x, bias, *coefficients)
    torch.testing.assert_close(found, expected, atol=1e-5 if dtype == torch.float32 else 0.02, rtol=1e-2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("variant", list(VARIANTS))
def test_folded_equals_plain_on_a_gpu(variant):
    net = network(variant).cuda()
    image, points = torch.randn(1, 2, *SIZE).cuda(), points_of(SIZE, 2000).cuda()
    with torch.no_grad():
        latent = net.encode(image)
        torch.testing.assert_close(
            net.prepare_decoder(latent, image)(points), net.decode(latent, image, points), atol=1e-4, rtol=0
        )
