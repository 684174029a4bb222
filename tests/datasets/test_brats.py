"""Data sets as downloaded are recognised, and faulty ones are named."""

import gzip
import os
import shutil
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from custom_nets.datasets import cases_to_infer, datalist, labelled_cases, record_names, validation
from custom_nets.datasets.validation import check_datalist
from custom_nets.errors import InputError
from custom_nets.tools.stacking import stack_case

BRAIN = ("FLAIR", "T1", "T1ce", "T2")
check_case = partial(validation.check_case, modalities=BRAIN)
brats_datalist = partial(datalist, modalities=BRAIN)
brats_split = partial(labelled_cases, modalities=BRAIN)
brats_cases = partial(cases_to_infer, modalities=BRAIN)

OLD = ("flair", "t1", "t1ce", "t2")
NEW = ("t2f", "t1n", "t1c", "t2w")

# Folders of the cases below the data set, names of the cases, how files are named, scheme.
RELEASES = {
    "2018": ("MICCAI_BraTS_2018_Data_Training/HGG", "Brats18_2013_2_1", "_", OLD, "brats2018"),
    "2019": ("MICCAI_BraTS_2019_Data_Training/LGG", "BraTS19_TCIA09_141_1", "_", OLD, "brats2018"),
    "2020": ("BraTS2020/MICCAI_BraTS2020_TrainingData", "BraTS20_Training_001", "_", OLD, "brats2018"),
    "2021": ("", "BraTS2021_00000", "_", OLD, "brats2018"),
    "2023": ("ASNR-MICCAI-BraTS2023-GLI-Challenge-TrainingData", "BraTS-GLI-00000-000", "-", NEW, "brats2023"),
    "2023, later time point": ("", "BraTS-GLI-00001-001", "-", NEW, "brats2023"),
    "2024": ("training_data1_v2", "BraTS-GLI-02405-101", "-", NEW, "brats2024"),
}


@pytest.mark.parametrize("release", RELEASES)
class TestEveryRelease:
    @pytest.fixture
    def case_dir(self, release, tmp_path, write_case):
        below, case, separator, endings, _ = RELEASES[release]
        return write_case(tmp_path / "data" / below / case, case, endings, separator)

    def test_case_and_scheme(self, release, case_dir, tmp_path):
        item = brats_datalist(tmp_path / "data")[0]
        assert (item["case"], item["dataset"]) == (RELEASES[release][1], RELEASES[release][4])

    def test_order_of_channels(self, release, case_dir, tmp_path):
        _, case, separator, endings, _ = RELEASES[release]
        image = brats_datalist(tmp_path / "data")[0]["image"]
        assert image == [str(case_dir / f"{case}{separator}{ending}.nii.gz") for ending in endings]

    def test_label(self, release, case_dir, tmp_path):
        _, case, separator, _, _ = RELEASES[release]
        assert brats_datalist(tmp_path / "data")[0]["label"] == str(case_dir / f"{case}{separator}seg.nii.gz")

    def test_folder_of_the_case_alone(self, release, case_dir, tmp_path):
        assert brats_datalist(case_dir) == brats_datalist(tmp_path / "data")

    def test_scheme_is_known(self, release, case_dir):
        assert brats_datalist(case_dir)[0]["dataset"] in record_names()


