"""Lets torchvision be imported where its compiled part does not load: MONAI Label imports it, and needs none of it.

The torchvision of the package index is built for CUDA. Beside a PyTorch for CPUs its library fails to load, and its
Python part then stops at operators that nobody declared. A `.pth` file in the environment imports this module at every
start; it declares them when, and only when, torchvision is about to be imported and its library does not load.
"""

import sys
from importlib.abc import MetaPathFinder
from pathlib import Path


def _declare() -> None:
    import torch

    for library in (Path(entry) / "torchvision" / "_C.so" for entry in sys.path):
        if library.is_file():
            try:
                torch.ops.load_library(str(library))
            except OSError:
                break
            return
    operators = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    torch._torchvision_operators = operators  # they are gone with the object


class _BeforeTorchvision(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            _declare()
        return None


sys.meta_path.insert(0, _BeforeTorchvision())
