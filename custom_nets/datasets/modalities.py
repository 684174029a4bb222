"""The four brain modalities: their channel order, and the names that the releases give their files."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from custom_nets.io.nifti import stem

MODALITIES = ("FLAIR", "T1", "T1ce", "T2")
"""The channels of a brain image, in order."""

DO_WITHOUT = "a model trained with modality_dropout can do without"
"""What messages about an absent modality add to their advice."""

LABEL = "label"

FILE_NAMES: tuple[dict[str, str], ...] = (
    {"FLAIR": "flair", "T1": "t1", "T1ce": "t1ce", "T2": "t2", LABEL: "seg"},  # BraTS 2018 to 2021
    {"FLAIR": "t2f", "T1": "t1n", "T1ce": "t1c", "T2": "t2w", LABEL: "seg"},  # BraTS 2023 and later
)
"""How each naming ends the names of a case's files, `<case>_<ending>.nii.gz`."""

OTHER_NAMES = {"t1w": "T1", "t1gd": "T1ce", "segm": LABEL}
"""Endings met elsewhere: the Decathlon's channels, the one case of BraTS 2020 whose label was named by hand."""

ROLES: dict[str, str] = {ending: role for naming in FILE_NAMES for role, ending in naming.items()} | OTHER_NAMES
"""What a file is, by the ending of its name in lower case."""

_ENDING = re.compile(rf"^(?:(?P<case>.*?)[-_.])?(?P<ending>{'|'.join(ROLES)})$", re.IGNORECASE)


def split_name(path: str | os.PathLike) -> tuple[str, str]:
    """Splits a file name into its case and the ending that says what it is ("" when no ending is known).

    >>> split_name("BraTS-GLI-00000-000-t1c.nii.gz")
    ('BraTS-GLI-00000-000', 't1c')
    >>> split_name("BRATS_001.nii.gz")
    ('BRATS_001', '')
    """
    name = stem(path)
    match = _ENDING.match(name)
    return (match["case"] or "", match["ending"].lower()) if match else (name, "")


def role_of(path: str | os.PathLike) -> str | None:
    """Returns what a file is, one of `MODALITIES` or `LABEL`; None when its name does not say."""
    return ROLES.get(split_name(path)[1])


def case_of_files(files: Sequence[str | os.PathLike]) -> str:
    """Returns the case that image files belong to: what their names share before the endings, else their folder's name.

    Args:
        files: the files of one image: one a modality, or a single 4D file.
    """
    if len(files) == 1 and role_of(files[0]) is None:
        return stem(files[0])
    names = {split_name(file)[0] for file in files}
    shared = names.pop() if len(names) == 1 else ""
    return shared or Path(files[0]).absolute().parent.name
