"""What `custom-nets check`, training and inference say of a data set: a verdict and its words."""

import contextlib
import io
import logging
import re
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from monai.bundle import ConfigParser

from custom_nets.errors import InputError, describe, find_input_error
from custom_nets.tools import cli
from custom_nets.transforms import voxel_checks
from tests.bundles.bundle import SMALLEST, Bundle
from tests.robust.recipes import BRAIN, DICOM, LIVER, RECIPES, Recipe

BUNDLES = {BRAIN: ("ossnet_brats", "nvnet_brats"), LIVER: ("ossnet_lits",), DICOM: ("ossnet_lits",)}

_PLACES = r"\d+ of \d+ cases cannot be used: |case [^/]*?, (?:file|folder) /.*?: (?! )|/\S+: "
_DETAILS = r";| \((?!\d)|, holds [\d,]+ of"
"""What ends the part of a message that the table shows: advice, and what depends on versions of libraries."""


class Verdict(NamedTuple):
    """What a command says.

    Args:
        word: "accepted", "warned", "left out" (others go on), "refused" (an error line and no more) or "crashed" (an
            exception that is no `InputError`).
        text: the lines that tell why.
        cases: used, where any are.
    """

    word: str
    text: str
    cases: int = 0

    @property
    def cell(self) -> str:
        """The verdict as a cell of the table: its word, and what the first line says, without places and advice."""
        word = f"{self.word} ({self.cases})" if self.cases else self.word
        if not self.text:
            return word
        line = re.sub(r"/\S+/", "", re.sub(_PLACES, "", self.text.splitlines()[0]))
        return f"{word}: `{re.split(_DETAILS, line)[0].strip()}`"


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextlib.contextmanager
def _warnings() -> Iterator[list[str]]:
    voxel_checks.warn_once.cache_clear()
    handler = _Lines()
    logger = logging.getLogger("custom_nets")
    logger.addHandler(handler)
    try:
        yield handler.lines
    finally:
        logger.removeHandler(handler)


def _of_error(error: Exception) -> Verdict:
    known = find_input_error(error) is not None
    return Verdict("refused" if known else "crashed", describe(error))


def check(data: Path, record: str | None) -> Verdict:
    """Runs `custom-nets check`."""
    out = io.StringIO()
    with _warnings() as warned:
        try:
            with contextlib.redirect_stdout(out):
                cli.check(str(data), record)
        except InputError as error:
            faults = re.findall("^fault: (.*)$", out.getvalue(), re.MULTILINE)
            return Verdict("left out", "\n".join(faults), _good(out.getvalue())) if faults else _of_error(error)
        except Exception as error:
            return _of_error(error)
    lines = out.getvalue().splitlines()
    summary = next(number for number, line in enumerate(lines) if "without fault" in line)
    notes = [*lines[summary + 1 :], *warned]
    return Verdict("warned" if notes else "accepted", "\n".join(notes), _good(out.getvalue()))


def _good(printed: str) -> int:
    """Returns the number of cases that check finds no fault in."""
    counted = re.search(r"(\d+) without fault", printed)
    assert counted
    return int(counted[1])


class Row(NamedTuple):
    """What the commands say of one recipe, in cells of the table."""

    name: str
    what: str
    check: str
    training: str
    inference: str

    def __str__(self) -> str:
        return f"| {' | '.join(self)} |"


def say(recipe: Recipe, folder: Path) -> Row:
    """Builds a recipe and lets every command speak; the bundles of one kind of data take turns."""
    data = folder / "data"
    data.mkdir()
    recipe.build(data)
    record, split = (str(data / name) if name else None for name in (recipe.record, recipe.split))
    keys = {"dataset_record": record, "split_file": split}
    checked = check(data, record).cell
    bundles = BUNDLES[recipe.data]
    bundle = bundles[RECIPES.index(recipe) % len(bundles)]
    said = train(bundle, data, **keys), infer(bundle, data, folder / "results", **keys)
    return Row(recipe.name, recipe.what, checked, *(verdict.cell for verdict in said))


@cache
def _parser(bundle: str, step: str) -> ConfigParser:
    return Bundle(bundle).parse(step, device="cpu", workflow=None, **SMALLEST[bundle])


def train(bundle: str, data: Path, **keys: str | None) -> Verdict:
    """Lists and preprocesses the cases of a training and its validation: all that comes before its first step."""
    parser = _parser(bundle, "train")
    number = 0
    with _warnings() as warned:
        try:
            parser.update({"dataset_dir": str(data), **keys})
            preprocessing = parser.get_parsed_content("train#preprocessing")
            for cases in ("training_cases", "validation_cases"):
                for item in parser.get_parsed_content(cases):
                    preprocessing(item)
                    number += 1
        except Exception as error:
            return _of_error(error)
    return Verdict("warned" if warned else "accepted", "\n".join(warned), number)


def infer(bundle: str, data: Path, output: Path, **keys: str | None) -> Verdict:
    """Lists and preprocesses the cases of an inference as its config does, all that comes before the network."""
    parser = _parser(bundle, "inference")
    with _warnings() as warned:
        try:
            parser.update({"dataset_dir": str(data), "output_dir": str(output), **keys})
            dataset = parser.get_parsed_content("dataset")
            read = [dataset[number] for number in range(len(dataset))]
        except Exception as error:
            return _of_error(error)
    faults = [*dataset.data.left_out, *(item["fault"] for item in read if "fault" in item)]
    if faults:
        number = len(read) + len(dataset.data.left_out) - len(faults)
        return Verdict("left out" if number else "refused", "\n".join(faults), number)
    return Verdict("warned" if warned else "accepted", "\n".join(warned), len(read))


HEAD = """\
# Damaged data

What `custom-nets check`, training and inference say of data sets that something is wrong with. The tests build each of
them (`tests/robust/recipes.py`), of tiny cases, and the tests compare what is said with this page, which
`python -m tests.robust.damage > docs/damaged_data.md` writes.

- accepted: nothing is said. What is odd about such data does not matter: they are read as they are meant.
- warned: the case is used, with a line that says what is unusual. Training warns of voxels if `--voxel_warnings true`.
- left out: `check` lists the case. Inference goes on without it, names it again at its end, and its exit status is 3.
- refused: one error line. Training stops before its first step; inference has no case left (exit status 1).

The bundles of one kind of data say the same. Messages begin with case and file and end with advice, which the table
leaves out. The number of cases that are used stands in brackets. Of two or three cases one is damaged, unless the table
says otherwise.
"""
TITLES = {
    BRAIN: "Brains (`ossnet_brats`, `nvnet_brats`)",
    LIVER: "CT of the liver (`ossnet_lits`)",
    DICOM: "CT as DICOM (`ossnet_lits`; there are no labels, so that training refuses all)",
}


def page(rows: dict[str, Row]) -> str:
    """Returns the page of the docs."""
    parts = [HEAD]
    for data, title in TITLES.items():
        head = f"## {title}\n\n| recipe | what is wrong | `check` | training | inference |\n|{' --- |' * 5}\n"
        parts.append(head + "".join(f"{rows[recipe.name]}\n" for recipe in RECIPES if recipe.data == data))
    return "\n".join(parts)


if __name__ == "__main__":
    said = {}
    for each in RECIPES:
        with tempfile.TemporaryDirectory() as place:
            said[each.name] = say(each, Path(place))
            print(said[each.name], file=sys.stderr, flush=True)
    print(page(said), end="")
