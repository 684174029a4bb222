"""Data sets are recognised by their names and contents, and taken for what the user names."""

import json
from pathlib import Path

import numpy as np
import pytest

from custom_nets.datasets import check_datalist, datalist, recognise
from custom_nets.errors import InputError

NEW = ("t2f", "t1n", "t1c", "t2w")
BRAIN = ("FLAIR", "T1", "T1ce", "T2")


def records(folder, **keys):
    return [entry.record.name if entry.record else None for entry in recognise(folder, **keys)]


class TestBrain:
    def test_case_folders(self, brats2020):
        assert records(brats2020) == ["brats2018"]

    def test_decathlon(self, decathlon):
        assert records(decathlon) == ["msd_brain"]

    def test_loose_4d_file_says_nothing(self, tmp_path, write_nifti):
        assert records(write_nifti(tmp_path / "a.nii.gz", (6, 5, 4, 4))) == [None]

    @pytest.mark.parametrize(
        ("case", "name"),
        [
            ("BraTS-GLI-00000-000", "brats2023"),
            ("BraTS-GLI-00000-100", "brats2024"),
            ("BraTS-MET-00001-000", "brats2023_met"),
            ("BraTS-MEN-00001-000", "brats2023_men"),
            ("BraTS-SSA-00001-000", "brats2023_ssa"),
        ],
    )
    def test_tasks_of_later_years_by_the_names_of_their_cases(self, tmp_path, write_case, case, name):
        write_case(tmp_path / case, case, NEW, "-")
        assert records(tmp_path) == [name]

    def test_cases_of_two_years_in_one_folder(self, tmp_path, write_case):
        for case in ("BraTS-GLI-00000-000", "BraTS-GLI-00000-100"):
            write_case(tmp_path / case, case, NEW, "-")
        items = datalist(tmp_path)
        assert [item["dataset"] for item in items] == ["brats2023", "brats2024"]

    def test_upenn_with_labels_in_another_folder(self, tmp_path, write_case, write_nifti):
        for case in ("UPENN-GBM-00001_11", "UPENN-GBM-00001_21"):
            write_case(tmp_path / "images_structural" / case, case, ("FLAIR", "T1", "T1GD", "T2"), label=None)
        corrected = write_nifti(tmp_path / "images_segm" / "UPENN-GBM-00001_11_segm.nii.gz")
        write_nifti(tmp_path / "automated_segm" / "UPENN-GBM-00001_11_automated_approx_segm.nii.gz")
        automated = write_nifti(tmp_path / "automated_segm" / "UPENN-GBM-00001_21_automated_approx_segm.nii.gz")
        items = datalist(tmp_path, modalities=BRAIN)
        assert [item["label"] for item in items] == [str(corrected), str(automated)]
        assert {item["patient"] for item in items} == {"UPENN-GBM-00001"}
        assert {item["dataset"] for item in items} == {"upenn_gbm"}

    def test_ucsf_among_its_many_other_files(self, tmp_path, write_case):
        ends = ("FLAIR", "T1", "T1c", "T2", "T1_bias", "FLAIR_bias", "ADC", "SWI", "brain_segmentation")
        write_case(tmp_path / "UCSF-PDGM-0004_nifti", "UCSF-PDGM-0004", ends, label="tumor_segmentation")
        (item,) = datalist(tmp_path, modalities=BRAIN)
        assert item["case"] == "UCSF-PDGM-0004"
        assert item["dataset"] == "ucsf_pdgm"
        assert [file.rsplit("_", 1)[1] for file in item["image"]] == [
            "FLAIR.nii.gz",
            "T1.nii.gz",
            "T1c.nii.gz",
            "T2.nii.gz",
        ]
        assert item["label"].endswith("_tumor_segmentation.nii.gz")

    def test_several_cases_in_one_folder(self, tmp_path, write_case):
        for case in ("BraTS20_Training_001", "BraTS20_Training_002"):
            write_case(tmp_path, case)
        items = datalist(tmp_path, modalities=BRAIN)
        assert [item["case"] for item in items] == ["BraTS20_Training_001", "BraTS20_Training_002"]
        assert items[1]["label"].endswith("BraTS20_Training_002_seg.nii.gz")

    def test_the_folder_of_one_case_is_that_case_alone(self, brats2020):
        items = datalist(brats2020 / "BraTS20_Training_001", modalities=BRAIN)
        assert [item["case"] for item in items] == ["BraTS20_Training_001"]

    def test_a_file_of_another_patient_is_a_fault(self, brats2020):
        folder = brats2020 / "BraTS20_Training_001"
        (folder / "BraTS20_Training_001_t1.nii").rename(folder / "BraTS20_Training_777_t1.nii")
        with pytest.raises(
            InputError, match=r"777_t1\.nii: is of the case BraTS20_Training_777, the other files are of"
        ):
            datalist(brats2020, modalities=BRAIN)


