"""Real patients: networks trained for equal time on some of them and scored on the others, fold by fold.

The data are in the layout of the Medical Segmentation Decathlon. The budget is CPU time of one core, so that other
programs take nothing from it; on a GPU it is wall time. Every patient of a run becomes a line of the results, on the
grid of its file; what is in the results already is not done again. Without --methods the results are summed up.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _patients_data import Patient, load_patients, split_fold
from _patients_methods import AUGMENTATIONS, DenseMethod, PointMethod, Recipe, recipe_of
from _patients_table import summarise
from _report import RESULTS, commit, report
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from custom_nets.metrics.regions import compute_region_dice, compute_region_hausdorff95


def train(
    recipe: Recipe, patients: list[Patient], seconds: float, seed: int, device: torch.device, dense: bool
) -> tuple[Any, nn.Module, dict[str, Any]]:
    """Trains until the budget is spent, with a learning rate that falls linearly over it to 2 %.

    Returns:
        The method, the network to be scored, and what the training took.
    """
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    torch.manual_seed(seed)
    largest = np.max([patient.image.shape[1:] for patient in patients], axis=0).tolist()
    network = recipe.network(patients[0].image.shape[0], len(patients[0].label), largest, **recipe.keys).to(device)
    method = (PointMethod if recipe.points else DenseMethod)(network, recipe, seed, dense)
    items = [method.prepare({"image": p.image.to(device), "label": p.label.to(device)}) for p in patients]
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate, weight_decay=1e-2)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(recipe.average)) if recipe.average else None
    augment = AUGMENTATIONS[recipe.augmentation](seed)
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    losses: list[float] = []
    network.train()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    start = clock()
    while (spent := (clock() - start) / seconds) < 1:
        rise = min(spent / recipe.warm_up, 1) if recipe.warm_up else 1
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * max(rise * (1 - spent), 0.02)
        if len(order) < recipe.batch:
            order += torch.randperm(len(items), generator=generator).tolist()
        batch = [augment(items[order.pop()]) for _ in range(recipe.batch)]
        batch = [{key: torch.as_tensor(value).as_subclass(Tensor) for key, value in item.items()} for item in batch]
        loss = method.loss(batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        if average is not None:
            average.update_parameters(network)
        losses.append(float(loss.detach()))
    facts: dict[str, Any] = {
        "steps": len(losses),
        "training s": round(clock() - start, 1),
        "last loss": round(float(np.mean(losses[-50:])), 4),
        "parameters": sum(p.numel() for p in network.parameters()),
    }
    if device.type == "cuda":  # on a CPU the patients themselves are most of it: see memory.py
        facts["peak MiB"] = round(torch.cuda.max_memory_allocated() / 2**20)
    scored = network if average is None else copy.deepcopy(average.module)
    return method, scored.eval(), facts


@torch.no_grad()
def score(method: Any, network: nn.Module, recipe: Recipe, patient: Patient, device: torch.device) -> dict[str, Any]:
    """Scores every voxel of the patient's own grid; probabilities of a coarser one are interpolated."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    image = patient.image.to(device)
    start = clock()
    probability = method.predict(network, image)
    if recipe.mirror:
        probability = (probability + method.predict(network, image.flip(1)).flip(1)) / 2
    size = patient.native_label.shape[1:]
    native = nn.functional.interpolate(probability[None].float().cpu(), size, mode="trilinear", align_corners=False)
    seconds = clock() - start
    predicted, true = (native > 0.5).float(), patient.native_label[None].float()
    millilitres = float(np.prod(patient.spacing)) / 1000
    return {
        "dice": compute_region_dice(predicted, true)[0].tolist(),
        "hd95": compute_region_hausdorff95(predicted, true, patient.spacing)[0].tolist(),
        "volume": (true.sum(dim=(0, 2, 3, 4)) * millilitres).tolist(),
        "predicted volume": (predicted.sum(dim=(0, 2, 3, 4)) * millilitres).tolist(),
        "inference s": round(seconds, 2),
    }


