"""Weights of the model zoo's SegResNet give SegResNet's outputs, in our channel orders."""

import pytest
import torch
from monai.networks.nets import SegResNet

from custom_nets.errors import InputError
from custom_nets.networks import NvNet, NvNetSettings
from custom_nets.tools import convert_segresnet_checkpoint, convert_segresnet_state_dict


@pytest.fixture(scope="module")
def published() -> SegResNet:
    """The zoo's network with random weights: 16 filters, as its inference.json builds it."""
    torch.manual_seed(0)
    return SegResNet(
        blocks_down=[1, 2, 2, 4], blocks_up=[1, 1, 1], init_filters=16, in_channels=4, out_channels=3, dropout_prob=0.2
    ).eval()


def test_outputs_are_equal_with_channels_mapped(published):
    net = NvNet(init_filters=16, vae=False, settings=NvNetSettings(final_norm=True)).eval()
    net.load_state_dict(convert_segresnet_state_dict(published.state_dict()))
    flair, t1, t1ce, t2 = torch.randn(4, 1, 1, 16, 24, 16)
    theirs = published(torch.cat([t1ce, t1, t2, flair], 1))
    ours = net(torch.cat([flair, t1, t1ce, t2], 1))
    torch.testing.assert_close(ours[:, 0], theirs[:, 1])  # WT
    torch.testing.assert_close(ours[:, 1], theirs[:, 0])  # TC
    torch.testing.assert_close(ours[:, 2], theirs[:, 2])  # ET


def test_the_file_is_a_model_of_the_bundle(published, tmp_path):
    torch.save(published.state_dict(), tmp_path / "zoo.pt")
    net = convert_segresnet_checkpoint(tmp_path / "zoo.pt", tmp_path / "model.pt")
    assert net.init_filters == 16
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    NvNet(init_filters=16, vae=False, settings=NvNetSettings(final_norm=True)).load_state_dict(state)
    assert "modality_dropout.trained" not in state


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (SegResNet(init_filters=8, in_channels=1, out_channels=3), "no weights of a SegResNet for 4 modalities"),
        (SegResNet(init_filters=8, in_channels=4, out_channels=2), "wrongly shaped"),
        (SegResNet(init_filters=8, in_channels=4, out_channels=3, blocks_down=(1, 1, 1, 1)), "missing"),
        (torch.nn.Linear(2, 2), "there is no convInit"),
    ],
    ids=["one modality", "two regions", "other blocks", "other network"],
)
def test_other_networks_are_refused_with_the_file(network, words, tmp_path):
    torch.save(network.state_dict(), tmp_path / "other.pt")
    with pytest.raises(InputError, match=words) as error:
        convert_segresnet_checkpoint(tmp_path / "other.pt", tmp_path / "model.pt")
    assert "other.pt" in str(error.value)
    assert not (tmp_path / "model.pt").exists()
