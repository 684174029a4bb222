"""The commands of the documentation that are marked as tested run as they stand there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

_MARKED = re.compile(r"<!-- tested -->\n```(?:sh|python)\n(.*?)```", re.DOTALL)


def marked(page: str) -> str:
    """All marked commands of a page, one after another."""
    return "".join(_MARKED.findall((REPOSITORY / "docs" / page).read_text(encoding="utf-8")))


def in_shell(commands: str, folder: Path) -> subprocess.CompletedProcess:
    """Runs commands where a clone of the project would be."""
    (folder / "bundles").symlink_to(REPOSITORY / "bundles")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands], cwd=folder, env=environment, capture_output=True, text=True
    )


@pytest.mark.slow
def test_getting_started(tmp_path):
    commands = marked("getting_started.md")
    assert "run training" in commands
    assert "run inferring" in commands
    done = in_shell(commands, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "WT" in done.stdout
    assert list((tmp_path / "results").rglob("*_prediction.nii.gz"))
    assert (tmp_path / "models" / "model.pt").is_file()


@pytest.mark.parametrize("page", sorted(page.name for page in (REPOSITORY / "docs").glob("*.md")))
def test_links_lead_somewhere(page):
    text = (REPOSITORY / "docs" / page).read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", text):
        assert (REPOSITORY / "docs" / link).exists(), f"docs/{page}: {link}"