class TestBrats2020:
    def test_sorted_by_case(self, brats2020):
        assert [item["case"][-3:] for item in brats_datalist(brats2020)] == ["001", "002", "355"]

    def test_label_named_by_hand(self, brats2020):
        assert brats_datalist(brats2020)[2]["label"].endswith("W39_1998.09.19_Segm.nii")

    def test_wrapping_folders(self, brats2020, tmp_path):
        assert brats_datalist(tmp_path) == brats_datalist(brats2020)

    def test_packed_file_wins_over_its_unpacked_twin(self, brats2020, write_nifti):
        packed = write_nifti(brats2020 / "BraTS20_Training_001" / "BraTS20_Training_001_t1.nii.gz")
        assert brats_datalist(brats2020)[0]["image"][1] == str(packed)

    def test_hidden_files_are_ignored(self, brats2020):
        before = brats_datalist(brats2020)
        (brats2020 / "BraTS20_Training_001" / "._BraTS20_Training_001_t1.nii").write_bytes(b"macOS")
        shutil.copytree(brats2020 / "BraTS20_Training_001", brats2020 / "__MACOSX" / "BraTS20_Training_001")
        assert brats_datalist(brats2020) == before

    def test_relative_and_absolute_paths_agree(self, brats2020, monkeypatch):
        monkeypatch.chdir(brats2020.parent)
        assert brats_datalist(brats2020.name) == brats_datalist(brats2020)

    def test_capital_letters(self, tmp_path, write_case):
        write_case(tmp_path / "A", "A", ("FLAIR", "T1", "T1CE", "T2"))
        assert [Path(file).name for file in brats_datalist(tmp_path)[0]["image"]][2] == "A_T1CE.nii.gz"

    def test_files_without_case_take_the_name_of_the_folder(self, tmp_path, write_nifti):
        for ending in OLD:
            write_nifti(tmp_path / "patient7" / f"{ending}.nii.gz")
        assert brats_datalist(tmp_path, labels="ignore")[0]["case"] == "patient7"

    def test_cases_whose_files_share_names_take_those_of_their_folders(self, tmp_path, write_case):
        for name in ("a", "b"):
            write_case(tmp_path / name, "brain")
        assert [item["case"] for item in brats_datalist(tmp_path)] == ["a", "b"]

    def test_a_case_there_twice_is_an_error(self, brats2020):
        shutil.copytree(brats2020 / "BraTS20_Training_001", brats2020 / "copy" / "BraTS20_Training_001")
        with pytest.raises(InputError, match=r"case BraTS20_Training_001, file .*copy.*twice"):
            brats_datalist(brats2020)

    def test_symbolic_links(self, brats2020, tmp_path):
        (tmp_path / "links").mkdir()
        os.symlink(brats2020 / "BraTS20_Training_001", tmp_path / "links" / "BraTS20_Training_001")
        assert len(brats_datalist(tmp_path / "links")) == 1


class TestDecathlon:
    def test_labelled_cases(self, decathlon):
        assert [item["case"] for item in brats_datalist(decathlon)] == ["BRATS_001", "BRATS_002"]

    def test_item(self, decathlon):
        image, label = (str(decathlon / folder / "BRATS_001.nii.gz") for folder in ("imagesTr", "labelsTr"))
        expected = {"case": "BRATS_001", "image": image, "label": label, "dataset": "msd_brain"}
        assert brats_datalist(decathlon)[0] == expected

    @pytest.mark.parametrize("labels", ["optional", "ignore"])
    def test_unlabelled_cases_when_labels_are_not_required(self, decathlon, labels):
        assert [item["case"] for item in brats_datalist(decathlon, labels)][-1] == "BRATS_485"

    def test_folder_of_unlabelled_cases(self, decathlon):
        assert [item["case"] for item in brats_datalist(decathlon / "imagesTs", "ignore")] == ["BRATS_485"]

    def test_labels_are_found_from_the_folder_of_images(self, decathlon):
        assert brats_datalist(decathlon / "imagesTr") == brats_datalist(decathlon)

    def test_single_file(self, decathlon):
        assert brats_datalist(decathlon / "imagesTr" / "BRATS_002.nii.gz") == brats_datalist(decathlon)[1:]

    def test_other_channels_are_an_error(self, decathlon):
        (decathlon / "dataset.json").write_text('{"modality": {"0": "CT"}}')
        with pytest.raises(
            InputError,
            match=r"dataset.json names the channels CT.*this model sees FLAIR, T1, T1ce, T2: there is no FLAIR",
        ):
            brats_datalist(decathlon)

    def test_damaged_description_is_an_error(self, decathlon):
        (decathlon / "dataset.json").write_text("{")
        with pytest.raises(InputError, match=r"not a readable dataset.json"):
            brats_datalist(decathlon)

    def test_beside_case_folders_is_an_error(self, decathlon, brats2020, tmp_path):
        with pytest.raises(
            InputError,
            match=r"3 cases of Medical Segmentation Decathlon.* and 3 cases of BraTS 2018 to 2022; give the",
        ):
            brats_datalist(tmp_path)


