"""Processes that write results while the next case is inferred."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Hashable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for
from typing import Any

import torch
from monai.data import MetaTensor

from custom_nets.errors import InputError, describe
from custom_nets.transforms.saving.results import SaveResultsd

logger = logging.getLogger(__name__)

_DIED = (
    "the process that wrote its results died; most often memory ran out: give fewer --num_writers (0 writes without), "
    "and infer it again with --skip_existing true"
)

_transform: SaveResultsd | None = None
"""In a writer: what writes a case."""


class ResultWriters:
    """Processes that take the place of a `SaveResultsd`, so that the next case is inferred meanwhile.

    A writer has one case at a time, and a case waits until one is free: memory is bounded by the number of writers. The
    volumes go to it in shared memory. Where it dies, that case alone is lost, and another writer takes its place. This
    is why each is an executor of its own: one executor of several processes gives up all their cases when one dies, and
    does not tell which was at fault.

    Args:
        transform: what writes the results of a case; outside of a run with writers it does so itself.
        count: of processes; 0 for none.

    Raises: InputError for a negative number.
    """

    def __init__(self, transform: SaveResultsd, count: int = 0) -> None:
        if count < 0:
            msg = f"num_writers is {count}; expected the number of processes that write results, 0 for none"
            raise InputError(msg)
        self.transform = transform
        self.count = count
        self._free: list[ProcessPoolExecutor] = []
        self._writing: dict[Future, tuple[str, ProcessPoolExecutor]] = {}
        self._settled: list[tuple[str, str | None]] = []

    def start(self) -> None:
        """Starts the processes; before the cases are read, as the loader does with its own."""
        self.stop()
        self._free = [self._new_writer() for _ in range(self.count)]
        if self._free:
            self.transform.hand_over = self._take

    def stop(self) -> None:
        """Waits for the cases that are being written, and ends the processes."""
        self.transform.hand_over = None
        for writer in [*self._free, *(writer for _, writer in self._writing.values())]:
            writer.shutdown()
        self._free, self._writing, self._settled = [], {}, []

    def is_writing(self, case: str) -> bool:
        """Returns whether it is not known yet if a case that was handed over is written."""
        self._collect()
        return any(case == writing for writing, _ in self._writing.values()) or any(
            case == settled for settled, _ in self._settled
        )

    def settled(self, all_cases: bool = False) -> Iterator[tuple[str, str | None]]:
        """Yields the cases that were written since the last call, each with its fault; None where there is none.

        Args:
            all_cases: whether to wait for those that are being written.
        """
        self._collect()
        while all_cases and self._writing:
            self._collect(wait_for_one=True)
        settled, self._settled = self._settled, []
        yield from settled

    def _take(self, item: Mapping[Hashable, Any]) -> None:
        """Hands a case to a writer, once one is free; where its volumes cannot be shared, they are written here."""
        try:
            volumes, rest = _pack(item, self.transform.read_keys)
        except RuntimeError as error:
            logger.warning("no writer used: the volumes do not fit into shared memory (%s)", describe(error))
            self.transform.write(item)
            return
        while not self._free:
            self._collect(wait_for_one=True)
        writer = self._free.pop(0)
        try:
            future = writer.submit(_write, volumes, rest)
        except BrokenProcessPool:  # died without a case: nothing is lost
            writer.shutdown()
            writer = self._new_writer()
            future = writer.submit(_write, volumes, rest)
        self._writing[future] = (str(item.get("case")), writer)

    def _collect(self, wait_for_one: bool = False) -> None:
        if wait_for_one:
            wait(self._writing, return_when=FIRST_COMPLETED)
        for future in [future for future in self._writing if future.done()]:
            case, writer = self._writing.pop(future)
            try:
                fault = future.result()
            except BrokenProcessPool:
                fault = _DIED
                writer.shutdown()
                writer = self._new_writer()
            self._free.append(writer)
            self._settled.append((case, fault))

    def _new_writer(self) -> ProcessPoolExecutor:
        # As PyTorch's loader: a forked process has what it needs without seconds of imports, and no GPU is touched.
        method = "fork" if sys.platform == "linux" else None
        context = multiprocessing.get_context(method)
        writer = ProcessPoolExecutor(1, context, initializer=_begin, initargs=(self.transform,))
        writer.submit(os.getpid)  # starts the process
        return writer


def _pack(item: Mapping[Hashable, Any], keys: tuple[str, ...]) -> tuple[dict[Hashable, torch.Tensor], bytes]:
    """Returns the volumes of an item at `keys` in shared memory, and what else it holds, without other voxels."""
    volumes: dict[Hashable, torch.Tensor] = {}
    rest: dict[Hashable, Any] = {}
    for key, value in item.items():
        if not isinstance(value, torch.Tensor):
            rest[key] = value
            continue
        # Files and places are told by the meta data of volumes whose voxels nobody reads.
        rest[key] = MetaTensor(torch.empty(0), meta=dict(value.meta)) if isinstance(value, MetaTensor) else None
        if key in keys:
            # At once: the executor's thread would move them while this one still reads them.
            volumes[key] = value.detach().as_subclass(torch.Tensor).cpu().share_memory_()
    return volumes, pickle.dumps(rest)


def _begin(transform: SaveResultsd) -> None:
    """Prepares a writer: one thread, and the end of the run is its end too, but the run alone answers signals."""
    global _transform
    _transform = transform
    transform.hand_over = None
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends a writer whose run was killed: it would wait for the next case for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


def _write(volumes: Mapping[Hashable, torch.Tensor], rest: bytes) -> str | None:
    """Writes a case in a writer, and returns its fault."""
    try:
        item = pickle.loads(rest)
        for key, volume in volumes.items():
            item[key] = volume if item[key] is None else MetaTensor(volume, meta=item[key].meta)
        assert _transform is not None
        _transform.write(item)
    except Exception as error:  # whatever is wrong with one case, the others go on
        return describe(error)
    return None
