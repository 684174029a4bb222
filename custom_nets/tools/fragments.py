"""The fragments that bundles are built of, see `build_bundle`."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import yaml
from monai.utils.misc import CheckKeyDuplicatesYamlLoader

from custom_nets.errors import InputError

SOURCE = Path(__file__).parent / "bundle_source"
"""Fragments, the specifications of this project's bundles, and texts that are copied."""

SPECIFICATIONS = sorted((SOURCE / "bundles").glob("*.yaml"))
"""Of this project's bundles; each is named after its file."""


def read_fragment(file: Path) -> list[dict[str, Any]]:
    """Returns both documents of a fragment, the second empty where there is none.

    Raises:
        InputError: when the file is missing or no fragment.
    """
    expected = "expected a fragment: YAML of keys, a line of ---, and components"
    if not file.is_file():
        msg = f"{file}: there is no such file; {expected}"
        raise InputError(msg)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # MONAI's loader warns of a key that is there twice
            parts = list(yaml.load_all(file.read_text(encoding="utf-8"), CheckKeyDuplicatesYamlLoader))
    except (yaml.YAMLError, UserWarning) as error:
        msg = f"{file}: cannot be read ({error}); {expected}"
        raise InputError(msg) from error
    if len(parts) > 2 or not all(isinstance(part, dict) for part in parts):
        msg = f"{file}: is neither one nor two YAML mappings; {expected}"
        raise InputError(msg)
    return [*parts, {}][:2]