class TestLooseFiles:
    def test_folder_of_4d_files(self, tmp_path, write_nifti):
        paths = [write_nifti(tmp_path / f"{name}.nii.gz", (6, 5, 4, 4)) for name in "ab"]
        expected = [{"case": path.name[0], "image": str(path)} for path in paths]
        assert brats_datalist(tmp_path, "ignore") == expected

    def test_scheme_follows_the_name_of_the_case(self, tmp_path, write_nifti):
        write_nifti(tmp_path / "BraTS-GLI-00000-100.nii.gz", (6, 5, 4, 4))
        assert brats_datalist(tmp_path, "ignore")[0]["dataset"] == "brats2024"

    def test_vector_volume_counts_as_4d(self, tmp_path, write_nifti):
        path = write_nifti(tmp_path / "itk.nii.gz", (6, 5, 4, 1, 4))
        assert brats_datalist(path, "ignore")[0]["case"] == "itk"

    def test_labels_of_monai_label_are_no_cases(self, tmp_path, write_nifti):
        write_nifti(tmp_path / "a.nii.gz", (6, 5, 4, 4))
        write_nifti(tmp_path / "labels" / "final" / "a.nii.gz")
        assert len(brats_datalist(tmp_path, "ignore")) == 1

    def test_wrong_number_of_channels(self, tmp_path, write_nifti):
        path = write_nifti(tmp_path / "a.nii.gz", (6, 5, 4, 3))
        with pytest.raises(InputError, match=rf"case a, file {path}: expected 4 channels \(FLAIR.*got 3 channels"):
            brats_datalist(path, "ignore")

    def test_single_3d_file_asks_for_the_others(self, tmp_path, write_nifti):
        path = write_nifti(tmp_path / "a.nii.gz")
        with pytest.raises(InputError, match=r"expected 4 channels .* got one channel .*stack_case"):
            brats_datalist(path, "ignore")

    def test_single_modality_asks_for_the_folder(self, brats2020):
        folder = brats2020 / "BraTS20_Training_001"
        with pytest.raises(
            InputError, match=f"this is the T1ce file of a case alone; give the case's folder, {folder}"
        ):
            brats_datalist(folder / "BraTS20_Training_001_t1ce.nii")


class TestLabels:
    @pytest.fixture
    def partly_labelled(self, brats2020):
        for number in ("001", "002"):
            (brats2020 / f"BraTS20_Training_{number}" / f"BraTS20_Training_{number}_seg.nii").unlink()
        return brats2020

    def test_required(self, partly_labelled):
        expected = "2 of 3 cases have no label: BraTS20_Training_001, BraTS20_Training_002;.*labels='optional'"
        with pytest.raises(InputError, match=expected):
            brats_datalist(partly_labelled)

    def test_optional(self, partly_labelled):
        assert ["label" in item for item in brats_datalist(partly_labelled, "optional")] == [False, False, True]

    def test_ignore(self, partly_labelled):
        assert not any("label" in item for item in brats_datalist(partly_labelled, "ignore"))

    def test_ignored_labels_are_not_checked(self, brats2020):
        (brats2020 / "BraTS20_Training_001" / "BraTS20_Training_001_seg.nii").write_bytes(b"")
        assert len(brats_datalist(brats2020, "ignore")) == 3

    def test_unknown_word(self, brats2020):
        with pytest.raises(InputError, match="'yes' is unknown; expected one of required, optional, ignore"):
            brats_datalist(brats2020, "yes")


