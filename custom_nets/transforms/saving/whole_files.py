"""Writing NIfTI files whole or not at all."""

from __future__ import annotations

import os
from typing import Any

from monai.data import NibabelWriter

from custom_nets.io.files import atomic_file


class WholeNibabelWriter(NibabelWriter):
    """MONAI's writer of NIfTI files, except that a file has its name when it is complete.

    A job that is stopped, such as by torchrun because another process died, leaves no half of a result behind.
    """

    def write(self, filename: str | os.PathLike, verbose: bool = False, **kwargs: Any) -> None:
        """Writes the file, see `monai.data.NibabelWriter`."""
        with atomic_file(filename) as part:
            super().write(part, verbose=verbose, **kwargs)
