"""Names, colours and codes of what a label map holds, in the formats of viewers and clinics."""

import json

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from custom_nets.datasets.record import get_record
from custom_nets.errors import InputError
from custom_nets.io.dicom import CT, read_series
from custom_nets.io.dicom_results import DicomResult
from custom_nets.transforms.saving.results import SaveResultsd
from custom_nets.transforms.saving.segments import (
    THIS_PACKAGE,
    SaveSegmentsd,
    SegmentSettings,
    algorithm_of,
    save_label_tables,
    write_dicom,
)

BRATS = ("WT", "TC", "ET")
AFFINE = np.array([[-0.7, 0.1, 0, 30], [0.1, 0.8, 0.2, -20], [0, 0.3, 2.5, 7], [0, 0, 0, 1]])


@pytest.fixture
def item():
    """Nested regions as a network gives them."""
    regions = torch.zeros(3, 12, 10, 8, dtype=torch.float16)
    regions[0, 2:10, 2:9, 1:7] = regions[1, 3:7, 3:8, 2:6] = regions[2, 4:6, 4:7, 3:5] = 0.9
    return {"case": "c1", "pred": MetaTensor(regions, affine=torch.tensor(AFFINE)), "dataset": "brats2018"}


class TestTables:
    def test_slicer_and_itksnap_read_names_and_colours_of_the_numbers(self, tmp_path):
        save_label_tables(tmp_path, get_record("brats2018"), BRATS)
        assert (tmp_path / "labels_brats2018.ctbl").read_text().splitlines()[1:] == [
            "0 Background 0 0 0 0",
            "1 necrotic_and_non-enhancing_core 240 228 66 255",
            "2 oedema 86 180 233 255",
            "4 enhancing_tumour 232 96 28 255",
        ]
        rows = [row.split(maxsplit=7) for row in (tmp_path / "labels_brats2018.txt").read_text().splitlines()[2:]]
        assert rows[0] == ["0", "0", "0", "0", "0", "0", "0", '"Clear Label"']
        assert rows[2] == ["2", "86", "180", "233", "1", "1", "1", '"oedema"']

    def test_a_number_in_no_region_has_a_colour_of_its_own(self, tmp_path):
        save_label_tables(tmp_path, get_record("brats2024"), BRATS)
        colours = [row.split()[2:5] for row in (tmp_path / "labels_brats2024.ctbl").read_text().splitlines()[1:]]
        assert len(set(map(tuple, colours))) == 5

    def test_records_of_a_person_do_not_overwrite_each_other(self, tmp_path):
        for folder, names in (("a", "{1: bone}"), ("b", "{1: liver}")):
            (tmp_path / folder).mkdir()
            record = tmp_path / folder / "mine.yaml"
            record.write_text(f"title: mine\nlayouts: [files]\nchannels: {{PD: }}\nlabels: {names}\n")
            save_label_tables(tmp_path / "out", get_record(record), get_record(record).labels.region_names)
        assert len(list((tmp_path / "out").glob("labels_mine~*.ctbl"))) == 2

    def test_every_shipped_name_has_a_code_that_dicom_knows(self):
        concepts = pytest.importorskip("pydicom.sr._concepts_dict").concepts["SCT"]
        known = {code: meanings for meaning in concepts.values() for code, (meanings, *_) in meaning.items()}
        for name in ("brats2018", "brats2023_ped", "brats2024_ped", "lgg_flair", "lits", "msd_brain", "msd_liver"):
            record = get_record(name)
            named = {term.name for term in record.terms}
            wanted = {*record.labels.region_names, *(label for _, label in record.labels.names)}
            assert wanted <= named
            for term in record.terms:
                for code in filter(None, (term.type, term.category, term.anatomy)):
                    assert code.value in known

    @pytest.mark.parametrize(
        ("terms", "message"),
        [
            ("lung", "terms 'lung' are unknown; expected brain_tumour, liver, or a code for each name"),
            ("{bone: {category: [1, Bone]}}", "terms, bone: 'type' is missing"),
            ("{bone: {type: 272673000}}", r"terms, bone: expected a code and its meaning, such as \[10200004, Liver\]"),
            ("{bone: {type: [1, Bone], color: red}}", "terms, bone: 'color' is unknown"),
        ],
    )
    def test_faults_of_terms_are_one_line(self, tmp_path, terms, message):
        record = tmp_path / "r.yaml"
        record.write_text(f"title: r\nlayouts: [files]\nchannels: {{PD: }}\nlabels: {{1: bone}}\nterms: {terms}\n")
        with pytest.raises(InputError, match=message):
            get_record(record)


