"""The benchmarks' README holds the tables that were measured, and no others."""

import re
from pathlib import Path

from _readme import HERE, with_tables

README = (HERE / "README.md").read_text()


def test_tables_of_the_readme_are_those_of_the_results() -> None:
    assert with_tables(README, HERE / "results") == README


def test_every_result_has_its_place_in_the_readme() -> None:
    missing = [path.name for path in (HERE / "results").glob("*.md") if f"<!-- results/{path.name} -->" not in README]
    assert not missing


def test_every_benchmark_has_its_place_in_the_readme() -> None:
    scripts = [path.name for path in HERE.glob("*.py") if not path.name.startswith("_")]
    assert not [name for name in scripts if f"`{name}`" not in README]


def test_commands_of_the_readme_name_scripts_that_exist() -> None:
    named = re.findall(r"python (benchmarks/\S+\.py)", README)
    assert named
    assert all((HERE.parent / path).is_file() for path in named)


def test_block_holds_its_file(tmp_path: Path) -> None:
    (tmp_path / "one.md").write_text("| a |\n")
    text = "before\n<!-- results/one.md -->\nold\n<!-- end -->\nafter"
    expected = "before\n<!-- results/one.md -->\n\n| a |\n\n<!-- end -->\nafter"
    assert with_tables(text, tmp_path) == expected


def test_block_without_a_file_is_empty(tmp_path: Path) -> None:
    text = "<!-- results/one.md -->\nold\n<!-- end -->"
    assert with_tables(text, tmp_path) == "<!-- results/one.md -->\n<!-- end -->"