class TestFaultyCases:
    """One of the three cases of `brats2020` is spoilt; the message names case and file."""

    @pytest.fixture
    def file(self, brats2020):
        return brats2020 / "BraTS20_Training_002" / "BraTS20_Training_002_t1ce.nii"

    def expect(self, brats2020, file, text):
        place = f"1 of 3 cases cannot be used: case BraTS20_Training_002, file {file}: "
        with pytest.raises(InputError) as error:
            brats_datalist(brats2020)
        message = str(error.value)
        assert message.startswith(place)
        assert text in message
        assert "\n" not in message

    def test_modality_missing(self, brats2020, file):
        file.unlink()
        self.expect(brats2020, file, "T1ce missing (there: FLAIR, T1, T2); download the case again or copy")

    def test_modality_missing_may_be_done_without(self, brats2020, file):
        file.unlink()
        self.expect(brats2020, file, "copy the file there; a model trained with modality_dropout can do without")

    def test_missing_file_is_named_as_in_its_release(self, tmp_path, write_case):
        write_case(tmp_path, "BraTS-GLI-00000-000", NEW[:2], "-", label=None)
        with pytest.raises(InputError, match=r"BraTS-GLI-00000-000-t1c.nii.gz: T1ce and T2 missing"):
            brats_datalist(tmp_path, "ignore")

    def test_modality_twice(self, brats2020, file, write_nifti):
        second = write_nifti(file.with_name("BraTS20_Training_002_t1gd.nii"))
        self.expect(brats2020, second, "T1ce is there twice, also as BraTS20_Training_002_t1ce.nii; keep one")

    def test_label_twice(self, brats2020, file, write_nifti):
        second = write_nifti(file.with_name("X_seg.nii"))
        self.expect(brats2020, second, "a second label beside BraTS20_Training_002_seg.nii")

    def test_shape_differs(self, brats2020, file, write_nifti):
        write_nifti(file, (6, 5, 3))
        self.expect(brats2020, file, "shape (6, 5, 3), but BraTS20_Training_002_flair.nii has (6, 5, 4)")

    def test_shape_of_the_label_differs(self, brats2020, file, write_nifti):
        label = write_nifti(file.with_name("BraTS20_Training_002_seg.nii"), (5, 6, 4))
        self.expect(brats2020, label, "shape (5, 6, 4), but")

    def test_affine_differs(self, brats2020, file, write_nifti):
        write_nifti(file, shift=3)
        self.expect(brats2020, file, "affine differs from that of BraTS20_Training_002_flair.nii by up to 3 (")

    def test_rounding_of_the_affine_is_allowed(self, brats2020, file, write_nifti):
        write_nifti(file, shift=5e-4)
        assert len(brats_datalist(brats2020)) == 3

    def test_modality_of_four_channels(self, brats2020, file, write_nifti):
        write_nifti(file, (6, 5, 4, 4))
        self.expect(brats2020, file, "expected a 3D volume (x, y, z)")

    def test_cut_short(self, brats2020, file):
        file.write_bytes(file.read_bytes()[:-10])
        self.expect(brats2020, file, "cut short, holds 582 of the 592 bytes that its header promises")

    def test_empty_file(self, brats2020, file):
        file.write_bytes(b"")
        self.expect(brats2020, file, "not readable as NIfTI (Empty file")

    def test_web_page_instead_of_a_file(self, brats2020, file):
        file.write_bytes(b"<html>log in first</html>" * 50)
        self.expect(brats2020, file, "not readable as NIfTI (")

    def test_singular_affine(self, brats2020, file):
        image = nib.load(file)
        image.set_sform(np.zeros((4, 4)), code=1)
        nib.save(nib.Nifti1Image(np.ones((6, 5, 4), np.int16), None, image.header), file)
        self.expect(brats2020, file, "unusable affine")

    def test_nothing_is_checked_when_told_so(self, brats2020, file):
        file.write_bytes(b"")
        assert len(brats_datalist(brats2020, check=False)) == 3

    def test_good_cases_can_go_on(self, brats2020, file):
        file.unlink()
        good, faults = check_datalist(brats_datalist(brats2020, check=False))
        assert ([item["case"][-3:] for item in good], len(faults)) == (["001", "355"], 1)

    def test_at_most_five_are_named(self, tmp_path, write_case):
        for number in range(7):
            write_case(tmp_path / f"c{number}", f"c{number}", OLD[:3])
        with pytest.raises(InputError, match=r"7 of 7 cases cannot be used: case c0(.*; ){5,}and 2 more$") as error:
            brats_datalist(tmp_path)
        assert "case c5" not in str(error.value)


