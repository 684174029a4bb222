"""Writing NIfTI files whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from monai.data import NibabelWriter


class WholeNibabelWriter(NibabelWriter):
    """MONAI's writer of NIfTI files, except that a file has its name when it is complete.

    A job that is stopped, such as by torchrun because another process died, leaves no half of a result behind.
    """

    def write(self, filename: str | os.PathLike, verbose: bool = False, **kwargs: Any) -> None:
        """Writes the file, see `monai.data.NibabelWriter`."""
        target = Path(filename)
        # A folder beside it: nibabel tells the format by the end of the name.
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".", suffix=".part") as folder:
            part = Path(folder, target.name)
            super().write(part, verbose=verbose, **kwargs)
            part.replace(target)
