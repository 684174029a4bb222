"""Bundles from one source: what they share is written once, in fragments; what comes out are plain configs of MONAI."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.bundle.utils import merge_kv

from custom_nets.io.files import atomic_file
from custom_nets.tools.fragments import SOURCE, read_fragment
from custom_nets.tools.key_table import with_key_tables

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
    own = read_fragment(Path(spec))
    names = own[0].pop("fragments", [])
    fragments = [*(read_fragment(SOURCE / "fragments" / f"{name}.yaml") for name in names), own]
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
    """Builds a bundle and writes it over what is in a folder; the tables of keys in its description are made anew.

    Args:
        spec: file of the specification.
        folder: of the bundle.

    Returns:
        The files whose content changed.

    Raises:
        InputError: see `build_bundle`.
    """
    changed, texts = [], build_bundle(spec)
    description = Path(folder) / "docs" / "README.md"
    if description.is_file():
        texts["docs/README.md"] = with_key_tables(description.read_text(encoding="utf-8"), spec)
    for name, text in texts.items():
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