class TestAbsentModalities:
    """A case of `brats2020` lacks files, for a model that can do without."""

    @pytest.fixture
    def file(self, brats2020):
        return brats2020 / "BraTS20_Training_002" / "BraTS20_Training_002_t1ce.nii"

    def sibling(self, file, ending):
        return file.with_name(f"BraTS20_Training_002_{ending}.nii")

    @pytest.mark.parametrize("there", [OLD[1:], OLD[:2], ("t1ce",), ("t2", "flair")])
    def test_none_stands_in_its_place(self, tmp_path, write_case, there):
        write_case(tmp_path, "A", there)
        expected = [str(tmp_path / f"A_{ending}.nii.gz") if ending in there else None for ending in OLD]
        assert brats_datalist(tmp_path, missing_modalities=True)[0]["image"] == expected

    def test_whole_cases_are_as_before(self, brats2020):
        assert brats_datalist(brats2020, missing_modalities=True) == brats_datalist(brats2020)

    def test_4d_files_are_as_before(self, decathlon):
        assert brats_datalist(decathlon, missing_modalities=True) == brats_datalist(decathlon)

    def test_files_there_are_listed_when_not_told_so(self, brats2020, file):
        file.unlink()
        listed = brats_datalist(brats2020, check=False)[1]["image"]
        assert listed == [str(self.sibling(file, ending)) for ending in ("flair", "t1", "t2")]

    def test_label_is_kept(self, brats2020, file):
        file.unlink()
        assert brats_datalist(brats2020, missing_modalities=True)[1]["label"] == str(self.sibling(file, "seg"))

    @pytest.mark.parametrize("ending", NEW)
    def test_scheme_by_the_name_of_any_file(self, tmp_path, write_case, ending):
        write_case(tmp_path, "A", (ending,), "-")
        assert brats_datalist(tmp_path, missing_modalities=True)[0]["dataset"] == "brats2023"

    def test_label_alone_is_no_case(self, tmp_path, write_case):
        write_case(tmp_path, "A", ())
        with pytest.raises(InputError, match="no data set recognised"):
            brats_datalist(tmp_path, "optional", missing_modalities=True)

    def test_modality_twice(self, brats2020, file, write_nifti):
        write_nifti(file.with_name("BraTS20_Training_002_t1gd.nii"))
        self.sibling(file, "flair").unlink()
        with pytest.raises(InputError, match="T1ce is there twice"):
            brats_datalist(brats2020, missing_modalities=True)

    def test_shape_differs(self, brats2020, file, write_nifti):
        write_nifti(file, (6, 5, 3))
        self.sibling(file, "flair").unlink()
        with pytest.raises(InputError, match=rf"{file}: shape \(6, 5, 3\), but BraTS20_Training_002_t1.nii has"):
            brats_datalist(brats2020, missing_modalities=True)

    def test_affine_of_the_label_differs(self, brats2020, file, write_nifti):
        label = write_nifti(self.sibling(file, "seg"), shift=3)
        self.sibling(file, "flair").unlink()
        with pytest.raises(InputError, match=rf"{label}: affine differs from that of BraTS20_Training_002_t1.nii"):
            brats_datalist(brats2020, missing_modalities=True)

    def test_cases_to_infer(self, brats2020, file):
        file.unlink()
        lacking = [item["case"] for item in brats_cases(brats2020, missing_modalities=True) if None in item["image"]]
        assert lacking == ["BraTS20_Training_002"]

    def test_cases_to_infer_are_left_out_when_not_told_so(self, brats2020, file):
        file.unlink()
        assert [item["case"][-3:] for item in brats_cases(brats2020)] == ["001", "355"]

    def test_cases_to_infer_are_logged(self, brats2020, file, caplog):
        file.unlink()
        brats_cases(brats2020, missing_modalities=True)
        assert caplog.messages == ["1 of 3 cases lack modalities: BraTS20_Training_002 (T1ce)"]

    def test_whole_cases_are_not_logged(self, brats2020, caplog):
        brats_cases(brats2020, missing_modalities=True)
        assert caplog.messages == []

    def test_section_of_a_split(self, brats2020, file, tmp_path):
        file.unlink()
        splits = tmp_path / "split.json"
        splits.write_text('{"validation": ["BraTS20_Training_002"]}')
        (item,) = brats_split(brats2020, "validation", splits, missing_modalities=True)
        assert item["image"][2] is None

    def test_section_of_a_split_is_refused_when_not_told_so(self, brats2020, file, tmp_path):
        file.unlink()
        splits = tmp_path / "split.json"
        splits.write_text('{"validation": ["BraTS20_Training_002"]}')
        with pytest.raises(InputError, match="T1ce missing"):
            brats_split(brats2020, "validation", splits)


