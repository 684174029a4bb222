"""The bundles that come with the package: listed, copied whole, and in the wheel."""

import subprocess
from pathlib import Path

import pytest

from custom_nets.errors import InputError
from custom_nets.tools.shipped_bundles import copy_bundle, shipped_bundles
from tests.conftest import REPOSITORY
from tests.tools.test_cli import call

NAMES = ["nvnet_brats", "ossnet_brats", "ossnet_lits"]


def test_they_are_listed(monkeypatch, capsys):
    assert list(shipped_bundles()) == NAMES
    assert call(monkeypatch, "bundles") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_has_all_that_git_has(name, tmp_path):
    copy = copy_bundle(name, tmp_path)
    listed = subprocess.run(
        ["git", "ls-files", f"bundles/{name}"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    files = {Path(file).relative_to(f"bundles/{name}") for file in listed.stdout.splitlines()} - {
        Path("models/.gitkeep")
    }
    copied = {file.relative_to(copy) for file in copy.rglob("*") if file.is_file()}
    assert copied == files
    assert (copy / "models").is_dir()


def test_the_wheel_holds_them():
    tomllib = pytest.importorskip("tomllib")
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = settings["package-data"]["custom_nets"]
    package = REPOSITORY / "custom_nets"
    packed = {file for pattern in patterns for file in package.glob(pattern) if file.is_file()}
    for part in ("configs/*", "docs/*", "LICENSE"):
        assert set(package.glob(f"tools/bundles/*/{part}")) <= packed
    assert not [file for file in packed if "models" in file.parts]


def test_what_is_there_is_not_overwritten(tmp_path, monkeypatch, capsys):
    (tmp_path / "ossnet_lits").mkdir()
    with pytest.raises(InputError, match="ossnet_lits: is there already"):
        copy_bundle("ossnet_lits", tmp_path)
    assert call(monkeypatch, "bundles", "--name", "ossnet") == 2
    assert "there is no bundle 'ossnet'; expected one of nvnet_brats, ossnet_brats" in capsys.readouterr().err
