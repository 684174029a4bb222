"""The builder of bundles: what is committed is what it makes of their source."""

import json
import re

import pytest
from monai.bundle import ConfigParser

from custom_nets.errors import InputError
from custom_nets.tools import build_bundle, write_bundle
from custom_nets.tools.bundle_builder import format_json
from custom_nets.tools.fragments import SOURCE, SPECIFICATIONS
from custom_nets.tools.key_table import key_tables, undescribed_keys, with_key_tables
from tests.conftest import REPOSITORY
from tests.tools.conftest import NAMES


@pytest.fixture(scope="module")
def built() -> dict[str, dict[str, str]]:
    return {spec.stem: build_bundle(spec) for spec in SPECIFICATIONS}


def write_spec(folder, text: str):
    file = folder / "spec.yaml"
    file.write_text(text)
    return file


def test_every_bundle_has_a_specification():
    assert tuple(spec.stem for spec in SPECIFICATIONS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_committed_bundles_are_what_the_builder_makes(built, name):
    bundle = REPOSITORY / "bundles" / name
    committed = {f"configs/{file.name}" for file in (bundle / "configs").iterdir()}
    assert committed == {file for file in built[name] if file.startswith("configs/")}
    for file, text in built[name].items():
        assert (bundle / file).read_text() == text, (
            f"{file} is not what its source gives: run custom-nets build-bundles"
        )


@pytest.mark.parametrize("spec", SPECIFICATIONS, ids=NAMES)
def test_every_key_is_described(spec):
    assert undescribed_keys(spec) == []
    page = REPOSITORY / "bundles" / spec.stem / "docs" / "README.md"
    assert "<!-- keys: begin -->" in page.read_text()
    assert page.read_text() == with_key_tables(page.read_text(), spec), f"{page}: run custom-nets build-bundles"


def test_a_table_tells_what_the_comments_say(tmp_path):
    spec = write_spec(
        tmp_path,
        "train, inference:\n  rate: 0.1  # of steps\n  # [a folder] made\n  # where it is missing\n  place: $@x\n"
        "train:\n  few: null # cases\ninference:\n  rate: 0.2 # of windows\n  bare: 1\n---\ntrain: {a: {b: 1}}\n",
    )
    assert undescribed_keys(spec) == ["inference: bare"]
    lines = key_tables(spec).splitlines()
    assert "| `rate` | train: `0.1`; inference: `0.2` | train: of steps; inference: of windows |" in lines
    assert "| `place` | a folder | made where it is missing |" in lines
    assert "| `few` | `null` | cases |" in lines


def test_lines_are_as_long_as_they_can_be_read():
    short, long = {"a": [1, {"b": None}]}, {"key": ["x" * 30] * 5}
    assert format_json({"top": short}) == '{\n    "top": {"a": [1, {"b": null}]}\n}'
    lines = format_json({"top": long}).splitlines()
    assert lines[1:4] == ['    "top": {', '        "key": [', f'            "{"x" * 30}",']
    assert json.loads("\n".join(lines)) == {"top": long}


def test_entries_are_merged_as_monai_merges_configs(tmp_path):
    spec = write_spec(
        tmp_path,
        "train:\n  modalities: [T1]\n  a#b: 2\n  +c: [2]\n  a: {b: 1, d: 3}\n  c: [1]\n"
        "paper:\n  a#b: 4\n  +c: [3]\nmetadata:\n  number: '$len(@modalities)'\n",
    )
    texts = build_bundle(spec)
    assert json.loads(texts["configs/train.json"]) == {"modalities": ["T1"], "a": {"b": 2, "d": 3}, "c": [1, 2]}
    assert json.loads(texts["configs/paper.json"]) == {"a#b": 4, "+c": [3]}
    assert json.loads(texts["configs/metadata.json"]) == {"number": 1}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("fragments: [no_such]", "no_such.yaml: there is no such file"),
        ("train: {a: 1}\ntrain: {b: 2}", "Duplicate key: `train`"),
        ("train: [", "cannot be read"),
        ("- train", "neither one nor two YAML mappings"),
    ],
)
def test_faults_of_a_specification_are_named(tmp_path, text, fault):
    with pytest.raises(InputError, match=re.escape(fault)):
        build_bundle(write_spec(tmp_path, text))


def test_other_modalities_and_regions_are_a_few_lines(tmp_path):
    """No count, index or name of a channel is written anywhere else."""
    own = (SOURCE / "bundles" / "ossnet_brats.yaml").read_text()
    spec = write_spec(
        tmp_path, own.replace("\n---\n", "\ntrain, inference:\n  modalities: [T1, FLAIR]\n  regions: [WT]\n---\n", 1)
    )
    write_bundle(spec, tmp_path / "bundle")
    configs = tmp_path / "bundle" / "configs"
    image = json.loads((configs / "metadata.json").read_text())["network_data_format"]["inputs"]["image"]
    assert (image["num_channels"], image["channel_def"]) == (2, {"0": "T1", "1": "FLAIR"})
    parser = ConfigParser()
    parser.read_config(str(configs / "inference.json"))
    parser["device"] = "cpu"
    assert parser.get_parsed_content("network_def").in_channels == 2
    assert parser.get_parsed_content("check").modalities == ("T1", "FLAIR")
    picture = parser.get_parsed_content("save_results#overlay")
    assert (picture.modalities, picture.names) == (["T1", "FLAIR"], ("FLAIR",))