def run(options: argparse.Namespace, name: str, fold: int, seed: int) -> None:
    """Trains one method on one fold and appends a line for each patient that it held out."""
    key = {
        "data": options.data.name,
        "in plane": options.in_plane,
        "method": name,
        "folds": options.folds,
        "fold": fold,
        "seed": seed,
        "seconds": options.seconds,
        "device": options.device,
        "search": options.search,
    }
    if any(all(row[k] == v for k, v in key.items()) for row in read_rows(options.results)):
        print(f"{name}, fold {fold}, seed {seed}: done before")
        return
    device = torch.device(options.device)
    recipe = recipe_of(name)
    patients = load_patients(options.data, options.cache, recipe.normalisation, options.in_plane)
    training, held_out = split_fold(len(patients), options.folds, fold)
    method, network, facts = train(
        recipe, [patients[i] for i in training], options.seconds, seed, device, not options.search
    )
    if options.weights:
        options.weights.mkdir(parents=True, exist_ok=True)
        torch.save(network.state_dict(), options.weights / f"{name}_{options.data.name}_{fold}_{seed}.pt")
    rows = []
    # A few of the training patients show whether the network has learned too little or only these by heart.
    parts = {"held out": held_out[: options.most], "training": training[: options.training]}
    for part, index in [(part, index) for part, indices in parts.items() for index in indices]:
        scores = score(method, network, recipe, patients[index], device)
        rows.append({**key, "commit": commit(), "part": part, "patient": patients[index].name, **facts, **scores})
    options.results.parent.mkdir(parents=True, exist_ok=True)
    # All at once: a run that was cut off leaves no part of itself.
    with options.results.open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
    for part, indices in parts.items():
        if indices:
            dice = np.array([row["dice"] for row in rows if row["part"] == part])
            print(
                f"{name}, fold {fold}, seed {seed}, {part}: Dice {dice.mean(0)}, median {np.median(dice, 0)}, {facts}"
            )


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The lines of a results file, none where there is none."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with dataset.json")
    parser.add_argument("--cache", type=Path, default=Path(__file__).parent / ".cache", help="for what is prepared")
    parser.add_argument("--results", type=Path, default=RESULTS / "patients.jsonl", help="file of lines, appended to")
    parser.add_argument("--methods", nargs="*", default=[], help="such as pyramid, residual-unet, pyramid+median")
    parser.add_argument("--folds", type=int, default=3, help="parts of the patients")
    parser.add_argument("--fold", type=int, nargs="+", help="those that are held out in turn; default all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--in-plane", type=int, help="voxels along the first two axes; default as the files are")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--weights", type=Path, help="folder to keep the trained weights in")
    parser.add_argument("--most", type=int, help="patients of each fold that are scored; default all")
    parser.add_argument("--training", type=int, default=0, help="training patients that are scored too")
    parser.add_argument("--against", help="method whose difference from the others is taken in the table")
    parser.add_argument("--table", default="patients", help="name of the table in results/")
    parser.add_argument("--search", action="store_true", help="ask occupancy networks near surfaces, not every voxel")
    options = parser.parse_args()
    if options.device == "cpu":
        torch.set_num_threads(1)
    for fold in options.fold or range(options.folds):
        for seed in options.seeds:
            for name in options.methods:
                run(options, name, fold, seed)
    if not options.methods:
        kept = {"data": options.data.name, "in plane": options.in_plane, "seconds": options.seconds}
        rows = [row for row in read_rows(options.results) if all(row[k] == v for k, v in kept.items())]
        size = f", {options.in_plane}x{options.in_plane} in plane" if options.in_plane else ""
        title = f"{options.data.name}{size}, {options.seconds:.0f} s of training, patients that were held out"
        report(options.table, title, summarise(rows, options.against), "median")


if __name__ == "__main__":
    main()
