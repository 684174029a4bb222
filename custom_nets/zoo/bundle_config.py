"""A bundle's inference config and metadata, read without running the bundle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from custom_nets.errors import InputError


def read_bundle(
    bundle: str | Path, configs: Sequence[str] = (), keys: dict[str, Any] | None = None
) -> tuple[ConfigParser, int]:
    """Reads what a run of a bundle's inference would.

    Args:
        bundle: its folder.
        configs: names of config files after inference.json, such as `variant`.
        keys: of the configs, as on the command line of a run.

    Returns:
        The configs, and the number of channels of an image.

    Raises:
        InputError: when the folder is no bundle, or a config is missing.
    """
    folder = Path(bundle) / "configs"
    files = [folder / f"{name}.json" for name in ("metadata", "inference", *configs)]
    for file in files:
        if not file.is_file():
            msg = f"{file}: there is no such file; expected the folder of a bundle, and names of its configs"
            raise InputError(msg)
    metadata = json.loads(files[0].read_text(encoding="utf-8"))
    parser = ConfigParser()
    parser.read_config([str(file) for file in files[1:]])
    parser.update({"bundle_root": str(bundle), **(keys or {})})
    return parser, metadata["network_data_format"]["inputs"]["image"]["num_channels"]


def check_shape(shape: Sequence[int]) -> None:
    """Refuses what is no three numbers of voxels.

    Raises:
        InputError: then.
    """
    if len(tuple(shape)) != 3 or not all(isinstance(side, int) and side > 0 for side in shape):
        msg = f"shape is {shape}; expected three numbers of voxels, such as --shape 240 240 155"
        raise InputError(msg)
