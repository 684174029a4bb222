"""Liver data sets as downloaded are recognised, and faulty ones are named."""

import logging
import shutil
import zlib
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from custom_nets.datasets import cases_to_infer, datalist, describe_cases, hash_case, labelled_cases, record_names
from custom_nets.datasets.case_record import load_case_record
from custom_nets.datasets.validation import check_case, check_datalist
from custom_nets.errors import InputError
from custom_nets.io.nifti import read_header
from tests.conftest import SHARED

CT = ("CT",)
lits_datalist = partial(datalist, modalities=CT)
lits_split = partial(labelled_cases, modalities=CT)
lits_cases = partial(cases_to_infer, modalities=CT)
brats_datalist = partial(datalist, modalities=("FLAIR", "T1", "T1ce", "T2"))
check_ct_case = partial(check_case, modalities=CT)


def cases(items):
    return [item["case"] for item in items]


def write_identity(path, dtype=np.int16):
    scan = np.full((6, 5, 4), zlib.crc32(path.name.encode()) % 1000 + 1, dtype)  # no two alike
    nib.save(nib.Nifti1Image(scan, np.eye(4)), path)
    return path


@pytest.fixture
def write_pair(write_nifti):
    def write(folder, number, suffix=".nii.gz"):
        volume = write_nifti(folder / f"volume-{number}{suffix}", value=number)
        return volume, write_nifti(folder / f"segmentation-{number}{suffix}")

    return write


@pytest.fixture
def lits2017(tmp_path, write_pair):
    root = tmp_path / "LiTS"
    for number in (10, 2, 1):
        write_pair(root, number)
    return root


@pytest.fixture
def task03(tmp_path, write_nifti):
    """Two labelled cases and one without."""
    root = tmp_path / "Task03_Liver"
    for folder, number in (("imagesTr", 10), ("imagesTr", 2), ("imagesTs", 132)):
        write_nifti(root / folder / f"liver_{number}.nii.gz")
    for number in (2, 10):
        write_nifti(root / "labelsTr" / f"liver_{number}.nii.gz")
    (root / "dataset.json").write_text('{"modality": {"0": "CT"}}')
    return root


@pytest.fixture
def write_series():
    """Writes a DICOM series of tiny slices."""
    itk = pytest.importorskip("itk")

    def write(folder, study="1.2.3", series="1.2.3.4", places=(0, 2, 4)):
        folder.mkdir(parents=True, exist_ok=True)
        for number, place in enumerate(places):
            image = itk.image_from_array(np.full((1, 3, 4), number, np.int16))
            tags = {
                "0008|0060": "CT",
                "0008|0018": f"{series}.{number + 1}",
                "0020|000d": study,
                "0020|000e": series,
                "0020|0032": f"0\\0\\{place}",
                "0020|0037": "1\\0\\0\\0\\1\\0",
                "0028|0030": "1\\1",
            }
            for tag, value in tags.items():
                image.GetMetaDataDictionary()[tag] = value
            kind = itk.GDCMImageIO.New()
            kind.KeepOriginalUIDOn()
            name = str(folder / f"{number}.dcm")
            itk.ImageFileWriter[type(image)].New(Input=image, FileName=name, ImageIO=kind).Update()
        return folder

    return write


