"""Bias fields that are put into a phantom, and found again."""

import copy
import pickle

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from custom_nets.errors import InputError
from custom_nets.transforms.intensity import bias_field
from custom_nets.transforms.intensity.bias_field import CorrectBiasField, CorrectBiasFieldd

SHAPE = (32, 36, 30)
AFFINE = torch.tensor([[-5.0, 0, 0, 80], [0, 5, 0, -90], [0, 0, 5, -75], [0, 0, 0, 1]])


def phantom():
    """A ball of 140 mm of two tissues: the voxels of each, and the image as a scanner without bias would show it."""
    axes = np.meshgrid(*[np.linspace(-1, 1, size) for size in SHAPE], indexing="ij")
    ball = sum(axis**2 for axis in axes) < 0.8
    inner = np.sin(7 * axes[0]) + np.sin(6 * axes[1]) + np.sin(8 * axes[2]) > 0
    noise = np.random.default_rng(0).normal(1, 0.02, SHAPE)
    image = np.where(inner, 150.0, 100.0) * noise * ball
    return (ball & inner, ball & ~inner), image.astype(np.float32)


def field():
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, size) for size in SHAPE], indexing="ij")
    return np.exp(0.3 * x - 0.3 * y**2 + 0.2 * y * z).astype(np.float32)


def as_image(*channels, affine=AFFINE):
    return MetaTensor(torch.tensor(np.stack(channels)), affine=affine, meta={"filename_or_obj": "a.nii.gz"})


def variation(image, tissue):
    values = np.asarray(image)[tissue]
    return values.std() / values.mean()


@pytest.fixture(scope="module")
def correct():
    pytest.importorskip("itk")
    return CorrectBiasField(shrink_factor=2, iterations=(30, 30, 30))


@pytest.fixture(scope="module")
def corrected(correct):
    return correct(as_image(phantom()[1] * field()))


def test_tissues_under_a_smooth_field_become_even(corrected):
    tissues, image = phantom()
    for tissue in tissues:
        before, after = variation(image * field(), tissue), variation(corrected[0], tissue)
        assert before > 0.12
        assert after < 0.03  # of which 0.02 are noise


def test_background_stays_zero(corrected):
    background = phantom()[1] == 0
    assert (np.asarray(corrected[0])[background] == 0).all()


def test_the_mean_over_the_content_is_kept(corrected):
    content = (phantom()[1] * field()).astype(np.float64)
    after = np.asarray(corrected[0], dtype=np.float64)
    assert after[content != 0].mean() == pytest.approx(content[content != 0].mean(), rel=1e-5)


def test_an_image_without_bias_hardly_changes(correct):
    image = phantom()[1]
    change = np.asarray(correct(as_image(image))[0])[image != 0] / image[image != 0]
    assert 0.98 < change.min() < change.max() < 1.02


def test_the_estimate_from_fewer_voxels_agrees(corrected):
    coarse = np.asarray(CorrectBiasField(shrink_factor=4, iterations=(30, 30, 30))(as_image(phantom()[1] * field()))[0])
    content = coarse != 0
    ratio = coarse[content] / np.asarray(corrected[0])[content]
    assert ratio.std() < 0.015


def test_the_field_is_applied_where_it_was_estimated():
    pytest.importorskip("itk")
    coarse = CorrectBiasField(shrink_factor=5)
    biased = (field() * phantom()[1].max())[:30, 3:33]
    change = np.asarray(coarse(as_image(biased))[0]) / biased
    mirrored = np.asarray(coarse(as_image(np.flip(biased).copy()))[0]) / np.flip(biased)
    assert np.allclose(np.flip(mirrored), change, rtol=0.04)


def test_background_round_the_content_makes_no_difference(correct, corrected):
    padded = np.pad(phantom()[1] * field(), ((3, 9), (0, 4), (5, 0)))
    assert np.array_equal(correct(as_image(padded))[0, 3:-9, :-4, 5:], corrected[0])


def test_the_spacing_of_the_affine_is_used(correct, corrected):
    biased = phantom()[1] * field()
    finer = correct(as_image(biased, affine=AFFINE @ torch.diag(torch.tensor([0.2, 0.2, 0.2, 1]))))
    in_voxels = correct(torch.tensor(biased)[None])
    assert torch.equal(finer.as_tensor(), in_voxels)
    assert not np.allclose(finer, corrected, rtol=1e-3)


def test_the_order_of_the_axes_makes_no_difference(correct):
    biased = phantom()[1] * field()
    long = torch.diag(torch.tensor([5.0, 6, 14, 1]))  # two meshes along the last axis, one along the others
    turned = correct(as_image(np.transpose(biased, (2, 0, 1)), affine=long[:, [2, 0, 1, 3]]))[0]
    assert np.allclose(np.transpose(turned, (1, 2, 0)), correct(as_image(biased, affine=long))[0], rtol=1e-3)


