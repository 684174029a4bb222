"""Checkpoints of a run."""

import logging
import os
import signal

import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import LrScheduleHandler, MeanAbsoluteError, ValidationHandler, from_engine

from custom_nets.errors import InputError
from custom_nets.handlers import BadSteps, EarlyStopping, LoadWeights, TrainingCheckpoints
from custom_nets.handlers.checkpoints import newest_state
from custom_nets.io.files import _HOST

DATA = [{"image": torch.ones(1, 2), "label": torch.zeros(1, 1)}] * 2


def build(folder, epochs: int, validate: bool = True, network=None, lr=0.01, **options):
    torch.manual_seed(0)
    net = network or torch.nn.Linear(2, 1)
    evaluator = SupervisedEvaluator(
        device="cpu",
        val_data_loader=DATA,
        network=net,
        decollate=False,
        key_val_metric={"error": MeanAbsoluteError(output_transform=from_engine(["pred", "label"]))},
        metric_cmp_fn=lambda new, best: new < best or best == -1,
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, epochs)
    state = {"network": net, "optimizer": optimizer, "lr_scheduler": schedule}
    handlers = [LrScheduleHandler(schedule, print_lr=False)]
    handlers += [ValidationHandler(1, evaluator)] if validate else []
    handlers += [BadSteps(), TrainingCheckpoints(folder, state, evaluator, **options)]
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


def end_after(trainer, step: int, error: BaseException) -> None:
    """Lets a run end with an error after one of its steps."""

    @trainer.on(Events.ITERATION_COMPLETED(once=step))
    def end(_):
        raise error

    with pytest.raises(type(error)):
        trainer.run()


def contents(folder) -> dict:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("step", [3, 4, 5])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, step):
    whole, net, _ = build(tmp_path / "whole", 4, interval=1)
    whole.run()
    end_after(build(tmp_path / "parts", 4, interval=1)[0], step, KeyboardInterrupt())
    second, resumed, _ = build(tmp_path / "parts", 4, resume=True, interval=1)
    second.run()
    assert second.state.epoch == 4
    assert torch.equal(resumed.weight, net.weight)


def test_more_epochs_than_before_get_a_schedule_of_their_own(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    build(tmp_path, 2)[0].run()
    trainer, net, _ = build(tmp_path, 5, resume=True)
    before = torch.load(tmp_path / "checkpoint_last.pt", weights_only=True)["network"]["weight"]
    rates = []
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda engine: rates.append(engine.optimizer.param_groups[0]["lr"]))
    trainer.run()
    assert rates == pytest.approx([0.01 * (1 - epoch / 5) for epoch in (2, 3, 4)])
    assert not torch.equal(net.weight, before)
    assert "the schedule of the learning rate is made anew (before: total_iters 2)" in caplog.text


def test_fewer_epochs_than_were_done_say_what_to_do(tmp_path):
    build(tmp_path, 3)[0].run()
    with pytest.raises(InputError, match="3 epochs are done, epochs is 2; give more --epochs"):
        build(tmp_path, 2, resume=True)[0].run()


def test_epochs_of_another_length_say_what_to_do(tmp_path):
    build(tmp_path, 3)[0].run()
    trainer = build(tmp_path, 4, resume=True)[0]
    trainer.state.epoch_length = 3
    with pytest.raises(InputError, match="its epochs have 2 steps, here they have 3"):
        trainer.run()


@pytest.mark.parametrize("validate", [True, False])
def test_resuming_a_finished_run_changes_nothing(tmp_path, validate):
    build(tmp_path, 3, validate)[0].run()
    before = contents(tmp_path)
    build(tmp_path, 3, validate, resume=True)[0].run()
    assert contents(tmp_path) == before


def test_the_best_score_of_a_run_survives_going_on(tmp_path):
    """Later networks are worse: the rate is too high."""
    build(tmp_path, 3)[0].run()
    before = (tmp_path / "model.pt").read_bytes()
    trainer, _, evaluator = build(tmp_path, 6, resume=True, lr=30.0)
    trainer.run()
    assert evaluator.state.metrics["error"] > evaluator.state.best_metric
    assert (tmp_path / "model.pt").read_bytes() == before
    assert torch.load(tmp_path / "checkpoint_last.pt", weights_only=True)["trainer"]["best_so_far"][1] == 3


