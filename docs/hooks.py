"""Pages of the site that are made of what lies elsewhere: bundles, commands, benchmarks, the project's own files."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from custom_nets.tools.cli import VERBS
from custom_nets.tools.command_line import format_help
from custom_nets.tools.fragments import SPECIFICATIONS

ROOT = Path(__file__).resolve().parents[1]
COPIED = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks/README.md",
    **{f"bundles/{spec.stem}/docs/README.md": f"bundles/{spec.stem}.md" for spec in SPECIFICATIONS},
}
"""Files of the project by their places on the site; those of `docs` keep theirs."""

_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)(?P<path>[^)#\s]+)")


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that are not in `docs`, and the pictures of the benchmarks."""
    for source, place in COPIED.items():
        files.append(File.generated(config, place, content=(ROOT / source).read_text(encoding="utf-8")))
    for picture in sorted((ROOT / "benchmarks" / "results").glob("*.png")):
        files.append(File.generated(config, f"benchmarks/results/{picture.name}", abs_src_path=str(picture)))
    files.append(File.generated(config, "commands.md", content=_commands()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Leads links that fit the repository to where their pages are on the site."""
    place = page.file.src_uri
    source = next((source for source, copy in COPIED.items() if copy == place), f"docs/{place}")

    def relinked(match: re.Match) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match["path"]))
        on_site = COPIED.get(target) or target.removeprefix("docs/")
        return posixpath.relpath(on_site, posixpath.dirname(place) or ".")

    return _LINK.sub(relinked, markdown)


def _commands() -> str:
    """Returns the page of commands: the help of each verb."""
    parts = ["# Commands", "`custom-nets VERB …`; a wrong name or value ends it with one line before anything is done."]
    for name, verb in VERBS.items():
        parts.append(f"## {name}\n\n```text\n{format_help(verb, f'custom-nets {name}')}\n```")
    return "\n\n".join(parts) + "\n"
