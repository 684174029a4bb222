"""Processes of tests without starting Python anew: commands, trainings, and several of one job."""

import atexit
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from custom_nets.distributed import join_ranks, leave_ranks

TIMEOUT = 60

FORKSERVER = multiprocessing.get_context("forkserver")
"""Forks processes of one that has imported what they need, in a tenth of a second in place of six."""

_ROOMS = ("datasets", "handlers", "inferers", "losses", "metrics", "networks", "tools.cli", "transforms")
_PRELOADED = ("pytest", "torch._dynamo", "torch.utils.tensorboard", "monai.bundle", "monai.engines", "monai.handlers")
FORKSERVER.set_forkserver_preload([*_PRELOADED, *(f"custom_nets.{room}" for room in _ROOMS)])


def run_module(module: str, arguments: Sequence[str], cwd: Path, timeout: float = 300) -> subprocess.CompletedProcess:
    """Runs `python -m module arguments…` in a process that was forked with the libraries imported.

    It says nothing of the start of Python, of imports, or of variables of the environment that are read in them.

    Args:
        module: such as monai.bundle.
        arguments: of its command line.
        cwd: its folder.
        timeout: seconds until it is killed.
    """
    with tempfile.TemporaryDirectory() as place:
        outputs = [Path(place) / name for name in ("out", "err")]
        child = FORKSERVER.Process(target=_be_module, args=(module, arguments, cwd, dict(os.environ), outputs))
        child.start()
        child.join(timeout)
        if child.is_alive():
            child.kill()
            child.join()
            raise subprocess.TimeoutExpired([module, *arguments], timeout)
        said = [file.read_text(encoding="utf-8", errors="replace") for file in outputs]
    return subprocess.CompletedProcess([module, *arguments], child.exitcode, *said)


def _be_module(
    module: str, arguments: Sequence[str], cwd: Path, environment: dict[str, str], outputs: Sequence[Path]
) -> None:
    for file, stream in zip(outputs, (sys.stdout, sys.stderr), strict=True):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream.fileno())
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.path.insert(0, str(cwd))
    sys.argv = [module, *arguments]
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # of the loaders, as on Linux
    status: object = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        status = ended.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    if status is not None and not isinstance(status, int):
        print(status, file=sys.stderr)
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(status or 0))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def run_ranks(count: int, work: Callable[[int], None], join: bool = True) -> None:
    """Runs `work(rank)` in processes that know each other as those of torchrun do.

    They are forked, so that nothing is imported again: for work without a backward pass, whose threads forbid it.

    Args:
        count: of processes.
        work: raises where something is wrong.
        join: whether they meet before the work, and part after it.
    """
    port = free_port()

    def start(rank: int) -> None:
        torch.set_num_threads(1)
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE=str(count))
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
        if join:
            join_ranks("cpu", minutes=TIMEOUT / 60)
        work(rank)
        if join:
            leave_ranks()

    processes = torch.multiprocessing.start_processes(start, nprocs=count, join=False, start_method="fork")
    try:
        while not processes.join(timeout=TIMEOUT):
            assert any(process.exitcode is not None for process in processes.processes), "the processes wait for ever"
    finally:
        for process in processes.processes:
            process.kill()
