"""Cases are read channels first, and bad ones are named."""

import gzip
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.transforms import LoadImaged

from custom_nets.datasets import datalist
from custom_nets.errors import InputError
from custom_nets.transforms import loading
from custom_nets.transforms.loading import DropMissingd, LoadCased, ReloadCased, files_of
from custom_nets.transforms.saving.overlay import OverlaySettings, SaveOverlayd

CheckCased = partial(loading.CheckCased, modalities=("FLAIR", "T1", "T1ce", "T2"))
SHAPE = (6, 5, 4)
ENDINGS = ("flair", "t1", "t1ce", "t2")
MODALITIES = ("FLAIR", "T1", "T1ce", "T2")


def save(path, voxels, shift=0.0):
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[0, 3] = shift
    nib.save(nib.Nifti1Image(np.asarray(voxels), affine), path)
    return str(path)


@pytest.fixture
def volumes():
    """Four modalities [4, H, W, D]."""
    return np.random.default_rng(0).integers(0, 900, (4, *SHAPE)).astype(np.int16)


@pytest.fixture
def files(tmp_path, volumes):
    return [save(tmp_path / f"A_{ending}.nii.gz", volume) for ending, volume in zip(ENDINGS, volumes, strict=True)]


@pytest.fixture
def label(tmp_path):
    return save(tmp_path / "A_seg.nii.gz", np.full(SHAPE, 4, np.float64))


class TestLoadImage:
    def test_four_files_become_channels(self, files, volumes):
        image = LoadCased("image")({"image": files})["image"]
        np.testing.assert_array_equal(image, volumes)

    def test_one_4d_file_becomes_channels(self, tmp_path, volumes):
        path = save(tmp_path / "a.nii.gz", np.moveaxis(volumes, 0, -1))
        np.testing.assert_array_equal(LoadCased("image")({"image": path})["image"], volumes)

    def test_vector_volume_becomes_channels(self, tmp_path, volumes):
        path = save(tmp_path / "a.nii.gz", np.moveaxis(volumes, 0, -1)[:, :, :, None])
        np.testing.assert_array_equal(LoadCased("image")({"image": path})["image"], volumes)

    def test_one_3d_file_becomes_one_channel(self, files, volumes):
        np.testing.assert_array_equal(LoadCased("image")({"image": files[0]})["image"], volumes[:1])

    def test_is_float32(self, files):
        assert LoadCased("image")({"image": files})["image"].dtype == torch.float32

    def test_affine(self, files):
        affine = LoadCased("image")({"image": files})["image"].affine
        np.testing.assert_array_equal(affine, np.diag([-1.0, -1.0, 1.0, 1.0]))

    def test_rounding_of_the_affine_is_allowed(self, files, tmp_path, volumes):
        save(tmp_path / "A_t2.nii.gz", volumes[3], shift=5e-4)
        assert LoadCased("image")({"image": files})["image"].shape == (4, *SHAPE)

    def test_same_as_monai(self, files):
        ours = LoadCased("image")({"image": files})["image"]
        theirs = LoadImaged("image", reader="NibabelReader", ensure_channel_first=True)({"image": files})["image"]
        assert {key for key in theirs.meta if key not in ours.meta} == set()
        torch.testing.assert_close(ours.as_tensor(), theirs.as_tensor())

    @pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
    def test_scaled_file_read_in_slabs(self, tmp_path, volumes, monkeypatch, suffix):
        monkeypatch.setattr("custom_nets.io.nifti._SLAB_VOXELS", 61)
        path = tmp_path / f"A{suffix}"
        scaled = nib.Nifti1Image(volumes[0], np.eye(4))
        scaled.header.set_slope_inter(0.5, -1024)
        nib.save(scaled, path)
        stored = np.asarray(nib.load(path).dataobj.get_unscaled(), np.float64)
        expected = (stored * 0.5 - 1024).astype(np.float32)
        np.testing.assert_array_equal(LoadCased("image")({"image": path})["image"][0], expected)

    def test_many_rows_read_block_by_block(self, tmp_path):
        voxels = np.arange(3 * 21 * 4, dtype=np.int16).reshape(3, 21, 4)
        np.testing.assert_array_equal(
            LoadCased("image")({"image": save(tmp_path / "A.nii.gz", voxels)})["image"][0], voxels
        )

    def test_meta_data_of_several_files_is_that_of_the_first(self, files):
        ours, theirs = (LoadCased("image")({"image": names})["image"].meta for names in (files, files[0]))
        differing = {key for key in ours if str(ours[key]) != str(theirs[key])}
        assert differing == {"original_channel_dim", "case_files"}

    def test_threads_do_not_mix_up_files(self, files, label, volumes):
        load = LoadCased()
        items = [{"image": files, "label": label}] * 40
        with ThreadPoolExecutor(4) as pool:
            shapes = {(tuple(item["image"].shape), tuple(item["label"].shape)) for item in pool.map(load, items)}
        assert shapes == {((4, *SHAPE), (1, *SHAPE))}


