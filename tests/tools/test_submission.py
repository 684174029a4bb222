"""A submission is packed when every prediction is right; each kind of fault is named with its case, all at once."""

import gzip
import os
import shutil
import zipfile

import nibabel as nib
import numpy as np
import pytest

from custom_nets.datasets.case_record import save_case_record
from custom_nets.errors import InputError
from custom_nets.tools.submission import check_submission, find_release, releases, write_submission

FULL = (240, 240, 155)
SMALL = (5, 6, 7)
GRID = np.array([[-1.0, 0, 0, 0], [0, -1.0, 0, 239], [0, 0, 1.0, 0], [0, 0, 0, 1]])
FIRST, SECOND = "BraTS20_Training_001", "BraTS20_Training_002"
OLD_CASES = {
    2018: "Brats18_TCIA01_147_1",
    2019: "BraTS19_CBICA_AAB_1",
    2020: "BraTS20_Validation_125",
    2021: "BraTS2021_01666",
    2023: "BraTS-GLI-00005-001",
    2024: "BraTS-GLI-02062-100",
}


def label_map(shape, numbers=(0, 1, 2, 4), dtype=np.uint8):
    voxels = np.zeros(shape, dtype)
    voxels.reshape(-1)[: len(numbers)] = numbers
    return voxels


def write(file, voxels, affine=GRID, slope=None, inter=None):
    file.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(voxels, affine, dtype=voxels.dtype)
    image.header.set_slope_inter(slope, inter)
    nib.save(image, file)
    return file


def prediction(results, case, suffix=".nii.gz"):
    return results / case / f"{case}_prediction{suffix}"


@pytest.fixture(scope="session")
def good_2020(tmp_path_factory):
    """Two cases of 2020 as a bundle leaves them: label maps, other files beside them, the record."""
    root = tmp_path_factory.mktemp("submission")
    results = root / "results"
    image = write(root / "input.nii.gz", np.zeros(FULL, np.uint8))
    for case, numbers in ((FIRST, (0, 1, 2, 4)), (SECOND, (0, 2))):
        write(prediction(results, case), label_map(FULL, numbers))
        write(results / case / f"{case}_probabilities.nii.gz", np.full((2, 2, 2), 0.5, np.float32))
        (results / case / f"{case}_overlay.png").touch()
    save_case_record(results / "cases.json", [{"case": case, "image": [str(image)]} for case in (FIRST, SECOND)])
    return results


@pytest.fixture
def results(good_2020, tmp_path):
    return shutil.copytree(good_2020, tmp_path / "results")


@pytest.fixture
def small(tmp_path):
    """Makes results of a release with small volumes, those of 2024 alone without fault."""

    def make(cases, voxels=None, affine=GRID):
        image = write(tmp_path / "input.nii.gz", np.zeros(SMALL, np.uint8))
        for case in cases:
            write(
                prediction(tmp_path / "small", case),
                label_map(SMALL, (0, 1, 2, 3, 4)) if voxels is None else voxels,
                affine,
            )
        save_case_record(tmp_path / "small" / "cases.json", [{"case": c, "image": [str(image)]} for c in cases])
        return tmp_path / "small"

    return make


