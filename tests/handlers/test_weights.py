"""Weights of a training for other channels and regions: what is known is kept, and everything else is told."""

import logging

import pytest
import torch
from ignite.engine import Engine

from custom_nets.errors import InputError
from custom_nets.handlers import LoadWeights
from custom_nets.io.model_settings import training_record, with_settings
from custom_nets.io.weights import save_tensors
from custom_nets.networks import PyramidOSSNet

OLD = {"modalities": ["T1", "FLAIR", "T1ce"], "regions": ["WT"]}
NEW = {"modalities": ["FLAIR", "T1", "T1ce", "T2"], "regions": ["WT", "TC"]}


def network(keys):
    return PyramidOSSNet(len(keys["modalities"]), len(keys["regions"]), channels=(8, 8), hidden_features=16).eval()


@pytest.fixture
def model(tmp_path):
    state = network(OLD).state_dict()
    file = tmp_path / "model.pt"
    save_tensors(file, with_settings(state, training_record(OLD, state, {}, {})))
    return file


def load(model, keys, **options):
    target = network(keys)
    engine = Engine(lambda engine, batch: None)
    LoadWeights(model, target, keys, **options)(engine)
    return target


def test_fine_tuning_takes_other_channels_and_regions(model, caplog):
    with caplog.at_level(logging.WARNING):
        target = load(model, NEW, strict=False)
    lines = [record.getMessage() for record in caplog.records]
    assert any("channels as trained: FLAIR, T1, T1ce; new: T2" in line for line in lines)
    assert any("regions as trained: WT; new: TC" in line for line in lines)
    trained = torch.load(model, weights_only=True)["encoder.levels.0.0.conv.weight"]
    assert torch.equal(target.state_dict()["encoder.levels.0.0.conv.weight"][:, 0], trained[:, 1])


def test_the_same_channels_in_another_order_move(model):
    target = load(model, {**OLD, "modalities": ["T1ce", "T1", "FLAIR"]}, strict=False)
    trained = torch.load(model, weights_only=True)["encoder.levels.0.0.conv.weight"]
    assert torch.equal(target.state_dict()["encoder.levels.0.0.conv.weight"], trained[:, [2, 0, 1]])


def test_inference_refuses_other_channels(model):
    with pytest.raises(InputError, match="does not fit"):
        load(model, NEW)


def test_another_width_is_no_other_channel(model, tmp_path):
    target = PyramidOSSNet(4, 2, channels=(8, 16), hidden_features=16)
    with pytest.raises(InputError, match="does not fit"):
        LoadWeights(model, target, NEW, strict=False)(Engine(lambda engine, batch: None))
