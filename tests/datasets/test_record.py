"""Records are read as they are written, and their faults are named."""

import pytest

from custom_nets.datasets.record import get_record, parse_record, record_names, shipped_records
from custom_nets.errors import InputError

SMALLEST = {"title": "T", "channels": {"CT": {"kind": "CT"}}, "layouts": ["files"]}


@pytest.mark.parametrize("name", record_names())
def test_every_record_says_where_its_data_come_from(name):
    record = get_record(name)
    assert record.title
    assert record.licence or record.labels is None
    assert record.citation or record.labels is None


@pytest.mark.parametrize("record", shipped_records(), ids=record_names())
def test_what_is_written_for_a_region_is_in_it(record):
    for region in record.labels.regions if record.labels else ():
        assert region.written in region.numbers


# Numbers as the organisers publish them: necrotic or non-enhancing core, oedema, enhancing tumour.
@pytest.mark.parametrize(
    ("name", "core", "oedema", "enhancing"),
    [
        ("brats2018", {1}, 2, 4),
        ("brats2023", {1}, 2, 3),
        ("brats2023_met", {1}, 2, 3),
        ("brats2023_men", {1}, 2, 3),
        ("brats2023_ssa", {1}, 2, 3),
        ("brats2023_ped", {1}, 2, 3),
        ("brats2024", {1}, 2, 3),
        ("brats2024_ped", {2, 3}, 4, 1),
        ("msd_brain", {2}, 1, 3),
        ("upenn_gbm", {1}, 2, 4),
        ("ucsf_pdgm", {1}, 2, 4),
    ],
)
def test_regions_of_brain_tumours(name, core, oedema, enhancing):
    regions = {region.name: set(region.numbers) for region in get_record(name).labels.regions}
    assert regions == {"WT": core | {oedema, enhancing}, "TC": core | {enhancing}, "ET": {enhancing}}


@pytest.mark.parametrize(
    ("name", "case", "patient"),
    [
        ("brats2023", "BraTS-GLI-00001-001", "BraTS-GLI-00001"),
        ("upenn_gbm", "UPENN-GBM-00001_21", "UPENN-GBM-00001"),
        ("ucsf_pdgm", "UCSF-PDGM-0409_FU001d", "UCSF-PDGM-0409"),
        ("lgg_flair", "TCGA_CS_4941_19960909", "TCGA_CS_4941"),
        ("brats2018", "BraTS20_Training_001", "BraTS20_Training_001"),
    ],
)
def test_patients(name, case, patient):
    assert get_record(name).patient_of(case) == patient


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chanels": {}}, "unknown key 'chanels'; did you mean channels?"),
        ({"title": ""}, "the key 'title' is missing"),
        ({"layouts": ["bidz"]}, "layout 'bidz' is unknown; expected any of case_folders,"),
        ({"channels": {"A": {"kind": "PET"}}}, "channel A: kind 'PET' is unknown; expected one of MRI, CT, other"),
        ({"labels": {1: "a"}, "regions": {"A": [1, 2]}}, r"region A: number 2 is not among the labels \(1\)"),
        ({"labels": {"x": "a"}}, "label number 'x' is no whole number"),
        ({"cases": "(("}, ".*is no regular expression .missing \\), unterminated subpattern"),
        ({"grid": [1, 2]}, "not enough values"),
        ({"challenges": [{"year": 2020}]}, "'cases' is missing"),
    ],
)
def test_a_fault_is_named_with_its_file(change, message):
    with pytest.raises(InputError, match=f"own.yaml: {message}"):
        parse_record({**SMALLEST, **change}, "own", "own.yaml")


def test_labels_alone_are_regions():
    labels = parse_record({**SMALLEST, "labels": {0: "background", 2: "b", 1: "a"}}, "own").labels
    assert [(region.name, region.numbers, region.written) for region in labels.regions] == [
        ("b", (2,), 2),
        ("a", (1,), 1),
    ]


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(InputError, match=r"dataset 'brats2020' is unknown: expected brats2018, .*; did you mean"):
        get_record("brats2020")


def test_yaml_that_cannot_be_read(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("title: [")
    with pytest.raises(InputError, match=r"own\.yaml: cannot be read as a record of a data set"):
        get_record(file)
