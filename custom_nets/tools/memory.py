"""Estimate of the memory of a bundle's inference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from custom_nets.inferers.memory import estimate_memory
from custom_nets.tools.bundle_config import check_shape, read_bundle


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
    return estimate_memory(
        network,
        parser.get_parsed_content("inferer"),
        (channels, *shape),
        target,
        _image_dtype(parser.get_parsed_content("preprocessing")),
        torch.bfloat16 if half else None,
    )


def _image_dtype(preprocessing: Any) -> torch.dtype:
    """Of the image that the network is given: as the last transform declares it that declares one; else float32."""
    declared = [getattr(transform, "output_dtype", None) for transform in preprocessing.transforms]
    return next((dtype for dtype in reversed(declared) if dtype is not None), torch.float32)
