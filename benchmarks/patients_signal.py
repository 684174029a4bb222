"""How well single voxels part lesion from the rest of the head, by normalisation, before anything is trained.

The area under the ROC curve of a channel, and of the difference of each two: over the voxels of all patients together,
where a scan that is darker as a whole costs, and as the mean over patients, where it does not. With --results also what
the Dice of patients goes with: contrast of the lesion, area under the curve, volume.
"""

from __future__ import annotations

import argparse
import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _patients_data import NORMALISATIONS, head_mask, labels_of, patient_name
from _report import report
from monai.transforms import LoadImage
from numpy.typing import NDArray
from patients import read_rows
from scipy.stats import rankdata, spearmanr

INSIDE, OUTSIDE = 400, 2000  # voxels drawn of each patient


def area_under_curve(values: NDArray[np.floating], inside: NDArray[np.bool_]) -> float:
    """Share of pairs of a voxel inside and one outside in which the inner one is brighter (ties count half)."""
    wanted = int(inside.sum())
    ranks = rankdata(values)[inside].sum() - wanted * (wanted + 1) / 2
    return float(ranks / (wanted * (len(values) - wanted)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with dataset.json")
    parser.add_argument("--results", type=Path, help="of patients.py")
    parser.add_argument("--methods", nargs="+", default=["pyramid"], help="of these results")
    parser.add_argument("--signals", nargs="+", help="channels, or differences such as 'FLAIR - T1'; default all")
    options = parser.parse_args()

    facts = json.loads((options.data / "dataset.json").read_text())
    channels = [facts["modality"][number] for number in sorted(facts["modality"], key=int)]
    signals = [(name, [i]) for i, name in enumerate(channels)]
    signals += [(f"{channels[b]} - {channels[a]}", [b, a]) for a, b in combinations(range(len(channels)), 2)]
    random = np.random.RandomState(0)
    read = LoadImage(ensure_channel_first=True)
    values: dict[tuple[str, str], list[NDArray]] = {}
    truths: list[NDArray[np.bool_]] = []
    names: list[str] = []
    volumes: list[float] = []
    for entry in facts["training"]:
        image = read(options.data / entry["image"]).as_subclass(torch.Tensor).float()
        lesion = read(options.data / entry["label"])[0].numpy() > 0
        parts = [np.flatnonzero(lesion), np.flatnonzero(head_mask(image) & ~lesion)]
        drawn = np.concatenate([random.choice(v, n) for v, n in zip(parts, (INSIDE, OUTSIDE), strict=True)])
        names.append(patient_name(entry))
        volumes.append(float(lesion.sum()))
        truths.append(np.arange(len(drawn)) < INSIDE)
        for name, normalise in NORMALISATIONS.items():
            rows = normalise(image).flatten(1)[:, drawn].numpy()
            for signal, indices in signals:
                value = rows[indices[0]] - (rows[indices[1]] if len(indices) > 1 else 0)
                values.setdefault((name, signal), []).append(value)
    table: list[dict[str, Any]] = []
    for (name, signal), parts in values.items():
        each = [area_under_curve(value, truth) for value, truth in zip(parts, truths, strict=True)]
        row = {"signal": signal, "normalisation": name}
        row["all patients"] = area_under_curve(np.concatenate(parts), np.concatenate(truths))
        table.append({**row, "mean of patients": float(np.mean(each)), "worst patient": min(each)})
    title = f"Area under the ROC curve of single voxels of the head, {', '.join(labels_of(options.data))}"
    report("patients_signal", f"{title}, {len(truths)} patients", table, "all patients")
    if options.results is None:
        return
    facts_of = {"volume": volumes}
    for signal in options.signals or [name for name, _ in signals]:
        pairs = list(zip(values["median", signal], truths, strict=True))
        facts_of[f"contrast of {signal}"] = [float(np.median(v[t]) - np.median(v[~t])) for v, t in pairs]
        facts_of[f"area under the curve of {signal}"] = [area_under_curve(v, t) for v, t in pairs]
    rows = [row for row in read_rows(options.results) if row["data"] == options.data.name and row["part"] == "held out"]
    table = []
    for method in options.methods:
        dice = {
            name: [np.mean(r["dice"]) for r in rows if r["patient"] == name and r["method"] == method] for name in names
        }
        scored = [i for i, name in enumerate(names) if dice[name]]
        for fact, numbers in facts_of.items():
            test = spearmanr([np.mean(dice[names[i]]) for i in scored], [numbers[i] for i in scored])
            line = {"what": fact, "method": method, "patients": len(scored)}
            table.append({**line, "rank correlation with Dice": float(test.statistic), "p": float(test.pvalue)})
    report("patients_failures", "What the Dice of patients goes with", table, "rank correlation with Dice")
    method = options.methods[0]
    own = sorted((row for row in rows if row["method"] == method), key=lambda row: np.mean(row["dice"]))
    each = []
    for row in own:
        line = {"patient": row["patient"], "Dice": float(np.mean(row["dice"]))}
        line |= {"ml": sum(row["volume"]), "predicted ml": sum(row["predicted volume"])}
        index = names.index(row["patient"])
        each.append(line | {fact: numbers[index] for fact, numbers in facts_of.items() if fact != "volume"})
    report("patients_each", f"Patients by Dice, {method}", each, "Dice")


if __name__ == "__main__":
    main()