class TestPackedFiles:
    @pytest.fixture
    def path(self, tmp_path):
        path = tmp_path / "a.nii.gz"
        noise = np.random.default_rng(0).integers(0, 999, (30, 30, 10, 4)).astype(np.int16)
        nib.save(nib.Nifti1Image(noise, np.eye(4)), path)
        return path

    @pytest.mark.parametrize("kept", [0.2, 0.5, 0.9])
    def test_truncated(self, path, kept):
        data = path.read_bytes()
        path.write_bytes(data[: int(kept * len(data))])
        with pytest.raises(InputError, match=r"a.nii.gz: cut short, holds .* of the 72,352 bytes"):
            check_case({"image": str(path)})

    def test_truncated_in_the_header(self, path):
        path.write_bytes(path.read_bytes()[:50])
        with pytest.raises(InputError, match=r"a.nii.gz: not readable as NIfTI"):
            check_case({"image": str(path)})

    def test_several_gzip_members(self, path):
        plain = gzip.decompress(path.read_bytes())
        path.write_bytes(gzip.compress(plain[:1000]) + gzip.compress(plain[1000:]) + gzip.compress(b""))
        check_case({"image": str(path)})

    def test_whole_file_is_not_unpacked(self, path, monkeypatch):
        monkeypatch.setattr("custom_nets.io.nifti._count_unpacked", lambda *_: pytest.fail("unpacked"))
        check_case({"image": str(path)})


class TestUnknownFolders:
    def test_absent(self, tmp_path):
        (tmp_path / "BraTS2020").mkdir()
        with pytest.raises(
            InputError, match=rf"{tmp_path}/x/y: there is no such folder; {tmp_path} .*holds BraTS2020/;"
        ):
            brats_datalist(tmp_path / "x" / "y")

    def test_empty(self, tmp_path):
        with pytest.raises(InputError, match=r"no data set recognised; looked for case folders .*; found nothing;"):
            brats_datalist(tmp_path)

    def test_unrecognised_names_the_first_entries(self, tmp_path):
        for number in range(8):
            (tmp_path / f"slice{number}.dcm").touch()
        with pytest.raises(InputError, match=r"found slice0.dcm, .*slice4.dcm and 3 more;"):
            brats_datalist(tmp_path)

    def test_archive_is_to_be_unpacked(self, tmp_path):
        (tmp_path / "BraTS2020.zip").touch()
        with pytest.raises(InputError, match=r"found BraTS2020.zip \(unpack the archive\)"):
            brats_datalist(tmp_path)

    def test_3d_files_of_no_known_name(self, tmp_path, write_nifti):
        write_nifti(tmp_path / "volume-1.nii.gz")
        with pytest.raises(InputError, match=r"the data set is LiTS 2017 .* but this model sees FLAIR"):
            brats_datalist(tmp_path)

    def test_file_of_another_kind(self, tmp_path):
        (tmp_path / "a.mha").touch()
        with pytest.raises(InputError, match=r"a.mha: expected a folder or a NIfTI file"):
            brats_datalist(tmp_path / "a.mha")


class TestLists:
    def test_wrong_order_is_an_error(self, brats2020):
        item = brats_datalist(brats2020)[0]
        with pytest.raises(InputError, match="in the order T2, T1ce, T1, FLAIR; expected FLAIR, T1, T1ce, T2"):
            check_case({**item, "image": item["image"][::-1]})

    def test_names_of_their_own_are_taken_in_order(self, tmp_path, write_nifti):
        check_case({"image": [str(write_nifti(tmp_path / f"{n}.nii")) for n in range(4)]})

    def test_too_few_names_of_their_own(self, tmp_path, write_nifti):
        with pytest.raises(InputError, match=r"expected 4 files .* got 3"):
            check_case({"image": [str(write_nifti(tmp_path / f"{n}.nii")) for n in range(3)]})


