"""Notes on scans that are there twice, under the names of two cases."""

from __future__ import annotations

import os
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from custom_nets.errors import InputError, first_names
from custom_nets.io.nifti import read_voxels

_GZIP_END = 8
"""Bytes at the end of a gzip file: checksum and size of what was compressed (RFC 1952, section 2.3.1)."""

_SAMPLES, _SAMPLE_BYTES = 8, 4096


def duplicate_notes(items: Sequence[dict[str, Any]]) -> list[str]:
    """Returns a line where cases hold the same voxels, whatever their names and headers say.

    Checksums tell which files may be equal, and the voxels of these are compared.

    Args:
        items: as `datalist` gives them; files that cannot be read are passed over.
    """
    files = [(item["case"], file) for item in items for file in _files(item["image"])]
    with ThreadPoolExecutor(max_workers=8) as pool:
        sums = list(pool.map(_checksum, (file for _, file in files)))
    alike: dict[tuple[int, bytes], list[tuple[str, str]]] = defaultdict(list)
    for found, checksum in zip(files, sums, strict=True):
        if checksum is not None:
            alike[checksum].append(found)
    pairs = {
        (one, other): None
        for (one, file), *others in alike.values()
        for other, second in others
        if one != other and _equal(file, second)
    }
    if not pairs:
        return []
    named = first_names([f"{one} and {other}" for one, other in pairs])
    return [
        f"{len(pairs)} times two cases hold the same scan: {named}; a split could learn from one and score on "
        "the other: take one of them out"
    ]


def _files(image: Any) -> Iterable[str]:
    files = [image] if isinstance(image, str | os.PathLike) else image
    return [str(file) for file in files if file is not None and Path(file).is_file()]


def _checksum(file: str) -> tuple[int, bytes] | None:
    """Returns what is equal in files of equal content: of gzip, which another level packs otherwise, its own sum."""
    try:
        with open(file, "rb") as stream:
            packed = stream.read(2) == b"\x1f\x8b"
            size = stream.seek(0, os.SEEK_END)
            if packed:
                stream.seek(-_GZIP_END, os.SEEK_END)
                return 0, stream.read()
            checksum = 0
            for sample in range(_SAMPLES):
                stream.seek(sample * size // _SAMPLES)
                checksum = zlib.crc32(stream.read(_SAMPLE_BYTES), checksum)
            return size, checksum.to_bytes(4, "little")
    except OSError:
        return None  # the check of the case says what is wrong with it


def _equal(file: str, other: str) -> bool:
    if os.path.samefile(file, other):
        return True
    try:
        return np.array_equal(read_voxels(file, ""), read_voxels(other, ""), equal_nan=True)
    except InputError:
        return False