class TestGood:
    def test_every_case_is_good(self, good_2020):
        good, faults = check_submission(good_2020, 2020)
        assert (good, faults) == ([(case, prediction(good_2020, case)) for case in (FIRST, SECOND)], [])

    def test_number_of_cases(self, good_2020, tmp_path):
        assert write_submission(good_2020, tmp_path / "out.zip", 2020) == 2

    def test_zip_holds_the_files_at_its_root(self, good_2020, tmp_path):
        write_submission(good_2020, tmp_path / "out.zip", 2020)
        with zipfile.ZipFile(tmp_path / "out.zip") as archive:
            held = {name: archive.read(name) for name in archive.namelist()}
        assert held == {f"{case}.nii.gz": prediction(good_2020, case).read_bytes() for case in (FIRST, SECOND)}

    def test_same_bytes_at_another_time_and_place(self, good_2020, results, tmp_path, monkeypatch):
        write_submission(good_2020, tmp_path / "a.zip", 2020)
        os.utime(prediction(results, FIRST), (1e9, 1e9))
        monkeypatch.setattr("time.time", lambda: 2e9)
        write_submission(results, tmp_path / "b.zip", "2020")
        assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()

    def test_names_are_sorted(self, small, tmp_path):
        cases = [f"BraTS-GLI-0000{n}-10{t}" for n, t in ((3, 1), (1, 1), (2, 0), (1, 0))]
        write_submission(small(cases), tmp_path / "out.zip", 2024)
        with zipfile.ZipFile(tmp_path / "out.zip") as archive:
            assert archive.namelist() == [f"{case}.nii.gz" for case in sorted(cases)]

    def test_an_older_zip_is_replaced(self, small, tmp_path):
        (tmp_path / "out.zip").write_text("old")
        write_submission(small([OLD_CASES[2024]]), tmp_path / "out.zip", 2024)
        assert zipfile.is_zipfile(tmp_path / "out.zip")

    def test_folders_above_the_zip_are_made(self, small, tmp_path):
        write_submission(small([OLD_CASES[2024]]), tmp_path / "a" / "b" / "out.zip", 2024)
        assert [entry.name for entry in (tmp_path / "a" / "b").iterdir()] == ["out.zip"]

    @pytest.mark.parametrize("name", ["{}.nii.gz", "{}_prediction.nii.gz"])
    def test_flat_folder(self, small, tmp_path, name):
        case = OLD_CASES[2024]
        folder = small([case])
        shutil.move(prediction(folder, case), folder / name.format(case))
        assert check_submission(folder, 2024) == ([(case, folder / name.format(case))], [])

    def test_whole_scaling(self, small):
        case = OLD_CASES[2024]
        folder = small([case])
        write(prediction(folder, case), label_map(SMALL, (0, 1, 2)), slope=2, inter=0)
        assert check_submission(folder, 2024)[1] == []

    def test_affine_within_tolerance(self, small):
        assert check_submission(small([OLD_CASES[2024]], affine=GRID + 9e-4 * np.eye(4, k=3)), 2024)[1] == []

    def test_first_letters_in_another_case(self, small):
        assert check_submission(small(["brats-GLI-00005-101"]), 2024)[1] == []


class TestDataset:
    @pytest.fixture
    def dataset(self, tmp_path):
        """Two cases of 2024, four files each, one of them labelled."""
        for case in ("BraTS-GLI-00001-100", "BraTS-GLI-00002-100"):
            for ending in ("t2f", "t1n", "t1c", "t2w"):
                write(tmp_path / "data" / case / f"{case}-{ending}.nii.gz", np.zeros(SMALL, np.int16))
        write(tmp_path / "data" / case / f"{case}-seg.nii.gz", label_map(SMALL))
        return tmp_path / "data"

    def test_says_what_is_expected(self, dataset, tmp_path):
        for folder in dataset.iterdir():
            write(tmp_path / "flat" / f"{folder.name}.nii.gz", label_map(SMALL))
        assert write_submission(tmp_path / "flat", tmp_path / "out.zip", 2024, dataset) == 2

    def test_wins_over_the_record(self, dataset, small):
        _, faults = check_submission(small(["BraTS-GLI-00001-100"]), 2024, dataset)
        assert len(faults) == 1
        assert "case BraTS-GLI-00002-100, file" in faults[0]
        assert "there is no prediction" in faults[0]

    def test_grid_is_compared(self, dataset, small):
        folder = small(["BraTS-GLI-00001-100", "BraTS-GLI-00002-100"], affine=np.eye(4))
        assert sum("affine differs" in fault for fault in check_submission(folder, 2024, dataset)[1]) == 2

    def test_neither_data_set_nor_record(self, small):
        folder = small([OLD_CASES[2024]])
        (folder / "cases.json").unlink()
        with pytest.raises(InputError, match=r"there is no cases.json; give the folder .*\(--dataset_dir\)"):
            check_submission(folder, 2024)

    def test_record_without_cases(self, small):
        with pytest.raises(InputError, match="names no case"):
            check_submission(small([]), 2024)


