"""A CT of 512x512x800 voxels through the inference of ossnet_lits on a CPU: peak memory and time by component.

Each search runs in a process of its own. What is measured is what the bundle's configs name, in their order, fed as
MONAI's evaluator feeds it; the whole command is measured beside it. Memory is the resident memory of the process,
Python and PyTorch included.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from _report import report
from _stages import Stages
from monai.bundle import ConfigParser
from monai.data import decollate_batch, list_data_collate

from custom_nets.data import abdomen_phantom

CONFIGS = Path(__file__).parent.parent / "bundles" / "ossnet_lits" / "configs"
CACHE = Path(__file__).parent / ".cache"
SPACING = (0.75, 0.75, 0.8)
SEARCHES: dict[str, dict[str, Any]] = {
    "surface": {},
    "surface, prior restrict": {"prior": "restrict"},
    "published": {"inferer_mode": "published"},
}


def write_scan(shape: tuple[int, ...]) -> Path:
    """A synthetic abdomen, continued as it ends to the size of a scan from the neck to the knees."""
    path = CACHE / f"large_ct_{'x'.join(map(str, shape))}" / "volume-0.nii.gz"
    if not path.is_file():
        phantom = abdomen_phantom(seed=3, case=1, spacing=SPACING)
        # The axes as the affine has them, the longest of the wanted shape along the body.
        image = nibabel.as_closest_canonical(nibabel.Nifti1Image(phantom.image, phantom.affine))
        voxels = np.asarray(image.dataobj)
        for axis, size in enumerate(shape):
            missing = max(size - voxels.shape[axis], 0)
            widths = [(0, 0)] * 3
            widths[axis] = (missing // 2, missing - missing // 2)
            voxels = np.pad(voxels, widths, mode="edge")
        voxels = voxels[tuple(slice(0, size) for size in shape)]
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(voxels), image.affine), path)
    return path


def measure(scan: str, model: str, keys: dict[str, Any], output: str) -> dict[str, Any]:
    """Runs the components of the inference one by one."""
    parser = ConfigParser()
    parser.read_config(str(CONFIGS / "inference.json"))
    parser.update({"dataset_dir": scan, "output_dir": output, "load_model": model, "device": "cpu", **keys})
    stages = Stages()
    get = parser.get_parsed_content
    network = stages.measure("imports, network", lambda: get("network").eval())
    network.load_state_dict(torch.load(model, weights_only=True))
    item: Any = stages.measure("list of cases", lambda: get("dataset").data[0])
    item = stages.apply(get("preprocessing").transforms, item)
    batch: Any = stages.measure("collate", lambda: list_data_collate([item]))
    item = None
    inferer = get("inferer")
    with torch.no_grad():
        batch["pred"] = stages.measure("OccupancyInferer", lambda: inferer(batch["image"], network))
    (item,) = stages.measure("decollate", lambda: decollate_batch(batch))
    batch.clear()
    item = stages.apply(get("postprocessing").transforms, item)
    stats = inferer.stats
    return {
        "rows": stages.rows,
        "queries": stats.queries,
        "stages": stats.queries_per_stage,
        "encode_s": stats.encode_seconds,
        "decode_s": stats.decode_seconds,
        "search_s": stats.search_seconds,
        "foreground": int((item["pred"] > 0).sum()),
    }


def run_command(scan: str, model: str, keys: dict[str, Any], output: str) -> dict[str, float]:
    """Seconds and peak GiB of the documented command."""
    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", "inferring"]
    command += ["--config_file", str(CONFIGS / "inference.json"), "--dataset_dir", scan, "--output_dir", output]
    command += ["--load_model", model, *(f"--{name}={value}" for name, value in keys.items())]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        msg = f"the command ended with status {status}: {' '.join(command)}"
        raise RuntimeError(msg)
    return {"s": time.perf_counter() - start, "peak GiB": usage.ru_maxrss / 2**20}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model", required=True, help="model.pt of ossnet_lits, trained with the default network")
    parser.add_argument("--shape", type=int, nargs=3, default=(512, 512, 800))
    parser.add_argument("--searches", nargs="+", default=list(SEARCHES), choices=list(SEARCHES))
    parser.add_argument("--one", help="measure the components of this search in this process")
    options = parser.parse_args()
    shape, model = tuple(options.shape), os.path.abspath(options.model)
    scan = str(write_scan(shape))
    output = str(CACHE / "large_ct_results")
    if options.one:
        print(json.dumps(measure(scan, model, SEARCHES[options.one], output)))
        return
    gibibytes = np.prod(shape) * 4 / 2**30
    title = "x".join(map(str, shape))
    summary = []
    for name in options.searches:
        keys = SEARCHES[name]
        command = [sys.executable, "-W", "ignore", __file__, "--shape", *map(str, shape), "--model", model]
        done = subprocess.run([*command, "--one", name], stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        whole = run_command(scan, model, keys, output)
        summary.append(
            {
                "search": name,
                "whole command, s": whole["s"],
                "peak GiB": whole["peak GiB"],
                "above the input, GiB": whole["peak GiB"] - gibibytes,
                "encoding, s": found["encode_s"],
                "decoding, s": found["decode_s"],
                "searching, s": found["search_s"],
                "queries, thousands": found["queries"] / 1000,
                "voxels of the liver, thousands": found["foreground"] / 1000,
            }
        )
        if name == options.searches[0]:
            about = f"Inference of a {title} CT ({gibibytes:.2f} GiB as float32) by component, search: {name}"
            report("large_ct_components", about, found["rows"], "peak GiB")
    about = f"Inference of a {title} CT ({gibibytes:.2f} GiB as float32), ossnet_lits on a CPU"
    report("large_ct", about, summary, "peak GiB")


if __name__ == "__main__":
    main()
