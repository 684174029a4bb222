"""Bundles from one source: what they share is written once, in fragments; what comes out are plain configs of MONAI."""

from __future__ import annotations

import json
import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from monai.bundle import ConfigParser
from monai.bundle.utils import merge_kv
from monai.utils.misc import CheckKeyDuplicatesYamlLoader

from custom_nets.errors import InputError
from custom_nets.io.files import atomic_file

SOURCE = Path(__file__).parent / "bundle_source"
"""Fragments, the specifications of this project's bundles, and texts that are copied."""

SPECIFICATIONS = sorted((SOURCE / "bundles").glob("*.yaml"))
"""Of this project's bundles; each is named after its file."""

WIDTH = 120
"""Longest line of a config."""


def build_bundle(spec: str | Path) -> dict[str, str]:
    """Builds the files of a bundle from its specification.

    A specification is itself a fragment, the last one, and names those before it under `fragments`. A fragment is a
    YAML file of two documents: keys that a person may set, and below `---` the components that they set up. Sections
    are named after the configs that they are part of, as `train, inference`. Entries are merged as MONAI merges config
    files: a later one replaces an earlier one; after all these, `a#b` sets one item of `a` and `+a` adds to it. (In a
    config without `a`, such as an override, both stand as written.) `files` names texts that are copied. Expressions of
    the section `metadata` see train.json, and become values.

    Args:
        spec: file of the specification.

    Returns:
        The text of each file by its name in the bundle, such as `configs/train.json`.

    Raises:
        InputError: when a file is missing or no fragment.
    """
    own = _read(Path(spec))
    names = own[0].pop("fragments", [])
    fragments = [*(_read(SOURCE / "fragments" / f"{name}.yaml") for name in names), own]
    texts = {target: text for fragment in fragments for target, text in fragment[0].pop("files", {}).items()}
    entries = [
        (name, key, value)
        for part in range(2)
        for fragment in fragments
        for section, content in fragment[part].items()
        for name in section.split(", ")
        for key, value in content.items()
    ]
    configs = {name: ConfigParser({}) for name, _, _ in entries}
    for name, key, value in sorted(entries, key=lambda entry: _changes(entry[1])):
        _merge(configs[name], key, deepcopy(value))
    contents = {name: parser.get() for name, parser in configs.items()}
    metadata = ConfigParser(deepcopy({**contents["train"], "metadata": contents["metadata"]}))
    contents["metadata"] = metadata.get_parsed_content("metadata")
    return {
        **{f"configs/{name}.json": format_json(content) + "\n" for name, content in contents.items()},
        **{target: (SOURCE / "texts" / text).read_text(encoding="utf-8") for target, text in texts.items()},
    }


def write_bundle(spec: str | Path, folder: str | Path) -> list[Path]:
    """Builds a bundle and writes it over what is in a folder.

    Args:
        spec: file of the specification.
        folder: of the bundle.

    Returns:
        The files whose content changed.

    Raises:
        InputError: see `build_bundle`.
    """
    changed = []
    for name, text in build_bundle(spec).items():
        file = Path(folder) / name
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            with atomic_file(file) as temporary:
                temporary.write_text(text, encoding="utf-8")
            changed.append(file)
    return changed


def format_json(value: Any, indent: int = 0, taken: int = 0) -> str:
    """Formats JSON as a person would: objects and lists on one line where they fit, else an item a line.

    Args:
        value: what is formatted; the outermost object always has an item a line.
        indent: of the line that it begins on.
        taken: columns of that line that something else takes.
    """
    line = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, (dict, list)) or not value or (indent and indent + taken + len(line) <= WIDTH):
        return line
    labels = [f"{json.dumps(key)}: " for key in value] if isinstance(value, dict) else [""] * len(value)
    items = value.values() if isinstance(value, dict) else value
    inner = indent + 4
    lines = [
        " " * inner + label + format_json(item, inner, len(label) + 1)
        for label, item in zip(labels, items, strict=True)
    ]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return f"{opening}\n" + ",\n".join(lines) + f"\n{' ' * indent}{closing}"


def _read(file: Path) -> list[dict[str, Any]]:
    """Returns both documents of a fragment, the second empty where there is none."""
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


def _changes(key: str) -> bool:
    """Whether an entry changes what another one sets: such entries come after all others."""
    return key.startswith("+") or "#" in key


def _merge(config: ConfigParser, key: str, value: Any) -> None:
    """Merges an entry into a config; one that changes what the config does not have stands in it as written."""
    owner = key[1:] if key.startswith("+") else key.rpartition("#")[0]
    if not owner or owner in config:
        merge_kv(config, key, value)
    else:
        config.get()[key] = value