def remove(results):
    prediction(results, SECOND).unlink()


def rename(results):
    shutil.move(prediction(results, SECOND), results / SECOND / f"{SECOND}_pred.nii.gz")


def take_another_name(results):
    shutil.move(prediction(results, SECOND), results / SECOND / f"{FIRST}_prediction.nii.gz")


def crop(results):
    write(prediction(results, SECOND), label_map((240, 240, 154)))


def shift(results):
    write(prediction(results, SECOND), label_map(FULL), GRID + 2 * np.eye(4, k=3))


def flip(results):
    write(prediction(results, SECOND), label_map(FULL), GRID @ np.diag([-1, 1, 1, 1]))


def write_three(results):
    write(prediction(results, SECOND), label_map(FULL, (0, 1, 2, 3)))


def write_seven(results):
    write(prediction(results, SECOND), label_map(FULL, (0, 1, 7, 200)))


def write_floats(results):
    write(prediction(results, SECOND), label_map(FULL, dtype=np.float32))


def write_nan(results):
    write(prediction(results, SECOND), label_map(FULL, (0, np.nan, np.nan), np.float32))


def write_fractions(results):
    write(prediction(results, SECOND), label_map(FULL), slope=0.5, inter=0)


def add_channels(results):
    write(prediction(results, SECOND), label_map((*FULL, 2)))


def add_axis(results):
    write(prediction(results, SECOND), label_map((*FULL, 1)))


def cut(results):
    file = prediction(results, SECOND)
    file.write_bytes(file.read_bytes()[:-5000])


def cut_before_packing(results):
    file = prediction(results, SECOND)
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes())[:-100], 1))


def damage_checksum(results):
    file = prediction(results, SECOND)
    packed = bytearray(file.read_bytes())
    packed[-8] ^= 1
    file.write_bytes(packed)


def empty(results):
    prediction(results, SECOND).write_bytes(b"")


def unpack(results):
    file = prediction(results, SECOND)
    prediction(results, SECOND, ".nii").write_bytes(gzip.decompress(file.read_bytes()))
    file.unlink()


def add_unpacked(results):
    prediction(results, SECOND, ".nii").write_bytes(gzip.decompress(prediction(results, SECOND).read_bytes()))


def add_flat(results):
    shutil.copy(prediction(results, SECOND), results / f"{SECOND}.nii.gz")


DAMAGE = {
    remove: f"there is no prediction, the folder holds {SECOND}_probabilities.nii.gz; infer this case",
    rename: f"there is no prediction, the folder holds {SECOND}_pred.nii.gz, {SECOND}_probabilities.nii.gz",
    take_another_name: f"expected the name {SECOND}_prediction.nii.gz in the folder {SECOND}",
    crop: "shape (240, 240, 154), release 2020 expects (240, 240, 155)",
    shift: "affine differs from the input's by up to 2 (allowed 0.001); save",
    flip: "its axes are RPS where the input's are LPS",
    write_three: "label 3 not of release 2020 (it has 0, 1, 2, 4), looks like the numbers of 2023;",
    write_seven: "label 7, 200 not of release 2020 (it has 0, 1, 2, 4); write",
    write_floats: "stored as float32; expected an integer type",
    write_nan: "NaN in 2 voxels",
    write_fractions: "scl_slope 0.5 and scl_inter 0 make fractions",
    add_channels: "4 axes, shape (240, 240, 155, 2); expected 3D",
    add_axis: "4 axes, shape (240, 240, 155, 1); expected 3D",
    cut: "cut short, holds",
    cut_before_packing: "cut short, holds",
    damage_checksum: "not readable as NIfTI (CRC check failed",
    empty: "not readable as NIfTI",
    unpack: "the name ends with .nii, expected .nii.gz",
    add_unpacked: "2 predictions, ",
    add_flat: f"2 predictions, {SECOND}/{SECOND}_prediction.nii.gz, {SECOND}.nii.gz",
}


