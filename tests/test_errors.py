"""Bad input is shown as one line."""

import sys

import pytest
from torch.utils.data import DataLoader

from custom_nets.errors import InputError, find_input_error, show_input_errors


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


def test_the_hook_prints_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    show_input_errors()
    sys.excepthook(InputError, InputError("case A: T2 missing"), None)
    assert capsys.readouterr().err == "error: case A: T2 missing\n"
