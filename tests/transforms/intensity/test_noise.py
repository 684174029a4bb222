"""Noise drawn where the image is."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import stats

from custom_nets.transforms import RandGaussianNoise, RandGaussianNoised


def noise_of(seed: int, shape=(2, 30, 30, 30), dtype=torch.float32, **keys) -> torch.Tensor:
    transform = RandGaussianNoised("image", prob=1.0, std=0.15, **keys)
    transform.set_random_state(seed)
    return transform({"image": torch.zeros(shape, dtype=dtype)})["image"]


def test_noise_is_normal_with_the_given_spread():
    noise = noise_of(0, sample_std=False)
    assert stats.kstest(noise.flatten().numpy(), stats.norm(0, 0.15).cdf).pvalue > 0.01
    assert abs(np.corrcoef(noise[0].flatten(), noise[1].flatten())[0, 1]) < 0.02


def test_a_drawn_spread_is_uniform_up_to_the_given_one():
    transform = RandGaussianNoised("image", prob=1.0, std=0.15)
    transform.set_random_state(0)
    spreads = [float(transform({"image": torch.zeros(1, 20, 20, 20)})["image"].std()) for _ in range(300)]
    assert stats.kstest(spreads, stats.uniform(0, 0.15).cdf).pvalue > 0.01


def test_the_same_seed_gives_the_same_noise_and_each_call_another():
    assert torch.equal(noise_of(3), noise_of(3))
    assert not torch.equal(noise_of(3), noise_of(4))
    transform = RandGaussianNoised("image", prob=1.0)
    transform.set_random_state(0)
    item = {"image": torch.zeros(1, 4, 4, 4)}
    assert not torch.equal(transform(item)["image"], transform(item)["image"])
    assert not item["image"].any()


def test_the_dictionary_form_adds_what_the_array_form_adds():
    array, dictionary = RandGaussianNoise(0.5, 0.2), RandGaussianNoised("image", 0.5, 0.2)
    array.set_random_state(5)
    dictionary.set_random_state(5)
    images = torch.zeros(20, 1, 3, 3, 3)
    added = [array(image) for image in images]
    assert 0 < sum(bool(image.any()) for image in added) < 20
    for image, expected in zip(images, added, strict=True):
        assert torch.equal(dictionary({"image": image})["image"], expected)


def test_two_images_have_one_spread_and_their_own_noise():
    transform = RandGaussianNoised(("a", "b"), prob=1.0, std=1.0)
    transform.set_random_state(0)
    item = transform({key: torch.zeros(1, 30, 30, 30) for key in "ab"})
    assert item["a"].std().item() == pytest.approx(item["b"].std().item(), rel=0.03)
    assert not torch.equal(item["a"], item["b"])


def test_noise_comes_as_often_as_asked():
    transform = RandGaussianNoised("image", prob=0.3)
    transform.set_random_state(0)
    changed = sum(bool(transform({"image": torch.zeros(1, 2, 2, 2)})["image"].any()) for _ in range(400))
    assert stats.binomtest(changed, 400, 0.3).pvalue > 0.01


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_precision_and_meta_data_are_kept(dtype):
    image = MetaTensor(torch.zeros(1, 4, 4, 4, dtype=dtype), affine=2 * torch.eye(4))
    result = RandGaussianNoised("image", prob=1.0)({"image": image})["image"]
    assert result.dtype == dtype
    assert torch.equal(result.affine, image.affine)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_noise_is_drawn_on_the_device():
    image = torch.zeros(1, 40, 40, 40, dtype=torch.float16, device="cuda")
    result = RandGaussianNoised("image", prob=1.0, std=1.0, sample_std=False)({"image": image})["image"]
    assert result.is_cuda
    assert 0.9 < float(result.float().std()) < 1.1
