"""NvNet: the paper's table, MONAI's SegResNet inside it, and a variational branch that stays finite."""

import dataclasses
import os

import pytest
import torch
from monai.networks.nets import SegResNet
from torch import nn

from custom_nets.errors import InputError
from custom_nets.losses import NvNetLoss
from custom_nets.networks import NvNet, NvNetOutput, NvNetSettings

CROP = (16, 24, 16)
SETTINGS = {field.name for field in dataclasses.fields(NvNetSettings)}


def small(**keys) -> NvNet:
    torch.manual_seed(0)
    settings = NvNetSettings(**{name: keys.pop(name) for name in list(keys) if name in SETTINGS})
    return NvNet(**{"init_filters": 8, "crop_size": CROP, "settings": settings, **keys})


def output_shapes(net: nn.Module, image: torch.Tensor) -> dict[str, tuple[int, ...]]:
    """Shape (without the batch) of what each module of a network gave, by name."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, module in net.named_modules():
        module.register_forward_hook(
            lambda _module, _inputs, output, name=name: (
                shapes.update({name: tuple(output.shape[1:])}) if isinstance(output, torch.Tensor) else None
            )
        )
    net(image)
    return shapes


FULL, HALF, QUARTER, EIGHTH = (160, 192, 128), (80, 96, 64), (40, 48, 32), (20, 24, 16)
TABLE = {
    "convInit": (32, *FULL),
    "down_layers.0": (32, *FULL),
    "down_layers.1.0": (64, *HALF),
    "down_layers.1": (64, *HALF),
    "down_layers.2.0": (128, *QUARTER),
    "down_layers.2": (128, *QUARTER),
    "down_layers.3.0": (256, *EIGHTH),
    "down_layers.3": (256, *EIGHTH),
    "up_samples.0": (128, *QUARTER),
    "up_layers.0": (128, *QUARTER),
    "up_samples.1": (64, *HALF),
    "up_layers.1": (64, *HALF),
    "up_samples.2": (32, *FULL),
    "up_layers.2": (32, *FULL),
    "conv_final": (3, *FULL),
    "vae.down": (16, 10, 12, 8),
    "vae.to_distribution": (256,),
    "vae.from_sample": (16 * 10 * 12 * 8,),
    "vae.up": (256, *EIGHTH),
    "vae.up_layers.0.1": (128, *QUARTER),
    "vae.up_layers.0": (128, *QUARTER),
    "vae.up_layers.1.1": (64, *HALF),
    "vae.up_layers.1": (64, *HALF),
    "vae.up_layers.2.1": (32, *FULL),
    "vae.up_layers.2": (32, *FULL),
    "vae.end": (4, *FULL),
}


@pytest.fixture(scope="module")
def paper():
    with torch.device("meta"):
        net = NvNet()
        return net, output_shapes(net, torch.empty(1, 4, *FULL))


@pytest.mark.parametrize("row", TABLE)
def test_sizes_are_those_of_the_table(paper, row):
    assert paper[1][row] == TABLE[row]


def test_blocks_repeat_as_in_the_table(paper):
    blocks = [[type(m).__name__ for m in layer].count("ResBlock") for layer in paper[0].down_layers]
    assert blocks == [1, 2, 2, 4]
    assert [len(layer) for layer in paper[0].up_layers] == [1, 1, 1]


def test_the_sample_has_128_numbers(paper):
    with torch.device("meta"):
        output = paper[0](torch.empty(1, 4, *FULL))
    assert output.mean.shape == output.log_variance.shape == (1, 128)


def test_the_table_ends_without_norm(paper):
    assert [type(m).__name__ for m in paper[0].conv_final[:2]] == ["Identity", "Identity"]


def test_encoder_and_decoder_have_the_names_of_segresnet():
    reference = SegResNet(init_filters=8, in_channels=4, out_channels=3, dropout_prob=0.2)
    ours = {name: p.shape for name, p in small(final_norm=True).named_parameters() if not name.startswith("vae.")}
    assert ours == {name: p.shape for name, p in reference.named_parameters()}


@pytest.mark.parametrize("vae", [False, True])
def test_with_final_norm_the_logits_equal_segresnets(vae):
    reference = SegResNet(init_filters=8, in_channels=4, out_channels=3).eval()
    net = small(final_norm=True, vae=vae).eval()
    result = net.load_state_dict(reference.state_dict(), strict=False)
    assert not result.unexpected_keys
    image = torch.randn(2, 4, 24, 16, 32)
    torch.testing.assert_close(net(image), reference(image))


def test_the_branch_has_weights_of_its_own():
    net = small()
    shared = {p.data_ptr() for p in net.vae.parameters()} & {
        p.data_ptr() for name, p in net.named_parameters() if not name.startswith("vae.")
    }
    assert not shared


def test_training_gives_everything_by_name():
    output = small()(torch.randn(2, 4, *CROP))
    assert isinstance(output, NvNetOutput)
    assert output.logits.shape == (2, 3, *CROP)
    assert output.reconstruction.shape == (2, 4, *CROP)


def test_every_parameter_learns():
    net = small()
    image = torch.randn(1, 4, *CROP)
    NvNetLoss()(net(image), (torch.ones(1, 3, *CROP), image)).backward()
    assert not [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]


def test_gradients_reach_mean_and_variance_through_the_sample():
    """The reconstruction alone, without the KL term, moves both halves of the distribution (reparameterisation)."""
    net = small()
    net(torch.randn(1, 4, *CROP)).reconstruction.square().mean().backward()
    half = net.vae.to_distribution.weight.shape[0] // 2
    assert net.vae.to_distribution.weight.grad[:half].any()
    assert net.vae.to_distribution.weight.grad[half:].any()


def test_samples_are_drawn_anew():
    net = small(dropout=0)
    image = torch.randn(1, 4, *CROP)
    first, second = net(image), net(image)
    torch.testing.assert_close(first.logits, second.logits)
    torch.testing.assert_close(first.mean, second.mean)
    assert (first.reconstruction - second.reconstruction).abs().max() > 1e-4


@pytest.mark.parametrize("sides", [(8, 8, 8), (40, 16, 24), (16, 24, 16)])
def test_evaluation_gives_logits_of_any_multiple_of_8(sides):
    assert small().eval()(torch.randn(1, 4, *sides)).shape == (1, 3, *sides)


def test_evaluation_leaves_the_branch_alone():
    net = small().eval()
    net.vae.register_forward_hook(lambda *_: pytest.fail("the branch ran"))
    net(torch.randn(1, 4, *CROP))


@pytest.mark.parametrize("crop", [(8, 8, 8), (24, 40, 8), (32, 16, 24)])
def test_the_crop_is_free(crop):
    """Also where the encoder's grid is odd and the branch's bottleneck rounds up."""
    assert small(crop_size=crop)(torch.randn(1, 4, *crop)).reconstruction.shape == (1, 4, *crop)


def test_regions_and_modalities_are_free():
    output = small(num_regions=1, in_channels=2)(torch.randn(1, 2, *CROP))
    assert output.logits.shape == (1, 1, *CROP)
    assert output.reconstruction.shape == (1, 2, *CROP)


def test_dropout_takes_whole_channels_after_the_first_convolution():
    net = small(dropout=0.5)
    first = []
    net.down_layers[0].register_forward_pre_hook(lambda _module, inputs: first.append(inputs[0]))
    net(torch.randn(1, 4, *CROP))
    dropped = (first[0] == 0).flatten(2)
    assert torch.equal(dropped.all(-1), dropped.any(-1))
    assert 0 < dropped.all(-1).sum() < 8


def test_without_the_branch_training_gives_logits_alone():
    output = small(vae=False)(torch.randn(1, 4, 8, 16, 8))
    assert output.logits.shape == (1, 3, 8, 16, 8)
    assert output[1:] == (None, None, None)


def test_weights_with_a_branch_load_into_a_network_without():
    trained, bare = small().eval(), small(vae=False, crop_size=(8, 8, 8)).eval()
    state = trained.state_dict()
    bare.load_state_dict(state)
    assert "vae.end.conv.weight" in state, "the caller's state dict must stay whole"
    image = torch.randn(1, 4, *CROP)
    torch.testing.assert_close(bare(image), trained(image))


def test_checkpointing_changes_neither_loss_nor_gradients():
    results = []
    for checkpointing in (False, True):
        net = small(checkpointing=checkpointing)
        image = torch.randn(1, 4, *CROP, generator=torch.Generator().manual_seed(1))
        torch.manual_seed(2)
        loss = NvNetLoss()(net(image), (image[:, :3] > 0, image))
        loss.backward()
        results.append([loss.detach(), *(p.grad for p in net.parameters())])
    for kept, anew in zip(*results, strict=True):
        torch.testing.assert_close(kept, anew)


def saved_bytes(net: NvNet) -> int:
    """Bytes that the forward pass keeps for the backward pass."""
    storages = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = net(torch.randn(1, 4, *CROP))
    assert output.logits.requires_grad
    return sum(storages.values())


def test_checkpointing_keeps_less():
    assert saved_bytes(small(checkpointing=True)) < 0.6 * saved_bytes(small())


def test_the_log_variance_is_bounded():
    net = small()
    nn.init.constant_(net.vae.to_distribution.bias, 1e6)
    output = net(torch.randn(1, 4, *CROP))
    assert output.log_variance.max() <= 10
    assert output.reconstruction.isfinite().all()


@pytest.mark.parametrize("log_variance", [pytest.param(0.0, marks=pytest.mark.slow), 100.0])
def test_nothing_turns_nan_in_steps_of_scaled_images(log_variance):
    """lr 1e-3, bfloat16, images a hundred times too bright: the known failure of unbounded variances.

    A log-variance that starts at 100 stands for one that drifted: without a bound its exponential is infinite at once.
    1,000 steps take a core sixteen minutes: `make torture` makes them.
    """
    crop = (24, 24, 24)  # PyTorch's own bfloat16 gradients of kernels are NaN now and then where a side is 2
    net = small(crop_size=crop)
    nn.init.constant_(net.vae.to_distribution.bias[net.vae.to_distribution.out_features // 2 :], log_variance)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    loss_function = NvNetLoss()
    generator = torch.Generator().manual_seed(3)
    for _ in range(1000 if "TORTURE" in os.environ else 20):
        image = 100 * torch.randn(1, 4, *crop, generator=generator)
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_function(net(image), (image[:, :3] > 0, image))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert loss.isfinite()
    assert all(p.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"init_filters": 12}, "init_filters is 12; expected a multiple of 8"),
        ({"crop_size": (16, 20, 16)}, "crop_size: got (16, 20, 16); expected three multiples of 8"),
        ({"modality_dropout": 1.0}, "modality_dropout"),
    ],
)
def test_impossible_sizes_are_told(keys, words):
    with pytest.raises(InputError, match=words.replace("(", r"\(").replace(")", r"\)")):
        small(**keys)


def test_an_image_of_155_slices_is_told_to_be_padded():
    with pytest.raises(InputError, match=r"\(16, 16, 155\); expected three multiples of 8; pad the image"):
        small().eval()(torch.zeros(1, 4, 16, 16, 155))


def test_a_training_image_of_another_size_than_the_crop_is_told():
    with pytest.raises(InputError, match="crop_size"):
        small()(torch.zeros(1, 4, 8, 8, 8))