class TestAbsentModalities:
    """None in the list of files stands for a modality that is not there."""

    @pytest.fixture(params=range(4), ids=["FLAIR", "T1", "T1ce", "T2"])
    def absent(self, request):
        return request.param

    @pytest.fixture
    def names(self, files, absent):
        return [None if channel == absent else file for channel, file in enumerate(files)]

    def test_channel_holds_zeros_and_the_others_their_files(self, names, volumes, absent):
        volumes[absent] = 0
        np.testing.assert_array_equal(LoadCased("image")({"image": names})["image"], volumes)

    def test_is_float32(self, names):
        assert LoadCased("image")({"image": names})["image"].dtype == torch.float32

    def test_name_of_the_case(self, names):
        assert LoadCased("image")({"image": names})["case"] == "A"

    def test_files_keep_their_places(self, names):
        assert files_of(LoadCased("image")({"image": names})["image"]) == names

    def test_is_read_again_as_it_was(self, names):
        item = LoadCased("image")({"image": names, "case": "A"})
        again = ReloadCased("image", "original")({**item, "image": item["image"] * 0})["original"]
        assert torch.equal(again, item["image"])

    def test_affine_is_that_of_the_first_file_there(self, files, volumes, tmp_path):
        for ending, volume in zip(ENDINGS[1:], volumes[1:], strict=True):
            save(tmp_path / f"A_{ending}.nii.gz", volume, shift=7)
        assert LoadCased("image")({"image": [None, *files[1:]]})["image"].affine[0, 3] == 7

    @pytest.mark.parametrize("number", [1, 2, 3])
    def test_meta_data_are_those_of_a_whole_case(self, files, number):
        whole = LoadCased("image")({"image": files})["image"].meta
        partly = LoadCased("image")({"image": [None] * (4 - number) + files[4 - number :]})["image"].meta
        differing = {key for key in whole | partly if str(whole[key]) != str(partly[key])}
        assert differing == {"case_files", "filename_or_obj"}

    def test_grids_must_agree(self, files):
        save(files[3], np.zeros((6, 5, 3), np.int16))
        with pytest.raises(InputError, match=rf"file {files[3]}: shape \(6, 5, 3\), but A_t1.nii.gz has"):
            LoadCased("image")({"image": [None, files[1], None, files[3]]})

    def test_one_file_at_least(self):
        with pytest.raises(InputError, match="case A: 'image' names no file; expected at least one"):
            LoadCased("image")({"image": [None] * 4, "case": "A"})

    def test_file_of_several_channels(self, tmp_path, volumes):
        path = save(tmp_path / "a.nii.gz", np.moveaxis(volumes, 0, -1))
        with pytest.raises(InputError, match=rf"{path}: expected one channel a file .* got 4 channels in 1 files"):
            LoadCased("image")({"image": [None, path]})

    def test_survive_a_loader(self, names):
        loader = DataLoader(Dataset([{"image": names}], LoadCased("image")), batch_size=1)
        assert files_of(decollate_batch(next(iter(loader)))[0]["image"]) == names

    def test_picture_is_drawn(self, names, tmp_path):
        pytest.importorskip("matplotlib")
        item = ReloadCased("image", "original")(LoadCased("image")({"image": names}))
        item["pred"] = item["image"][:3] * 0
        picture = OverlaySettings(MODALITIES, dpi=20)
        SaveOverlayd(tmp_path / "out", ("WT", "TC", "ET"), picture, "original")(item)
        assert (tmp_path / "out" / "A" / "A_overlay.png").is_file()