class TestLits2017:
    def test_natural_order(self, lits2017):
        assert cases(lits_datalist(lits2017)) == ["volume-1", "volume-2", "volume-10"]

    def test_item(self, lits2017):
        image, label = (str(lits2017 / f"{role}-1.nii.gz") for role in ("volume", "segmentation"))
        assert lits_datalist(lits2017)[0] == {"case": "volume-1", "image": image, "label": label, "dataset": "lits"}

    def test_scheme_is_known(self, lits2017):
        assert lits_datalist(lits2017)[0]["dataset"] in record_names()

    def test_batches_nested_as_downloaded(self, tmp_path, write_pair):
        below = tmp_path / "Training_Batch1" / "media" / "nas" / "01_Datasets" / "CT" / "LITS"
        write_pair(below / "Training Batch 1", 0, ".nii")
        write_pair(below / "Training Batch 2", 130, ".nii")
        items = lits_datalist(tmp_path)
        assert [(item["case"], Path(item["label"]).parent.name) for item in items] == [
            ("volume-0", "Training Batch 1"),
            ("volume-130", "Training Batch 2"),
        ]

    def test_segmentations_in_another_folder(self, tmp_path, write_nifti):
        write_nifti(tmp_path / "volume_pt1" / "volume-0.nii")
        label = write_nifti(tmp_path / "segmentations" / "segmentation-0.nii")
        assert lits_datalist(tmp_path)[0]["label"] == str(label)

    def test_packed_volume_with_unpacked_segmentation(self, tmp_path, write_nifti):
        write_nifti(tmp_path / "volume-0.nii.gz")
        label = write_nifti(tmp_path / "segmentation-0.nii")
        assert lits_datalist(tmp_path)[0]["label"] == str(label)

    def test_packed_volume_wins_over_its_unpacked_twin(self, lits2017, write_nifti):
        write_nifti(lits2017 / "volume-1.nii")
        assert lits_datalist(lits2017)[0]["image"].endswith("volume-1.nii.gz")

    def test_test_volumes_are_left_out_when_labels_are_required(self, lits2017, write_nifti):
        write_nifti(lits2017 / "test-volume-1.nii")
        assert cases(lits_datalist(lits2017)) == ["volume-1", "volume-2", "volume-10"]

    @pytest.mark.parametrize("labels", ["optional", "ignore"])
    def test_test_volumes_when_labels_are_not_required(self, lits2017, write_nifti, labels):
        write_nifti(lits2017 / "test-volume-1.nii")
        assert cases(lits_datalist(lits2017, labels))[0] == "test-volume-1"

    def test_a_test_volume_takes_no_label_of_a_training_volume(self, lits2017, write_nifti):
        write_nifti(lits2017 / "test-volume-1.nii")
        assert "label" not in lits_datalist(lits2017, "optional")[0]

    def test_test_volumes_alone_have_no_label(self, tmp_path, write_nifti):
        write_nifti(tmp_path / "test-volume-1.nii")
        with pytest.raises(InputError, match="1 of 1 cases have no label: test-volume-1; give the folder"):
            lits_datalist(tmp_path)

    def test_ignored_labels(self, lits2017):
        assert not any("label" in item for item in lits_datalist(lits2017, "ignore"))

    def test_unknown_word_for_labels(self, lits2017):
        with pytest.raises(InputError, match="'yes' is unknown; expected one of required, optional, ignore"):
            lits_datalist(lits2017, "yes")

    def test_a_case_there_twice_is_an_error(self, lits2017):
        shutil.copytree(lits2017, lits2017 / "copy")
        with pytest.raises(InputError, match=r"case volume-1, file .*twice, also as .*; give a folder with one copy"):
            lits_datalist(lits2017)


class TestDecathlon:
    def test_labelled_cases(self, task03):
        assert cases(lits_datalist(task03)) == ["liver_2", "liver_10"]

    def test_item(self, task03):
        image, label = (str(task03 / folder / "liver_2.nii.gz") for folder in ("imagesTr", "labelsTr"))
        assert lits_datalist(task03)[0] == {"case": "liver_2", "image": image, "label": label, "dataset": "msd_liver"}

    def test_unlabelled_cases_when_labels_are_not_required(self, task03):
        assert cases(lits_datalist(task03, "optional")) == ["liver_2", "liver_10", "liver_132"]

    def test_folder_of_images(self, task03):
        assert lits_datalist(task03 / "imagesTr") == lits_datalist(task03)

    def test_single_file(self, task03):
        assert lits_datalist(task03 / "imagesTr" / "liver_2.nii.gz") == lits_datalist(task03)[:1]

    def test_other_channels_are_an_error(self, task03):
        (task03 / "dataset.json").write_text('{"modality": {"0": "T2", "1": "ADC"}}')
        with pytest.raises(
            InputError, match=r"dataset.json names the channels T2, ADC.*this model sees CT: there is no CT"
        ):
            lits_datalist(task03)

    def test_missing_label(self, task03):
        (task03 / "labelsTr" / "liver_2.nii.gz").unlink()
        with pytest.raises(InputError, match=r"1 of 2 cases have no label: liver_2; .* labelsTr beside imagesTr"):
            lits_datalist(task03)

    def test_label_without_image(self, task03):
        (task03 / "imagesTr" / "liver_2.nii.gz").unlink()
        with pytest.raises(
            InputError, match=r"case liver_2, file .*labelsTr/liver_2.nii.gz: a label without its image"
        ):
            lits_datalist(task03)

    def test_beside_lits_2017_is_an_error(self, task03, lits2017, tmp_path):
        with pytest.raises(InputError, match="and 3 cases of LiTS 2017; give the folder of one of them"):
            lits_datalist(tmp_path)


