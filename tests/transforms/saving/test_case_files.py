"""Each case has files of its own, whatever it is called."""

import unicodedata
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import Compose, SaveImaged

from custom_nets.transforms import MeshSettings, OverlaySettings, SaveResultsd, WholeNibabelWriter, case_name
from custom_nets.transforms.saving.case_files import file_name, result_file

ODD = [
    "TCGA-02-0006_1996.08.23",
    "TCGA-02-0006_1996.08.30",
    "1.2.840.113619.2.55.3.604688119.969.1268071029.320",
    "scan 12:30",
    "new\nline",
    "~root",
    'it\'s "so"',
    "a;b,c|d&e",
    "50 % $HOME $^{",
    "@bundle_root#1",
    "Ärzte 東京",
    "L" * 240,
    "L" * 241,
    "東" * 85,
    "-dash",
    "..",
    ".hidden",
    "a/b",
    "a_b",
    "a\\b",
    "undecodable \udcff",
    "x.nii.gz",
    "7",
]

names = st.text(min_size=1, max_size=300).filter(lambda text: "\0" not in text)


@pytest.mark.parametrize("name", ODD)
def test_every_result_is_in_the_folder_of_its_case(tmp_path, name):
    image = MetaTensor(torch.rand(1, 4, 4, 4), meta={"case": name})
    prediction = MetaTensor((torch.rand(1, 4, 4, 4) > 0.5).float(), meta={"case": name})
    save = Compose(
        [
            SaveResultsd(
                tmp_path, ["liver"], True, MeshSettings(), OverlaySettings(["CT"], window=[0, 1], reread=False)
            ),
            SaveImaged(
                "pred",
                output_dir=tmp_path,
                output_postfix="prediction",
                output_name_formatter=case_name,
                output_dtype=np.uint8,
                resample=False,
                writer=WholeNibabelWriter,
                print_log=False,
            ),
        ]
    )
    save({"image": image, "pred": prediction, "case": name})
    (folder,) = tmp_path.iterdir()
    endings = ["_liver.obj", "_overlay.png", "_prediction.nii.gz", "_probabilities.nii.gz", "_volumes.json"]
    assert {file.name for file in folder.iterdir()} == {folder.name + ending for ending in endings} | {"regions.mtl"}
    assert folder.name == file_name(name)


@pytest.mark.parametrize("name", [name for name in ODD if name[0] in "T17s@Ä5"])
def test_a_plain_name_stays(tmp_path, name):
    assert result_file(tmp_path, name, "_volumes.json") == tmp_path / name / f"{name}_volumes.json"


def test_odd_names_never_meet():
    for one, other in combinations([*ODD, *map(file_name, ODD)], 2):
        assert one == other or file_name(one) == one or file_name(one) != file_name(other)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
@given(one=names, other=names)
@example(one="a/b", other="a_b~c14cddc033f6")
def test_names_never_meet(one, other):
    assert (file_name(one) == file_name(other)) == (one == other)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(one=names, other=names)
@example(one=unicodedata.normalize("NFC", "Ärzte"), other=unicodedata.normalize("NFD", "Ärzte"))
@example(one="\u00c5", other="\u212b")  # the letter and the unit of length
def test_names_that_unicode_writes_in_two_ways_never_meet(one, other):
    """As on macOS, which takes both for one file."""
    met = unicodedata.normalize("NFD", file_name(one)) == unicodedata.normalize("NFD", file_name(other))
    assert met == (one == other)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(name=names)
def test_a_name_is_that_of_one_file(name):
    made = file_name(name)
    assert "/" not in made
    assert made not in {"", ".", ".."}
    assert len(made.encode("utf-8", "surrogateescape")) <= 160
    assert not any(unicodedata.category(letter).startswith("C") for letter in made)