class TestLoadLabel:
    def test_whole_floats_become_integers(self, label):
        read = LoadCased("label")({"label": label})["label"]
        assert (read.dtype, read.unique().tolist()) == (torch.int16, [4])

    def test_keeps_its_meta_data(self, label):
        read = LoadCased("label")({"label": label})["label"]
        assert read.affine[0, 0] == -1

    @pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32])
    def test_same_numbers_from_any_type(self, tmp_path, volumes, dtype):
        labels = volumes[0] % 5
        path = save(tmp_path / "A_seg.nii.gz", labels.astype(dtype))
        np.testing.assert_array_equal(LoadCased("label")({"label": path})["label"][0], labels)

    def test_scaled_label_map(self, tmp_path):
        path = tmp_path / "A_seg.nii.gz"
        scaled = nib.Nifti1Image(np.full(SHAPE, 4, np.int16), np.eye(4))
        scaled.header.set_slope_inter(2, 1)
        nib.save(scaled, path)
        stored = int(nib.load(path).dataobj.get_unscaled()[0, 0, 0])
        assert LoadCased("label")({"label": path})["label"].unique().tolist() == [stored * 2 + 1]

    def test_parts_are_checked_together(self, tmp_path, monkeypatch):
        monkeypatch.setattr("custom_nets.transforms.loading._PART", 7)
        voxels = np.zeros(SHAPE)
        voxels[0, 0, 3], voxels[-1, -1, -1] = 0.25, 0.75
        path = save(tmp_path / "A_seg.nii.gz", voxels)
        with pytest.raises(InputError, match=r"this one holds 0.25 \(in 2 voxels\)"):
            LoadCased("label")({"label": path})

    @pytest.mark.parametrize("value", [0.5, np.nan, np.inf])
    def test_fractions_are_an_error(self, tmp_path, value):
        voxels = np.zeros(SHAPE)
        voxels[0, 0, 0] = value
        path = save(tmp_path / "A_seg.nii.gz", voxels)
        with pytest.raises(InputError, match=rf"case A, file {path}: a label map holds whole numbers, this one holds"):
            LoadCased("label")({"label": path})

    def test_huge_numbers_are_an_error(self, tmp_path):
        path = save(tmp_path / "A_seg.nii.gz", np.full(SHAPE, 40000.0))
        with pytest.raises(InputError, match="label number 40000 is no label number"):
            LoadCased("label")({"label": path})


class TestNameOfTheCase:
    def test_four_files(self, files):
        assert LoadCased("image")({"image": files})["case"] == "A"

    def test_one_file(self, tmp_path, volumes):
        path = save(tmp_path / "BRATS_001.nii.gz", np.moveaxis(volumes, 0, -1))
        assert LoadCased("image")({"image": path})["case"] == "BRATS_001"

    def test_name_in_the_item_is_kept(self, files):
        assert LoadCased("image")({"image": files, "case": "B"})["case"] == "B"

    def test_goes_into_the_meta_data(self, files):
        assert LoadCased("image")({"image": files})["image"].meta["case"] == "A"

    def test_after_monais_own_loader(self, tmp_path, volumes):
        path = save(tmp_path / "BRATS_001.nii.gz", np.moveaxis(volumes, 0, -1))
        item = LoadImaged("image", ensure_channel_first=True)({"image": path})
        assert CheckCased("image")(item)["case"] == "BRATS_001"


