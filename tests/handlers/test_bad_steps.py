"""Steps whose numbers are not finite."""

import pytest
import torch
from monai.data import MetaTensor
from monai.engines import SupervisedTrainer

from custom_nets.handlers import BadSteps
from custom_nets.handlers.bad_steps import BadStepsError, batch_cases


def batch(value: float = 1.0, case: str = "case_1"):
    image = MetaTensor(torch.full((1, 1, 4), value), meta={"case": [case]})
    return {"image": image, "label": torch.zeros(1, 1, 4)}


def train(batches, limit=5, network=None, epochs=1, **options):
    torch.manual_seed(0)
    network = network or torch.nn.Conv1d(1, 1, 1)
    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=epochs,
        train_data_loader=batches,
        network=network,
        optimizer=torch.optim.AdamW(network.parameters(), lr=0.1),
        loss_function=torch.nn.MSELoss(),
        train_handlers=[BadSteps(limit)],
        decollate=False,
        **options,
    )
    trainer.run()
    return trainer, network


def test_a_bad_step_changes_nothing():
    _, alone = train([batch(1.0), batch(2.0)])
    with pytest.warns(UserWarning, match="step 2 with case_7: loss or gradient is not finite"):
        trainer, net = train([batch(1.0), batch(float("nan"), "case_7"), batch(2.0)])
    assert torch.equal(net.weight, alone.weight)
    assert trainer.state.bad_steps == 0


def test_statistics_of_batch_norm_stay_finite():
    net = torch.nn.Sequential(torch.nn.Conv1d(1, 1, 1), torch.nn.BatchNorm1d(1))
    with pytest.warns(UserWarning, match="left out"):
        train([batch(1.0), batch(float("inf")), batch(2.0)], network=net)
    assert torch.isfinite(net[1].running_mean).all()
    assert net[1].num_batches_tracked == 2


def test_after_some_of_them_the_run_ends_and_names_the_cases():
    batches = [batch(1.0), batch(float("nan"), "case_7")]
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(BadStepsError, match=r"3 steps .+ the last with case_7; the last good state is kept"),
    ):
        train(batches, limit=3, epochs=5)


def test_a_run_that_ends_in_bad_steps_is_an_error():
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(BadStepsError, match="2 steps had a loss or gradient that is not finite"),
    ):
        train([batch(1.0), batch(float("nan")), batch(float("nan"))])


def test_a_gradient_that_is_not_finite_is_a_bad_step():
    net = torch.nn.Conv1d(1, 1, 1)
    net.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.warns(UserWarning, match="left out"), pytest.raises(BadStepsError):
        train([batch()], network=net)


def test_the_limit_must_be_a_number_of_steps():
    with pytest.raises(ValueError, match="max_bad_steps is 0; expected at least 1"):
        BadSteps(0)


def test_cases_are_read_from_the_batch_or_the_image():
    assert batch_cases({"case": ["a", "b", "a"]}) == ["a", "b"]
    assert batch_cases(batch(case="c")) == ["c"]
    assert batch_cases([1, 2]) == []
    assert batch_cases({"image": torch.zeros(1)}) == []