def test_volumes_name_the_numbers_of_the_label_map(item, tmp_path):
    SaveResultsd(tmp_path, BRATS, segments=SegmentSettings("brats2023"))(item)
    report = json.loads((tmp_path / "c1" / "c1_volumes.json").read_text())
    assert report["dataset"] == "brats2018"
    assert report["labels"] == {"1": "necrotic and non-enhancing core", "2": "oedema", "4": "enhancing tumour"}


class TestSegNrrd:
    @pytest.fixture
    def written(self, item, tmp_path):
        nrrd = pytest.importorskip("nrrd")
        SaveSegmentsd("pred", tmp_path, BRATS, SegmentSettings("brats2018", nrrd=True))(item)
        return nrrd.read(str(tmp_path / "c1" / "c1_prediction.seg.nrrd"), index_order="F")

    def test_nested_regions_lie_in_layers(self, written, item):
        voxels, header = written
        np.testing.assert_array_equal(voxels, item["pred"].numpy() > 0.5)
        assert [header[f"Segment{k}_Layer"] for k in range(3)] == ["0", "1", "2"]
        assert [header[f"Segment{k}_Name"] for k in range(3)] == list(BRATS)
        assert header["Segment0_Color"] == "0.337255 0.705882 0.913725"
        assert "~SCT^108369006^Neoplasm~^^~Anatomic codes" in header["Segment0_Tags"]

    def test_it_lies_where_the_image_does(self, written):
        _, header = written
        to_lps = np.diag([-1.0, -1, 1])
        np.testing.assert_allclose(header["space directions"][1:], (to_lps @ AFFINE[:3, :3]).T)
        np.testing.assert_allclose(header["space origin"], to_lps @ AFFINE[:3, 3])

    def test_regions_side_by_side_share_a_layer(self, tmp_path):
        nrrd = pytest.importorskip("nrrd")
        record = tmp_path / "r.yaml"
        record.write_text("title: r\nlayouts: [files]\nchannels: {PD: }\nlabels: {3: bone, 5: cartilage}\n")
        regions = torch.zeros(2, 6, 5, 4)
        regions[0, :2], regions[1, 4:] = 1, 1
        case = {"case": "c1", "pred": MetaTensor(regions, affine=torch.tensor(AFFINE))}
        SaveSegmentsd("pred", tmp_path, ("bone", "cartilage"), SegmentSettings(str(record), nrrd=True))(case)
        voxels, header = nrrd.read(str(tmp_path / "c1" / "c1_prediction.seg.nrrd"), index_order="F")
        np.testing.assert_array_equal(voxels, regions[0] + 2 * regions[1])
        assert header["Segment1_LabelValue"] == "2"


class TestDicom:
    def test_a_case_of_a_file_has_none_and_is_told(self, item, tmp_path, caplog):
        pytest.importorskip("highdicom")
        SaveSegmentsd("pred", tmp_path, BRATS, SegmentSettings("brats2018", dicom=["seg"]))(item)
        assert "c1: no DICOM results, as it was not read from a DICOM series; `custom-nets dicom`" in caplog.text
        assert not (tmp_path / "c1").exists()

    def test_an_unknown_format_is_refused_at_the_start(self):
        with pytest.raises(InputError, match="DICOM format 'sr' is unknown; expected any of seg, rtstruct"):
            SegmentSettings("lits", dicom=["sr"])

    def test_a_missing_package_is_told_at_the_start(self, monkeypatch):
        monkeypatch.setattr("custom_nets.transforms.saving.segments.find_spec", lambda name: None)
        with pytest.raises(InputError, match=r"the package highdicom is missing.*pip install highdicom"):
            SegmentSettings("lits", dicom=["seg"])
        assert SegmentSettings("lits").dicom == ()

    def test_no_seg_of_a_tilted_gantry(self, tmp_path, caplog):
        dicom = pytest.importorskip("tests.io.test_dicom_results")
        scan = dicom.write_scan(tmp_path / "scan", dicom.GRIDS["tilted"])
        labels, series = np.ones(dicom.SHAPE, np.uint8), read_series(scan, "a", CT)
        result = DicomResult(labels, dicom.LIVER, series, dicom.ALGORITHM, "a")
        files = write_dicom(tmp_path, "a", ["seg", "rtstruct"], result)
        assert [file.name for file in files] == ["a_rtstruct.dcm"]
        assert "shifted by up to 7.7 voxels (tilted gantry)" in caplog.text
        with pytest.raises(InputError, match="no SEG is written: take rtstruct, or the NIfTI file"):
            write_dicom(tmp_path, "a", ["seg"], result)

    def test_name_and_version_are_those_of_the_bundle(self, tmp_path):
        (tmp_path / "configs").mkdir()
        assert algorithm_of(tmp_path) == THIS_PACKAGE
        (tmp_path / "configs" / "metadata.json").write_text('{"name": "Liver", "version": "2.0"}')
        assert algorithm_of(tmp_path) == ("Liver", "2.0")