def fail_at_start(trainer) -> None:
    @trainer.on(Events.STARTED)
    def fail(_):
        raise InputError("wrong")


def fail_in_first_step(trainer) -> None:
    def fail(*_):
        raise InputError("wrong")

    trainer.loss_function = fail


def not_finite(trainer) -> None:
    trainer.loss_function = lambda outputs, _: outputs * float("nan")


@pytest.mark.parametrize("fault", [fail_at_start, fail_in_first_step, not_finite])
@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.filterwarnings("ignore:step")
def test_a_start_that_fails_leaves_everything_as_it_was(tmp_path, fault, resume):
    build(tmp_path, 2, interval=1)[0].run()
    before = contents(tmp_path)
    trainer = build(tmp_path, 4, resume=resume, interval=1)[0]
    fault(trainer)
    with pytest.raises(InputError):
        trainer.run()
    assert contents(tmp_path) == before


def test_nothing_is_written_before_the_first_step(tmp_path):
    trainer = build(tmp_path / "new", 2)[0]
    fail_in_first_step(trainer)
    with pytest.raises(InputError):
        trainer.run()
    assert not (tmp_path / "new").exists()


@pytest.mark.filterwarnings("ignore:step")
def test_a_network_that_diverges_keeps_the_last_good_state(tmp_path):
    trainer = build(tmp_path, 9, interval=1)[0]

    @trainer.on(Events.EPOCH_STARTED(once=3))
    def diverge(engine):
        not_finite(engine)

    with pytest.raises(InputError, match="5 steps had a loss"):
        trainer.run()
    state = torch.load(tmp_path / "checkpoint_last.pt", weights_only=True)
    assert state["trainer"]["iteration"] == 4


def test_a_network_that_is_not_finite_is_never_saved(tmp_path):
    trainer, net, _ = build(tmp_path, 2, interval=1)

    @trainer.on(Events.ITERATION_COMPLETED(once=3))
    def spoil(_):
        net.weight.data.fill_(float("nan"))

    with pytest.raises(InputError), pytest.warns(UserWarning, match="left out"):
        trainer.run()
    for name in ("model.pt", "checkpoint_last.pt", "checkpoint_best.pt"):
        content = torch.load(tmp_path / name, weights_only=True)
        assert torch.isfinite(content.get("network", content)["weight"]).all()


def test_a_score_that_is_no_number_is_never_the_best(tmp_path):
    trainer, _, evaluator = build(tmp_path, 3)

    @evaluator.on(Events.EPOCH_COMPLETED)
    def lose(engine):
        if engine.state.epoch == 1:
            engine.state.metrics["error"] = float("nan")

    evaluator._event_handlers[Events.EPOCH_COMPLETED].insert(1, evaluator._event_handlers[Events.EPOCH_COMPLETED].pop())
    trainer.run()
    assert evaluator.state.best_metric_epoch == 3


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-200], lambda data: data.replace(b"\x00\x00\x80?", b"\x00\x00\x80@")]
)
def test_of_damaged_states_the_newest_whole_one_is_taken(tmp_path, caplog, damage):
    class Ones(torch.nn.Linear):
        def reset_parameters(self):
            self.weight.data.fill_(1.0)
            self.bias.data.zero_()

    build(tmp_path, 4, interval=1, network=Ones(2, 1), lr=0.0)[0].run()
    last = tmp_path / "checkpoint_last.pt"
    changed = damage(last.read_bytes())
    assert changed != last.read_bytes()
    last.write_bytes(changed)
    file, content = newest_state(tmp_path)
    assert file.name == "checkpoint_previous.pt"
    assert content["trainer"]["iteration"] == 6
    assert "checkpoint_last.pt: cannot be read" in caplog.text


def test_only_damaged_states_are_one_line(tmp_path):
    (tmp_path / "checkpoint_last.pt").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"checkpoint_last\.pt cannot be used; start anew"):
        newest_state(tmp_path)