class TestListsWithNone:
    @pytest.fixture
    def files(self, brats2020):
        return brats_datalist(brats2020)[0]["image"]

    @pytest.fixture
    def own_names(self, tmp_path, write_nifti):
        return [str(write_nifti(tmp_path / f"{number}.nii")) for number in range(4)]

    def test_is_accepted_when_told_so(self, files):
        check_case({"image": [None, *files[1:]]}, missing_modalities=True)

    def test_is_an_error_otherwise(self, files):
        with pytest.raises(InputError, match=r"_flair.nii: FLAIR missing \(there: T1, T1ce, T2\)"):
            check_case({"image": [None, *files[1:]]})

    def test_nothing_there(self):
        with pytest.raises(InputError, match="case A: no image file is there; expected one each of FLAIR, T1, T1ce"):
            check_case({"case": "A", "image": [None] * 4}, missing_modalities=True)

    def test_at_the_wrong_place(self, files):
        with pytest.raises(InputError, match="in the order T1, None, T1ce, T2; expected None, T1, T1ce, T2"):
            check_case({"image": [files[1], None, *files[2:]]}, missing_modalities=True)

    def test_left_out(self, files):
        with pytest.raises(InputError, match="in the order T1, T1ce, T2; expected None, T1, T1ce, T2"):
            check_case({"image": files[1:]}, missing_modalities=True)

    def test_names_of_their_own(self, own_names):
        check_case({"image": [None, *own_names[1:]]}, missing_modalities=True)

    def test_names_of_their_own_are_an_error_otherwise(self, own_names):
        with pytest.raises(InputError, match=r"1.nii: FLAIR missing; give one file a modality; a model trained"):
            check_case({"image": [None, *own_names[1:]]})

    def test_too_few_names_of_their_own(self, own_names):
        with pytest.raises(InputError, match=r"expected 4 files .* got 3; give one file a modality, None for"):
            check_case({"image": own_names[1:]}, missing_modalities=True)


class TestSplit:
    def test_sections_part_the_data_set(self, brats2020):
        parts = [
            brats_split(brats2020, section, validation=1, test=1) for section in ("training", "validation", "test")
        ]
        assert sorted(item["case"] for part in parts for item in part) == [i["case"] for i in brats_datalist(brats2020)]

    def test_file_is_written_once_and_then_used(self, brats2020, tmp_path):
        file = tmp_path / "splits" / "brats.json"
        training = brats_split(brats2020, "training", file, validation=1)
        assert brats_split(brats2020, "training", file, validation=2) == training

    def test_an_evaluation_without_the_training_s_split_says_so(self, brats2020, tmp_path, caplog):
        """Otherwise cases that the model was trained with might be scored in silence."""
        file = tmp_path / "split.json"
        brats_split(brats2020, "validation", file, validation=1, leave_out=True)
        assert f"split file {file} is not there" in caplog.text
        assert "--evaluation_section all" in caplog.text
        caplog.clear()
        brats_split(brats2020, "validation", file, validation=1, leave_out=True)
        brats_split(brats2020, "all", tmp_path / "none.json", leave_out=True)
        assert "is not there" not in caplog.text

    def test_a_faulty_case_stops_only_its_own_section(self, brats2020):
        spoilt = brats_split(brats2020, "validation", validation=1)[0]
        Path(spoilt["image"][0]).write_bytes(b"")
        assert len(brats_split(brats2020, "training", validation=1)) == 2
        with pytest.raises(InputError, match=spoilt["case"]):
            brats_split(brats2020, "validation", validation=1)