class TestChildren:
    """BraTS-PEDs 2023 and 2024 share their names and differ in their numbers."""

    @pytest.fixture
    def write_child(self, tmp_path, write_case, write_nifti):
        def write(number):
            case = "BraTS-PED-00002-000"
            write_case(tmp_path / case, case, NEW, "-", label=None)
            write_nifti(tmp_path / case / f"{case}-seg.nii.gz", value=number)
            return tmp_path

        return write

    def test_a_number_tells(self, write_child):
        assert records(write_child(4)) == ["brats2024_ped"]

    def test_otherwise_it_is_asked_for(self, write_child):
        expected = (
            r"more than one data set has such names \(label numbers 1 found\): brats2023_ped: .*1=non-enhancing.*; "
            r"brats2024_ped: .*1=enhancing tumour.*--dataset brats2023_ped"
        )
        with pytest.raises(InputError, match=expected):
            recognise(write_child(1))

    def test_a_name_wins(self, write_child):
        (item,) = datalist(write_child(1), dataset="brats2024_ped")
        assert item["dataset"] == "brats2024_ped"


class TestLiver:
    def test_lits_2017_in_folders(self, tmp_path, write_nifti):
        write_nifti(tmp_path / "Training Batch 1" / "volume-0.nii")
        assert records(tmp_path) == ["lits"]

    def test_decathlon_without_its_description(self, tmp_path, write_nifti):
        write_nifti(tmp_path / "imagesTr" / "liver_0.nii.gz")
        assert records(tmp_path) == ["msd_liver"]

    def test_loose_3d_file_is_ct_for_a_model_of_ct(self, tmp_path, write_nifti):
        assert records(write_nifti(tmp_path / "a.nii.gz"), modalities=("CT",)) == ["ct"]

    def test_loose_3d_file_says_nothing(self, tmp_path, write_nifti):
        assert records(write_nifti(tmp_path / "a.nii.gz")) == [None]

    def test_unreadable_files_are_passed_over(self, tmp_path, write_nifti):
        (tmp_path / "a.nii").write_bytes(b"")
        write_nifti(tmp_path / "b.nii")
        assert records(tmp_path, modalities=("CT",)) == ["ct"]

    def test_dicom_folder(self, tmp_path):
        (tmp_path / "p1").mkdir()
        (tmp_path / "p1" / "0.dcm").write_bytes(bytes(128) + b"DICM")
        assert records(tmp_path) == ["ct"]

    def test_labels_of_nnunet_mean_what_the_record_says(self, nnunet):
        root = nnunet("liver_0", {"0": "CT"}, {"background": 0, "liver": 1, "cancer": 2})
        (item,) = datalist(root, modalities=("CT",))
        assert item["dataset"] == "msd_liver"
        assert item["image"].endswith("liver_0_0000.nii.gz")


@pytest.fixture
def nnunet(tmp_path, write_nifti):
    """Writes a case in nnU-Net's raw layout."""

    def write(case, channels, labels, **more):
        root = tmp_path / "Dataset001_Test"
        for number in channels:
            write_nifti(root / "imagesTr" / f"{case}_{int(number):04}.nii.gz")
        write_nifti(root / "labelsTr" / f"{case}.nii.gz", value=1)
        content = {"channel_names": channels, "labels": labels, "file_ending": ".nii.gz", **more}
        (root / "dataset.json").write_text(json.dumps(content))
        return root

    return write


