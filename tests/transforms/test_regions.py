"""Label numbers and nested regions."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import MetaTensor

from custom_nets.datasets import record_names
from custom_nets.errors import InputError
from custom_nets.transforms.regions import (
    LabelsToRegions,
    LabelsToRegionsd,
    NestRegions,
    NestRegionsd,
    RegionsToLabels,
    RegionsToLabelsd,
)

# necrotic, oedema, enhancing, and what is in no region, as the releases document them
NUMBERS = {"brats2018": (1, 2, 4), "brats2023": (1, 2, 3), "brats2024": (1, 2, 3), "msd_brain": (2, 1, 3)}


def volume(numbers) -> torch.Tensor:
    return torch.tensor(list(numbers)).reshape(1, -1, 1, 1)


@pytest.mark.parametrize("dataset", NUMBERS)
def test_regions_of_each_release(dataset):
    necrotic, oedema, enhancing = NUMBERS[dataset]
    regions = LabelsToRegions(dataset)(volume([0, necrotic, oedema, enhancing])).flatten(1)
    assert regions.tolist() == [[0, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 1]]


def test_resection_cavity_is_in_no_region():
    assert LabelsToRegions("brats2024")(volume([4])).sum() == 0


@given(st.sampled_from(list(NUMBERS)), st.lists(st.integers(0, 3), min_size=1, max_size=30))
def test_round_trip(dataset, picks):
    numbers = (0, *NUMBERS[dataset])
    labels = volume(numbers[p] for p in picks)
    assert torch.equal(RegionsToLabels(dataset)(LabelsToRegions(dataset)(labels)).long(), labels)


def test_inner_regions_are_confined_to_outer_ones():
    # ET without TC, TC without WT: nothing may be written outside the whole tumour
    regions = torch.tensor([[0.9, 0.1, 0.9], [0.9, 0.9, 0.1], [0.9, 0.9, 0.9]]).reshape(3, 3, 1, 1)
    assert RegionsToLabels("brats2018")(regions).flatten().tolist() == [4, 0, 2]


def test_one_region_alone_is_written_as_its_outermost_label():
    assert RegionsToLabels("brats2018")(torch.ones(1, 1, 1, 1)).item() == 2


def test_outermost_regions_can_be_kept_alone():
    assert LabelsToRegions("brats2018", regions=["WT"])(volume([0, 1, 2, 4])).flatten(1).tolist() == [[0, 1, 1, 1]]


def test_float_labels_with_whole_values_are_accepted():
    assert LabelsToRegions("brats2018")(volume([4.0])).flatten().tolist() == [1, 1, 1]


def test_unknown_number_names_case_and_dataset():
    with pytest.raises(InputError, match=r"case-7: label numbers 3 are not in the record 'brats2018'"):
        LabelsToRegionsd("label", "brats2018")({"label": volume([0, 3]), "case": "case-7"})


def test_dataset_of_the_item_wins():
    item = LabelsToRegionsd("label", dataset="brats2018")({"label": volume([3]), "dataset": "brats2023"})
    assert item["label"].flatten().tolist() == [1, 1, 1]
    assert RegionsToLabelsd("label", "brats2018")({"label": item["label"], "dataset": "brats2023"})["label"].item() == 3


def test_unknown_dataset_lists_the_known_ones():
    with pytest.raises(InputError, match=", ".join(record_names())):
        LabelsToRegions("brats1999")


def test_liver_holds_its_tumours():
    assert LabelsToRegions("lits")(volume([0, 1, 2])).flatten(1).tolist() == [[0, 1, 1], [0, 0, 1]]


def test_a_liver_without_tumour_has_an_empty_tumour_channel():
    regions = LabelsToRegionsd("label", dataset="lits")({"label": volume([0, 1, 1]), "case": "c1"})["label"]
    assert regions.flatten(1).tolist() == [[0, 1, 1], [0, 0, 0]]


def test_a_tumour_outside_the_liver_is_not_written():
    regions = torch.tensor([[0.2, 0.9], [0.9, 0.9]]).reshape(2, 2, 1, 1)
    assert RegionsToLabels("lits")(regions).flatten().tolist() == [0, 2]


@given(st.integers(1, 4), st.data())
def test_nesting_is_the_minimum_of_a_region_and_all_outer_ones(count, data):
    values = data.draw(st.lists(st.floats(0, 1, width=16), min_size=count * 3, max_size=count * 3))
    regions = torch.tensor(values, dtype=torch.float16).reshape(count, 3, 1, 1)
    slow = torch.stack([regions[: index + 1].amin(dim=0) for index in range(count)])
    assert torch.equal(NestRegions()(regions).as_tensor(), slow)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.uint8, torch.bool])
def test_nesting_keeps_type_and_metadata(dtype):
    regions = MetaTensor(torch.ones(2, 2, 2, 2, dtype=dtype), affine=2 * torch.eye(4), meta={"case": "c1"})
    nested = NestRegionsd("pred")({"pred": regions})["pred"]
    assert (nested.dtype, nested.meta["case"]) == (dtype, "c1")
    assert torch.equal(nested.affine, regions.affine)


def nested_of(in_place):
    regions = torch.tensor([0.25, 0.75]).reshape(2, 1, 1, 1)
    NestRegions(in_place=in_place)(regions)
    return regions.flatten().tolist()


def test_nesting_leaves_its_input_alone():
    assert nested_of(in_place=False) == [0.25, 0.75]


def test_nesting_in_place_writes_into_its_input():
    assert nested_of(in_place=True) == [0.25, 0.25]


@given(st.lists(st.floats(0, 1, width=16), min_size=12, max_size=12))
def test_labels_of_half_precision_are_those_of_single_precision(values):
    regions = torch.tensor(values).reshape(2, 3, 2, 1)
    assert torch.equal(RegionsToLabels("lits")(regions.half()), RegionsToLabels("lits")(regions))


def test_a_number_on_one_slice_alone_is_found():
    labels = torch.zeros(1, 4, 3, 2)
    labels[0, 3, 1, 1] = 7
    with pytest.raises(InputError, match="label numbers 7 are not in the record 'lits'"):
        LabelsToRegions("lits")(labels)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_what_is_not_finite_is_no_prediction(value, dtype):
    pred = torch.zeros(2, 3, 3, 3, dtype=dtype)
    pred[1, 2, 2, 2] = value
    with pytest.raises(InputError, match=r"case a: what the network gives is not finite"):
        NestRegionsd("pred")({"pred": pred, "case": "a"})