class TestDicom:
    def test_folder_of_a_series(self, tmp_path, write_series):
        folder = write_series(tmp_path / "patient7")
        assert lits_datalist(folder, "optional") == [{"case": "patient7", "image": str(folder)}]

    def test_one_folder_a_case(self, tmp_path, write_series):
        for number in (10, 9):
            write_series(tmp_path / f"p{number}", study=f"1.2.{number}")
        assert cases(lits_datalist(tmp_path, "optional")) == ["p9", "p10"]

    def test_folders_of_one_name_take_those_above(self, tmp_path, write_series):
        for number in (1, 2):
            write_series(tmp_path / "data" / f"p{number}" / "CT", study=f"1.2.{number}")
        assert cases(lits_datalist(tmp_path, "optional")) == ["p1-CT", "p2-CT"]

    def test_series_of_one_study_are_listed(self, tmp_path, write_series):
        folders = [write_series(tmp_path / name, series=f"1.2.3.{n}") for n, name in enumerate(("arterial", "venous"))]
        with pytest.raises(InputError, match=f"2 DICOM folders are series of one study: {folders[0]}, {folders[1]}; "):
            lits_datalist(tmp_path, "optional")

    def test_missing_slice_is_a_fault(self, tmp_path, write_series):
        folder = write_series(tmp_path / "p1", places=(0, 2, 6, 8))
        with pytest.raises(InputError, match=rf"case p1, folder {folder}: a slice is missing"):
            lits_datalist(tmp_path, "optional")

    def test_there_are_no_labels(self, tmp_path, write_series):
        write_series(tmp_path / "p1")
        with pytest.raises(InputError, match="1 of 1 cases have no label: p1"):
            lits_datalist(tmp_path)

    def test_record_keeps_the_grid(self, tmp_path, write_series):
        lits_cases(write_series(tmp_path / "p1"), record=tmp_path / "cases.json")
        (recorded,) = load_case_record(tmp_path / "cases.json")
        assert (recorded.shape, recorded.affine.tolist()) == ((4, 3, 3), np.diag([-1.0, -1, 2, 1]).tolist())

    def test_single_file_asks_for_its_folder(self, tmp_path):
        (tmp_path / "0.dcm").touch()
        with pytest.raises(InputError, match=r"0.dcm: expected a folder or a NIfTI .*, of a DICOM series its folder"):
            lits_datalist(tmp_path / "0.dcm")


class TestLooseFiles:
    def test_folder_of_3d_files(self, tmp_path, write_nifti):
        paths = [write_nifti(tmp_path / f"{name}.nii.gz") for name in ("ct2", "ct11")]
        expected = [{"case": path.name[:-7], "image": str(path)} for path in paths]
        assert lits_datalist(tmp_path, "ignore") == expected

    def test_any_single_file(self, tmp_path, write_nifti):
        path = write_nifti(tmp_path / "abdomen.nii")
        assert lits_datalist(path, "optional") == [{"case": "abdomen", "image": str(path)}]

    @pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
    def test_single_volume_with_its_segmentation(self, lits2017, write_pair, suffix):
        image, label = write_pair(lits2017, 901, suffix)
        expected = {"case": "volume-901", "image": str(image), "label": str(label), "dataset": "lits"}
        assert lits_datalist(image) == [expected]

    def test_single_segmentation_asks_for_the_volume(self, lits2017):
        with pytest.raises(InputError, match=r"segmentation-1.nii.gz: this is the label of a case; give its volume"):
            lits_datalist(lits2017 / "segmentation-1.nii.gz")

    def test_labels_are_no_cases(self, tmp_path, write_nifti):
        for name in ("ct", "ct_seg", "segmentation-3", "labels/ct"):
            write_nifti(tmp_path / f"{name}.nii")
        assert cases(lits_datalist(tmp_path, "ignore")) == ["ct"]


