"""A path arrives as it was given, whatever MONAI's config language makes of its letters."""

import json
import os
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.bundle import ConfigParser

from custom_nets.bundle_paths import keep_paths
from tests.bundles.bundle import command
from tests.conftest import REPOSITORY

CONFIG = {
    "output_dir": "results",
    "epochs": 3,
    "log": "$@output_dir + '/log'",
    "made": {"_target_": "dict", "path": "@output_dir"},
}
PATHS = [
    "/data/scans#2",
    "/data/a#b#c/d",
    "/data/@home/x",
    "/data/100 %",
    "/data/$HOME/$x",
    "/data/a::b#c",
    "/data/@#x",
    '/data/it\'s "so"',
    "/data/back\\slash#",
    "/data/Ärzte 東京#1",
    "/data/new\nline#",
    "1,2#3",
]


def parsed(path, **typed):
    parser = ConfigParser(json.loads(json.dumps(CONFIG)))
    parser.update({"output_dir": path})
    parser.parse(reset=True)
    keep_paths(parser, typed)
    return [parser.get_parsed_content(key) for key in ("output_dir", "log", "made")]


@pytest.mark.parametrize("path", PATHS)
def test_a_typed_path(path):
    found, log, made = parsed(path, output_dir=path)
    assert (found, log, made["path"]) == (path, f"{path}/log", path)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(name=st.text(st.characters(exclude_characters="\0/"), min_size=1, max_size=60))
def test_any_path(name):
    path = f"/data/{name}"
    assert parsed(path, output_dir=path)[0] == path


@pytest.mark.parametrize("path", ["/data/scans#2", "/data/a#b#c/d", "/data/@home/x", "/data/100 %"])
def test_a_path_set_by_a_program(path):
    assert parsed(path)[0] == path


def test_colons_that_are_on_the_disk_stay(tmp_path):
    path = tmp_path / "a::b"
    path.mkdir()
    assert parsed(str(path))[0] == str(path)


@pytest.mark.parametrize("name", ["$data", "@data"])
def test_a_folder_that_begins_as_an_expression(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    os.mkdir(name)
    assert parsed(name, output_dir=name)[0] == name


def test_expressions_stay_expressions():
    assert parsed("$'a' + 'b'", output_dir="$'a' + 'b'")[0] == "ab"


def test_other_keys_stay():
    parser = ConfigParser(json.loads(json.dumps(CONFIG)))
    parser.parse(reset=True)
    before = dict(parser.get())
    keep_paths(parser)
    assert dict(parser.get()) == before


@pytest.mark.parametrize(
    ("where", "folder"), [("bundle", "scans#2"), ("output_dir", "scans#2"), ("output_dir", "1,@$x")]
)
def test_through_a_run_of_a_bundle(tmp_path, where, folder):
    """By MONAI's command: the folder of the bundle, and one that is given."""
    bundle = tmp_path / (folder if where == "bundle" else "bundle")
    shutil.copytree(REPOSITORY / "bundles" / "ossnet_lits", bundle)
    override = bundle / "configs" / "show.json"
    override.write_text(json.dumps({"run": ["$print('bundle', @bundle_root)", "$print('log', @output_dir + '/log')"]}))
    configs = [str(bundle / "configs" / f"{name}.json") for name in ("inference", "show")]
    given = [] if where == "bundle" else ["--output_dir", folder]
    done = command([], tmp_path, "--config_file", str(configs), "--load_model", "none", *given)
    assert f"bundle {bundle}\n" in done.stdout, done.stderr
    assert f"log {bundle}/results/log\n" in done.stdout if where == "bundle" else f"log {folder}/log\n" in done.stdout
