"""NvNet, the winner of BraTS 2018: a segmentation network, and a variational branch that regularises its training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from monai.networks.nets import SegResNet
from torch import Tensor, nn

from custom_nets.errors import InputError
from custom_nets.networks.checkpointing import run_layer
from custom_nets.networks.export_ops import is_traced
from custom_nets.networks.modality_dropout import ModalityDropout
from custom_nets.networks.named_axes import NamedAxis
from custom_nets.networks.nvnet.vae import VariationalBranch
from custom_nets.networks.torchscript import ScriptedNetwork

_GROUPS = 8  # of group norm


class NvNetOutput(NamedTuple):
    """Output of NvNet in training; the last three are None without the variational branch.

    Attributes:
        logits: of the regions `[B, R, H, W, D]`.
        reconstruction: of the image `[B, C, H, W, D]`.
        mean: of the latent distribution `[B, L]`.
        log_variance: likewise, bounded.
    """

    logits: Tensor
    reconstruction: Tensor | None = None
    mean: Tensor | None = None
    log_variance: Tensor | None = None


@dataclass(frozen=True)
class NvNetSettings:
    """Settings of an `NvNet` that are rarely changed.

    Args:
        latent_size: numbers L of the variational branch's latent vector.
        final_norm: group norm and ReLU before the last convolution, as SegResNet has (the paper's table has not).
        checkpointing: compute the activations of each level anew in the backward pass instead of keeping them.
        modality_dropout: probability of each modality to be absent in training, see `ModalityDropout`.
    """

    latent_size: int = 128
    final_norm: bool = False
    checkpointing: bool = False
    modality_dropout: float = 0.0


class NvNet(SegResNet):
    """MONAI's SegResNet as the paper has it, plus the paper's variational branch with decoder weights of its own.

    Training gives an `NvNetOutput`, evaluation the logits alone, of any image whose sides are multiples of 8. The
    parameters of encoder and decoder have SegResNet's names. A state dict with a variational branch also loads into a
    network without one (`vae=False`), as evaluation and inference need it.

    Group norm has eight groups, as in SegResNet, which is by the paper's author.

    Args:
        in_channels: modalities C.
        num_regions: regions R.
        init_filters: channels of the first level, a multiple of 8; every level doubles them.
        crop_size: sides of the training images `(H, W, D)`, multiples of 8; the variational branch is made for them.
        dropout: probability of the spatial dropout after the first convolution.
        vae: whether there is a variational branch.
        settings: what is rarely changed.

    Shapes: `forward(image [B, C, H, W, D])`.

    Raises:
        InputError: for sizes that are not multiples of 8.

    Source: Myronenko, 3D MRI brain tumor segmentation using autoencoder regularization, arXiv 1810.11654, table 1.
    """

    divisor = 8
    """Sides of an image are multiples of this: the encoder halves them three times."""

    def __init__(
        self,
        in_channels: int = 4,
        num_regions: int = 3,
        init_filters: int = 32,
        crop_size: Sequence[int] = (160, 192, 128),
        dropout: float = 0.2,
        vae: bool = True,
        settings: NvNetSettings = NvNetSettings(),
    ) -> None:
        if init_filters % _GROUPS:
            msg = f"init_filters is {init_filters}; expected a multiple of {_GROUPS}, the groups of group norm"
            raise InputError(msg)
        _check_sides("crop_size", crop_size)
        super().__init__(
            init_filters=init_filters,
            in_channels=in_channels,
            out_channels=num_regions,
            dropout_prob=dropout or None,
        )
        self.crop_size = tuple(crop_size)
        self.checkpointing = settings.checkpointing
        self.modality_dropout = ModalityDropout(settings.modality_dropout)
        if not settings.final_norm:  # in place, so that the convolution keeps SegResNet's name
            self.conv_final[0] = self.conv_final[1] = nn.Identity()
        self.vae = None
        if vae:
            self.vae = VariationalBranch(
                in_channels=init_filters << len(self.blocks_up),
                out_channels=in_channels,
                grid=[side // self.divisor for side in self.crop_size],
                doublings=len(self.blocks_up),
                latent_size=settings.latent_size,
                norm=self.norm,
                act=self.act,
                checkpointing=settings.checkpointing,
            )
        self.register_load_state_dict_pre_hook(_leave_out_the_branch)

    def named_axes(self) -> dict[str, NamedAxis | None]:
        """Returns the axes of weights that belong to single channels or regions, see `map_weights`."""
        makes = {
            "conv_final.2.conv": NamedAxis("regions", 0),
            "vae.end.conv": NamedAxis("channels", 0),
        }
        first = {"convInit.conv.weight": NamedAxis("channels", 1, True)}
        return {**first, **{f"{name}.{part}": axis for name, axis in makes.items() for part in ("weight", "bias")}}

    def forward(self, x: Tensor) -> NvNetOutput | Tensor:  # type: ignore[override]
        """Segments an image, and in training reconstructs it.

        Raises:
            InputError: when a side is no multiple of 8, or a training image is not of the crop's size.
        """
        if not is_traced():  # the sides of other images then
            _check_sides("an image's sides", x.shape[2:])
        features, levels = self.encode(self.modality_dropout(x))
        if not self.training:
            return self.decode(features, levels[::-1])
        if self.vae is None:
            return NvNetOutput(self.decode(features, levels[::-1]))
        if tuple(x.shape[2:]) != self.crop_size:
            msg = f"a training image has sides {tuple(x.shape[2:])}, the variational branch crop_size {self.crop_size}"
            raise InputError(msg)
        return NvNetOutput(self.decode(features, levels[::-1]), *self.vae(features))

    def encode(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Returns the last features and those of every level, finest first."""
        x = self.convInit(x)
        if self.dropout_prob is not None:
            x = self.dropout(x)
        levels = []
        for layer in self.down_layers:
            x = run_layer(layer, x, self.checkpointing)
            levels.append(x)
        return x, levels

    def decode(self, x: Tensor, down_x: list[Tensor]) -> Tensor:
        """Returns the logits, from the last features and those of every level, coarsest first."""
        for sample, layer, skip in zip(self.up_samples, self.up_layers, down_x[1:], strict=True):
            x = run_layer(layer, sample(x) + skip, self.checkpointing)
        return self.conv_final(x)

    def __prepare_scriptable__(self) -> nn.Module:
        """Returns the module that `torch.jit.script` takes instead of this network."""
        return ScriptedNetwork(self, self.in_channels)


def _check_sides(name: str, sides: Sequence[int]) -> None:
    divisor = NvNet.divisor
    if len(sides) != 3 or any(side < divisor or side % divisor for side in sides):
        msg = (
            f"{name}: got {tuple(sides)}; expected three multiples of {divisor}; pad the image (DivisiblePadd), or crop"
        )
        raise InputError(msg)


def _leave_out_the_branch(net: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Lets a network without a variational branch load a state dict with one."""
    if getattr(net, "vae", None) is None:
        for key in [key for key in state_dict if key.startswith(f"{prefix}vae.")]:
            del state_dict[key]