class TestFaultyCases:
    """One of the three cases of `lits2017` is spoilt; the message names case and file."""

    @pytest.fixture
    def image(self, lits2017):
        return lits2017 / "volume-2.nii.gz"

    @pytest.fixture
    def label(self, lits2017):
        return lits2017 / "segmentation-2.nii.gz"

    def expect(self, file, text):
        with pytest.raises(InputError) as error:
            lits_datalist(file.parent)
        message = str(error.value)
        assert message.startswith(f"1 of 3 cases cannot be used: case volume-2, file {file}: ")
        assert text in message
        assert "\n" not in message

    def test_image_of_four_channels(self, image, write_nifti):
        write_nifti(image, (6, 5, 4, 4))
        self.expect(image, "shape (6, 5, 4, 4), expected a 3D volume (x, y, z): CT alone")

    def test_label_of_two_channels(self, label, write_nifti):
        write_nifti(label, (6, 5, 4, 2))
        self.expect(label, "shape (6, 5, 4, 2), expected a 3D volume (x, y, z); a label map has one number a voxel")

    def test_shape_of_the_label_differs(self, label, write_nifti):
        write_nifti(label, (6, 5, 3))
        self.expect(label, "shape (6, 5, 3), but volume-2.nii.gz has (6, 5, 4)")

    def test_affine_of_the_label_differs(self, label, write_nifti):
        write_nifti(label, shift=3)
        self.expect(label, "affine differs from that of volume-2.nii.gz by up to 3 (")

    def test_image_alone_has_the_identity(self, image, label):
        write_identity(image)
        self.expect(label, "affine differs from that of volume-2.nii.gz by up to 2 (")

    def test_cut_short(self, image, write_nifti):
        image.unlink()
        image = write_nifti(image.with_name("volume-2.nii"))
        image.write_bytes(image.read_bytes()[:-10])
        self.expect(image, "cut short, holds 582 of the 592 bytes that its header promises")

    def test_segmentation_without_its_volume(self, image, label):
        image.unlink()
        self.expect(label, f"a label without its image; expected {image}: copy it there, or remove the label")

    def test_segmentation_without_its_volume_does_not_matter_to_images(self, image):
        image.unlink()
        assert cases(lits_datalist(image.parent, "ignore")) == ["volume-1", "volume-10"]

    def test_segmentation_missing(self, image, label):
        label.unlink()
        with pytest.raises(InputError, match=r"1 of 3 cases have no label: volume-2; .*labels='optional'"):
            lits_datalist(image.parent)

    def test_two_segmentations(self, lits2017, label, write_nifti):
        label.unlink()
        for folder in "ab":
            second = write_nifti(lits2017 / folder / label.name)
        with pytest.raises(InputError, match=rf"case volume-2, file {second}: a second label"):
            lits_datalist(lits2017)

    def test_nothing_is_checked_when_told_so(self, image):
        image.write_bytes(b"")
        assert len(lits_datalist(image.parent, check=False)) == 3

    def test_good_cases_can_go_on(self, image):
        image.write_bytes(b"")
        good, faults = check_datalist(lits_datalist(image.parent, check=False), check=check_ct_case)
        assert (cases(good), len(faults)) == (["volume-1", "volume-10"], 1)

    def test_faulty_cases_are_left_out_of_an_inference(self, image):
        image.write_bytes(b"")
        assert cases(lits_cases(image.parent)) == ["volume-1", "volume-10"]

    def test_cases_left_out_are_logged(self, image, caplog):
        image.write_bytes(b"")
        lits_cases(image.parent)
        assert caplog.messages[0].startswith(f"left out: case volume-2, file {image}: not readable as NIfTI")

    def test_no_case_is_left(self, lits2017):
        for file in lits2017.iterdir():
            file.write_bytes(b"")
        with pytest.raises(InputError, match="3 of 3 cases cannot be used: case volume-1"):
            lits_cases(lits2017)

    def test_several_images(self, lits2017):
        with pytest.raises(InputError, match=r"case a, .*: expected 1 files \(CT\), got 2; give one file a modality"):
            check_ct_case({"case": "a", "image": [str(lits2017 / f"volume-{n}.nii.gz") for n in (1, 2)]})


