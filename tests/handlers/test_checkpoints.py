"""Checkpoints of a run."""

import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import MeanAbsoluteError, ValidationHandler, from_engine

from custom_nets.errors import InputError
from custom_nets.handlers import EarlyStopping, LoadWeights, TrainingCheckpoints
from custom_nets.handlers.checkpoints import newest_checkpoint

DATA = [{"image": torch.ones(1, 2), "label": torch.zeros(1, 1)}] * 2


def build(folder, epochs: int, validate: bool = True, **options):
    torch.manual_seed(0)
    net = torch.nn.Linear(2, 1)
    evaluator = SupervisedEvaluator(
        device="cpu",
        val_data_loader=DATA,
        network=net,
        decollate=False,
        key_val_metric={"error": MeanAbsoluteError(output_transform=from_engine(["pred", "label"]))},
        metric_cmp_fn=lambda new, best: new < best or best == -1,
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    handlers = [ValidationHandler(1, evaluator)] if validate else []
    handlers.append(TrainingCheckpoints(folder, {"network": net, "optimizer": optimizer}, evaluator, **options))
    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=epochs,
        train_data_loader=DATA,
        network=net,
        optimizer=optimizer,
        loss_function=torch.nn.MSELoss(),
        train_handlers=handlers,
        decollate=False,
    )
    return trainer, net, evaluator


def test_model_is_a_plain_state_dict(tmp_path):
    trainer, net, _ = build(tmp_path, 1)
    trainer.run()
    net.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True), strict=True)


def test_without_validation_the_last_network_is_kept(tmp_path):
    trainer, net, _ = build(tmp_path, 2, validate=False)
    trainer.run()
    saved = torch.load(tmp_path / "model.pt", weights_only=True)
    assert torch.equal(saved["weight"], net.weight)


def test_an_interrupted_run_leaves_its_last_state(tmp_path):
    trainer, _, _ = build(tmp_path, 5)

    @trainer.on(Events.EPOCH_STARTED(once=3))
    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert torch.load(tmp_path / "checkpoint_last.pt", weights_only=True)["trainer"]["epoch_length"] == 2


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    trainer, _, _ = build(tmp_path, 2)
    trainer.run()
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.pt")}

    def stop(_content, file, **_):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, 2)[0].run()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_others_may_read_a_model(tmp_path):
    build(tmp_path, 1)[0].run()
    assert {path.stat().st_mode & 0o444 for path in tmp_path.glob("*.pt")} == {0o444}


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    whole, net, _ = build(tmp_path / "whole", 4)
    whole.run()
    build(tmp_path / "parts", 2)[0].run()
    second, resumed, _ = build(tmp_path / "parts", 4, resume=True)
    second.run()
    assert second.state.epoch == 4
    torch.testing.assert_close(resumed.weight, net.weight)


def test_nothing_to_resume_is_one_clear_line(tmp_path):
    with pytest.raises(InputError, match="nothing to resume from"):
        newest_checkpoint(tmp_path)


def test_early_stopping_ends_a_run_that_no_longer_improves():
    evaluator, trainer = Engine(lambda *_: None), Engine(lambda *_: None)

    @evaluator.on(Events.EPOCH_COMPLETED)
    def score(engine):
        engine.state.metrics["dice"] = 0.5
        engine.state.key_metric_name = "dice"

    EarlyStopping(evaluator, patience=2).attach(trainer)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda _: evaluator.run([0]))
    trainer.run([0], max_epochs=10)
    assert trainer.state.epoch == 3


def load(path, network) -> None:
    engine = Engine(lambda *_: None)
    LoadWeights(path, network).attach(engine)
    engine.run([0])


def test_a_model_is_loaded(tmp_path):
    source, target = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    torch.save(source.state_dict(), tmp_path / "model.pt")
    load(tmp_path / "model.pt", target)
    assert torch.equal(source.weight, target.weight)


def test_no_path_loads_nothing():
    load(None, torch.nn.Linear(2, 1))


def test_a_missing_model_says_what_to_do(tmp_path):
    with pytest.raises(InputError, match=r"model\.pt: there is no such model; train one first"):
        load(tmp_path / "model.pt", torch.nn.Linear(2, 1))


@pytest.mark.parametrize("content", [{"weight": torch.zeros(5, 2)}, {"other": torch.zeros(1)}])
def test_a_model_that_does_not_fit_is_one_line(tmp_path, content):
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(InputError, match="does not fit the network") as raised:
        load(tmp_path / "model.pt", torch.nn.Linear(2, 1))
    assert "\n" not in str(raised.value)


def test_a_damaged_model_is_one_line(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match=r"model\.pt: cannot be read as a file of plain tensors") as raised:
        load(tmp_path / "model.pt", torch.nn.Linear(2, 1))
    assert "\n" not in str(raised.value)


def test_a_model_that_does_not_fit_says_which_keys_to_give(tmp_path):
    torch.save(torch.nn.Linear(3, 1).state_dict(), tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"give the keys that it was trained with \(regions, the network's sizes\)"):
        load(tmp_path / "model.pt", torch.nn.Linear(2, 1))


def test_the_whole_state_of_a_run_is_taken_as_a_model(tmp_path):
    trainer, net, _ = build(tmp_path, 1)
    trainer.run()
    target = torch.nn.Linear(2, 1)
    load(tmp_path / "checkpoint_last.pt", target)
    assert torch.equal(target.weight, net.weight)
