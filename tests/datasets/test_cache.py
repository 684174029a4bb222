"""Preprocessed cases on the disk: what finds them again, and what does not."""

import functools
import math
import os
import random
import re
import subprocess
import sys
import threading
import warnings
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import CacheDataset, MetaTensor, PersistentDataset
from monai.transforms import (
    CenterSpatialCropd,
    Compose,
    CropForegroundd,
    Lambdad,
    MapTransform,
    NormalizeIntensityd,
    Orientationd,
    RandScaleIntensityd,
    Resized,
    Spacingd,
)
from monai.utils import GridSampleMode

from custom_nets.datasets import PersistentCaseDataset, hash_case, hash_settings
from custom_nets.errors import InputError
from custom_nets.transforms import CheckCased, LabelsToRegionsd, LoadCased
from tests.conftest import REPOSITORY

CASE = "BraTS20_Training_001"


def chain(
    keys=("image", "label"),
    modalities=("FLAIR", "T1", "T1ce", "T2"),
    regions=("WT", "TC", "ET"),
    axcodes="LPS",
    margin=1,
    allow_smaller=True,
    nonzero=True,
    channel_wise=True,
    subtrahend=None,
) -> list:
    """Deterministic transforms of the kind that a bundle has."""
    return [
        LoadCased(keys),
        CheckCased(keys, modalities),
        LabelsToRegionsd("label", "brats2018", regions),
        Orientationd(keys, axcodes, labels=None),
        CropForegroundd(keys, "image", margin=margin, allow_smaller=allow_smaller),
        NormalizeIntensityd("image", subtrahend=subtrahend, nonzero=nonzero, channel_wise=channel_wise),
    ]


@pytest.fixture
def item(tmp_path, write_case, write_nifti) -> dict:
    folder = write_case(tmp_path / CASE, CASE, label=None)
    label = write_nifti(folder / f"{CASE}_seg.nii.gz", value=1)
    images = [str(folder / f"{CASE}_{name}.nii.gz") for name in ("flair", "t1", "t1ce", "t2")]
    return {"case": CASE, "image": images, "label": str(label), "dataset": "brats2018"}


@pytest.fixture
def reads(monkeypatch) -> list:
    """The cases that were read from their files so far."""
    found: list = []
    read = LoadCased.__call__

    def counted(self, data, reader=None):
        found.append(data["case"])
        return read(self, data, reader)

    monkeypatch.setattr(LoadCased, "__call__", counted)
    return found


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache"


def stored(cache: Path) -> list[Path]:
    return sorted(cache.iterdir())


# Settings.


def test_equal_settings_have_one_hash():
    assert hash_settings(chain()) == hash_settings(chain())


def test_a_hash_is_a_text_that_names_a_file():
    assert re.fullmatch(rb"[0-9a-f]{64}", hash_settings(chain()))


BUNDLE = """
from monai.bundle import ConfigParser
from custom_nets.datasets import hash_case, hash_settings
parser = ConfigParser()
parser.read_config("bundles/ossnet_brats/configs/train.json")
transforms = parser.get_parsed_content("deterministic_transforms")
print(hash_settings([transforms, {"a", "b", "c", "d"}]).decode(), hash_case({"b": 1, "a": "x"}).decode())
"""


def test_another_process_finds_the_same_hashes(capsys, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    exec(BUNDLE, {})
    ours = capsys.readouterr().out.strip()
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", BUNDLE],
        capture_output=True,
        encoding="utf-8",
        check=True,
        env=environment,
        cwd=REPOSITORY,
    )
    assert done.stdout.strip().splitlines()[-1] == ours


@pytest.mark.parametrize(
    "change",
    [
        {"keys": ("label", "image")},
        {"modalities": ("FLAIR", "T1", "T2")},
        {"regions": ("WT", "TC")},
        {"regions": None},
        {"axcodes": "RAS"},
        {"margin": 2},
        {"margin": (1, 1, 2)},
        {"allow_smaller": False},
        {"nonzero": False},
        {"channel_wise": False},
        {"subtrahend": np.array([1.0, 2.0])},
        {"subtrahend": np.array([1.0, 2.5])},
        {"subtrahend": np.array([1.0, 2.0], dtype=np.float32)},
        {"subtrahend": torch.tensor([1.0, 2.0])},
        {"subtrahend": MetaTensor([1.0, 2.0])},
    ],
    ids=str,
)
def test_every_setting_counts(change):
    assert hash_settings(chain(**change)) == hash_settings(chain(**change))
    others = [hash_settings(chain()), hash_settings(chain(subtrahend=0.0)), hash_settings(chain(margin=3))]
    assert hash_settings(chain(**change)) not in others