class TestOtherDataSets:
    def test_dataset_json_is_a_record(self, nnunet):
        root = nnunet("knee_7", {"0": "PD", "1": "T2"}, {"background": 0, "bone": 1, "cartilage": 2})
        (entry,) = recognise(root)
        assert entry.record.channel_names == ("PD", "T2")
        assert entry.record.labels.region_names == ("bone", "cartilage")

    def test_channels_are_taken_by_name(self, nnunet):
        root = nnunet("knee_7", {"0": "PD", "1": "T2"}, {"background": 0, "bone": 1})
        (item,) = datalist(root, modalities=("T2", "PD"))
        assert [file[-11:-7] for file in item["image"]] == ["0001", "0000"]

    def test_regions_of_nnunet(self, nnunet):
        labels = {"background": 0, "whole": [1, 2], "core": [2]}
        (entry,) = recognise(nnunet("a", {"0": "MRI"}, labels, regions_class_order=[1, 2]))
        assert [(r.name, r.numbers, r.written) for r in entry.record.labels.regions] == [
            ("whole", (1, 2), 1),
            ("core", (2,), 2),
        ]

    def test_brain_mri_in_the_form_of_nnunet_is_no_liver_ct(self, nnunet):
        root = nnunet("brain_1", {"0": "FLAIR"}, {"background": 0, "lesion": 1})
        with pytest.raises(InputError, match=r"names the channels FLAIR.* but this model sees CT: there is no CT"):
            datalist(root, modalities=("CT",))

    def test_a_file_that_ends_like_a_channel_of_another_data_set_is_no_case_of_it(self, nnunet, write_nifti):
        root = nnunet("knee_1", {"0": "MRI"}, {"background": 0, "bone": 1})
        write_nifti(root / "imagesTs" / "knee_t1_0000.nii.gz")
        write_nifti(root / "imagesTs" / "knee_t1.nii.gz")
        assert len(recognise(root)) == 1

    def test_without_a_description_nothing_is_guessed(self, nnunet):
        root = nnunet("brain_1", {"0": "FLAIR"}, {"background": 0, "lesion": 1})
        (root / "dataset.json").unlink()
        with pytest.raises(InputError, match=r"no dataset\.json .* cases such as brain_1; .*--dataset NAME"):
            datalist(root, modalities=("CT",))

    @pytest.mark.parametrize("made_by", ["manual", "labels"])
    def test_bids(self, tmp_path, write_nifti, made_by):
        for session in ("1", "2"):
            for name in ("T1w", "ce-gd_T1w", "FLAIR"):
                write_nifti(tmp_path / "sub-01" / f"ses-{session}" / "anat" / f"sub-01_ses-{session}_{name}.nii.gz")
            folder = tmp_path / "derivatives" / made_by / "sub-01" / f"ses-{session}" / "anat"
            write_nifti(folder / f"sub-01_ses-{session}_dseg.nii.gz", value=1)
        (tmp_path / "dseg.tsv").write_text("index\tname\n0\tbackground\n1\tlesion\n")
        items = datalist(tmp_path, modalities=("FLAIR", "T1", "T1ce"))
        assert [item["case"] for item in items] == ["sub-01_ses-1", "sub-01_ses-2"]
        assert {item["patient"] for item in items} == {"sub-01"}
        assert [file.rsplit("ses-1_")[-1] for file in items[0]["image"]] == [
            "FLAIR.nii.gz",
            "T1w.nii.gz",
            "ce-gd_T1w.nii.gz",
        ]
        assert items[0]["label"].endswith("sub-01_ses-1_dseg.nii.gz")
        assert recognise(tmp_path)[0].record.labels.region_names == ("lesion",)

    def test_a_file_of_the_user_is_a_record(self, tmp_path, write_nifti):
        for number in (1, 2):
            write_nifti(tmp_path / "data" / f"p{number}_scan.nii.gz")
            write_nifti(tmp_path / "data" / f"p{number}_mask.nii.gz", value=1)
        file = tmp_path / "own.yaml"
        file.write_text(
            "title: Own\nchannels: {CT: {kind: CT}}\nlayouts: [pairs]\n"
            "pairs: [{image: '(?P<id>p\\d+)_scan', label: '(?P<id>p\\d+)_mask'}]\nlabels: {1: kidney}\n"
        )
        items = datalist(tmp_path / "data", dataset=file, modalities=("CT",))
        assert [(item["image"][-14:], item["label"][-14:]) for item in items] == [
            ("p1_scan.nii.gz", "p1_mask.nii.gz"),
            ("p2_scan.nii.gz", "p2_mask.nii.gz"),
        ]

    @pytest.mark.parametrize("labels", ["labels", "masks"])
    def test_pairs_of_two_folders_bear_one_name(self, tmp_path, write_nifti, labels):
        for number in (1, 2):
            write_nifti(tmp_path / "data" / "images" / f"p{number}.nii.gz")
            write_nifti(tmp_path / "data" / labels / f"p{number}.nii.gz", value=1)
        file = tmp_path / "own.yaml"
        file.write_text(
            "title: Own\nchannels: {CT: {kind: CT}}\nlayouts: [pairs]\nlabels: {1: kidney}\n"
            f"pairs: [{{image: 'images/(?P<id>.+)', label: '{labels}/(?P<id>.+)'}}]\n"
        )
        items = datalist(tmp_path / "data", dataset=file)
        assert [(item["case"], Path(item["image"]).parts[-2:], Path(item["label"]).parts[-2:]) for item in items] == [
            (case, ("images", f"{case}.nii.gz"), (labels, f"{case}.nii.gz")) for case in ("p1", "p2")
        ]

    def test_a_label_whose_image_is_missing_is_named(self, tmp_path, write_nifti):
        write_nifti(tmp_path / "data" / "images" / "p1.nii.gz")
        for number in (1, 2):
            write_nifti(tmp_path / "data" / "masks" / f"p{number}.nii.gz", value=1)
        file = tmp_path / "own.yaml"
        file.write_text(
            "title: Own\nchannels: {CT: {kind: CT}}\nlayouts: [pairs]\nlabels: {1: kidney}\n"
            "pairs: [{image: 'images/(?P<id>.+)', label: 'masks/(?P<id>.+)'}]\n"
        )
        with pytest.raises(InputError, match=r"images/p2\.nii\.gz"):
            datalist(tmp_path / "data", dataset=file)

    def test_a_record_that_does_not_fit_says_what_was_looked_for(self, brats2020):
        with pytest.raises(
            InputError, match=r"no case of the data set 'lits' .*volume-<id>.*found BraTS20_Training_001"
        ):
            datalist(brats2020, dataset="lits")


