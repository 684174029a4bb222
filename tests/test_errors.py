"""Bad input is shown as one line."""

import ast
import json
import logging
import sys
import threading

import pytest
import torch
from torch.utils.data import DataLoader

from custom_nets.errors import InputError, explain, find_input_error, show_errors
from tests.conftest import REPOSITORY


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


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(28, "No space left on device", "/out/a.nii.gz"), "/out/a.nii.gz: the disk is full; free some space"),
        (RuntimeError("[enforce fail] PytorchStreamWriter failed writing file data/3"), "the disk is full"),
        (PermissionError(13, "Permission denied", "/out"), "/out: permission denied"),
        (OSError(30, "Read-only file system", "/out"), "/out: permission denied"),
        (OSError(36, "File name too long", "/aaa"), "/aaa: the name is too long"),
        (NotADirectoryError(20, "Not a directory", "/a/b"), "/a/b: a file is where a folder is needed"),
        (FileExistsError(17, "File exists", "/a"), "/a: a file is where a folder is needed"),
        (ModuleNotFoundError("No module named 'mcubes'"), "the Python package mcubes is not installed"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory on the GPU; give"),
        (MemoryError(), "out of memory; give"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "out of memory; give"),
        (RuntimeError("unable to write to file </torch_1>: No space left on device (28)"), "no room in the shared"),
        (RuntimeError("DataLoader worker (pid 9) is killed by signal: Bus error. It is possible"), "no room in the"),
        (RuntimeError("DataLoader worker (pid 9) is killed by signal: Killed."), "out of memory; give"),
        (RuntimeError("DataLoader worker (pid(s) 9) exited unexpectedly"), "a process of the loader died"),
        (OSError(24, "Too many open files"), "too many open files; give fewer --num_workers"),
        (ValueError("the referring item `@x` is not defined in the config content."), "a config refers to @x"),
        (RuntimeError("Found no NVIDIA driver on your system."), "PyTorch finds no GPU; give --device cpu"),
        (KeyError("image"), "KeyError: 'image' (unknown place); this is a fault of the program"),
        (ValueError("a\nb\nc" * 500), "ValueError: a ("),
        (ValueError(), "ValueError ("),
    ],
    ids=lambda value: f"{type(value).__name__} {value}"[:40],
)
def test_what_a_person_reads_is_one_line_with_a_remedy(error, line):
    wrapper = RuntimeError("Failed to instantiate component")
    wrapper.__cause__ = error
    assert explain(wrapper).startswith(line)
    assert "\n" not in explain(wrapper)


class Unreadable:
    def __len__(self):
        return 1

    def __getitem__(self, _):
        raise KeyError("label")


def test_an_error_of_a_worker_is_told_with_its_place():
    with pytest.raises(KeyError) as raised:
        next(iter(DataLoader(Unreadable(), num_workers=1)))
    assert explain(raised.value).startswith("KeyError: 'label' (test_errors.py:")


def test_a_long_list_of_faults_ends():
    text = explain(InputError("\n".join(f"fault {number}" for number in range(30))))
    assert len(text.splitlines()) == 10
    assert text.endswith("... and 21 more")


def test_an_interruption_is_a_word(monkeypatch, capsys):
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    show_errors()
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().err == "interrupted\n"


def test_debug_shows_the_traceback(monkeypatch, capsys):
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    show_errors(debug=True)
    try:
        raise InputError("case A")
    except InputError as error:
        sys.excepthook(InputError, error, error.__traceback__)
    printed = capsys.readouterr().err
    assert "Traceback" in printed
    assert printed.endswith("error: case A\n")


ROOMS = ("losses", "transforms", "metrics", "inferers", "networks", "engines", "handlers", "io")


@pytest.mark.parametrize("room", ROOMS)
def test_what_configs_name_raises_input_errors(room):
    """A bare error would come as a traceback that names no key."""
    bare = {"ValueError", "TypeError", "KeyError", "IndexError", "FileNotFoundError", "OSError"}
    for file in (REPOSITORY / "custom_nets" / room).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                assert ast.unparse(node.exc.func) not in bare, f"{file.name}:{node.lineno}"


def test_the_traceback_of_a_worker_is_not_logged(monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    logged = []
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    show_errors()
    logging.getLogger("ignite.engine").error("ended: Caught KeyError in a worker.\nOriginal Traceback:\n  File")
    show_errors(debug=True)
    logging.getLogger("ignite.engine").error("ended\nOriginal Traceback")
    assert logged == ["ended: Caught KeyError in a worker.", "ended\nOriginal Traceback"]


def test_an_error_of_a_thread_is_a_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    show_errors()

    def write():
        raise OSError(28, "No space left on device")

    thread = threading.Thread(target=write)
    thread.start()
    thread.join()
    assert capsys.readouterr().err.startswith("error: the disk is full; free some space")