def test_the_order_counts():
    assert hash_settings(chain()) != hash_settings(chain()[::-1])


def test_the_class_counts():
    class Other(CheckCased):
        pass

    assert hash_settings([Other()]) != hash_settings([CheckCased()])


@pytest.mark.parametrize("package", ["custom_nets", "monai"])
def test_versions_count(monkeypatch, package):
    before = hash_settings(chain())
    monkeypatch.setattr(sys.modules[package], "__version__", "99")
    assert hash_settings(chain()) != before


class Colour(Enum):
    RED = 1
    BLUE = 2


class Plain:
    def __init__(self, value: object) -> None:
        self.value = value


def linear(weight: float) -> torch.nn.Module:
    layer = torch.nn.Linear(1, 1)
    for parameter in layer.parameters():
        torch.nn.init.constant_(parameter, weight)
    return layer


@pytest.mark.parametrize(
    "make",
    [
        int,
        lambda n: float(n) / 3,
        lambda n: bool(n),
        lambda n: str(n),
        lambda n: bytes([n]),
        lambda n: complex(0, n),
        lambda n: [None] * n,
        lambda n: [[], [n]] if n else [[n], []],
        lambda n: {"a": n},
        lambda n: {n: "a"},
        lambda n: {"a", n},
        lambda n: Path(f"file{n}"),
        lambda n: Colour(n + 1),
        lambda n: Plain(n),
        lambda n: [Plain, Colour][n],
        lambda n: np.int16(n),
        lambda n: np.full((2, 2), n),
        lambda n: np.zeros((n, 0)),
        lambda n: np.dtype(f"i{2 + 2 * n}"),
        lambda n: [torch.float32, torch.float16][n],
        lambda n: torch.device("cuda", n),
        lambda n: torch.tensor(n),
        lambda n: torch.full((3,), n, dtype=torch.bfloat16),
        lambda n: torch.tensor([True, bool(n)]),
        lambda n: torch.arange(6).reshape(2, 3).T if n else torch.arange(6).reshape(3, 2),
        lambda n: MetaTensor(torch.zeros(1), meta={"case": str(n)}),
        linear,
        lambda n: functools.partial(math.pow, n),
        lambda n: functools.partial(math.pow, y=n),
        lambda n: [math.sin, math.cos][n],
        lambda n: [np.add, np.multiply][n],
        lambda n: [torch.sin, torch.cos][n],
        lambda n: Compose([]).get_index_of_first if n else Compose([]).flatten,
    ],
)
def test_every_kind_of_setting_counts_by_its_content(make):
    assert hash_settings(make(1)) == hash_settings(make(1))
    assert hash_settings(make(0)) != hash_settings(make(1))


def test_a_list_and_a_tuple_of_the_same_are_one_setting():
    assert hash_settings(chain(margin=[1, 1, 2])) == hash_settings(chain(margin=(1, 1, 2)))


def test_an_enum_of_monai_and_its_text_are_one_setting():
    assert hash_settings(GridSampleMode.BILINEAR) == hash_settings("bilinear")


@pytest.mark.parametrize("kind", [random.Random, np.random.RandomState, np.random.default_rng])
def test_random_state_is_no_setting(kind):
    assert hash_settings([kind(1)]) == hash_settings([kind(2)])


def test_settings_may_refer_to_each_other():
    def ring(number: int) -> Plain:
        first, second = Plain(0), Plain(number)
        first.value = [second, first]
        return first

    assert hash_settings(ring(1)) == hash_settings(ring(1))
    assert hash_settings(ring(1)) != hash_settings(ring(2))


def test_a_used_transform_has_the_hash_of_a_new_one(item):
    transforms = chain()
    Compose(transforms)(item)
    assert hash_settings(transforms) == hash_settings(chain())