class TestDamaged:
    @pytest.mark.parametrize(("damage", "message"), DAMAGE.items(), ids=[damage.__name__ for damage in DAMAGE])
    def test_is_refused(self, results, damage, message):
        damage(results)
        good, faults = check_submission(results, 2020)
        assert [case for case, _ in good] == [FIRST]
        assert any(fault.startswith(f"case {SECOND}") and message in fault for fault in faults)
        assert all(fault.startswith(f"case {SECOND}") and "\n" not in fault for fault in faults)

    def test_label_four_in_2023(self, small):
        _, faults = check_submission(small([OLD_CASES[2023]], label_map(SMALL, (0, 1, 2, 4))), 2023)
        message = "label 4 not of release 2023 (it has 0, 1, 2, 3), looks like the numbers of 2018 to 2022;"
        assert any(message in fault for fault in faults)

    def test_three_and_four_are_numbers_of_2024(self, small):
        _, faults = check_submission(small([OLD_CASES[2020]]), 2020)
        assert any("label 3 not of release 2020" in f and "looks like the numbers of 2024;" in f for f in faults)

    def test_negative_label(self, small):
        _, faults = check_submission(small([OLD_CASES[2024]], label_map(SMALL, (0, -1), np.int16)), 2024)
        assert [": label -1 not of release 2024 (it has 0, 1, 2, 3, 4); write" in fault for fault in faults] == [True]

    def test_colours(self, small):
        kind = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
        _, faults = check_submission(small([OLD_CASES[2024]], np.zeros(SMALL, kind)), 2024)
        assert ["its voxels hold several numbers each (colours)" in fault for fault in faults] == [True]

    def test_shape_of_2024_is_that_of_the_input(self, small):
        _, faults = check_submission(small([OLD_CASES[2024]], label_map((5, 6, 8))), 2024)
        assert [": shape (5, 6, 8), its input has (5, 6, 7);" in fault for fault in faults] == [True]

    def test_case_that_is_not_expected(self, results):
        shutil.copytree(results / FIRST, results / "BraTS20_Training_003")
        shutil.move(
            results / "BraTS20_Training_003" / f"{FIRST}_prediction.nii.gz",
            prediction(results, "BraTS20_Training_003"),
        )
        good, faults = check_submission(results, 2020)
        assert len(good) == 2
        assert len(faults) == 1
        assert "case BraTS20_Training_003, file" in faults[0]
        assert "not among the 2 expected ones; remove" in faults[0]

    def test_case_of_another_release_that_is_not_expected(self, results):
        (results / "BraTS2021_00001.nii.gz").touch()
        fault = check_submission(results, 2020)[1][0]
        assert fault.startswith("case BraTS2021_00001, file")
        assert "looks like 2021 to 2022" in fault

    def test_input_that_could_not_be_read(self, small, tmp_path):
        folder = small(["BraTS-GLI-00001-100", "BraTS-GLI-00002-100"])
        save_case_record(
            folder / "cases.json", [{"case": f"BraTS-GLI-0000{n}-100", "image": [str(tmp_path / "no")]} for n in (1, 2)]
        )
        prediction(folder, "BraTS-GLI-00002-100").unlink()
        first, second = check_submission(folder, 2024)[1]
        assert "the grid cannot be compared, the input could not be read" in first
        assert "there is no prediction; its input cannot be read" in second