def test_the_same_image_gives_the_same_result(correct, corrected):
    assert torch.equal(correct(as_image(phantom()[1] * field())), corrected)


def test_negative_and_faint_voxels_do_not_disturb_the_estimate(correct, corrected):
    biased = phantom()[1] * field()
    rng = np.random.default_rng(1)
    odd = rng.random(SHAPE) < 0.02
    spoilt = np.where(odd & (biased > 0), rng.choice([-20, 1e-6], SHAPE), biased).astype(np.float32)
    after = correct(as_image(spoilt))
    assert torch.isfinite(after).all()
    normal = (biased > 0) & ~odd
    ratio = np.asarray(after[0])[normal] / np.asarray(corrected[0])[normal]
    assert ratio.std() < 0.002


def test_negative_voxels_are_divided_by_the_field_too(correct):
    biased = phantom()[1] * field()
    biased[16, 18, 15] = -biased[16, 18, 14]
    after = correct(as_image(biased))[0]
    assert float(after[16, 18, 15]) == pytest.approx(-float(after[16, 18, 14]), rel=0.02)


def test_each_channel_is_corrected_alone_and_an_absent_one_stays(correct, corrected):
    biased = phantom()[1] * field()
    both = correct(as_image(np.zeros_like(biased), biased))
    assert not both[0].any()
    assert torch.equal(both[1], corrected[0])


def test_a_channel_of_one_intensity_stays(correct):
    image = as_image((phantom()[1] > 0).astype(np.float32) * 7)
    assert torch.equal(correct(image), image)


def test_content_of_one_voxel_stays(correct):
    image = torch.zeros(1, 5, 4, 6)
    image[0, 1, 2, 3] = 3
    assert torch.equal(correct(image), image)


def test_a_thin_image_is_corrected(correct):
    thin = (phantom()[1] * field())[:, :, 15:17]
    assert torch.isfinite(correct(as_image(thin))).all()


def test_metadata_type_and_input_are_kept(correct):
    biased = as_image(phantom()[1] * field())
    before = copy.deepcopy(biased)
    after = correct(biased)
    assert torch.equal(biased, before)
    assert isinstance(after, MetaTensor)
    assert torch.equal(after.affine, biased.affine)
    assert after.meta["filename_or_obj"] == "a.nii.gz"
    assert after.dtype == torch.float32


def test_whole_numbers_become_floats(correct):
    assert correct(torch.tensor(phantom()[1] * field())[None].to(torch.int16)).dtype == torch.float32


def test_the_dictionary_form_corrects_its_keys_alone(corrected):
    biased = as_image(phantom()[1] * field())
    item = {"image": biased, "other": biased}
    after = CorrectBiasFieldd("image", shrink_factor=2, iterations=(30, 30, 30))(item)
    assert torch.equal(after["image"], corrected)
    assert after["other"] is biased
    assert item["image"] is biased


def test_a_loader_worker_can_have_it():
    pytest.importorskip("itk")
    assert pickle.loads(pickle.dumps(CorrectBiasFieldd("image", shrink_factor=3))).correct.shrink_factor == 3


def test_a_normalised_image_is_an_error_that_names_case_key_and_remedy():
    pytest.importorskip("itk")
    normalised = torch.randn(2, 6, 6, 6, generator=torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match=r"case c1: 'image', channel 0: .*negative voxels; place it before norm"):
        CorrectBiasFieldd("image")({"image": normalised, "case": "c1"})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_image_that_is_not_finite_is_an_error(correct, value):
    image = torch.ones(1, 4, 4, 4)
    image[0, 0, 0, 0] = value
    with pytest.raises(InputError, match="finite"):
        correct(image)


def test_an_image_without_channels_is_an_error(correct):
    with pytest.raises(InputError, match=r"shape \(4, 4, 4\).*\[C, H, W, D\]"):
        correct(torch.ones(4, 4, 4))


@pytest.mark.parametrize("wrong", [{"shrink_factor": 0}, {"iterations": ()}, {"spline_distance": 0.0}])
def test_parameters_out_of_range_are_errors(wrong):
    pytest.importorskip("itk")
    with pytest.raises(InputError, match="expected a factor of at least 1"):
        CorrectBiasField(**wrong)


def test_without_itk_the_transform_cannot_be_made(monkeypatch):
    monkeypatch.setattr(bias_field, "optional_import", lambda name: (None, False))
    with pytest.raises(InputError, match="pip install itk") as error:
        CorrectBiasFieldd("image")
    assert "\n" not in str(error.value)