class TestSplit:
    def test_sections_part_the_data_set(self, lits2017):
        parts = [lits_split(lits2017, section, validation=1, test=1) for section in ("training", "validation", "test")]
        assert sorted(cases(item for part in parts for item in part)) == ["volume-1", "volume-10", "volume-2"]

    def test_natural_order(self, lits2017, tmp_path):
        split = tmp_path / "split.json"
        split.write_text('{"training": ["volume-10", "volume-2"]}')
        assert cases(lits_split(lits2017, "training", split)) == ["volume-2", "volume-10"]

    def test_file_is_written_once_and_then_used(self, lits2017, tmp_path):
        training = lits_split(lits2017, "training", tmp_path / "split.json", validation=1)
        assert lits_split(lits2017, "training", tmp_path / "split.json", validation=2) == training

    def test_a_faulty_case_stops_only_its_own_section(self, lits2017):
        (spoilt,) = lits_split(lits2017, "validation", validation=1)
        Path(spoilt["image"]).write_bytes(b"")
        assert len(lits_split(lits2017, "training", validation=1)) == 2
        with pytest.raises(InputError, match=spoilt["case"]):
            lits_split(lits2017, "validation", validation=1)

    def test_section_to_infer(self, lits2017, tmp_path):
        split = tmp_path / "split.json"
        split.write_text('{"test": ["volume-10", "volume-1"]}')
        assert cases(lits_cases(lits2017, split)) == ["volume-1", "volume-10"]


class TestIdentityAffines:
    """Of the three cases of `lits2017`, volume-10 has no geometry."""

    @pytest.fixture
    def root(self, lits2017):
        for role in ("volume", "segmentation"):
            write_identity(lits2017 / f"{role}-10.nii.gz")
        return lits2017

    def test_kept(self, root):
        assert cases(lits_datalist(root)) == ["volume-1", "volume-2", "volume-10"]

    @pytest.mark.parametrize("listed", [lits_datalist, lits_cases])
    def test_kept_with_a_warning(self, root, caplog, listed):
        listed(root)
        assert caplog.messages == [
            "1 of 3 cases have the identity as affine, their spacing and orientation are unknown: volume-10; they are "
            "taken as voxels of 1 mm in RAS: give identity_affines='leave_out', or repair their headers"
        ]

    def test_no_warning_for_real_affines(self, lits2017, caplog):
        lits_datalist(lits2017)
        assert caplog.messages == []

    @pytest.mark.parametrize("listed", [lits_datalist, lits_cases])
    def test_left_out(self, root, listed):
        assert cases(listed(root, identity_affines="leave_out")) == ["volume-1", "volume-2"]

    def test_left_out_with_a_log_line(self, root, caplog):
        lits_datalist(root, identity_affines="leave_out")
        assert caplog.messages == ["left out 1 of 3 cases, whose affine is the identity: volume-10"]

    def test_left_out_of_a_list_that_is_not_checked(self, root):
        assert cases(lits_datalist(root, check=False, identity_affines="leave_out")) == ["volume-1", "volume-2"]

    def test_left_out_of_a_section_not_of_the_split(self, root, tmp_path):
        split = tmp_path / "split.json"
        split.write_text('{"training": ["volume-1", "volume-10"], "validation": ["volume-2"]}')
        assert cases(lits_split(root, "training", split, identity_affines="leave_out")) == ["volume-1"]

    def test_none_is_left(self, root, tmp_path):
        split = tmp_path / "split.json"
        split.write_text('{"training": ["volume-10"]}')
        with pytest.raises(InputError, match=r"all 1 cases have the identity as affine \(volume-10\)"):
            lits_split(root, "training", split, identity_affines="leave_out")

    def test_unknown_word(self, root):
        with pytest.raises(InputError, match="'guess' is unknown; expected keep or leave_out"):
            lits_datalist(root, identity_affines="guess")

    def test_described(self, root):
        (note,) = describe_cases(lits_datalist(root))
        assert note.startswith("1 of 3 cases have the identity as affine")


