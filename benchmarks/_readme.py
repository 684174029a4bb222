"""Keeps the tables in the benchmarks' README equal to those in `results/`. As a command: writes all of them anew."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent

_BLOCK = re.compile(r"(<!-- results/(\w+)\.md -->\n).*?(<!-- end -->)", re.DOTALL)


def with_tables(text: str, results: Path) -> str:
    """A README with each block `<!-- results/NAME.md --> … <!-- end -->` holding that file; nothing if there is none.

    Args:
        text: of the README.
        results: the folder of the files.
    """

    def filled(block: re.Match[str]) -> str:
        start, name, end = block.groups()
        path = results / f"{name}.md"
        return f"{start}\n{path.read_text().strip()}\n\n{end}" if path.is_file() else start + end

    return _BLOCK.sub(filled, text)


def refresh() -> None:
    """Writes the tables of `results/` into the README."""
    readme = HERE / "README.md"
    text = readme.read_text()
    fresh = with_tables(text, HERE / "results")
    if fresh != text:
        readme.write_text(fresh)


if __name__ == "__main__":
    refresh()
