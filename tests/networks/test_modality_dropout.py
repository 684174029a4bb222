"""Modality dropout: whole channels go, one always stays, and the state dict remembers it."""

import pytest
import torch

from custom_nets.errors import InputError
from custom_nets.networks import (
    ModalityDropout,
    NvNet,
    NvNetSettings,
    OSSNet,
    OSSNetSettings,
    PyramidOSSNet,
    PyramidSettings,
    accepts_missing_modalities,
)

IMAGE = torch.ones(400, 4, 2, 2, 2)


def dropped(probability: float) -> torch.Tensor:
    """Which modalities of many images are gone, `[B, C]`; partly dropped ones fail the test."""
    torch.manual_seed(0)
    means = ModalityDropout(probability).train()(IMAGE).mean((2, 3, 4))
    assert set(means.unique().tolist()) <= {0.0, 1.0}
    return means == 0


def test_modalities_are_dropped_as_often_as_asked():
    assert dropped(0.3).float().mean() == pytest.approx(0.3, abs=0.04)


def test_one_modality_always_stays():
    assert dropped(0.97).sum(1).max() == 3


def test_evaluation_sees_everything():
    assert ModalityDropout(0.9).eval()(IMAGE) is IMAGE


def test_none_is_dropped_by_default():
    assert ModalityDropout().train()(IMAGE) is IMAGE


@pytest.mark.parametrize("probability", [0.0, 0.2])
def test_a_model_tells_how_it_was_trained(tmp_path, probability):
    trained = NvNet(init_filters=8, vae=False, settings=NvNetSettings(modality_dropout=probability))
    torch.save(trained.state_dict(), tmp_path / "model.pt")
    loaded = NvNet(init_filters=8, vae=False)
    loaded.load_state_dict(torch.load(tmp_path / "model.pt"))
    assert bool(loaded.modality_dropout.trained) == (probability > 0)
    assert accepts_missing_modalities([tmp_path / "model.pt"]) == (probability > 0)


def test_an_ensemble_needs_all_its_models_trained_so(tmp_path):
    for name, probability in (("a.pt", 0.2), ("b.pt", 0.0)):
        network = torch.nn.ModuleDict(
            {"modality_dropout": ModalityDropout(probability), "layer": torch.nn.Linear(1, 1)}
        )
        torch.save(network.state_dict(), tmp_path / name)
    assert accepts_missing_modalities([tmp_path / "a.pt"])
    assert not accepts_missing_modalities([tmp_path / "a.pt", tmp_path / "b.pt"])


def test_an_absent_model_accepts_nothing(tmp_path):
    assert not accepts_missing_modalities([tmp_path / "none.pt"])


def test_a_damaged_model_is_told(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"no model")
    with pytest.raises(InputError, match=r"model\.pt"):
        accepts_missing_modalities([tmp_path / "model.pt"])


def occupancy_network(kind: str, probability: float = 0.0) -> torch.nn.Module:
    torch.manual_seed(0)
    if kind == "pyramid":
        settings = PyramidSettings(modality_dropout=probability)
        return PyramidOSSNet(4, 2, channels=[8, 8], hidden_features=16, settings=settings)
    settings = OSSNetSettings(modality_dropout=probability, compile_activations=False)
    return OSSNet("c", 4, 2, [16, 16, 16], [8, 8], hidden_features=16, norm="instance", settings=settings)


@pytest.mark.parametrize("kind", ["pyramid", "c"])
def test_encoder_and_points_of_an_occupancy_network_lack_the_same_modalities(kind):
    image, points = torch.randn(2, 4, 16, 16, 16), torch.randint(0, 16, (2, 5, 3))
    network = occupancy_network(kind, 0.6).train()
    torch.manual_seed(1)
    seen = network.modality_dropout(image)
    assert not torch.equal(seen, image)
    torch.manual_seed(1)
    logits = network(image, points)[0]
    without = occupancy_network(kind).train()
    assert torch.equal(logits, without(seen, points)[0])
    assert torch.equal(network.eval()(image, points)[0], without.eval()(image, points)[0])


@pytest.mark.parametrize("kind", ["pyramid", "c"])
def test_a_model_that_does_not_tell_was_trained_with_all(kind):
    network = occupancy_network(kind, 0.6)
    state = network.state_dict()
    assert bool(state.pop("modality_dropout.trained"))
    network.load_state_dict(state)
    assert not network.modality_dropout.trained
    assert "modality_dropout.trained" not in state
