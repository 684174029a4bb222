"""TensorBoard's writer, which makes no file before there is something to write."""

from __future__ import annotations

from typing import Any

from monai.utils import optional_import


class SummaryWriter:
    """TensorBoard's `SummaryWriter`, opened when it is first used: a run that fails at its start leaves no log.

    Args:
        log_dir: folder of the log.
    """

    def __init__(self, log_dir: str) -> None:
        self.log_dir = log_dir
        self._writer: Any = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if self._writer is None:
            writer, _ = optional_import("torch.utils.tensorboard", name="SummaryWriter")
            self._writer = writer(log_dir=self.log_dir)
        return getattr(self._writer, name)