def test_going_on_from_an_older_state_keeps_it_until_there_are_two(tmp_path):
    build(tmp_path, 4, interval=1)[0].run()
    before = (tmp_path / "checkpoint_previous.pt").read_bytes()
    (tmp_path / "checkpoint_last.pt").write_bytes(b"nothing")
    end_after(build(tmp_path, 6, resume=True, interval=1)[0], 9, KeyboardInterrupt())
    assert (tmp_path / "checkpoint_previous.pt").read_bytes() == before
    assert newest_state(tmp_path)[1]["trainer"]["iteration"] == 9


def test_what_a_killed_run_left_unfinished_is_removed(tmp_path):
    (tmp_path / f".part-{_HOST}-{2**22 + 1}-abc").mkdir()
    (tmp_path / f".part-{_HOST}-{2**22 + 1}-abc" / "model.pt").write_bytes(b"half")
    build(tmp_path, 1)[0].run()
    assert not list(tmp_path.glob(".*"))


def test_an_earlier_run_is_set_aside(tmp_path, caplog):
    build(tmp_path, 2)[0].run()
    before = contents(tmp_path)
    (tmp_path / "training.jsonl").write_text("{}")
    build(tmp_path, 1, logs=[tmp_path / "training.jsonl", tmp_path / "absent"])[0].run()
    folders = sorted(tmp_path.glob("earlier-*"))
    kept = {path.name: path.read_bytes() for folder in folders for path in folder.iterdir()}
    assert kept == {**{path.name: data for path, data in before.items()}, "training.jsonl": b"{}"}
    assert "an earlier run was there; its files are kept in" in caplog.text
    assert torch.load(tmp_path / "checkpoint_last.pt", weights_only=True)["trainer"]["iteration"] == 2


def test_a_new_run_leaves_the_earlier_model_until_it_has_one(tmp_path):
    build(tmp_path, 2)[0].run()
    before = contents(tmp_path)
    end_after(build(tmp_path, 2)[0], 1, InputError("wrong"))
    assert (tmp_path / "model.pt").read_bytes() == before[(tmp_path / "model.pt").relative_to(tmp_path)]
    assert torch.load(tmp_path / "checkpoint_last.pt", weights_only=True)["trainer"]["iteration"] == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("when", ["step", "last step", "validation"])
def test_a_signal_ends_a_run_with_one_line_and_it_goes_on_alike(tmp_path, capfd, number, when):
    build(tmp_path / "whole", 4)[0].run()
    trainer, _, evaluator = build(tmp_path / "parts", 4)
    handler = signal.getsignal(number)
    engine = evaluator if when == "validation" else trainer
    times = iter(range(100))  # the second epoch: its first step, its second one, or the first case of its validation
    moment = Events.ITERATION_STARTED(event_filter=lambda *_: next(times) == (3 if when == "last step" else 2))
    engine.add_event_handler(moment, lambda _: os.kill(os.getpid(), number))
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        trainer.run()
    assert ended.value.code == 128 + number
    assert signal.getsignal(number) == handler
    printed = capfd.readouterr()
    assert printed.err.count("\n") == 1
    assert "its state is saved, go on with --resume true" in printed.err
    build(tmp_path / "parts", 4, resume=True)[0].run()
    for name in ("model.pt", "checkpoint_best.pt", "checkpoint_last.pt"):
        whole, parts = (torch.load(tmp_path / run / name, weights_only=True) for run in ("whole", "parts"))
        assert equal(whole, parts), name


def equal(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def test_a_full_disk_is_one_line_and_leaves_the_earlier_files(tmp_path, monkeypatch):
    build(tmp_path, 2, interval=1)[0].run()
    before = contents(tmp_path)

    def fill(_content, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fill)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\), what was there"):
        build(tmp_path, 4, resume=True, interval=1)[0].run()
    assert contents(tmp_path) == before


def test_nothing_to_resume_is_one_clear_line(tmp_path):
    with pytest.raises(InputError, match="nothing to resume from"):
        newest_state(tmp_path)


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
