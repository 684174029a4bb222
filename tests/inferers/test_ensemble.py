"""EnsembleInferer, against means and deviations of its members."""

from itertools import chain, combinations

import pytest
import torch
from monai.data import MetaTensor
from torch import nn

from custom_nets.errors import InputError
from custom_nets.inferers import EnsembleInferer, VolumeInferer, models_of_folds


class Scaled(nn.Module):
    """Pointwise, hence the same mirrored: two logits a voxel."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.cat((image * self.scale, image - self.scale), dim=1)


class Ramp(nn.Module):
    """Answers with the index of the voxel along H, whatever the image."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.arange(image.shape[2], dtype=torch.float32)[:, None, None].expand_as(image)


def as_it_is(image: torch.Tensor, network: nn.Module) -> torch.Tensor:
    """An inferer that returns what the network does."""
    return network(image)


def subsets(axes) -> list[tuple[int, ...]]:
    return list(chain.from_iterable(combinations(axes, count) for count in range(len(axes) + 1)))


@pytest.fixture
def image() -> torch.Tensor:
    return torch.randn(2, 1, 8, 5, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def directed() -> nn.Module:
    """A network that tells left from right on every axis."""
    torch.manual_seed(0)
    return nn.Conv3d(1, 3, 3, padding=1)


@pytest.fixture
def checkpoints(tmp_path) -> list:
    paths = []
    for scale in (2.0, -3.0):
        torch.save(Scaled(scale).state_dict(), tmp_path / f"model{scale}.pt")
        paths.append(tmp_path / f"model{scale}.pt")
    return paths


def test_mirroring_changes_nothing_for_an_equivariant_network(image):
    inferer = VolumeInferer(8)
    result = EnsembleInferer(inferer, mirror_axes=(0, 1, 2))(image, Scaled())
    torch.testing.assert_close(result, inferer(image, Scaled()))


def test_a_network_that_looks_at_one_direction_gives_the_mean_of_both(image):
    result = EnsembleInferer(as_it_is, mirror_axes=(0,))(image, Ramp())
    torch.testing.assert_close(result, torch.full_like(image, 3.5))  # of index i and of 7 - i


def test_mirroring_another_axis_does_not_help_it(image):
    result = EnsembleInferer(as_it_is, mirror_axes=(1, 2))(image, Ramp())
    torch.testing.assert_close(result, Ramp()(image))


@pytest.mark.parametrize("axes", [(), (1,), (2, 0), (0, 1, 2)])
def test_the_mean_and_the_spread_are_those_of_the_stacked_members(image, directed, axes):
    with torch.no_grad():
        members = [directed(image.flip([a + 2 for a in s])).flip([a + 2 for a in s]) for s in subsets(axes)]
    stacked = torch.stack(members)
    result = EnsembleInferer(as_it_is, mirror_axes=axes, spread=True)(image, directed)
    torch.testing.assert_close(result[:, :3], stacked.mean(dim=0))
    torch.testing.assert_close(result[:, 3:], stacked.std(dim=0, correction=0))


def test_three_axes_are_eight_members(image):
    calls = []
    EnsembleInferer(lambda part, network: calls.append(part) or part, mirror_axes=(0, 1, 2))(image, Ramp())
    assert len(calls) == 8
    assert len({tuple(part.flatten().tolist()) for part in calls}) == 8


def test_one_axis_need_not_be_a_list(image):
    assert EnsembleInferer(as_it_is, mirror_axes=2).mirror_axes == (2,)


def test_a_single_member_is_returned_as_it_is(image, directed):
    answer = directed(image).detach()
    assert EnsembleInferer(lambda *_: answer)(image, directed) is answer


@pytest.mark.parametrize("nothing", [None, ()])
def test_nothing_to_mirror_and_no_checkpoints_is_the_inferers_result(image, nothing):
    inferer = VolumeInferer(8)
    result = EnsembleInferer(inferer, mirror_axes=nothing, checkpoints=nothing)(image, Scaled())
    assert torch.equal(result, inferer(image, Scaled()))


def test_a_single_member_has_no_spread(image):
    result = EnsembleInferer(as_it_is, spread=True)(image, Scaled())
    assert torch.equal(result[:, :2], Scaled()(image))
    assert torch.equal(result[:, 2:], torch.zeros(2, 2, 8, 5, 6))


def test_two_checkpoints_give_the_mean_of_both(image, checkpoints):
    result = EnsembleInferer(as_it_is, checkpoints=checkpoints)(image, Scaled())
    torch.testing.assert_close(result, (Scaled(2.0)(image) + Scaled(-3.0)(image)).detach() / 2)


def test_mirrors_and_checkpoints_are_combined(image, checkpoints):
    calls = []

    def inferer(part, network):
        calls.append(float(network.scale))
        return network(part)

    EnsembleInferer(inferer, mirror_axes=(0, 1), checkpoints=checkpoints)(image, Scaled())
    assert calls == [2.0] * 4 + [-3.0] * 4


def test_one_checkpoint_need_not_be_a_list(image, checkpoints):
    result = EnsembleInferer(as_it_is, checkpoints=str(checkpoints[0]))(image, Scaled())
    assert torch.equal(result, Scaled(2.0)(image))


def test_checkpoints_are_read_once(image, checkpoints):
    inferer = EnsembleInferer(as_it_is, checkpoints=checkpoints)
    network = Scaled()
    first = inferer(image, network)
    for path in checkpoints:
        path.unlink()
    assert torch.equal(inferer(image, network), first)


def test_checkpoints_are_read_anew_for_another_network(image, checkpoints):
    class Shifted(Scaled):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image + self.scale

    inferer = EnsembleInferer(as_it_is, checkpoints=checkpoints[0])
    inferer(image, Scaled())
    torch.testing.assert_close(inferer(image, Shifted()), image + 2)


def test_checkpoints_leave_the_network_as_it_is(image, checkpoints):
    network = Scaled(7.0)
    EnsembleInferer(as_it_is, checkpoints=checkpoints)(image, network)
    assert network.scale == 7.0
    assert network.scale.requires_grad


def test_networks_from_checkpoints_evaluate(image, checkpoints):
    modes = []
    inferer = EnsembleInferer(lambda part, network: modes.append(network.training) or part, checkpoints=checkpoints)
    inferer(image, Scaled().train())
    assert modes == [False, False]


def test_a_wrapped_network_is_copied_without_its_wrapper(image, checkpoints):
    result = EnsembleInferer(as_it_is, checkpoints=checkpoints[0])(image, nn.DataParallel(Scaled()))
    assert torch.equal(result, Scaled(2.0)(image))


def test_without_checkpoints_a_network_under_training_is_used_as_it_now_is(image):
    inferer, network = EnsembleInferer(as_it_is, mirror_axes=(0,)), Scaled(1.0)
    inferer(image, network)
    with torch.no_grad():
        network.scale.fill_(5.0)
    torch.testing.assert_close(inferer(image, network), Scaled(5.0)(image))


def test_a_checkpoint_that_does_not_fit_is_one_line_with_its_name(image, tmp_path):
    torch.save({"other": torch.zeros(1)}, tmp_path / "wrong.pt")
    with pytest.raises(InputError, match=r"wrong\.pt: does not fit the network: 1 missing: scale") as raised:
        EnsembleInferer(as_it_is, checkpoints=[tmp_path / "wrong.pt"])(image, Scaled())
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("given", ["absent.pt", 1, True])
def test_an_absent_checkpoint_is_one_line_with_its_name(image, given):
    with pytest.raises(InputError, match=rf"{given}: there is no such file"):
        EnsembleInferer(as_it_is, checkpoints=[given])(image, Scaled())


def test_after_a_wrong_checkpoint_the_next_call_reads_again(image, checkpoints, tmp_path):
    (tmp_path / "late.pt").write_bytes(b"not yet")
    inferer = EnsembleInferer(as_it_is, checkpoints=[checkpoints[0], tmp_path / "late.pt"])
    network = Scaled()
    with pytest.raises(InputError, match=r"late\.pt"):
        inferer(image, network)
    torch.save(Scaled(4.0).state_dict(), tmp_path / "late.pt")
    torch.testing.assert_close(inferer(image, network), (Scaled(2.0)(image) + Scaled(4.0)(image)).detach() / 2)


def test_meta_data_are_kept(image):
    affine = torch.diag(torch.tensor([-1.0, 2.0, 3.0, 1.0]))
    tracked = MetaTensor(image[:1], affine=affine, meta={"case": "a"})
    result = EnsembleInferer(VolumeInferer(8), mirror_axes=(0, 1), spread=True)(tracked, Scaled())
    assert isinstance(result, MetaTensor)
    assert torch.equal(result.affine, affine.double())
    assert result.meta["case"] == "a"


@pytest.mark.parametrize("inferer", [as_it_is, lambda part, network: part])
def test_the_image_is_left_as_it_is(image, directed, inferer):
    before = image.clone()
    EnsembleInferer(inferer, mirror_axes=(0, 1), spread=True)(image, directed)
    assert torch.equal(image, before)


def test_results_of_half_precision_are_averaged_in_float32(image):
    result = EnsembleInferer(lambda part, network: part.half(), mirror_axes=(0,))(image, Ramp())
    assert result.dtype == torch.float32


def test_there_are_no_gradients(image, directed):
    assert not EnsembleInferer(as_it_is)(image, directed).requires_grad


@pytest.mark.parametrize("axes", [(3,), (-1,), (0, 0), (0, 1, 2, 1), "H"])
def test_unknown_and_repeated_axes_are_named(axes):
    with pytest.raises(InputError, match=r"mirror_axes is .*; expected some of 0 \(H\), 1 \(W\) and 2 \(D\)"):
        EnsembleInferer(as_it_is, mirror_axes=axes)


def test_an_inferer_without_probabilities_is_named(image):
    with pytest.raises(InputError, match=r"inferer: gave a tuple; expected probabilities \[B, R, H, W, D\]"):
        EnsembleInferer(lambda part, network: (part, part))(image, Ramp())


def test_an_image_without_batch_is_named(image):
    with pytest.raises(InputError, match=r"inputs: shape \[1, 8, 5, 6\] has 4 axes"):
        EnsembleInferer(as_it_is)(image[0], Ramp())


def test_the_models_of_folds_come_in_their_order(tmp_path):
    for fold in (10, 2, 0):
        (tmp_path / f"fold_{fold}").mkdir()
        (tmp_path / f"fold_{fold}" / "model.pt").touch()
    found = models_of_folds(tmp_path)
    assert [path.split("fold_")[1] for path in found] == ["0/model.pt", "2/model.pt", "10/model.pt"]
    assert models_of_folds(tmp_path, wanted=False) == []
    with pytest.raises(InputError, match="holds 0 models of folds"):
        models_of_folds(tmp_path / "fold_0")
    with pytest.raises(InputError, match="training cases of some folds"):
        models_of_folds(tmp_path, section="validation")
