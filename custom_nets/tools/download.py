"""The open data sets of the Medical Segmentation Decathlon, downloaded without an account."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

from monai.apps import DecathlonDataset
from monai.apps.utils import HashCheckError, download_url, extractall

from custom_nets.errors import InputError


def download_msd(task: str, directory: str | os.PathLike, progress: bool = True) -> Path:
    """Downloads and unpacks one task of the Decathlon, unless it is there already.

    An archive `<directory>/<task>.tar` that was brought there by hand is unpacked without a network.

    Args:
        task: such as "Task01_BrainTumour" (7 GB) or "Task03_Liver" (27 GB).
        directory: where the folder `<task>` is made; twice the size of the archive must be free.
        progress: whether to show a progress bar.

    Returns:
        The folder of the data set, ready to be a `dataset_dir`.

    Raises:
        InputError: when the task is unknown, the network or the disk fails, or the data set is incomplete.
    """
    if task not in DecathlonDataset.resource:
        msg = f"task '{task}' is unknown; expected one of {', '.join(DecathlonDataset.resource)}"
        raise InputError(msg)
    root = Path(directory).expanduser()
    folder, archive = root / task, root / f"{task}.tar"
    if not folder.exists():
        _fetch(task, root, archive, progress)
    missing = _missing_files(folder)
    if missing:
        msg = (
            f"{folder}: incomplete, {missing[0]} is missing ({len(missing)} in all; was unpacking interrupted?); "
            "delete this folder and run the command again"
        )
        raise InputError(msg)
    return folder


def _fetch(task: str, root: Path, archive: Path, progress: bool) -> None:
    """Downloads the archive, checks its hash and unpacks it."""
    url, md5 = DecathlonDataset.resource[task], DecathlonDataset.md5[task]
    try:
        root.mkdir(parents=True, exist_ok=True)
        # Not MONAI's download_and_extract: that asks the server for the file's name even when the archive is there.
        download_url(url, archive, hash_val=md5, hash_type="md5", progress=progress)
        extractall(archive, root)
    except HashCheckError as error:
        msg = f"{archive}: damaged, its MD5 is not {md5}; delete it and run the command again"
        raise InputError(msg) from error
    except (OSError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EACCES, errno.EROFS):
            msg = (
                f"{task} cannot be written to {root} ({error.strerror}); free some space or give another directory "
                "(a download first goes to the folder that TMPDIR names)"
            )
            raise InputError(msg) from error
        msg = (
            f"{task} cannot be downloaded from {url} ({error}); check the network, or fetch that file with another "
            f"machine, put it at {archive}, and run the command again"
        )
        raise InputError(msg) from error


def _missing_files(folder: Path) -> list[str]:
    """Returns the files that dataset.json lists and the folder lacks."""
    description = folder / "dataset.json"
    try:
        content = json.loads(description.read_text(encoding="utf-8"))
        training = [file for item in content["training"] for file in (item["image"], item["label"])]
        listed = [str(file) for file in [*training, *content["test"]]]
    except (OSError, ValueError, KeyError, TypeError):
        return [description.name]
    return [file for file in listed if not (folder / file).is_file()]
