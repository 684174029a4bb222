"""Which kind of data a folder holds, brain or liver, so that a user need not say it."""

from __future__ import annotations

import os

from custom_nets.datasets.brats import BRAIN
from custom_nets.datasets.layouts import (
    Folders,
    Kind,
    dataset_root,
    kinds_by_name,
    listing,
    require_nifti,
    search_folders,
)
from custom_nets.datasets.lits import LIVER
from custom_nets.datasets.modalities import role_of
from custom_nets.errors import InputError
from custom_nets.io.nifti import read_header, stem


def recognise(dataset_dir: str | os.PathLike) -> Kind:
    """Tells whether data is for `brats_datalist` or for `lits_datalist`.

    File names decide; where they say nothing, the first NIfTI file that can be read does (4D is brain data, 3D is CT),
    or that there are DICOM series (CT).

    Args:
        dataset_dir: a folder or a NIfTI file.

    Returns:
        "brats" or "lits".

    Raises:
        InputError: when neither is recognised, or both are there.
    """
    root = dataset_root(dataset_dir)
    if root.is_file():
        require_nifti(root)
        folders: Folders = {root.parent: [root]}
    else:
        folders = search_folders(root, max(BRAIN.max_depth, LIVER.max_depth))
    kinds = kinds_by_name(folders) or _kinds_by_content(folders)
    if len(kinds) > 1:
        msg = f"{root}: holds brain data and liver data; give the folder of one of them"
        raise InputError(msg)
    if not kinds:
        msg = (
            f"{root}: no data set recognised; looked for brain data: {BRAIN.looked_for()}; for liver data: "
            f"{LIVER.looked_for()}; found {listing(root)}; check dataset_dir"
        )
        raise InputError(msg)
    return kinds.pop()


def _kinds_by_content(folders: Folders) -> set[Kind]:
    for file in (file for files in folders.values() for file in files if role_of(file) is None):
        try:
            return {"lits" if len(read_header(file, stem(file)).shape) == 3 else "brats"}
        except InputError:
            continue
    from custom_nets.io.dicom import is_dicom_folder

    return {"lits"} if any(map(is_dicom_folder, folders)) else set()
