"""File names: the case they belong to, and the ending that says what the file is."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from custom_nets.datasets.record import Record, shipped_records
from custom_nets.io.nifti import stem


def split_end(name: str, ends: Iterable[str]) -> tuple[str, str]:
    """Splits a name without suffix into its case and its ending in lower case, "" when it has none of the endings.

    >>> split_end("BraTS-GLI-00000-000-T1c", ["t1n", "t1c"])
    ('BraTS-GLI-00000-000', 't1c')
    """
    match = _pattern(tuple(ends)).fullmatch(name)
    return (match["case"] or "", match["end"].lower()) if match else (name, "")


def case_of_files(files: Sequence[str | os.PathLike]) -> str:
    """Returns the case that image files belong to: what their names share before the endings, else their folder's name.

    Args:
        files: the files of one image: one a channel, or a single one.
    """
    names = [stem(file) for file in files]
    cases = {split_end(name, known_ends())[0] for name in names}
    if len(cases) > 1:  # endings that no record knows
        shared = re.match(r"(.*)[-_.]", os.path.commonprefix(names))  # noqa: RUF071 (names, not paths)
        cases = {shared[1]} if shared else {""}
    return cases.pop() or Path(files[0]).absolute().parent.name


def role_of(file: str | os.PathLike, record: Record) -> str | None:
    """Returns the channel of a record that a file name tells, "label" for a label file, None for neither."""
    return roles(record).get(split_end(stem(file), roles(record))[1])


def record_of_files(files: Sequence[str | os.PathLike]) -> Record | None:
    """Returns the first record in whose terms every file name tells a channel; None when there is none."""
    for record in shipped_records():
        if files and all(role_of(file, record) in record.channel_names for file in files):
            return record
    return None


@lru_cache(maxsize=64)
def roles(record: Record) -> dict[str, str]:
    """Returns what each ending of a file name means, see `role_of`."""
    return {**{end.lower(): "label" for end in record.label_ends}, **record.ends}


@lru_cache(maxsize=1)
def known_ends() -> tuple[str, ...]:
    """Returns the endings of every record that comes with the package."""
    return tuple(sorted({end for record in shipped_records() for end in roles(record)}))


@lru_cache(maxsize=256)
def _pattern(ends: tuple[str, ...]) -> re.Pattern[str]:
    any_end = "|".join(re.escape(end) for end in ends) or r"(?!)"
    return re.compile(rf"(?:(?P<case>.*?)[-_.])?(?P<end>{any_end})", re.IGNORECASE | re.DOTALL)
