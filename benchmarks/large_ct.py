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
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from _report import report
from _stages import BUNDLES, CACHE, Stages, infer_case, load_network, read_bundle, run_command

from custom_nets.tools import abdomen_phantom

CONFIG = BUNDLES / "ossnet_lits" / "configs" / "inference.json"
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
    parser = read_bundle([CONFIG], inference_keys(scan, model, keys, output))
    stages = Stages()
    network = stages.measure("imports, network", lambda: load_network(parser))
    stages.measure("list of cases", lambda: parser.get_parsed_content("dataset"))
    found = infer_case(parser, stages, network)
    return {**found, "rows": [{k: v for k, v in row.items() if k != "later cases, s"} for row in stages.rows()]}


def inference_keys(scan: str, model: str, keys: dict[str, Any], output: str) -> dict[str, Any]:
    """What the inference is told beside its config."""
    return {"dataset_dir": scan, "output_dir": output, "load_model": model, "device": "cpu", **keys}


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
        whole = run_command([CONFIG], inference_keys(scan, model, keys, output))
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
