"""Weights of MONAI's SegResNet, such as the model zoo's brats_mri_segmentation, for our bundle nvnet_brats."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from custom_nets.datasets.record import get_record
from custom_nets.errors import InputError
from custom_nets.io.weights import describe_misfit
from custom_nets.networks import NvNet, NvNetSettings
from custom_nets.tools.conversion.checkpoints import convert_checkpoint

ZOO_MODALITIES = ("T1ce", "T1", "T2", "FLAIR")
"""Input channels of `brats_mri_segmentation`, by our names."""

ZOO_REGIONS = ("TC", "WT", "ET")
"""Its output channels."""

MODALITIES = get_record("brats2018").channel_names
OUR_REGIONS = get_record("brats2018").require_labels().region_names

FIRST = "convInit.conv.weight"
LAST = "conv_final.2.conv"


def convert_segresnet_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Converts a SegResNet of the zoo's channel orders to an NvNet of ours with `final_norm` and without `vae`.

    Image channels T1c, T1, T2, FLAIR become FLAIR, T1, T1ce, T2, outputs TC, WT, ET become WT, TC, ET: the network
    built by `segresnet_like` loads the result strictly, and gives equal outputs for images with our channel order.

    Args:
        state: state dict of a SegResNet with four input and three output channels.

    Raises:
        InputError: when it is no such state dict.
    """
    net = segresnet_like(state)
    wanted = {name: tensor for name, tensor in net.state_dict().items() if not name.startswith("modality_dropout.")}
    found = describe_misfit(
        [name for name in wanted if name not in state],
        [name for name in state if name not in wanted],
        [name for name in wanted if name in state and state[name].shape != wanted[name].shape],
    )
    if found:
        msg = (
            f"the weights do not fit a SegResNet with blocks 1-2-2-4 and 1-1-1: {found}; "
            "give model.pt of the model zoo's brats_mri_segmentation"
        )
        raise InputError(msg)
    converted = {**net.state_dict(), **state}
    converted[FIRST] = state[FIRST][:, [ZOO_MODALITIES.index(name) for name in MODALITIES]]
    outputs = [ZOO_REGIONS.index(name) for name in OUR_REGIONS]
    for name in (f"{LAST}.weight", f"{LAST}.bias"):
        converted[name] = state[name][outputs]
    return converted


def segresnet_like(state: Mapping[str, Tensor]) -> NvNet:
    """Builds the network that a SegResNet's state dict is for; the number of filters is read off it.

    Raises:
        InputError: when the first convolution is absent or does not see the four modalities.
    """
    shape = tuple(state[FIRST].shape) if FIRST in state else None
    if shape is None or len(shape) != 5 or shape[1] != len(MODALITIES) or shape[0] % 8:
        found = f"{FIRST} has shape {shape}" if shape else f"there is no {FIRST}"
        msg = f"these are no weights of a SegResNet for {len(MODALITIES)} modalities: {found}; give the zoo's model.pt"
        raise InputError(msg)
    return NvNet(init_filters=shape[0], vae=False, settings=NvNetSettings(final_norm=True))


def convert_segresnet_checkpoint(source: str | Path, target: str | Path) -> NvNet:
    """Converts a file of SegResNet weights; the result is the model.pt of the bundle nvnet_brats.

    Args:
        source: `models/model.pt` of the zoo's bundle `brats_mri_segmentation`, or of the same layout.
        target: file to write.

    Returns:
        The network with the converted weights.

    Raises:
        InputError: when the file cannot be read, or holds another network.
    """

    def convert(state: Mapping[str, Tensor]) -> NvNet:
        net = segresnet_like(state)
        net.load_state_dict(convert_segresnet_state_dict(state))
        return net

    return convert_checkpoint(source, target, convert)
