"""The bundles that come with this package, and copies of them to work on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from custom_nets.errors import InputError
from custom_nets.io.files import parse_json_object

FOLDER = Path(__file__).with_name("bundles")
"""A link to the bundles of the repository, whose files an installed package holds here."""

_PARTS = ("configs", "docs", "LICENSE")


def shipped_bundles() -> dict[str, dict[str, Any]]:
    """Returns the metadata of each bundle that comes with this package, by its name."""
    files = sorted(FOLDER.glob("*/configs/metadata.json"))
    return {
        file.parents[1].name: parse_json_object(file.read_bytes(), file, "install the package again") for file in files
    }


def copy_bundle(name: str, folder: str | Path = ".") -> Path:
    """Copies a bundle that comes with this package, without weights.

    Args:
        name: of the bundle.
        folder: of all bundles; the copy is a folder in it.

    Returns:
        The folder of the copy.

    Raises:
        InputError: when there is no such bundle, or something is in its place.
    """
    if name not in shipped_bundles():
        msg = f"there is no bundle '{name}'; expected one of {', '.join(shipped_bundles())}"
        raise InputError(msg)
    target = Path(folder).expanduser() / name
    if target.exists():
        msg = f"{target}: is there already; move it, or give another --output_dir"
        raise InputError(msg)
    (target / "models").mkdir(parents=True)
    for part in _PARTS:
        source = FOLDER / name / part
        if source.is_dir():
            shutil.copytree(source, target / part)
        elif source.is_file():
            shutil.copy2(source, target / part)
    return target
