"""From the files of a case to the files of its result, by stage, in a process that is warm.

What is measured is what the bundle's inference.json names, in its order, fed as MONAI's evaluator feeds it. The network
is untrained: it does all of its work, and its answers are those of three nested balls (`_ball.py`).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from _ball import BallNetwork, Volume
from _report import report
from _stages import Stages
from monai.bundle import ConfigParser
from monai.data import decollate_batch, list_data_collate
from torch import Tensor

from custom_nets.data import write_brain_phantoms

CONFIGS = Path(__file__).parent.parent / "bundles" / "ossnet_brats" / "configs"
CACHE = Path(__file__).parent / ".cache"
RADIUS = 29.0
SHELLS = (1.0, 0.7, 0.4)


def case_folder(shape: tuple[int, ...]) -> Path:
    """A synthetic case of the size of BraTS, made once."""
    folder = CACHE / f"case_{'x'.join(map(str, shape))}"
    if not folder.is_dir():
        write_brain_phantoms(folder, 1, shape, seed=0)
    return next(folder.iterdir())


class FileToFile:
    """The inference of one case, stage by stage.

    Args:
        case: its folder.
        names: configs after inference.json.
        device: of the network and its inferer.
        output: folder for the results.
    """

    def __init__(self, case: Path, names: list[str], device: str, output: str) -> None:
        self.device = torch.device(device)
        parser = ConfigParser()
        parser.read_config([str(CONFIGS / f"{name}.json") for name in ("inference", *names)])
        parser.update({"dataset_dir": str(case), "output_dir": output, "device": device})
        self.get = parser.get_parsed_content
        self.network = self.get("network").eval()
        self.half = bool(self.get("amp"))

    def run(self) -> list[dict[str, Any]]:
        """Runs every stage once."""
        stages = Stages()
        item: Any = stages.measure("list of cases", lambda: self.get("dataset").data[0])
        item = stages.apply(self.get("preprocessing").transforms, item)
        batch: Any = stages.measure("collate", lambda: list_data_collate([item]))
        batch["image"] = stages.measure("to the device", lambda: batch["image"].to(self.device))
        height, width, depth = batch["image"].shape[2:]
        ball = BallNetwork(self.network, Volume((height, width, depth), 4, RADIUS), shells=SHELLS).to(self.device)
        inferer = self.get("inferer")
        batch["pred"] = stages.measure("OccupancyInferer", lambda: self._infer(inferer, batch["image"], ball))
        (item,) = stages.measure("decollate", lambda: decollate_batch(batch))
        stages.apply(self.get("postprocessing").transforms, item)
        return stages.rows

    def _infer(self, inferer: Any, image: Tensor, ball: BallNetwork) -> Tensor:
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            return inferer(image, ball)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", type=Path, help="folder of a case; default: a synthetic one of 240x240x155")
    parser.add_argument("--shape", type=int, nargs=3, default=(240, 240, 155), help="of the synthetic case")
    parser.add_argument("--configs", nargs="*", default=[], help="after inference.json, such as variant")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    case = options.case or case_folder(tuple(options.shape))
    with tempfile.TemporaryDirectory() as output:
        way = FileToFile(case, options.configs, options.device, output)
        way.run()
        rows = way.run()
    rows.append({"component": "all", "s": sum(row["s"] for row in rows), "peak GiB": "", "GiB after": ""})
    network = " and ".join(["inference.json", *(f"{name}.json" for name in options.configs)])
    name = "_".join(["end_to_end", options.device, *options.configs])
    report(name, f"ossnet_brats, file to file, {network}", rows, "s")


if __name__ == "__main__":
    main()