class TestErrors:
    def test_two_data_sets(self, tmp_path, brats2020, write_nifti):
        write_nifti(tmp_path / "volume-0.nii")
        with pytest.raises(
            InputError, match=r"3 cases of BraTS 2018 to 2022 and 1 cases of LiTS 2017; give the folder"
        ):
            recognise(tmp_path)

    def test_nothing_names_what_was_looked_for(self, tmp_path):
        (tmp_path / "notes.txt").touch()
        expected = (
            r"looked for .*case folders .*volume-<id>.*; found notes.txt; check dataset_dir, or name the data set"
        )
        with pytest.raises(InputError, match=expected):
            recognise(tmp_path)

    def test_absent(self, tmp_path):
        with pytest.raises(InputError, match="there is no such folder"):
            recognise(tmp_path / "data")

    def test_file_of_another_kind(self, tmp_path):
        (tmp_path / "a.mha").touch()
        with pytest.raises(InputError, match=r"a.mha: expected a folder or a NIfTI file"):
            recognise(tmp_path / "a.mha")


def test_same_cases_in_three_layouts(tmp_path, write_nifti):
    """The Decathlon's 4D files, nnU-Net's and BIDS's 3D files of the same cases are read alike."""
    from custom_nets.transforms import LoadCased

    case, names = "TCGA_CS_4941_19960909", ("T1", "FLAIR", "T1ce")
    labels = {"0": "background", "1": "FLAIR abnormality"}
    dec, nnu, bids = (tmp_path / name for name in ("dec", "nnu", "bids"))
    write_nifti(dec / "imagesTr" / f"{case}.nii.gz", (6, 5, 4, 3))
    import nibabel as nib

    stacked = nib.load(dec / "imagesTr" / f"{case}.nii.gz")
    for index, end in enumerate(("T1w", "FLAIR", "ce-gd_T1w")):
        channel = nib.Nifti1Image(np.asarray(stacked.dataobj)[..., index], stacked.affine)
        for file in (
            nnu / "imagesTr" / f"{case}_{index:04}.nii.gz",
            bids / "sub-4941" / "anat" / f"sub-4941_{end}.nii.gz",
        ):
            file.parent.mkdir(parents=True, exist_ok=True)
            nib.save(channel, file)
    (dec / "dataset.json").write_text(json.dumps({"modality": dict(enumerate(names)), "labels": labels}))
    (nnu / "dataset.json").write_text(
        json.dumps({"channel_names": dict(enumerate(names)), "labels": {"background": 0, "FLAIR abnormality": 1}})
    )
    order = ("FLAIR", "T1", "T1ce")
    load = LoadCased("image", modalities=order)
    volumes = [load(datalist(root, modalities=order, labels="ignore")[0])["image"] for root in (dec, nnu, bids)]
    assert np.array_equal(volumes[0], volumes[1])
    assert np.array_equal(volumes[0], volumes[2])
    assert np.array_equal(volumes[0][0], np.asarray(stacked.dataobj)[..., 1])


def test_a_folder_without_images_is_a_lost_case(tmp_path, write_case):
    for name in ("BraTS20_Training_001", "BraTS20_Training_002"):
        write_case(tmp_path / name, name)
    (tmp_path / "BraTS20_Training_003").mkdir()
    (tmp_path / "notes").mkdir()
    good, faults = check_datalist(datalist(tmp_path, labels="optional", check=False))
    assert len(good) == 2
    assert [fault.split(";")[0] for fault in faults] == ["case BraTS20_Training_003: no image file is there"]
    with pytest.raises(InputError, match="BraTS20_Training_003: no image file is there"):
        datalist(tmp_path)


def test_links_add_no_case(tmp_path, write_case):
    write_case(tmp_path / "BraTS20_Training_001", "BraTS20_Training_001")
    (tmp_path / "again").symlink_to(tmp_path / "BraTS20_Training_001", target_is_directory=True)
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert [item["case"] for item in datalist(tmp_path)] == ["BraTS20_Training_001"]
