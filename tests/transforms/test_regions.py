"""Label numbers and nested regions."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from custom_nets.errors import InputError
from custom_nets.transforms.regions import SCHEMES, LabelsToRegions, LabelsToRegionsd, RegionsToLabels, RegionsToLabelsd

# necrotic, oedema, enhancing, and what is in no region, as the releases document them
NUMBERS = {"brats2018": (1, 2, 4), "brats2023": (1, 2, 3), "brats2024": (1, 2, 3), "msd_brain": (2, 1, 3)}


def volume(numbers) -> torch.Tensor:
    return torch.tensor(list(numbers)).reshape(1, -1, 1, 1)


@pytest.mark.parametrize("scheme", NUMBERS)
def test_regions_of_each_release(scheme):
    necrotic, oedema, enhancing = NUMBERS[scheme]
    regions = LabelsToRegions(scheme)(volume([0, necrotic, oedema, enhancing])).flatten(1)
    assert regions.tolist() == [[0, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 1]]


def test_resection_cavity_is_in_no_region():
    assert LabelsToRegions("brats2024")(volume([4])).sum() == 0


@given(st.sampled_from(list(NUMBERS)), st.lists(st.integers(0, 3), min_size=1, max_size=30))
def test_round_trip(scheme, picks):
    numbers = (0, *NUMBERS[scheme])
    labels = volume(numbers[p] for p in picks)
    assert torch.equal(RegionsToLabels(scheme)(LabelsToRegions(scheme)(labels)).long(), labels)


def test_inner_regions_are_confined_to_outer_ones():
    # ET without TC, TC without WT: nothing may be written outside the whole tumour
    regions = torch.tensor([[0.9, 0.1, 0.9], [0.9, 0.9, 0.1], [0.9, 0.9, 0.9]]).reshape(3, 3, 1, 1)
    assert RegionsToLabels("brats2018")(regions).flatten().tolist() == [4, 0, 2]


def test_one_region_alone_is_written_as_its_outermost_label():
    assert RegionsToLabels("brats2018")(torch.ones(1, 1, 1, 1)).item() == 2


def test_outermost_regions_can_be_kept_alone():
    assert LabelsToRegions("brats2018", num_regions=1)(volume([0, 1, 2, 4])).flatten(1).tolist() == [[0, 1, 1, 1]]


def test_float_labels_with_whole_values_are_accepted():
    assert LabelsToRegions("brats2018")(volume([4.0])).flatten().tolist() == [1, 1, 1]


def test_unknown_number_names_case_and_scheme():
    with pytest.raises(InputError, match=r"case-7: label numbers 3 are not in the scheme 'brats2018'"):
        LabelsToRegionsd("label")({"label": volume([0, 3]), "case": "case-7"})


def test_scheme_of_the_item_wins():
    item = LabelsToRegionsd("label", scheme="brats2018")({"label": volume([3]), "scheme": "brats2023"})
    assert item["label"].flatten().tolist() == [1, 1, 1]
    assert RegionsToLabelsd("label")({"label": item["label"], "scheme": "brats2023"})["label"].item() == 3


def test_unknown_scheme_lists_the_known_ones():
    with pytest.raises(InputError, match=", ".join(SCHEMES)):
        LabelsToRegions("brats1999")
