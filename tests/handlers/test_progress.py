"""Progress, scores by region, JSON log, random states."""

import json
import random
from typing import ClassVar

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events

from custom_nets.handlers import JsonLog, Progress, RandomState, RegionScores


def trainer() -> Engine:
    return Engine(lambda engine, batch: {"loss": torch.tensor(float(batch), requires_grad=True)})


@pytest.fixture
def optimizer():
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)


def test_progress_shows_the_whole_run_and_the_loss(capsys):
    engine = trainer()
    Progress("training").attach(engine)
    engine.run([1.0, 3.0], max_epochs=2)
    shown = capsys.readouterr().err
    assert "training: 100%" in shown
    assert "4/4" in shown


def test_progress_hides_no_error():
    engine = Engine(lambda *_: 1 / 0)
    Progress().attach(engine)
    with pytest.raises(ZeroDivisionError):
        engine.run([1])


def test_region_scores_become_metrics(caplog):
    evaluator = Engine(lambda *_: None)

    @evaluator.on(Events.EPOCH_COMPLETED)
    def score(engine):
        engine.state.metric_details = {"val_dice": torch.tensor([[1.0, 0.5], [0.5, 0.0]])}

    RegionScores(["val_dice"], ["WT", "TC"]).attach(evaluator)
    with caplog.at_level("INFO"):
        evaluator.run([0])
    assert evaluator.state.metrics == {"val_dice_WT": 0.75, "val_dice_TC": 0.25}
    assert "val_dice: WT 0.750  TC 0.250" in caplog.text


def test_json_log_has_the_mean_loss_of_each_epoch(tmp_path, optimizer):
    engine = trainer()
    JsonLog(tmp_path / "log" / "training.jsonl", optimizer).attach(engine)
    engine.run([1.0, 3.0], max_epochs=2)
    first, second = (json.loads(line) for line in (tmp_path / "log" / "training.jsonl").read_text().splitlines())
    assert (first["epoch"], first["iteration"], first["loss"], first["learning_rate"]) == (1, 2, 2.0, 0.5)
    assert second["epoch"] == 2


def test_json_log_has_the_mean_of_each_term_of_the_loss(tmp_path, optimizer):
    class Terms(torch.nn.Module):
        terms: ClassVar = {}

    engine, loss = trainer(), Terms()
    engine.add_event_handler(Events.ITERATION_STARTED, lambda e: loss.terms.update(kl=torch.tensor(e.state.batch * 10)))
    JsonLog(tmp_path / "log.jsonl", optimizer, loss=loss).attach(engine)
    engine.run([1.0, 3.0], max_epochs=1)
    entry = json.loads((tmp_path / "log.jsonl").read_text())
    assert (entry["loss"], entry["loss_kl"]) == (2.0, 20.0)


def test_json_log_has_scores_only_of_epochs_that_validated(tmp_path, optimizer):
    engine, evaluator = trainer(), Engine(lambda *_: None)

    @engine.on(Events.EPOCH_COMPLETED(every=2))
    def validate(engine):
        evaluator.state.epoch = engine.state.epoch
        evaluator.state.metrics = {"val_dice": 0.5}

    JsonLog(tmp_path / "log.jsonl", optimizer, evaluator).attach(engine)
    engine.run([1.0], max_epochs=3)
    entries = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert ["val_dice" in entry for entry in entries] == [False, True, False]


def test_random_states_survive_a_checkpoint(tmp_path):
    state = RandomState()
    torch.save(state.state_dict(), tmp_path / "state.pt")
    drawn = (random.random(), np.random.rand(), torch.rand(1).item())
    state.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == drawn


def test_a_process_that_is_not_the_first_keeps_its_own_random_state(monkeypatch):
    state = RandomState().state_dict()
    drawn = torch.rand(1).item()
    monkeypatch.setattr("ignite.distributed.get_rank", lambda: 1)
    RandomState().load_state_dict(state)
    assert torch.rand(1).item() != drawn