class TestFloatLabels:
    @pytest.fixture
    def root(self, lits2017):
        label = lits2017 / "segmentation-2.nii.gz"
        image = nib.load(label)
        nib.save(nib.Nifti1Image(image.get_fdata().astype(np.float32), image.affine), label)
        return lits2017

    def test_header_tells_the_type_of_voxels(self, root):
        types = [read_header(root / f"{role}-2.nii.gz", "a").dtype for role in ("volume", "segmentation")]
        assert types == [np.int16, np.float32]

    def test_accepted(self, root):
        assert len(lits_datalist(root)) == 3

    def test_reported_once(self, root, caplog):
        caplog.set_level(logging.INFO)
        lits_datalist(root)
        expected = "1 of 3 cases have labels stored as floats: volume-2; they are read as whole numbers"
        assert caplog.messages == [expected]

    def test_described(self, root):
        assert [note[:40] for note in describe_cases(lits_datalist(root))] == [
            "1 of 3 cases have labels stored as float"
        ]

    def test_whole_numbers_are_not_described(self, lits2017):
        assert describe_cases(lits_datalist(lits2017)) == []


class TestUnknownFolders:
    def test_absent(self, tmp_path):
        with pytest.raises(InputError, match="there is no such folder"):
            lits_datalist(tmp_path / "LiTS")

    def test_empty(self, tmp_path):
        expected = r"no data set recognised; looked for .*DICOM series.*imagesTr.*volume-<id>.*; found nothing;"
        with pytest.raises(InputError, match=expected):
            lits_datalist(tmp_path)

    def test_brain_data(self, brats2020):
        expected = "the data set is BraTS 2018 to 2022 .* but this model sees CT: there is no CT"
        with pytest.raises(InputError, match=expected):
            lits_datalist(brats2020)

    def test_brain_data_of_the_decathlon(self, decathlon):
        with pytest.raises(InputError, match=r"names the channels FLAIR.* but this model sees CT: there is no CT"):
            lits_datalist(decathlon)

    def test_single_brain_file(self, brats2020):
        file = brats2020 / "BraTS20_Training_001" / "BraTS20_Training_001_flair.nii"
        with pytest.raises(InputError, match="this is the FLAIR file of a case alone; give the case's folder"):
            lits_datalist(file)

    def test_liver_data_given_as_brain_data(self, lits2017):
        with pytest.raises(
            InputError, match=r"the data set is LiTS 2017 .* but this model sees FLAIR, T1, T1ce, T2: there is no"
        ):
            brats_datalist(lits2017)

    def test_liver_data_of_the_decathlon_given_as_brain_data(self, task03):
        with pytest.raises(
            InputError, match=r"names the channels CT.* but this model sees FLAIR, T1, T1ce, T2: there is no"
        ):
            brats_datalist(task03)


class TestHash:
    """The hash of an item whose image is a folder changes with the folder's files."""

    @pytest.fixture
    def folder(self, tmp_path):
        (tmp_path / "series").mkdir()
        for name in "ab":
            (tmp_path / "series" / name).write_bytes(b"12")
        return tmp_path / "series"

    @pytest.mark.parametrize(
        "change",
        [
            lambda folder: (folder / "a").write_bytes(b"123"),
            lambda folder: (folder / "b").unlink(),
            lambda folder: (folder / "b").rename(folder / "c"),
            lambda folder: (folder / "c").touch(),
        ],
        ids=["size", "file less", "name", "file more"],
    )
    def test_changes(self, folder, change):
        before = hash_case({"image": str(folder)})
        change(folder)
        assert hash_case({"image": str(folder)}) != before

    def test_stays(self, folder):
        assert hash_case({"image": str(folder)}) == hash_case({"image": str(folder)})


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="the real case is not beside this checkout")
def test_real_case():
    (item,) = lits_datalist(SHARED / "data" / "volume-901.nii.gz")
    assert Path(item["label"]).name == "segmentation-901.nii.gz"