class TestSeveralFaults:
    @pytest.fixture
    def damaged(self, results):
        """One file with three faults, one missing, one of a case that is not expected."""
        write(prediction(results, FIRST), label_map(FULL, (0, 3), np.float32), np.eye(4))
        prediction(results, SECOND).unlink()
        (results / "BraTS20_Training_003.nii.gz").touch()
        return results

    def test_all_are_listed_after_their_number(self, damaged, tmp_path):
        with pytest.raises(InputError) as caught:
            write_submission(damaged, tmp_path / "out.zip", 2020)
        head, *faults = str(caught.value).split("\n")
        assert head.startswith("5 faults in ")
        expected = ["affine differs", "stored as float32", "label 3", "there is no prediction", "not among the 2"]
        assert [message in fault for message, fault in zip(expected, faults, strict=True)] == [True] * 5

    def test_nothing_is_written(self, damaged, tmp_path):
        before = {entry.name for entry in tmp_path.iterdir()}
        with pytest.raises(InputError):
            write_submission(damaged, tmp_path / "out.zip", 2020)
        assert {entry.name for entry in tmp_path.iterdir()} == before

    def test_an_older_zip_is_kept(self, damaged, tmp_path):
        (tmp_path / "out.zip").write_text("old")
        with pytest.raises(InputError):
            write_submission(damaged, tmp_path / "out.zip", 2020)
        assert (tmp_path / "out.zip").read_text() == "old"

    def test_one_fault(self, results, tmp_path):
        remove(results)
        with pytest.raises(InputError, match=r"^1 fault in "):
            write_submission(results, tmp_path / "out.zip", 2020)


class TestReleases:
    @pytest.mark.parametrize("release", [2020, "2020", 20, "20", " 20 "])
    def test_spellings(self, release):
        assert find_release(release).year == 2020

    @pytest.mark.parametrize("release", [2017, 25, "BraTS", "", 202, True, 20.0, "-20", None])
    def test_unknown(self, release):
        with pytest.raises(InputError, match="is unknown; expected one of 2018, 2019, 2020, 2021, 2022, 2023, 2024"):
            find_release(release)

    @pytest.mark.parametrize(
        ("years", "labels"),
        [(range(2018, 2023), (0, 1, 2, 4)), ([2023], (0, 1, 2, 3)), ([2024], (0, 1, 2, 3, 4))],
        ids=["old", "2023", "2024"],
    )
    def test_labels(self, years, labels):
        assert [releases()[year].tasks[0][0].labels.known for year in years] == [labels] * len(years)

    @pytest.mark.parametrize("release", releases())
    @pytest.mark.parametrize("year", OLD_CASES)
    def test_names_fit_their_release_alone(self, small, year, release):
        case = OLD_CASES[year]
        named = [f for f in check_submission(small([case]), release)[1] if f.startswith(f"case {case}: the name")]
        looks = "2021 to 2022" if year == 2021 else str(year)
        if year == release or (year, release) == (2021, 2022):
            assert named == []
        else:
            assert len(named) == 1
            assert f"is not of release {release} " in named[0]
            assert f"and looks like {looks}, give" in named[0]

    @pytest.mark.parametrize("release", [2023, 2024])
    def test_other_tumours_keep_their_names(self, small, release):
        faults = check_submission(small(["BraTS-MEN-00004-000"]), release)[1]
        assert not any("the name" in fault for fault in faults)

    @pytest.mark.parametrize(
        "case", ["BraTS20_Training_1", "BraTS20_Training_0001", "BraTS20_training_001", "BRATS_001", "x"]
    )
    def test_name_of_no_release(self, small, case):
        faults = check_submission(small([case]), 2020)[1]
        assert (
            f"case {case}: the name is not of release 2020 (such as BraTS20_Training_001), give the cases" in faults[0]
        )


class TestArguments:
    @pytest.mark.parametrize("name", ["out", "out.tar", "out.zip.gz"])
    def test_output_is_no_zip(self, small, tmp_path, name):
        with pytest.raises(InputError, match=rf"output .*{name}: expected a name that ends with .zip"):
            write_submission(small([OLD_CASES[2024]]), tmp_path / name, 2024)

    def test_place_that_cannot_be_written(self, small, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(InputError, match=r"output .*cannot be written"):
            write_submission(small([OLD_CASES[2024]]), tmp_path / "file" / "out.zip", 2024)

    def test_no_folder_of_results(self, tmp_path):
        with pytest.raises(InputError, match=r"results .*none: there is no such folder"):
            check_submission(tmp_path / "none", 2020)
