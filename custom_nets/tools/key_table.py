"""The tables of keys in a bundle's description, from the comments beside the keys in its source."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from custom_nets.tools.fragments import SOURCE, read_fragment

BEGIN, END = "<!-- keys: begin -->\n", "<!-- keys: end -->"
"""Lines of a description between which its tables are put."""

GROUPS = {
    "Training, evaluation and inference": ("train", "inference"),
    "Training and evaluation": ("train",),
    "Inference": ("inference",),
    "Evaluation": ("evaluate",),
    "With `variant.json` or `paper.json`": ("variant", "paper"),
    "With `multi_gpu_*.json`": ("multi_gpu_train",),
}
"""Heading of each table and the configs that its keys must all be in."""

_OF_MONAI = {"imports", "workflow", "bundle_root"}
_SECTION = re.compile(r"(?P<configs>\w[\w, ]*):")
_KEY = re.compile(r"  (?P<key>\w+):(?P<rest>.*)")
_COMMENT = re.compile(r"(?:^|\s)# (?P<text>.*)$")
_SHOWN = re.compile(r"\[(?P<default>[^\]]*)\] (?P<meaning>.*)")


def key_tables(spec: str | Path) -> str:
    """Returns Markdown tables of the keys that a person may set in a bundle, with their defaults and meanings.

    The meaning of a key is the comment at its end or above it; one that begins with `[...]` shows these words as the
    default, in place of an expression.

    Args:
        spec: file of the bundle's specification, see `build_bundle`.
    """
    values, meanings = _values(spec), _meanings(spec)
    tables, listed = [], set(_OF_MONAI)
    for heading, configs in GROUPS.items():
        described = [key for key in values.get(configs[0], {}) if key in meanings.get(configs[0], {})]
        keys = [key for key in described if key not in listed and _in_all(key, configs, values)]
        rows = [_row(key, configs, values, meanings) for key in keys]
        listed |= set(keys) if len(configs) > 1 or configs == ("train",) else set()
        if rows:
            head = f"**{heading}**\n\n| key | default | meaning |\n| --- | --- | --- |\n"
            tables.append(head + "\n".join(rows) + "\n")
    return "\n".join(tables)


def with_key_tables(description: str, spec: str | Path) -> str:
    """Returns a bundle's description with its tables of keys made anew; one without their marks as it is."""
    before, begin, rest = description.partition(BEGIN)
    _, end, after = rest.partition(END)
    return f"{before}{begin}\n{key_tables(spec)}\n{end}{after}" if end else description


def undescribed_keys(spec: str | Path) -> list[str]:
    """Returns the keys of training, inference and evaluation that a person may set and that no comment describes."""
    values, meanings = _values(spec), _meanings(spec)
    return [
        f"{config}: {key}"
        for config in ("train", "inference", "evaluate")
        for key in values.get(config, {})
        if key not in _OF_MONAI and key not in meanings.get(config, {})
    ]


def _values(spec: str | Path) -> dict[str, dict[str, Any]]:
    """The keys above `---` and their values, by config."""
    values: dict[str, dict[str, Any]] = {}
    for file in _fragments(Path(spec)):
        for section, content in read_fragment(file)[0].items():
            for config in section.split(", ") if section not in ("fragments", "files") else ():
                values.setdefault(config, {}).update(content)
    return values


def _meanings(spec: str | Path) -> dict[str, dict[str, str]]:
    """The comments of these keys, by config."""
    meanings: dict[str, dict[str, str]] = {}
    for file in _fragments(Path(spec)):
        for configs, key, text in _comments(file.read_text(encoding="utf-8")):
            for config in configs:
                meanings.setdefault(config, {})[key] = text
    return meanings


def _fragments(spec: Path) -> list[Path]:
    names = read_fragment(spec)[0].get("fragments", [])
    return [*(SOURCE / "fragments" / f"{name}.yaml" for name in names), spec]


def _comments(text: str) -> Iterator[tuple[list[str], str, str]]:
    """Yields the configs, the name and the comment of each key of a fragment that has one."""
    configs: list[str] = []
    above: list[str] = []
    for line in text.partition("\n---")[0].splitlines():
        section, key = _SECTION.fullmatch(line), _KEY.fullmatch(line)
        comment = _COMMENT.search(line)
        if section:
            configs, above = section["configs"].split(", "), []
        elif key:
            parts = [*above, *([comment["text"]] if comment else [])]
            if parts:
                yield configs, key["key"], " ".join(parts)
            above = []
        elif comment and line.startswith("  #"):
            above.append(comment["text"])
        else:
            above = []


def _in_all(key: str, configs: tuple[str, ...], values: dict[str, dict[str, Any]]) -> bool:
    return all(key in values.get(config, {}) for config in configs)


def _row(
    key: str, configs: tuple[str, ...], values: dict[str, dict[str, Any]], meanings: dict[str, dict[str, str]]
) -> str:
    """A row of a table; what differs between configs of a group is told for each."""
    defaults, words = {}, {}
    for config in configs:
        text = meanings.get(config, {}).get(key, "")
        shown = _SHOWN.fullmatch(text)
        words[config] = shown["meaning"] if shown else text
        defaults[config] = shown["default"] if shown else _format(values[config][key])
    return f"| `{key}` | {_joined(defaults)} | {_joined(words)} |"


def _joined(texts: dict[str, str]) -> str:
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return "; ".join(f"{config}: {text}" for config, text in texts.items())


def _format(value: Any) -> str:
    return f"`{value}`" if isinstance(value, str) else f"`{json.dumps(value)}`"
