"""Checks of a bundle before others are given it: files, metadata, configs that agree, packages, weights."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.bundle.properties import InferProperties, MetaProperties, TrainProperties
from monai.utils import BundleProperty, BundlePropertyConfig

from custom_nets.errors import InputError
from custom_nets.io.model_settings import take_over
from custom_nets.io.weights import load_weights
from custom_nets.tools.bundle_config import METADATA, read_metadata

WEIGHTS = "models/model.pt"
FILES = (
    *(f"configs/{name}" for name in ("train.json", "evaluate.json", "inference.json", "logging.conf")),
    "docs/README.md",
    "docs/data_license.txt",
    "LICENSE",
)
ZOO_KEYS = (
    *("schema", "changelog", "required_packages_version", "supported_apps", "name", "task", "description", "authors"),
    *("copyright", "data_source", "data_type", "image_classes", "label_classes", "pred_classes", "intended_use"),
    "references",
)
"""Entries of metadata.json that MONAI's model zoo wants beside those that MONAI itself requires."""

_CORE = {"monai_version": "monai", "pytorch_version": "torch", "numpy_version": "numpy"}
_LINK = re.compile(r"\]\((?!\w+:|#)([^)#]+)")


def bundle_faults(bundle: Path, untrained: bool = False) -> list[str]:
    """Returns every fault of a bundle, each a line that names the file or key; none for a good one.

    Args:
        bundle: its folder.
        untrained: whether it may lack weights.

    Raises:
        InputError: when the folder is no bundle.
    """
    metadata = read_metadata(bundle)
    missing = [f"{name}: missing" for name in FILES if not (bundle / name).is_file()]
    faults = [*missing, *_metadata_faults(metadata), *_package_faults(metadata), *_link_faults(bundle)]
    configs = {
        name: _config(bundle, name) for name in ("train", "inference") if f"configs/{name}.json: missing" not in missing
    }
    for name, config in configs.items():
        faults += [f"configs/{name}.json: {fault}" for fault in _config_faults(config, name, metadata)]
    if len(configs) == 2 and configs["train"].get("regions") != configs["inference"].get("regions"):
        faults.append("configs/train.json and configs/inference.json: their regions differ; write the same in both")
    if not faults:  # only a network that agrees with its description can be asked about weights
        faults += _weight_faults(bundle, configs["inference"], untrained)
    return faults


def _metadata_faults(metadata: dict[str, Any]) -> Iterator[str]:
    required = [name for name, meta in MetaProperties.items() if meta[BundleProperty.REQUIRED]]
    yield from (f"{METADATA}: '{key}' is missing" for key in (*required, *ZOO_KEYS) if key not in metadata)
    if "version" in metadata and metadata["version"] not in metadata.get("changelog", {}):
        yield f"{METADATA}: version {metadata['version']} is not in the changelog; say there what changed"


def _package_faults(metadata: dict[str, Any]) -> Iterator[str]:
    """The versions that a bundle names must be those that it was tried with: the ones installed."""
    named = {package: metadata[key] for key, package in _CORE.items() if key in metadata}
    for package, wanted in {**named, **metadata.get("required_packages_version", {})}.items():
        try:
            found = version(package).split("+")[0]
        except PackageNotFoundError:
            found = "not installed"
        if found != wanted:
            yield f"{METADATA}: names {package} {wanted}, here it is {found}; install that, or name what was tested"


def _link_faults(bundle: Path) -> Iterator[str]:
    """Relative links of the description must lead to files that travel with the bundle."""
    page = bundle / "docs" / "README.md"
    for link in _LINK.findall(page.read_text(encoding="utf-8")) if page.is_file() else ():
        target = (page.parent / link).resolve()
        if not (target.exists() and target.is_relative_to(bundle.resolve())):
            yield f"docs/README.md: the link {link} leads out of the bundle; name the page instead"


def _config(bundle: Path, name: str) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / f"{name}.json"))
    parser.update({"bundle_root": str(bundle), "device": torch.device("cpu")})
    return parser


def _config_faults(config: ConfigParser, name: str, metadata: dict[str, Any]) -> Iterator[str]:
    ids = TrainProperties if name == "train" else InferProperties
    wanted = [str(meta[BundlePropertyConfig.ID]) for meta in ids.values() if meta[BundleProperty.REQUIRED]]
    yield from (f"the id '{key}' is missing" for key in wanted if config.get(key) is None)
    formats = metadata.get("network_data_format", {})
    sides = {"inputs": ("image", "in_channels"), "outputs": ("pred", "num_regions")}
    for side, (item, key) in sides.items():
        described = formats.get(side, {}).get(item)
        if described is None:
            yield f"{METADATA} has no network_data_format#{side}#{item}; describe it there"
            continue
        channels = config.get_parsed_content(f"network_def#{key}")
        counts = {"num_channels": described.get("num_channels"), "channel_def": len(described.get("channel_def", {}))}
        for entry, count in counts.items():
            if count != channels:
                where = f"{METADATA} has {count} ({side}#{item}#{entry})"
                yield f"network_def#{key} is {channels}, but {where}; correct one of them"


def _weight_faults(bundle: Path, config: ConfigParser, untrained: bool) -> Iterator[str]:
    weights = bundle / WEIGHTS
    if not weights.is_file():
        if not untrained:
            yield f"{WEIGHTS}: missing; train the bundle, convert published weights, or pack it with --untrained true"
        return
    try:
        take_over(config, (), bundle / "configs")
        load_weights(config.get_parsed_content("network_def"), weights)
    except InputError as error:
        yield str(error)
