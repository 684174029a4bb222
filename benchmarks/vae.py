"""NvNet with and without its variational branch: the bundle trained on synthetic cases, same seeds and steps."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from _report import report

from custom_nets.tools import write_brain_phantoms

CACHE = Path(__file__).parent / ".cache" / "vae"
CONFIGS = Path(__file__).parents[1] / "bundles" / "nvnet_brats" / "configs"
REGIONS = ("WT", "TC", "ET")
VALIDATION = 2
"""Cases set aside because the bundle wants a validation set; nothing is chosen by them."""


def run_bundle(run_id: str, names: list[str], keys: dict[str, Any]) -> None:
    """Runs the bundle's documented command on one thread."""
    files = str([str(CONFIGS / f"{name}.json") for name in names])
    command = [sys.executable, "-m", "monai.bundle", "run", run_id, "--config_file", files]
    command += [f"--{key}={value}" for key, value in keys.items()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    subprocess.run(command, env=environment, check=True, capture_output=True)


def train_and_score(data: Path, vae: bool, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """Mean Dice of each region over the test cases; a run that was done before is read from the cache."""
    folder = CACHE / f"{options.style}-{options.train}-{options.test}-{options.steps}" / f"vae-{vae}-{seed}"
    report_file = folder / "metrics.json"
    if not report_file.exists():
        keys = {"dataset_dir": data, "output_dir": folder, "ckpt_dir": folder, "cache_dir": folder.parent / "cases"}
        keys |= {"split_file": folder.parent / "split.json", "validation": VALIDATION, "test": options.test}
        run = {
            "vae": vae,
            "seed": seed,
            "learning_rate": 0.002,
            "epochs": 10,
            "epoch_length": options.steps // 10,
            "val_interval": 0,
        }
        run_bundle("training", ["train", "demo"], {**keys, **run, "checkpoint_interval": 0})
        run_bundle("evaluating", ["train", "evaluate", "demo"], {**keys, "evaluation_section": "test"})
    summary = json.loads(report_file.read_text())["summary"]
    scores = {region: summary[region]["dice"]["mean"] for region in (*REGIONS, "mean")}
    print(f"vae={vae}, seed {seed}: {scores}", flush=True)
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--train", type=int, default=24)
    parser.add_argument("--test", type=int, default=14)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--style", default="hard", help="of the phantoms")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs beside each other")
    options = parser.parse_args()
    cases = options.train + VALIDATION + options.test
    data = CACHE / f"phantoms-{options.style}-{cases}"
    if not data.exists():
        write_brain_phantoms(data, cases, (96, 96, 64), seed=2, style=options.style)
    runs = [(vae, seed) for seed in range(options.seeds) for vae in (True, False)]
    # The first two alone share no cache of prepared cases yet; both write it whole or not at all.
    with ThreadPoolExecutor(options.jobs) as pool:
        results = list(pool.map(lambda run: train_and_score(data, *run, options), runs))
    rows = []
    for wanted in (True, False):
        scores = [result for (vae, _), result in zip(runs, results, strict=True) if vae == wanted]
        row: dict[str, Any] = {"training": "with the branch" if wanted else "without", "seeds": len(scores)}
        for region in (*REGIONS, "mean"):
            values = [score[region] for score in scores]
            row[f"{region} Dice"] = float(np.mean(values))
            row[f"{region} spread"] = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        rows.append(row)
    title = (
        f"NvNet with 8 filters, {options.train} {options.style} synthetic cases, {options.steps} steps of 2 crops of "
        f"64x80x64; Dice on {options.test} others, mean and standard deviation over seeds"
    )
    report("vae", title, rows, "mean Dice")


if __name__ == "__main__":
    main()