class TestStackCase:
    @pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
    def test_voxels(self, brats2020, tmp_path, suffix):
        images = brats_datalist(brats2020)[0]["image"]
        stacked = nib.load(stack_case(images, tmp_path / f"out{suffix}"))
        expected = np.stack([nib.load(file).get_fdata() for file in images], axis=-1)
        np.testing.assert_array_equal(stacked.get_fdata(), expected)

    def test_affine_and_voxel_type(self, brats2020, tmp_path):
        images = brats_datalist(brats2020)[0]["image"]
        stacked, first = nib.load(stack_case(images, tmp_path / "a.nii.gz")), nib.load(images[0])
        assert stacked.get_data_dtype() == first.get_data_dtype()
        np.testing.assert_array_equal(stacked.affine, first.affine)

    def test_order_follows_the_names(self, brats2020, tmp_path, write_nifti):
        images = brats_datalist(brats2020)[0]["image"]
        write_nifti(Path(images[3]), value=7)
        stacked = nib.load(stack_case(images[::-1], tmp_path / "a.nii.gz")).get_fdata()
        assert (stacked[..., 3] == 7).all()

    def test_result_is_a_case(self, brats2020, tmp_path):
        stack_case(brats_datalist(brats2020)[0]["image"], tmp_path / "out" / "BraTS20_Training_001.nii.gz")
        assert brats_datalist(tmp_path / "out", "ignore")[0]["case"] == "BraTS20_Training_001"

    def test_the_header_names_the_channels(self, brats2020, tmp_path):
        stacked = nib.load(stack_case(brats_datalist(brats2020)[0]["image"], tmp_path / "a.nii.gz"))
        assert stacked.header["descrip"].item() == b"channels: FLAIR, T1, T1ce, T2"

    def test_another_order_in_the_header_is_refused(self, brats2020, tmp_path):
        file = stack_case(brats_datalist(brats2020)[0]["image"], tmp_path / "a.nii.gz")
        stacked = nib.load(file)
        stacked.header["descrip"] = b"channels: T1, FLAIR, T1ce, T2"
        nib.save(nib.Nifti1Image(np.asarray(stacked.dataobj), None, stacked.header), file)
        with pytest.raises(
            InputError, match=r"a\.nii\.gz: its header says 'channels: T1, FLAIR, .*stack the files again"
        ):
            brats_datalist(file, "ignore")

    def test_any_other_text_in_the_header_is_none_of_ours(self, brats2020, tmp_path):
        file = stack_case(brats_datalist(brats2020)[0]["image"], tmp_path / "a.nii.gz")
        stacked = nib.load(file)
        stacked.header["descrip"] = b"FSL5.0"
        nib.save(nib.Nifti1Image(np.asarray(stacked.dataobj), None, stacked.header), file)
        assert len(brats_datalist(file, "ignore")) == 1

    def test_scaled_voxels_are_kept(self, tmp_path, write_nifti):
        files = [write_nifti(tmp_path / f"a_{ending}.nii") for ending in OLD]
        image = nib.load(files[0])
        image.header.set_slope_inter(0.5, 1)
        nib.save(image, files[0])
        wanted = nib.load(files[0]).get_fdata()
        np.testing.assert_allclose(nib.load(stack_case(files, tmp_path / "s.nii.gz")).get_fdata()[..., 0], wanted)

    def test_missing_modality(self, brats2020, tmp_path):
        with pytest.raises(InputError, match="T2 missing"):
            stack_case(brats_datalist(brats2020)[0]["image"][:3], tmp_path / "a.nii.gz")

    def test_name_without_suffix(self, brats2020, tmp_path):
        with pytest.raises(InputError, match=r"ends with .nii.gz or .nii"):
            stack_case(brats_datalist(brats2020)[0]["image"], tmp_path / "a")


def test_real_case(real_case_dir):
    (item,) = brats_datalist(real_case_dir)
    assert (item["case"], item["dataset"], len(item["image"])) == ("BraTS20_Training_901", "brats2018", 4)


def test_cases_that_differ_in_capitals_alone_are_inferred_apart(tmp_path, write_case, caplog):
    for case in ("scan", "Scan", "SCAN"):
        write_case(tmp_path / case, case)
    names = [item["case"] for item in brats_cases(tmp_path)]
    assert len({name.casefold() for name in names}) == 3
    assert [name.split(" (")[0] for name in names] == ["SCAN", "Scan", "scan"]
    assert sum("differs in capitals alone" in message for message in caplog.messages) == 2
