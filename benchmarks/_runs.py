"""Training and scoring one method on a cohort, in a process of its own; many runs beside each other."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from _ablations import ABLATIONS
from _methods import BATCHED, METHODS, augmentation, prepare_item
from cohort import load_cohort

from custom_nets.metrics import compute_lesion_dice
from custom_nets.metrics.regions import compute_region_dice, compute_region_hausdorff95

CACHE = Path(__file__).parent / ".cache"
SMALL_LESION = 1.0  # ml


@dataclasses.dataclass(frozen=True)
class Run:
    """One training: what, on which cohort, for how long.

    Attributes:
        method: a name of `METHODS`, `BATCHED` or `ABLATIONS`.
        seed: of weights, order, augmentation and points.
        seconds: budget in seconds, CPU time of one thread or wall time of a GPU; None: `epochs` decides.
        epochs: passes over the training cases.
        shape: voxels of the phantoms.
        sizes: cases of each part of the cohort.
        cohort_seed: seed of the cohort.
        learning_rate: in place of the method's own.
        parts: of the cohort that are scored.
    """

    method: str
    seed: int
    seconds: float | None
    epochs: int | None
    shape: tuple[int, ...]
    sizes: dict[str, int]
    cohort_seed: int = 0
    learning_rate: float | None = None
    parts: tuple[str, ...] = ("test", "shifted")

    @property
    def key(self) -> str:
        """Names the run's result file."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return f"{self.method.lower().replace(' ', '-')}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def train_and_score(run: Run) -> dict[str, Any]:
    """Trains a method and scores it on every part of the cohort but the training cases."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cohort = load_cohort(run.shape, run.sizes, run.cohort_seed, CACHE)
    items = [prepare_item(case.image, case.regions) for case in cohort["train"]]
    recipe = {**METHODS, **BATCHED, **ABLATIONS}[run.method]
    torch.manual_seed(run.seed)
    method = recipe.build(tuple(items[0]["image"].shape[1:]), run.seed)
    network = method.network.to(device)
    steps = _train(run, method, items, run.learning_rate or recipe.learning_rate, recipe.batch, device)
    result: dict[str, Any] = {**dataclasses.asdict(run), **steps}
    result["parameters"] = sum(p.numel() for p in network.parameters())
    network.eval()
    start = time.perf_counter()
    with torch.no_grad():
        method.predict(cohort["test"][0].image[None].to(device))
    result["inference s"] = time.perf_counter() - start
    result["scores"] = {part: [_score(method, case, device) for case in cohort[part]] for part in run.parts}
    return result


def _train(run: Run, method: Any, items: list[dict], rate: float, batch: int, device: torch.device) -> dict[str, Any]:
    """Trains until the budget is spent, with a learning rate that falls linearly over it to 2 %."""
    optimizer = torch.optim.AdamW(method.network.parameters(), lr=rate, weight_decay=1e-2)
    augment = augmentation(run.seed)
    generator = torch.Generator().manual_seed(run.seed)
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    start, steps, losses = clock(), 0, []
    method.network.train()
    order: list[int] = []
    while True:
        spent = (clock() - start) / run.seconds if run.seconds else steps * batch / (run.epochs * len(items))
        if spent >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = rate * max(1 - spent, 0.02)
        if len(order) < batch:
            order += torch.randperm(len(items), generator=generator).tolist()
        loss = method.loss(*(augment(items[order.pop()]) for _ in range(batch)), device=device)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(method.network.parameters(), 5.0)
        optimizer.step()
        losses.append(float(loss.detach()))
        steps += 1
    return {"steps": steps, "training s": clock() - start, "last loss": sum(losses[-20:]) / len(losses[-20:])}


@torch.no_grad()
def _score(method: Any, case: Any, device: torch.device) -> dict[str, list[float]]:
    """Dice, HD95 (mm) and Dice of small lesions, each for WT, TC and ET."""
    predicted = (method.predict(case.image[None].to(device)) > 0.5).float().cpu().as_subclass(torch.Tensor)
    true = case.regions[None].float()
    return {
        "dice": compute_region_dice(predicted, true)[0].tolist(),
        "hd95": compute_region_hausdorff95(predicted, true, case.spacing)[0].tolist(),
        "small": compute_lesion_dice(predicted, true, case.spacing, max_volume=SMALL_LESION)[0].tolist(),
    }


def run_all(runs: Sequence[Run], jobs: int, threads: int, fresh: bool = False) -> list[dict[str, Any]]:
    """Does all runs, `jobs` at a time, each in its own process; what was done before is read from the cache.

    Args:
        runs: what to do; the results come in their order.
        jobs: processes at a time.
        threads: of each process.
        fresh: do all of them anew.
    """
    folder = CACHE / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    load_cohort(runs[0].shape, runs[0].sizes, runs[0].cohort_seed, CACHE)  # once, not in every process

    def do(run: Run) -> dict[str, Any]:
        file = folder / f"{run.key}.json"
        if fresh or not file.exists():
            environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"}
            command = [sys.executable, __file__, json.dumps(dataclasses.asdict(run)), str(file)]
            subprocess.run(command, env=environment, check=True)
        result = json.loads(file.read_text())
        dice = torch.tensor([case["dice"] for case in result["scores"][run.parts[0]]]).mean(0)
        scores = " ".join(f"{value:.3f}" for value in dice.tolist())
        print(f"{run.method}, seed {run.seed}: {result['steps']} steps, {run.parts[0]} Dice {scores}", flush=True)
        return result

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(do, runs))


if __name__ == "__main__":
    keys = json.loads(sys.argv[1])
    finished = train_and_score(Run(**{**keys, "shape": tuple(keys["shape"]), "parts": tuple(keys["parts"])}))
    Path(sys.argv[2]).write_text(json.dumps(finished))
