"""Whatever is wrong with a data set is said, case by case, as the docs tell."""

import re

import numpy as np
import pytest
import torch

from custom_nets.engines.case_by_case import SOME_LEFT_OUT
from tests.bundles.bundle import SMALLEST, Bundle, command
from tests.conftest import REPOSITORY
from tests.robust import corpus
from tests.robust.damage import Row, page, say
from tests.robust.recipes import RECIPES, Recipe

PAGE = (REPOSITORY / "docs" / "damaged_data.md").read_text(encoding="utf-8")
ROWS = {
    cells[0]: Row(*cells)
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith("| recipe") and len(cells := line[2:-2].split(" | ")) == 5
}


def test_the_page_has_a_row_for_every_recipe():
    assert len({recipe.name for recipe in RECIPES}) == len(RECIPES) >= 120
    assert page(ROWS) == PAGE


def test_nothing_crashes():
    assert not [name for name, row in ROWS.items() if "crashed" in str(row)]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_recipe(recipe: Recipe, tmp_path):
    assert say(recipe, tmp_path) == ROWS[recipe.name]


@pytest.mark.parametrize(
    ("name", "build", "status"),
    [
        ("ossnet_brats", corpus.brains(corpus.put(np.nan)), SOME_LEFT_OUT),
        ("ossnet_lits", corpus.livers(corpus.stored(lambda data: data[:99], corpus.VOLUME)), SOME_LEFT_OUT),
        ("nvnet_brats", lambda root: corpus.put(np.nan)(corpus.write_brain(root, corpus.ODD)), 1),
    ],
)
def test_exit_status_of_inference(name, build, status, tmp_path):
    bundle = Bundle(name)
    build(tmp_path / "data")
    keys = {**SMALLEST[name], "device": "cpu", "num_workers": 0, "save_overlay": False, "save_meshes": False}
    network = bundle.parse("inference", workflow=None, **keys).get_parsed_content("network")
    torch.save(network.state_dict(), tmp_path / "model.pt")
    places = {"dataset_dir": tmp_path / "data", "output_dir": tmp_path / "out", "load_model": tmp_path / "model.pt"}
    arguments = [text for key, value in {**keys, **places}.items() for text in (f"--{key}", str(value))]
    run = command(["inferring"], tmp_path, "--config_file", *bundle.config("inference"), *arguments)
    assert run.returncode == status, run.stderr
    assert "Traceback" not in run.stderr
    written = sorted(file.name for file in (tmp_path / "out").rglob("*_prediction.nii.gz"))
    good = {"ossnet_brats": corpus.GOOD[0], "ossnet_lits": "volume-1"}
    assert written == ([f"{good[name]}_prediction.nii.gz"] if name in good else [])
    odd = corpus.ODD if "brats" in name else corpus.VOLUME
    assert run.stdout.count(f"left out: case {odd}, file ") == 1
    last = "1 case in .*, 1 left out" if status == SOME_LEFT_OUT else "error: all 1 cases were left out:"
    assert re.search(last, run.stdout + run.stderr)
