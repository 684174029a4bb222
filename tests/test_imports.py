"""Imports run one way: tools -> transforms, inferers, losses, metrics, handlers, engines -> datasets, networks, io."""

import ast
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PACKAGE = REPOSITORY / "custom_nets"
MODULES = sorted(PACKAGE.rglob("*.py"))
LEVELS = {
    "__main__": 5,
    "tools": 4,
    "datasets": 1,
    "networks": 0,
    "io": -1,
    "errors": -2,
    "bundle_keys": 1,
    "typed_values": -2,
    "bundle_paths": -1,
    "distributed": -2,
    "": -2,
}
MIDDLE = 2  # transforms, inferers, losses, metrics, handlers, engines
OPTIONAL = {"itk", "pydicom", "highdicom", "contourpy", "nrrd", "mcubes", "fast_simplification", "matplotlib"}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py").replace("__init__", "")


def level(room: str) -> int:
    return LEVELS.get(room, MIDDLE)


def imports(path: Path, everywhere: bool = True) -> set[str]:
    """Names of imported modules; those for type checking alone do not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree)) if everywhere else tree.body
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return found | {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path):
    own = level(room_of(path))
    for name in imports(path):
        if name == "custom_nets" or not name.startswith("custom_nets."):
            continue
        assert level(name.split(".")[1]) <= own, f"{path.name} imports {name}"


@pytest.mark.parametrize("path", [p for p in MODULES if room_of(p) == "networks"], ids=lambda path: path.name)
def test_networks_need_torch_and_monai_alone(path):
    allowed = {"torch", "monai", "custom_nets", *sys.stdlib_module_names}
    if path.name == "triton.py":
        allowed.add("triton")  # comes with PyTorch for GPUs; the module is imported only where it is
    assert {name.split(".")[0] for name in imports(path)} <= allowed


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_optional_packages_are_imported_where_they_are_used(path):
    assert not {name.split(".")[0] for name in imports(path, everywhere=False)} & OPTIONAL
