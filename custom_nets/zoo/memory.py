"""What a bundle's inference of a volume takes in memory."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from custom_nets.errors import InputError
from custom_nets.inferers.memory import estimate_memory

_MULTIPLE = 8  # sides that convolutional networks take


def estimate_bundle_memory(
    bundle: str, shape: Sequence[int], device: str, configs: Sequence[str] = (), keys: dict[str, Any] | None = None
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
    folder = Path(bundle) / "configs"
    files = [folder / f"{name}.json" for name in ("metadata", "inference", *configs)]
    for file in files:
        if not file.is_file():
            msg = f"{file}: there is no such file; expected the folder of a bundle, and names of its configs"
            raise InputError(msg)
    if len(tuple(shape)) != 3 or not all(isinstance(side, int) and side > 0 for side in shape):
        msg = f"shape is {shape}; expected three numbers of voxels, such as --shape 240 240 155"
        raise InputError(msg)
    metadata = json.loads(files[0].read_text(encoding="utf-8"))
    channels = metadata["network_data_format"]["inputs"]["image"]["num_channels"]
    parser = ConfigParser()
    parser.read_config([str(file) for file in files[1:]])
    target = torch.device(device)
    parser.update({**(keys or {}), "device": target})
    network = parser.get_parsed_content("network_def")
    half = bool(parser.get_parsed_content("amp")) and target.type == "cuda"
    if hasattr(network, "encode"):
        inferer = parser.get_parsed_content("inferer")
        # Liver CT stays in half precision, see the bundle's preprocessing.
        dtype = torch.float16 if "WindowHounsfieldd" in str(parser["preprocessing"]) else torch.float32
        return estimate_memory(network, inferer, (channels, *shape), target, dtype, torch.bfloat16 if half else None)
    sides = [math.ceil(side / _MULTIPLE) * _MULTIPLE for side in shape]
    return estimate_memory(network, None, (channels, *sides), target, autocast=torch.bfloat16 if half else None)
