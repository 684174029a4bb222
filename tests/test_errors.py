"""Bad input is shown as one line."""

import json
import sys

import pytest
from torch.utils.data import DataLoader

from custom_nets.errors import InputError, find_input_error, show_errors


class Broken:
    def __len__(self):
        return 1

    def __getitem__(self, _):
        raise InputError("case A: T2 missing")


def test_the_message_is_found_below_wrappers():
    wrapper = RuntimeError("applying transform")
    wrapper.__cause__ = InputError("case A: T2 missing")
    assert find_input_error(wrapper) == "case A: T2 missing"


def test_the_message_is_found_in_what_a_worker_process_hands_over():
    with pytest.raises(Exception, match="T2 missing") as raised:
        next(iter(DataLoader(Broken(), num_workers=1)))
    assert find_input_error(raised.value) == "case A: T2 missing"


def test_other_errors_are_left_alone():
    assert find_input_error(ValueError("something else")) is None


@pytest.fixture
def show(monkeypatch, capsys, tmp_path):
    """What a process of torchrun's writes when it ends with an error that was raised from another."""
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))

    def write(cause):
        error = RuntimeError("applying transform")
        error.__cause__ = cause
        show_errors()
        sys.excepthook(RuntimeError, error, None)
        return capsys.readouterr().err

    return write


def test_the_hook_prints_one_line(show):
    assert show(InputError("case A: T2 missing")) == "error: case A: T2 missing\n"


@pytest.mark.parametrize(
    ("cause", "text"),
    [(InputError("case A: T2 missing"), "case A: T2 missing"), (KeyError("image"), "KeyError: 'image' (")],
    ids=["input", "other"],
)
def test_torchrun_is_told_what_ended_a_process(cause, text, show, tmp_path):
    show(cause)
    assert json.loads((tmp_path / "error.json").read_text())["message"]["message"].startswith(text)


def test_a_process_that_lost_another_says_so_in_a_line(show, tmp_path):
    cause = RuntimeError("[pair.cc:553] Connection closed by peer [127.0.0.1]:15797")
    assert show(cause) == "ended, because another process of this job did\n"
    assert not (tmp_path / "error.json").exists()
