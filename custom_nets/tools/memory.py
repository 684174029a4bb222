"""What a bundle's inference of a volume takes in memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from custom_nets.inferers.memory import estimate_memory
from custom_nets.networks.base import OccupancyNetworkBase
from custom_nets.tools.bundle_config import check_shape, read_bundle

_MULTIPLE = 8  # sides that convolutional networks take


def estimate_bundle_memory(
    bundle: str,
    shape: Sequence[int],
    device: str,
    configs: str | Sequence[str] = (),
    keys: dict[str, Any] | None = None,
) -> dict[str, float]:
    """Estimates the peak of a bundle's inference by part, see `inferers.memory.estimate_memory`.

    Args:
        bundle: its folder.
        shape: of the image as the network is given it (H, W, D).
        device: where it is to run, such as `cuda` or `cpu`.
        configs: names of config files after inference.json, such as `variant`.
        keys: of the configs, as on the command line of a run.

    Raises:
        InputError: when the folder is no bundle, a config is missing, or the shape is none.
    """
    parser, channels = read_bundle(bundle, configs, keys)
    check_shape(shape)
    target = torch.device(device)
    parser.update({"device": target})
    network = parser.get_parsed_content("network_def")
    half = bool(parser.get_parsed_content("amp")) and target.type == "cuda"
    if isinstance(network, OccupancyNetworkBase):
        inferer = parser.get_parsed_content("inferer")
        # Liver CT stays in half precision, see the bundle's preprocessing.
        steps = [str(parser.get(step[1:])) for step in parser["preprocessing#transforms"]]
        dtype = torch.float16 if any("WindowHounsfieldd" in step for step in steps) else torch.float32
        return estimate_memory(network, inferer, (channels, *shape), target, dtype, torch.bfloat16 if half else None)
    sides = [math.ceil(side / _MULTIPLE) * _MULTIPLE for side in shape]
    return estimate_memory(network, None, (channels, *sides), target, autocast=torch.bfloat16 if half else None)
