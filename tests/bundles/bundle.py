"""What the tests of every bundle do with its configs."""

import subprocess
import sys
from pathlib import Path

import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from tests.conftest import REPOSITORY
from tests.processes import run_module

PYRAMID = {"channels": [8, 8, 8], "hidden_features": 16, "coarse_step": 8, "num_points": 64, "batch_size": 1}
SMALLEST = {
    "ossnet_brats": {**PYRAMID, "image_size": [32, 32, 32], "scan_step": 8},
    "ossnet_lits": {**PYRAMID, "spacing": 8.0, "downsampling": 1, "coarse_step": 32, "candidate_step": 16},
    "nvnet_brats": {"crop_size": [32, 32, 16], "init_filters": 8, "latent_size": 8},
}
"""Networks as small as the configs of each bundle allow, for the phantoms of the tests."""


class Bundle:
    """A bundle of this repository, run in this process or by its documented command."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.folder = REPOSITORY / "bundles" / name

    def config(self, *names: str) -> list[str]:
        return [str(self.folder / "configs" / f"{name}.json") for name in names]

    def parse(self, *names: str, **overrides) -> ConfigParser:
        parser = ConfigParser()
        parser.read_config(self.config(*names))
        parser.update({**overrides})
        return parser

    def run(self, run_id: str, *names: str, **overrides) -> ConfigWorkflow:
        workflow = ConfigWorkflow(
            self.config(*names), run_id=run_id, workflow_type=None, logging_file=False, **{"device": "cpu", **overrides}
        )
        workflow.initialize()
        workflow.run()
        return workflow


def save_untrained(name: str, folder: Path) -> None:
    """Writes the weights that a bundle's smallest network starts with as `model.pt`."""
    network = Bundle(name).parse("inference", **SMALLEST[name], device="cpu").get_parsed_content("network_def")
    torch.manual_seed(0)
    torch.save(network.state_dict(), folder / "model.pt")


def infer_smallest(name: str, dataset_dir: Path, ckpt_dir: Path, output_dir: Path, **keys) -> None:
    """Infers with a bundle's smallest network."""
    places = {"dataset_dir": str(dataset_dir), "ckpt_dir": str(ckpt_dir), "output_dir": str(output_dir)}
    shipped = {key: value for key, value in SMALLEST[name].items() if key not in ("num_points", "batch_size")}
    Bundle(name).run("inferring", "inference", **{**shipped, **places, **keys})


def command(run_id: list[str], cwd: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Runs `python -m monai.bundle run …`, but for the start of Python."""
    return run_module("monai.bundle", ["run", *run_id, *arguments], cwd)


def launch(
    run_id: list[str], cwd: Path, *arguments: str, launcher: tuple[str, ...] = ("-m",)
) -> subprocess.CompletedProcess:
    """Starts Python for `python -m monai.bundle run …`, or for a launcher such as torchrun."""
    return subprocess.run(
        [sys.executable, *launcher, "monai.bundle", "run", *run_id, *arguments],
        cwd=cwd,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