@pytest.mark.parametrize(
    "setting", [threading.Lock(), lambda values: values + 1, slice(3)], ids=["lock", "lambda", "slice"]
)
def test_a_setting_that_cannot_be_compared_is_one_clear_line(setting):
    transform = Lambdad("image", functools.partial(print, setting))
    with pytest.raises(InputError, match=r"Lambdad > .*: a setting of this type cannot be compared") as raised:
        hash_settings([transform])
    assert "\n" not in str(raised.value)


# Items.


def test_equal_items_have_one_hash(item):
    assert hash_case(item) == hash_case(dict(reversed(item.items())))


@pytest.mark.parametrize("change", [{"dataset": "brats2023"}, {"case": "other"}, {"label": "absent.nii"}, {"more": 1}])
def test_the_content_of_an_item_counts(item, change):
    assert hash_case({**item, **change}) != hash_case(item)


@pytest.mark.parametrize("as_path", [str, Path])
def test_the_time_of_a_file_counts(item, as_path):
    item = {**item, "label": as_path(item["label"])}
    before = hash_case(item)
    os.utime(item["label"], ns=(1, 1))
    assert hash_case(item) != before


def test_the_size_of_a_file_in_a_list_counts(item):
    before, path = hash_case(item), Path(item["image"][2])
    times = path.stat()
    path.write_bytes(path.read_bytes() + b"x")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert hash_case(item) != before


@pytest.mark.parametrize("text", ["x" * 5000, "nul\0nul", ""])
def test_a_text_that_can_be_no_file_name_is_an_ordinary_one(text):
    assert hash_case({"note": text}) != hash_case({"note": text + "."})


# The data set.


def test_a_second_data_set_with_equal_settings_reads_no_case(item, cache, reads):
    PersistentCaseDataset([item], chain(), cache)[0]
    PersistentCaseDataset([item], chain(), cache)[0]
    assert len(reads) == 1


def test_a_changed_setting_is_computed_anew(item, cache, reads):
    for margin in (1, 2):
        PersistentCaseDataset([item], chain(margin=margin), cache)[0]
    assert len(reads) == 2


def test_a_replaced_file_is_computed_anew(item, cache, reads, write_nifti):
    first = PersistentCaseDataset([item], chain(), cache)[0]
    write_nifti(Path(item["label"]), value=2)
    second = PersistentCaseDataset([item], chain(), cache)[0]
    assert len(reads) == 2
    assert first["label"][1].any()
    assert not second["label"][1].any()


def test_cases_are_told_apart(item, cache, reads):
    cases = PersistentCaseDataset([item, {**item, "case": "other"}], chain(), cache)
    assert [cases[index]["case"] for index in (0, 1, 0, 1)] == [CASE, "other"] * 2
    assert len(reads) == 2


def assert_same(first, second, place: str = "item") -> None:
    """Types and values are the same, at any depth."""
    assert type(first) is type(second), place
    if isinstance(first, MetaTensor):
        assert_same(first.meta, second.meta, f"{place}.meta")
        assert_same(first.applied_operations, second.applied_operations, f"{place}.applied_operations")
        assert_same(first.as_tensor(), second.as_tensor(), place)
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), place
        for key in first:
            assert_same(first[key], second[key], f"{place}.{key}")
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), place
        for index, (one, other) in enumerate(zip(first, second, strict=True)):
            assert_same(one, other, f"{place}.{index}")
    elif isinstance(first, (torch.Tensor, np.ndarray, np.generic)):
        assert first.dtype == second.dtype, place
        np.testing.assert_array_equal(first, second, place)
    else:
        assert first == second or (first != first and second != second), place  # NaN


def test_what_is_read_is_what_was_computed(item, cache, reads):
    transforms = [
        *chain(),
        Spacingd("image", 1.5),
        Resized(["image", "label"], (4, 4, 4), mode=("trilinear", "nearest")),
    ]
    plain = CacheDataset([item], transforms, progress=False)[0]
    computed = PersistentCaseDataset([item], transforms, cache)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = PersistentCaseDataset([item], transforms, cache)[0]
    assert len(reads) == 2
    assert_same(read, computed)
    assert torch.equal(read["image"].affine, plain["image"].affine)
    assert torch.equal(read["image"], plain["image"])
    assert len(read["image"].applied_operations) == 4


