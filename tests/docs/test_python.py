"""The Python of the documentation runs as it stands there."""

import re
import shutil
from pathlib import Path

import pytest

from custom_nets.tools import write_brain_phantoms
from tests.bundles.bundle import SMALLEST
from tests.docs.test_commands import marked
from tests.tools.conftest import copy_bundle


@pytest.fixture
def clone(tmp_path, monkeypatch) -> Path:
    """A folder in which the page's names lead somewhere."""
    keys = {key: value for key, value in SMALLEST["ossnet_brats"].items() if key not in ("num_points", "batch_size")}
    bundle = copy_bundle("ossnet_brats", tmp_path / "bundles", keys)
    (tmp_path / "models").mkdir()
    shutil.move(bundle / "models" / "model.pt", tmp_path / "models")
    write_brain_phantoms(tmp_path / "data", 1, (40, 40, 28), seed=5, progress=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_of_python_runs(clone, capsys):
    code = marked("python.md")
    assert len(re.findall(r"^import|^from", code, re.MULTILINE)) > 5
    exec(compile(code, "docs/python.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "'WT': " in printed
    assert "of the voxels were queried" in printed
    assert (clone / "labels.nii.gz").is_file()
