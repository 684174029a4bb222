"""Conversion of published OSS-Net checkpoints to our parameter names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from custom_nets.errors import InputError
from custom_nets.io.weights import describe_misfit
from custom_nets.networks import OSSNet
from custom_nets.tools.conversion.checkpoints import convert_checkpoint

# Published name -> ours, as patterns applied one after the other.
_RULES: tuple[tuple[str, str], ...] = (
    (r"weight_(numerator|denominator)$", r"\1"),
    (r"^encoder\.blocks\.(\d+)\.main_mapping\.0\.", r"encoder.blocks.\1.conv1."),
    (r"^encoder\.blocks\.(\d+)\.main_mapping\.1\.", r"encoder.blocks.\1.norm1."),
    (r"^encoder\.blocks\.(\d+)\.main_mapping\.2\.", r"encoder.blocks.\1.act1."),
    (r"^encoder\.blocks\.(\d+)\.main_mapping\.5\.", r"encoder.blocks.\1.conv2."),
    (r"^encoder\.blocks\.(\d+)\.main_mapping\.6\.", r"encoder.blocks.\1.norm2."),
    (r"^encoder\.blocks\.(\d+)\.residual_mapping\.", r"encoder.blocks.\1.skip."),
    (r"^encoder\.blocks\.(\d+)\.final_activation\.", r"encoder.blocks.\1.act2."),
    (r"^encoder\.output_mappings\.(\d+)\.1\.", r"encoder.skips.\1.conv."),
    (r"^encoder\.output_mappings\.(\d+)\.2\.", r"encoder.skips.\1.norm."),
    (r"^encoder\.output_mappings\.(\d+)\.3\.", r"encoder.skips.\1.act."),
    (r"^encoder\.final_mapping\.0\.", "encoder.to_latent.conv."),
    (r"^encoder\.final_mapping\.1\.", "encoder.to_latent.norm."),
    (r"^encoder\.final_mapping\.2\.", "encoder.to_latent.act."),
    (r"^encoder\.segmentation_mapping\.0\.", "encoder.segmentation."),
    (r"^decoder\.patch_mapping\.mapping\.0\.", "decoder.patch_mapping.conv1."),
    (r"^decoder\.patch_mapping\.mapping\.1\.", "decoder.patch_mapping.act1."),
    (r"^decoder\.patch_mapping\.mapping\.3\.", "decoder.patch_mapping.conv2."),
    (r"^decoder\.patch_mapping\.mapping\.4\.", "decoder.patch_mapping.act2."),
    (r"^decoder\.blocks\.(\d+)\.linear_layer_([12])\.", r"decoder.blocks.\1.linear\2."),
    (r"^decoder\.blocks\.(\d+)\.cnb_([12])\.linear_", r"decoder.blocks.\1.norm\2."),
    (r"^decoder\.blocks\.(\d+)\.cnb_([12])\.normalization\.", r"decoder.blocks.\1.norm\2."),
    (r"^decoder\.blocks\.(\d+)\.activation\.", r"decoder.blocks.\1.act1."),
    (r"^decoder\.blocks\.(\d+)\.final_activation\.", r"decoder.blocks.\1.act2."),
    (r"^decoder\.blocks\.(\d+)\.residual_mapping\.", r"decoder.blocks.\1.skip."),
    (r"^decoder\.final_mapping\.0\.", "decoder.to_logits."),
)


def published_to_ours(key: str) -> str:
    """Translates one published parameter name; a name that no rule knows is returned unchanged."""
    for pattern, replacement in _RULES:
        key = re.sub(pattern, replacement, key)
    return key


def convert_ossnet_state_dict(published_state_dict: Mapping[str, Tensor], net: OSSNet) -> dict[str, Tensor]:
    """Converts a published state dict to one that `net` loads strictly, with equal outputs.

    Args:
        published_state_dict: as the published code saves it; `module.` prefixes of DataParallel are accepted.
        net: the network it is for, usually `OSSNet.published(variant, dataset)`.

    Raises:
        InputError: naming the missing keys (our names), the unexpected and the wrongly shaped ones (published names).
    """
    names = {key.removeprefix("module."): tensor for key, tensor in published_state_dict.items()}
    original = {published_to_ours(key): key for key in names}
    converted = {ours: names[key] for ours, key in original.items()}
    wanted = net.state_dict()
    misshaped = [
        f"{original[key]} ({tuple(tensor.shape)}, expected {tuple(wanted[key].shape)})"
        for key, tensor in converted.items()
        if key in wanted and tensor.shape != wanted[key].shape
    ]
    missing = [key for key in wanted if key not in converted]
    found = describe_misfit(missing, [original[key] for key in converted if key not in wanted], misshaped)
    if found:
        msg = f"the checkpoint does not fit the network: {found}; check the variant and the dataset"
        raise InputError(msg)
    return {key: converted[key].to(wanted[key].dtype) for key in wanted}


def convert_ossnet_checkpoint(source: str | Path, target: str | Path, variant: str, dataset: str) -> OSSNet:
    """Converts a published checkpoint file; the result is a plain state dict that MONAI bundles load.

    Args:
        source: file of the published code (a state dict).
        target: file to write.
        variant: `onet`, `a`, `b`, `c` or `d`.
        dataset: `brats` or `lits`.

    Returns:
        The network with the converted weights.

    Raises:
        InputError: when the file cannot be read safely, is no state dict, or does not fit.
    """
    try:
        net = OSSNet.published(variant, dataset)
    except ValueError as error:
        raise InputError(str(error)) from error

    def convert(state: Mapping[str, Tensor]) -> OSSNet:
        net.load_state_dict(convert_ossnet_state_dict(state, net))
        return net

    return convert_checkpoint(source, target, convert)