def test_what_is_read_can_be_brought_back_onto_the_grid_of_the_file(item, cache):
    transforms = Compose(chain()[:-1])
    cases = [PersistentCaseDataset([item], transforms, cache)[0] for _ in range(2)]
    original = LoadCased()(item)
    restored = Compose(transforms.transforms[3:]).inverse(cases[1])
    assert torch.equal(restored["image"].affine, original["image"].affine)
    assert torch.equal(restored["image"].as_tensor(), original["image"].as_tensor())


def test_random_transforms_are_not_kept(item, cache):
    transforms = [*chain(), RandScaleIntensityd("image", factors=(1.0, 1.0), prob=1.0)]
    cases = PersistentCaseDataset([item], transforms, cache)
    kept = PersistentCaseDataset([item], chain(), cache)[0]["image"]
    for _ in range(2):
        torch.testing.assert_close(cases[0]["image"].as_tensor(), 2 * kept.as_tensor())


def test_settings_of_random_transforms_find_the_same_cases(item, cache, reads):
    for prob in (0.1, 0.2):
        PersistentCaseDataset([item], [*chain(), RandScaleIntensityd("image", 0.1, prob=prob)], cache)[0]
    assert len(reads) == 1


def test_transforms_in_a_nested_compose_are_kept(item, cache, reads):
    for _ in range(2):
        PersistentCaseDataset([item], [Compose(chain()), RandScaleIntensityd("image", 0.1)], cache)[0]
    assert len(reads) == 1


def test_a_kept_item_is_not_changed_through_the_one_handed_out(item, cache):
    cases = PersistentCaseDataset([item], chain(), cache)
    cases[0]["image"] *= 0
    assert cases[0]["image"].any()


def test_a_crop_is_kept_without_the_image_that_it_was_cut_from(cache):
    class Make(MapTransform):
        def __call__(self, data):
            return {**data, "image": MetaTensor(torch.rand(1, 64, 64, 64))}

    cases = PersistentCaseDataset([{"case": "a"}], [Make("image"), CenterSpatialCropd("image", 4)], cache)
    assert cases[0]["image"].shape == (1, 4, 4, 4)
    assert stored(cache)[0].stat().st_size < 64**3
    assert cases[0]["image"].untyped_storage().nbytes() == 4 * 4**3


@pytest.mark.parametrize("content", [b"", b"hello", None])
def test_a_damaged_file_is_computed_anew(item, cache, reads, content):
    first = PersistentCaseDataset([item], chain(), cache)[0]
    (file,) = stored(cache)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.warns(UserWarning, match=f"{file.name}: cannot be read"):
        second = PersistentCaseDataset([item], chain(), cache)[0]
    assert_same(first, second)
    PersistentCaseDataset([item], chain(), cache)[0]
    assert len(reads) == 2


def test_code_in_a_kept_file_is_not_run(item, cache, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    PersistentCaseDataset([item], chain(), cache)[0]
    torch.save({"image": Trap()}, stored(cache)[0])
    with pytest.warns(UserWarning, match="cannot be read"):
        PersistentCaseDataset([item], chain(), cache)[0]
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("failed\nwriting")])
def test_a_full_disk_costs_a_warning(item, cache, monkeypatch, error):
    def full(*_arguments, **_options):
        raise error

    monkeypatch.setattr(torch, "save", full)
    with pytest.warns(UserWarning, match=r"cache: cannot keep .*(No space left on device|failed writing)\)"):
        case = PersistentCaseDataset([item], chain(), cache)[0]
    assert case["case"] == CASE
    assert stored(cache) == []


def test_without_a_folder_nothing_is_kept(item, reads):
    cases = PersistentCaseDataset([item], chain(), None)
    assert_same(cases[0], cases[0])
    assert len(reads) == 2


def test_other_items_leave_the_folder_as_it_is(item, cache):
    cache.mkdir()
    (cache / "thesis.doc").touch()
    cases = PersistentCaseDataset([], chain(), cache)
    cases.set_data([item])
    assert (cache / "thesis.doc").exists()
    assert cases[0]["case"] == CASE


def test_the_hashes_serve_monais_own_data_set(item, cache, reads):
    for _ in range(2):
        cases = PersistentDataset(
            [item], chain(), cache, hash_case, hash_transform=hash_settings, track_meta=True, weights_only=False
        )
        case = cases[0]
    assert len(reads) == 1
    assert torch.equal(case["image"].affine, Compose(chain())(item)["image"].affine)