class TestUnreadableFiles:
    def test_damaged_in_the_middle(self, files, tmp_path):
        noise = np.random.default_rng(0).integers(0, 999, (40, 40, 20)).astype(np.int16)
        path = tmp_path / "A_t1.nii.gz"
        save(path, noise)
        data = bytearray(path.read_bytes())
        data[len(data) // 2 : len(data) // 2 + 2000] = bytes(2000)
        path.write_bytes(data)
        with pytest.raises(InputError, match=rf"^case A, file {path}: not readable as NIfTI \(.*download or export"):
            LoadCased("image")({"image": str(path), "case": "A"})

    def test_cut_short(self, files):
        with open(files[2], "r+b") as file:
            file.truncate(150)
        with pytest.raises(InputError, match=rf"^case A, file {files[2]}: "):
            LoadCased("image")({"image": files})

    def test_absent(self, files):
        with pytest.raises(InputError, match=r"case A, file A_t1.nii.gz: there is no such file"):
            LoadCased("image")({"image": "A_t1.nii.gz", "case": "A"})

    def test_shapes_that_differ(self, files, tmp_path):
        save(tmp_path / "A_t1.nii.gz", np.zeros((6, 5, 3), np.int16))
        with pytest.raises(InputError, match=rf"case A, file {files[1]}: shape \(6, 5, 3\), but A_flair.nii.gz has"):
            LoadCased("image")({"image": files})

    def test_one_line(self, files):
        with gzip.open(files[0], "wb") as file:
            file.write(b"nothing")
        with pytest.raises(InputError) as error:
            LoadCased("image")({"image": files})
        assert "\n" not in str(error.value)

    def test_missing_label_is_allowed_when_told_so(self, files):
        assert "label" not in LoadCased(allow_missing_keys=True)({"image": files})


def tensor(shape=(4, *SHAPE), name="A.nii.gz", shift=0.0):
    affine = torch.eye(4)
    affine[0, 3] = shift
    count = int(np.prod(shape))
    voxels = torch.arange(count, dtype=torch.float32).reshape(shape)
    return MetaTensor(voxels, affine=affine, meta={"filename_or_obj": f"/data/{name}"})


class TestCheckImage:
    def test_good_case_is_unchanged(self):
        image, label = tensor(), tensor((1, *SHAPE))
        checked = CheckCased()({"image": image, "label": label})
        assert checked == {"image": image, "label": label, "case": "A"}

    def test_channels_last(self):
        with pytest.raises(
            InputError, match=r"case A, file /data/A.nii.gz: expected 4 channels \(FLAIR.*got 240"
        ) as error:
            CheckCased("image")({"image": tensor((240, 5, 3, 4))})
        assert "channels are last: read with ensure_channel_first" in str(error.value)

    def test_one_modality(self):
        with pytest.raises(InputError, match=r"expected 4 channels .*got 1 \(array \[1, 6, 5, 4\]\); give one 4D file"):
            CheckCased("image")({"image": tensor((1, *SHAPE))})

    def test_no_channel_axis(self):
        with pytest.raises(InputError, match="got 3 axes"):
            CheckCased("image")({"image": tensor(SHAPE)})

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    def test_nan_and_infinity(self, value):
        image = tensor()
        image[2, 0, 0, :2] = value
        with pytest.raises(InputError, match="T1ce holds 2 voxels that are NaN or infinite"):
            CheckCased("image")({"image": image})

    def test_empty_modality(self):
        image = tensor()
        image[1] = 0
        with pytest.raises(InputError, match="T1 has no content, every voxel is 0"):
            CheckCased("image")({"image": image})

    def test_empty_modality_may_be_done_without(self):
        image = tensor()
        image[1] = 0
        with pytest.raises(InputError, match=r"; a model trained with modality_dropout can do without$"):
            CheckCased("image")({"image": image})

    def test_empty_modalities_pass_when_told_so(self):
        image = tensor()
        image[:3] = 0
        assert CheckCased("image", missing_modalities=True)({"image": image})["image"] is image

    @pytest.mark.parametrize("missing_modalities", [False, True])
    def test_constant_modality(self, missing_modalities):
        image = tensor()
        image[3] = 7
        with pytest.raises(InputError, match=r"T2 has no content, every voxel is 7; .* provide the real one$"):
            CheckCased("image", missing_modalities=missing_modalities)({"image": image})

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_nan_and_infinity_beside_an_empty_modality(self, value):
        image = tensor()
        image[1], image[2] = 0, value
        with pytest.raises(InputError, match="T1ce holds 120 voxels that are NaN or infinite"):
            CheckCased("image", missing_modalities=True)({"image": image})

    @pytest.mark.parametrize("missing_modalities", [False, True])
    def test_empty_image(self, missing_modalities):
        with pytest.raises(InputError, match="the whole image is 0"):
            CheckCased("image", missing_modalities=missing_modalities)({"image": tensor() * 0})

    def test_absent_modality_is_an_error(self, files):
        with pytest.raises(InputError, match=rf"case A, file {files[1]}: FLAIR has no content, every voxel is 0"):
            CheckCased("image")(LoadCased("image")({"image": [None, *files[1:]]}))

    def test_absent_modalities_pass_when_told_so(self, files):
        item = LoadCased("image")({"image": [None, None, files[2], None]})
        assert CheckCased("image", missing_modalities=True)(item)["case"] == "A"

    def test_file_beside_an_absent_one_is_named(self, files):
        save(files[2], np.full(SHAPE, 5, np.int16))
        item = LoadCased("image")({"image": [None, *files[1:]]})
        with pytest.raises(InputError, match=rf"case A, file {files[2]}: T1ce has no content, every voxel is 5"):
            CheckCased("image", missing_modalities=True)(item)

    def test_file_of_the_modality_is_named(self, files):
        save(files[2], np.zeros(SHAPE, np.int16))
        with pytest.raises(InputError, match=rf"case A, file {files[2]}: T1ce has no content"):
            CheckCased("image")(LoadCased("image")({"image": files}))

    def test_plain_tensor(self):
        with pytest.raises(
            InputError, match=r"case without a name, file \(item 'image', not read from a file\): the whole"
        ):
            CheckCased("image")({"image": torch.zeros(4, *SHAPE)})

    def test_computed_tomography(self):
        check = CheckCased("image", modalities=["CT"])
        with pytest.raises(InputError, match=r"expected 1 channels \(CT\), got 4"):
            check({"image": tensor()})


class TestCheckLabel:
    def test_shape_differs(self):
        with pytest.raises(InputError, match=r"file /data/L.nii.gz: shape \(6, 5, 3\) of 'label', but 'image' has"):
            CheckCased()({"image": tensor(), "label": tensor((1, 6, 5, 3), "L.nii.gz")})

    def test_affine_differs(self):
        with pytest.raises(
            InputError, match=r"affine of 'label' differs from that of 'image' by up to 2 \(allowed 0.001"
        ):
            CheckCased()({"image": tensor(), "label": tensor((1, *SHAPE), shift=2)})

    def test_affines_are_not_compared_when_told_so(self):
        CheckCased(affine_tolerance=None)({"image": tensor(), "label": tensor((1, *SHAPE), shift=2)})

    def test_several_channels(self):
        with pytest.raises(InputError, match="expected one label map"):
            CheckCased()({"image": tensor(), "label": tensor()})

    def test_may_hold_nothing(self):
        CheckCased()({"image": tensor(), "label": tensor((1, *SHAPE)) * 0})

    def test_may_be_absent_when_told_so(self):
        assert "label" not in CheckCased(allow_missing_keys=True)({"image": tensor()})

    def test_absent_is_an_error_otherwise(self):
        with pytest.raises(KeyError, match="label"):
            CheckCased()({"image": tensor()})


def test_real_case(real_case_dir):
    item = CheckCased()(LoadCased()(datalist(real_case_dir)[0]))
    assert (tuple(item["image"].shape), item["label"].unique().tolist()) == ((4, 240, 240, 155), [0, 1, 2, 4])


def test_empty_entries_are_dropped():
    assert DropMissingd("label")({"label": None, "image": None, "case": "a"}) == {"image": None, "case": "a"}


def test_an_image_is_read_again_as_it_was(files):
    item = LoadCased("image")({"image": files, "case": "A"})
    item["image"] *= 0
    again = ReloadCased("image", "original")(item)["original"]
    assert torch.equal(again, LoadCased("image")({"image": files})["image"])


def test_only_the_channels_that_are_needed_are_read_again(files, volumes):
    item = LoadCased("image")({"image": files, "case": "A"})
    volumes[[1, 3]] = 0
    again = ReloadCased("image", "original", MODALITIES, ["T1ce", "FLAIR"])(item)["original"]
    np.testing.assert_array_equal(again, volumes)


def test_a_channel_that_is_needed_and_unknown_is_an_error():
    with pytest.raises(InputError, match="modality 'T1gd' is unknown; expected any of FLAIR, T1, T1ce, T2"):
        ReloadCased("image", "original", MODALITIES, ["T1gd"])


def test_a_file_that_holds_all_channels_is_read_again_whole(tmp_path, volumes):
    item = LoadCased("image")({"image": save(tmp_path / "a.nii.gz", np.moveaxis(volumes, 0, -1))})
    again = ReloadCased("image", "original", MODALITIES, ["T1ce", "FLAIR"])(item)["original"]
    np.testing.assert_array_equal(again, volumes)


def test_only_images_that_know_their_files_are_read_again():
    with pytest.raises(InputError, match="does not know the files"):
        ReloadCased("image", "original")({"image": torch.zeros(4, 2, 2, 2)})
