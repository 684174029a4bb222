"""What the command line makes of what is typed."""

import subprocess
import sys
import time
from typing import Literal

import pytest

from custom_nets.errors import InputError
from custom_nets.tools import cli
from custom_nets.tools.command_line import parse_arguments
from tests.tools.test_cli import call


def verb(
    kind: Literal["brats", "lits"],
    folder: str,
    cases: int = 16,
    *,
    shape: tuple[int, ...] | None = None,
    spacing: float | tuple[float, ...] | None = 1.0,
    plain: bool = True,
    names: tuple[str, ...] = (),
) -> None:
    """Does something.

    Args:
        kind: of data.
        folder: to write to,
            on two lines.
    """


def keyed(bundle: str, **keys: object) -> None:
    """Takes keys."""


def parse(*arguments, of=verb):
    return parse_arguments(of, arguments, "custom-nets verb")


@pytest.mark.parametrize(
    ("typed", "name", "value"),
    [
        (["--cases", "3"], "cases", 3),
        (["--cases=3"], "cases", 3),
        (["--shape", "96", "96", "64"], "shape", (96, 96, 64)),
        (["--shape=[96,96,64]"], "shape", (96, 96, 64)),
        (["--shape", "(96, 96, 64)"], "shape", (96, 96, 64)),
        (["--shape", "null"], "shape", None),
        (["--spacing", "2"], "spacing", 2),
        (["--spacing", "0.75", "0.75", "2.5"], "spacing", (0.75, 0.75, 2.5)),
        (["--spacing", "None"], "spacing", None),
        (["--plain", "false"], "plain", False),
        (["--plain=FALSE"], "plain", False),
        (["--plain"], "plain", True),
        (["--names", "a,b"], "names", ("a", "b")),
        (["--names", "a", "b"], "names", ("a", "b")),
        (["--names", "1"], "names", ("1",)),
    ],
)
def test_values_become_what_the_signature_says(typed, name, value):
    assert parse("lits", "here", *typed)[name] == value


def test_what_is_not_typed_is_left_to_the_function():
    assert parse("lits", "2024.10") == {"kind": "lits", "folder": "2024.10"}


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (["mri", "here"], "kind is 'mri'; expected brats or lits"),
        (["lits"], "missing: FOLDER; custom-nets verb --help tells more"),
        (["lits", "here", "there"], "'there' is one argument too many; custom-nets verb --help tells what it takes"),
        (["lits", "here", "--case", "3"], "unknown option --case; did you mean --cases?"),
        (["lits", "here", "--xyzzy", "3"], "unknown option --xyzzy; custom-nets verb --help lists them"),
        (["lits", "here", "--cases", "ten"], "cases is 'ten'; expected a whole number"),
        (["lits", "here", "--cases", "2.5"], "cases is '2.5'; expected a whole number"),
        (["lits", "here", "--cases"], "--cases: expected one argument; custom-nets verb --help tells more"),
        (["lits", "here", "--plain", "maybe"], "plain is 'maybe'; expected true or false"),
        (["lits", "here", "--shape", "a", "b"], "shape is 'a b'; expected a list of whole numbers or null"),
    ],
)
def test_what_cannot_be_meant_is_one_line(typed, line):
    with pytest.raises(InputError) as raised:
        parse(*typed)
    assert str(raised.value) == line


def test_keys_of_a_bundle_are_taken_as_they_come():
    typed = ["here", "--variant", "c", "--image_size", "[64,64,64]", "--network_def#norm=batch", "--amp"]
    keys = {"variant": "c", "image_size": [64, 64, 64], "network_def#norm": "batch", "amp": "true"}
    assert parse(*typed, of=keyed) == {"bundle": "here", **keys}


def test_a_dash_is_an_underscore():
    assert parse("here", "--dataset-dir", "a-b", of=keyed)["dataset_dir"] == "a-b"


def test_help_is_plain(capsys):
    assert parse("--help") is None
    printed = capsys.readouterr().out
    assert "Does something." in printed
    assert "to write to, on two lines." in printed


def test_an_unknown_verb_is_one_line(monkeypatch, capsys):
    assert call(monkeypatch, "phantoms") == 2
    assert capsys.readouterr().err == "error: unknown verb 'phantoms'; did you mean phantom?\n"


def test_nothing_is_written_before_options_are_checked(monkeypatch, tmp_path, capsys):
    assert call(monkeypatch, "phantom", "brats", str(tmp_path / "new"), "--case", "3") == 2
    assert capsys.readouterr().err == "error: unknown option --case; did you mean --cases?\n"
    assert not (tmp_path / "new").exists()


def test_every_verb_has_a_line_of_help(monkeypatch, capsys):
    assert call(monkeypatch, "--help") == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(any(line.startswith(f"  {verb} ") for line in lines) for verb in cli.VERBS)


@pytest.mark.parametrize("name", list(cli.VERBS))
def test_every_verb_says_what_it_takes(monkeypatch, capsys, name):
    assert call(monkeypatch, name, "--help") == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: custom-nets {name} ")


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_imports_no_torch(option):
    script = f"import sys; sys.argv = ['custom-nets', '{option}']; from custom_nets.tools.cli import main; main()"
    script += "; assert not {'torch', 'monai', 'numpy', 'fire'} & set(sys.modules)"
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert time.monotonic() - start < 5


def test_an_unforeseen_error_is_one_line_and_more_with_debug(monkeypatch, capsys):
    def broken() -> None:
        raise KeyError("image")

    monkeypatch.setitem(cli.VERBS, "broken", broken)
    assert call(monkeypatch, "broken") == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: KeyError: 'image' (test_command_line.py:")
    assert printed.count("\n") == 1
    assert call(monkeypatch, "broken", "--debug", "true") == 2
    assert "Traceback" in capsys.readouterr().err
