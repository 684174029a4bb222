"""Peak memory of a stretch of code: of the device where there is a GPU, else of the process."""

from __future__ import annotations

from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")


class PeakMemory:
    """Memory at its highest since this object was made, above what was in use then.

    On a CPU this is the resident memory of the process as Linux counts it, allocator and workspaces included.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.before = torch.cuda.memory_allocated(device)
        else:
            restart_peak()
            self.before = resident("VmRSS")

    def mebibytes(self) -> float:
        """The peak in MiB."""
        if self.device.type == "cuda":
            return (torch.cuda.max_memory_allocated(self.device) - self.before) / 2**20
        return (resident("VmHWM") - self.before) / 2**20


def restart_peak() -> None:
    """Makes Linux forget the peak of this process so far."""
    Path("/proc/self/clear_refs").write_text("5")


def resident(field: str) -> int:
    """Bytes of one field of this process's status: VmRSS, what it holds now, or VmHWM, the peak."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024
