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
from custom_nets.io.nifti import read_header, read_voxels

_GZIP_END = 8
"""Bytes at the end of a gzip file: checksum and size of what was compressed (RFC 1952, section 2.3.1)."""

_SAMPLES, _SAMPLE_BYTES = 8, 4096


def duplicate_notes(
    items: Sequence[dict[str, Any]], sums_of_voxels: Iterable[tuple[str, bytes]] = (), channels: bool = False
) -> list[str]:
    """Returns a line where cases hold the same voxels, whatever their names say.

    Checksums of the files tell which may be equal, and the voxels of these are compared. They cover the headers, too:
    a scan that another program saved again is found by the sums of its voxels alone.

    Args:
        items: as `datalist` gives them; files that cannot be read are passed over.
        sums_of_voxels: case and checksum of the voxels of each channel, where these have been read.
        channels: whether to name cases two of whose own files are equal, too; `check_voxels` says so where it warns.
    """
    files = [(item["case"], file) for item in items for file in _files(item["image"])]
    with ThreadPoolExecutor(max_workers=8) as pool:
        sums = list(pool.map(_checksum, (file for _, file in files)))
    alike: dict[tuple[int, bytes], list[tuple[str, str]]] = defaultdict(list)
    for found, checksum in zip(files, sums, strict=True):
        if checksum is not None:
            alike[checksum].append(found)
    equal = [
        ((one, file), (other, second))
        for (one, file), *others in alike.values()
        for other, second in others
        if (one != other or channels) and _equal(file, second)
    ]
    pairs = {(one, other): None for (one, _), (other, _) in equal if one != other}
    twice = [f"{Path(file).name} and {Path(second).name}" for (one, file), (other, second) in equal if one == other]
    rank = {item["case"]: number for number, item in enumerate(items)}
    firsts: dict[bytes, str] = {}
    for case, digest in sorted(sums_of_voxels, key=lambda pair: rank[pair[0]]):
        first = firsts.setdefault(digest, case)
        if first != case:
            pairs[first, case] = None
    notes = []
    if pairs:
        named = first_names([f"{one} and {other}" for one, other in pairs])
        notes.append(
            f"{len(pairs)} times two cases hold the same scan: {named}; a split could learn from one and score on "
            "the other: take one of them out"
        )
    if twice:
        notes.append(
            f"{len(twice)} times two channels of a case hold the same voxels: {first_names(twice)}; give the file of "
            "each channel"
        )
    return notes


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
                if any(end := stream.read()):  # it is 0 where an empty member ends the file, as bgzip's does
                    return 0, end
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
        read_header(file, "")  # what is cut short may promise more voxels than memory holds
        return np.array_equal(read_voxels(file, ""), read_voxels(other, ""), equal_nan=True)
    except InputError:
        return False
