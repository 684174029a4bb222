"""OccupancyInferer in every mode: results, chunks, wrappers, messages."""

from __future__ import annotations

import gc

import pytest
import torch
from monai.data import MetaTensor
from torch import nn

from custom_nets.errors import InputError
from custom_nets.inferers import OccupancyInferer
from custom_nets.networks import OccupancyNetwork, OSSNet
from tests.inferers.fields import FieldNetwork, build_inferer, image_for, random_field, run, signed_ball


def volumes_in_memory(shape: tuple[int, ...]) -> int:
    """Tensors of this size and of a rim around it."""
    sizes = {tuple(shape), tuple(side + 2 for side in shape)}
    # Just plain tensors: those of a compiler, which others may have left, have sizes that are no numbers.
    return sum(type(o) is torch.Tensor and tuple(o.shape[-3:]) in sizes for o in gc.get_objects())


@pytest.mark.parametrize("mode", ["surface", "published", "dense"])
def test_nothing_of_a_volume_stays_in_memory(mode: str) -> None:
    # Counted at once, without the collector of circular references: what waits for it is as large as the volume.
    gc.collect()
    gc.disable()
    try:
        field = signed_ball((24, 24, 24), (12, 12, 12), 8)
        network, inferer = FieldNetwork(field), build_inferer(mode=mode)
        image = image_for(field)
        before = volumes_in_memory(field.shape[2:])
        inferer(image, network)
        assert volumes_in_memory(field.shape[2:]) <= before
    finally:
        gc.enable()


@pytest.mark.parametrize("shape", [(7, 5, 3), (1, 1, 1), (2, 80, 90)])
def test_dense_is_the_sigmoid_of_every_logit(shape: tuple[int, int, int]) -> None:
    field = random_field(0, shape, 0.5, batch=2, regions=3)
    result, _, inferer = run(field, mode="dense")
    torch.testing.assert_close(result, field.sigmoid(), rtol=1e-6, atol=0)
    assert inferer.stats.fraction == 1


@pytest.mark.parametrize("mode", ["surface", "published", "dense"])
def test_chunk_size_bounds_the_calls_and_changes_nothing(mode: str) -> None:
    field = random_field(5, (19, 22, 13), 2.0, regions=2)
    results = []
    for chunk in (1 << 20, 100, 7):
        result, network, _ = run(field, mode=mode, points_per_chunk=chunk)
        results.append(result)
        assert max(map(len, network.calls)) <= chunk
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("mode", ["surface", "published", "dense"])
def test_batch_items_are_independent(mode: str) -> None:
    fields = [random_field(seed, (19, 22, 13), 2.0) for seed in (6, 7)]
    together, _, inferer = run(torch.cat(fields), mode=mode)
    for index, field in enumerate(fields):
        alone, _, single = run(field, mode=mode)
        assert torch.equal(together[index], alone[0])
        assert inferer.stats.queries_per_item[index] == single.stats.queries


def test_meta_data_of_the_image_is_kept() -> None:
    field = signed_ball((16, 16, 16), (8, 8, 8), 5)
    affine = torch.diag(torch.tensor([1.0, 2.0, 3.0, 1.0], dtype=torch.float64))
    image = MetaTensor(image_for(field, 4).half(), affine=affine, meta={"filename_or_obj": "case.nii.gz"})
    result = build_inferer()(image, FieldNetwork(field))
    assert isinstance(result, MetaTensor)
    assert torch.equal(result.affine, affine)
    assert result.meta["filename_or_obj"] == "case.nii.gz"
    assert result.dtype == torch.float32


def test_non_contiguous_image_and_field() -> None:
    field = signed_ball((16, 18, 20), (8, 8, 8), 5).permute(0, 1, 4, 2, 3)
    image = torch.zeros(1, 1, 16, 18, 20).permute(0, 1, 4, 2, 3)
    assert torch.equal(build_inferer()(image, FieldNetwork(field)) > 0.5, field > 0)


def test_wrapped_network_is_looked_through() -> None:
    field = signed_ball((16, 16, 16), (8, 8, 8), 5)
    wrapper = nn.Module()
    wrapper.module = FieldNetwork(field)
    assert torch.equal(build_inferer()(image_for(field), wrapper) > 0.5, field > 0)


def test_latent_may_be_none() -> None:
    class Checkerboard(nn.Module, OccupancyNetwork):
        def encode(self, image: torch.Tensor) -> None:
            return None

        def decode(self, latent: None, image: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
            return (points.sum(dim=-1, keepdim=True) % 2).float() - 0.5

    result = build_inferer(coarse_step=1)(torch.zeros(2, 1, 6, 7, 5), Checkerboard())
    assert int((result > 0.5).sum()) == 2 * 105


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_equals_cpu() -> None:
    field = random_field(9, (40, 37, 26), 2.0, regions=2)
    segmentation = random_field(10, (4, 4, 4), 0.0, regions=2)
    for mode, prior in (("surface", "none"), ("surface", "union"), ("surface", "restrict"), ("published", "restrict")):
        inferer = build_inferer(mode=mode, prior=prior)
        expected = inferer(image_for(field), FieldNetwork(field, segmentation))
        result = inferer(image_for(field).cuda(), FieldNetwork(field.cuda(), segmentation.cuda()))
        assert result.is_cuda
        assert torch.equal(result.cpu() > 0.5, expected > 0.5)


def test_ordinary_network_is_refused() -> None:
    with pytest.raises(InputError, match=r"Conv3d is no occupancy network.*OccupancyInferer queries networks such as"):
        build_inferer()(torch.zeros(1, 1, 4, 4, 4), nn.Conv3d(1, 1, 1))


def test_image_without_batch_axis_is_refused() -> None:
    with pytest.raises(InputError, match="has 4 axes"):
        build_inferer()(torch.zeros(1, 4, 4, 4), FieldNetwork(torch.zeros(1, 1, 4, 4, 4)))


@pytest.mark.parametrize("mode", ["surface", "published", "dense"])
def test_half_precision_results_hold_the_same_regions(mode: str) -> None:
    field = random_field(3, (21, 18, 24), 2.0, regions=2)
    field = torch.where(field.abs() < 0.002, 0.002, field)  # no voxel that rounding brings to the threshold
    full, _, _ = run(field, mode=mode)
    half, _, _ = run(field, mode=mode, output_dtype=torch.float16)
    assert half.dtype == torch.float16
    assert torch.equal(half > 0.5, full > 0.5)
    torch.testing.assert_close(half.float(), full, atol=3e-4, rtol=0)


@pytest.mark.parametrize(
    ("search", "message"),
    [
        (OSSNet("c"), r"got the network OSSNet; .*in the call: OccupancyInferer\(\)\(image, network\)"),
        ("dense", r"search is 'dense'; expected SearchSettings, such as SearchSettings\(mode='dense'\)"),
        ({"mode": "dense"}, r"search is \{'mode': 'dense'\}; expected SearchSettings"),
    ],
    ids=["network", "mode", "dictionary"],
)
def test_what_is_no_search_is_named_in_one_line(search: object, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        OccupancyInferer(search)  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)


def test_a_network_for_a_chunk_is_not_printed() -> None:
    with pytest.raises(InputError, match=r"^points_per_chunk is a OSSNet; expected a whole number"):
        OccupancyInferer(points_per_chunk=OSSNet("c"))  # type: ignore[arg-type]
