"""The files of a new bundle: the fragments of the shipped ones, with the keys of a plan."""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from custom_nets.datasets import split_folds
from custom_nets.datasets.record import Record
from custom_nets.datasets.splits import split_section
from custom_nets.errors import InputError
from custom_nets.io.files import atomic_file
from custom_nets.tools.bundle_builder import build_bundle
from custom_nets.tools.key_table import key_tables
from custom_nets.tools.planning.fingerprint import labelled_data, measure
from custom_nets.tools.planning.plan import HeldOut, NetworkName, Plan, make_plan

RECORD = "configs/dataset.yaml"
"""The data set's record within a bundle."""

CONFIGS = ("train", "evaluate", "inference", "overfit", "multi_gpu_train", "multi_gpu_evaluate", "multi_gpu_inference")
"""Configs of a new bundle; those of the fragments' others (the paper's, the demonstration on phantoms) are left out."""

_FRAGMENTS = {
    "size": ["pyramid", "mri", "points", "ensemble", "fixed_size", "memory_cache", "augmentation"],
    "view": ["pyramid", "mri", "points", "ensemble", "one_view", "memory_cache", "augmentation"],
    "spacing": ["pyramid", "points", "ensemble", "fixed_spacing", "augmentation"],
    "crops": ["nvnet", "ensemble", "mri", "crops", "disk_cache"],
}
_TRAINING_ONLY = {"batch_size", "validation", "folds", "epochs", "val_interval", "checkpoint_interval", "num_points"}
_PAIR = ["image", "label", "border"]


def new_bundle(
    folder: str | Path,
    dataset_dir: str | os.PathLike,
    network: NetworkName = "ossnet",
    memory: float = 8.0,
    dataset: str | os.PathLike | None = None,
    minutes: float | None = None,
    spacing: Sequence[float] | None = None,
    fold: int | None = None,
    folds: int | None = None,
) -> Plan:
    """Measures a data set, plans a bundle for it, and writes it.

    Args:
        folder: of the bundle; its name is the bundle's.
        dataset_dir: folder of the data set.
        network: ossnet or nvnet.
        memory: GiB of the device that trains.
        dataset: name or file of the data set's record; None: it is recognised.
        minutes: that a training may take on this machine; None: as long as it takes.
        spacing: mm along left-right, front-back and up-down, where headers are wrong; None: as these say.
        fold: of a cross-validation, that the bundle holds out; None: none, as long as no run is given one.
        folds: of a cross-validation; None: 5.

    Returns:
        The plan that was followed.

    Raises:
        InputError: when the folder is there, its name is none, or no bundle can be made of the data set.
    """
    target = Path(folder)
    if not re.fullmatch(r"[A-Za-z]\w*", target.name):
        msg = f"NAME is '{target.name}'; expected a letter, then letters, digits and underscores, such as knee_mri"
        raise InputError(msg)
    if target.exists():
        msg = f"{target}: is there already; give another name, or remove it first"
        raise InputError(msg)
    record, items = labelled_data(dataset_dir, dataset)
    held_out = _plan_fold(items, fold, folds)
    _check_spacing(record, spacing)
    plan = make_plan(measure(record, items, spacing), network, memory, minutes, held_out)
    for name, text in bundle_files(target.name, record, plan, named=dataset is not None).items():
        with atomic_file(target / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return plan


def _plan_fold(items: Sequence[Mapping[str, Any]], fold: int | None, folds: int | None) -> HeldOut | None:
    if fold is None and folds is None:
        return None
    number = 5 if folds is None else folds
    if fold is None:
        return HeldOut(None, number, max(map(len, split_folds(items, number)[0])))
    return HeldOut(fold, number, len(split_section(items, "validation", fold=fold, folds=number)))


def _check_spacing(record: Record, spacing: Sequence[float] | None) -> None:
    if spacing is None:
        return
    if len(spacing) != 3 or not all(0 < side < math.inf for side in spacing):
        msg = f"spacing is {list(spacing)}; expected three lengths in mm: left-right, front-back, up-down"
        raise InputError(msg)
    if record.channel_names == ("CT",):
        msg = (
            "spacing: networks for CT count in mm, by the headers of each scan, and a plan cannot mend these; repair "
            "the files' headers, and leave out --spacing"
        )
        raise InputError(msg)


def bundle_files(name: str, record: Record, plan: Plan, named: bool = False) -> dict[str, str]:
    """Returns the text of each file of a bundle.

    Args:
        name: of the bundle.
        record: of the data set.
        plan: to be followed.
        named: whether the data set is known by its record alone, and not recognised.
    """
    parts = specification(name, record, plan, named)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{name}.yaml"
        file.write_text(yaml.safe_dump_all(parts, sort_keys=False, allow_unicode=True), encoding="utf-8")
        files, tables = build_bundle(file), key_tables(file)
    kept = {f"configs/{config}.json" for config in (*CONFIGS, "metadata")}
    return {
        **{path: text for path, text in files.items() if path in kept or not path.endswith(".json")},
        RECORD: yaml.safe_dump(record_content(record), sort_keys=False, allow_unicode=True),
        "docs/README.md": describe_bundle(name, record, plan, tables),
        "docs/data_license.txt": _data_licence(record),
        "docs/plan.json": format_plan_json(plan),
    }


def record_content(record: Record) -> dict[str, Any]:
    """Returns a record as a file holds it; `parse_record` makes the same record of it."""
    labels = record.require_labels()
    content: dict[str, Any] = {
        "title": record.title,
        "layouts": list(record.layouts),
        "channels": {c.name: {"kind": c.kind, **({"ends": list(c.ends)} if c.ends else {})} for c in record.channels},
        "label_ends": list(record.label_ends),
        "pairs": [{"image": image, "label": label} for image, label in record.pairs],
        "cases": record.cases,
        "others": record.others,
        "unlabelled": record.unlabelled,
        "labels": dict(labels.names),
        "regions": {r.name: {"numbers": list(r.numbers), "written": r.written} for r in labels.regions},
        "mirrors": record.mirrors,
        "grid": list(record.grid) if record.grid else None,
        "spacing": list(record.spacing) if record.spacing else None,
        "licence": record.licence,
        "citation": record.citation,
        "note": record.note,
    }
    return {key: value for key, value in content.items() if value not in ("", [], None)}


def specification(name: str, record: Record, plan: Plan, named: bool) -> list[dict[str, Any]]:
    """Returns both documents of a bundle's specification, see `build_bundle`."""
    labels, own = record.require_labels(), plan.grid == "spacing"
    fragments = ["metadata", "run", "cases", *_FRAGMENTS[plan.grid]]
    if len(record.channels) > 1:
        fragments.append("modalities")
    if own:  # CT has its own intensities and orientation
        fragments += ["ct"] if plan.scaling == "window" else ["mri"]
        fragments += ["disk_cache"]
    fragments += ["training", "validation", "inference", *(["scan_pairs"] if own else [])]
    modality = "CT" if plan.scaling == "window" else "MR" if record.channels[0].kind == "MRI" else "n/a"
    record_file = f"$@bundle_root + '/{RECORD}'"
    both = {key: value for key, value in plan.keys.items() if key not in {*_TRAINING_ONLY, "scaling"}}
    keys: dict[str, Any] = {
        "fragments": fragments,
        "train, inference": {
            "modalities": list(record.channel_names),
            "regions": list(labels.region_names),
            "label_scheme": record_file,
            **({"dataset_record": record_file} if named else {}),
            **both,
        },
        "train": {key: value for key, value in plan.keys.items() if key in _TRAINING_ONLY},
        "inference, evaluate": {"voxel_warnings": record.channel_names == ("CT",)},
        "overfit": {"epochs": 10, "epoch_length": 50, "batch_size": 1},
        "metadata": {
            "name": name,
            "task": f"Segmentation of {', '.join(labels.region_names)}: {record.title}",
            "description": "Planned for this data set by custom-nets new. No trained weights are included.",
            "data_source": record.title,
            "label_classes": f"0 background, {labels.meanings}",
            "pred_classes": f"0 background, {labels.meanings}",
        },
    }
    components: dict[str, Any] = {
        # The record's file has another place wherever the bundle is: it does not travel with the weights.
        "train, inference": {"model_keys": _model_keys()},
        "train": {},
        "metadata": {
            "network_data_format#inputs#image#format": "hounsfield" if modality == "CT" else "magnitude",
            "network_data_format#inputs#image#modality": modality,
        },
    }
    both_parts, train_parts = components["train, inference"], components["train"]
    if plan.grid == "crops":
        components["overfit"] = _overfit_crops()
        keys["train"].update(learning_rate=0.0001, weight_decay=0.00001)  # as published, of Adam
    if plan.scaling == "whole" or (plan.scaling == "window" and plan.grid == "crops"):
        both_parts["crop#select_fn"] = {"_target_": "custom_nets.transforms.is_above_least", "_mode_": "callable"}
    if plan.scaling == "whole":
        both_parts["normalize"] = {"_target_": "NormalizeIntensityd", "keys": "image", "channel_wise": True}
    if plan.scaling == "window" and plan.grid == "crops":
        both_parts["normalize"] = {
            "_target_": "ScaleIntensityRanged",
            "keys": "image",
            "a_min": "$@hu_window[0]",
            "a_max": "$@hu_window[1]",
            "b_min": -1.0,
            "b_max": 1.0,
            "clip": True,
        }
        both_parts["+model_keys"] = {"hu_window": "@hu_window"}
    if plan.grid == "size" and plan.scaling == "whole":
        # What is padded is 0, the mean.
        both_parts["preprocessing#transforms"] = _steps("load check to_regions orient crop normalize pad")
        train_parts["deterministic_transforms"] = _steps(
            "load check to_regions orient_pair crop_pair normalize fit_pair border_map"
        )
    if own and plan.scaling != "window":
        keys["train"].update(brightness_shift=1.0, noise_std=0.15)
        both_parts["preprocessing"] = {
            "_target_": "Compose",
            "transforms": _steps("load check to_regions orient crop normalize"),
        }
        train_parts["deterministic_transforms"] = _steps(
            "load check to_regions orient_pair crop_pair normalize resample_pair to_half border_map keep_pair"
        )
    if not set(plan.usual_mirrors) <= set(plan.mirrors):
        train_parts["random_transforms"] = _augmentation(plan)
    return [keys, components]


def format_plan(plan: Plan) -> str:
    """Returns a plan as a table for a terminal."""
    rows = [(choice.key, json.dumps(choice.value), choice.reason) for choice in plan.choices]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"{key:<{widths[0]}}  {value:<{widths[1]}}  {reason}" for key, value, reason in rows]
    return "\n".join([*lines, _memory_line(plan), *(f"note: {note}" for note in plan.notes)])


def format_plan_json(plan: Plan) -> str:
    """Returns a plan as JSON."""
    content = {
        "network": plan.network,
        "keys": {choice.key: {"value": choice.value, "reason": choice.reason} for choice in plan.choices},
        "notes": list(plan.notes),
        "step_seconds": None if plan.step_seconds is None else round(plan.step_seconds, 3),
        "training_memory_gib": round(plan.training_memory, 2),
        "inference_memory_gib": None if plan.inference_memory is None else round(plan.inference_memory, 2),
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def describe_bundle(name: str, record: Record, plan: Plan, tables: str) -> str:
    """Returns the bundle's docs/README.md, with the tables of its keys, see `key_tables`."""
    labels = record.require_labels()
    network = "Pyramid OSS-Net" if plan.network == "ossnet" else "NvNet"
    rows = "\n".join(f"| `{c.key}` | {json.dumps(c.value)} | {c.reason} |" for c in plan.choices)
    regions = "\n".join(f"| {r.name} | {', '.join(map(str, r.numbers))} | {r.written} |" for r in labels.regions)
    notes = "".join(f"- {note}\n" for note in plan.notes)
    return f"""# {name}

{network} for {record.title}: {", ".join(record.channel_names)} as channels,
{", ".join(labels.region_names)} as regions.
Written by `custom-nets new`, which measured the data set and planned the keys below.

**For research, not for diagnosis. No trained weights are included.**

## Commands

From this folder, with the folder of the data set as DIR:

    python -m monai.bundle run training --config_file configs/train.json --dataset_dir DIR
    python -m monai.bundle run evaluating --config_file "['configs/train.json','configs/evaluate.json']" \\
        --dataset_dir DIR
    python -m monai.bundle run inferring --config_file configs/inference.json --dataset_dir DIR --output_dir RESULTS

    # check of the whole path: fit one case
    python -m monai.bundle run training --config_file "['configs/train.json','configs/overfit.json']" \\
        --dataset_dir CASE

Every key of a config can be given on the command line, as `--epochs 100` or `--device cpu`.

## Labels

| region | label numbers inside | number written |
| --- | --- | --- |
{regions}

The meaning of the numbers is in `configs/dataset.yaml`, the record of the data set, which is used where the data do not
describe themselves.

## Plan

| key | value | why |
| --- | --- | --- |
{rows}

{_memory_line(plan)}.

{notes}
## Keys

{tables}"""


def _memory_line(plan: Plan) -> str:
    line = f"a step of training takes about {plan.training_memory:.1f} GiB"
    if plan.inference_memory is not None:
        line += f", inference of the largest case about {plan.inference_memory:.1f} GiB"
    line = f"{line}, besides workspaces of convolutions, Python and PyTorch"
    return line if plan.step_seconds is None else f"{line}; and {plan.step_seconds:.2g} s on this machine"


def _data_licence(record: Record) -> str:
    lines = ["No data and no trained weights are part of this bundle. It was planned for:", "", record.title]
    lines += [f"Licence: {record.licence or 'not stated by the data set; ask its owner'}"]
    lines += [f"Cite: {record.citation}"] if record.citation else []
    return "\n".join(lines) + "\n"


def _model_keys() -> dict[str, str]:
    return {"network_class": "@network_def#_target_", "modalities": "@modalities", "regions": "@regions"}


def _overfit_crops() -> dict[str, Any]:
    cases = {"dataset_dir": "@dataset_dir", "dataset": "@dataset_record", "modalities": "@modalities"}
    return {
        "cases": {"_target_": "custom_nets.datasets.datalist", **cases},
        "training_cases": "$@cases * @batch_size",
        "validation_cases": "@cases",
    }


def _steps(names: str) -> list[str]:
    return [f"@{name}" for name in names.split()]


def _augmentation(plan: Plan) -> list[dict[str, Any]]:
    """Returns the augmentation of the fragments, mirrored along the axes of the plan alone."""
    crops = plan.grid == "crops"
    axes = [axis for axis in plan.usual_mirrors if axis in plan.mirrors]
    keys, prob = (_PAIR[:2], "@mirror_prob") if crops else (_PAIR, 0.5)
    flips = [{"_target_": "RandFlipd", "keys": keys, "prob": prob, "spatial_axis": axis} for axis in axes]
    crop = {"_target_": "RandSpatialCropd", "keys": keys, "roi_size": "@crop_size", "random_size": False}
    scale = {"_target_": "RandScaleIntensityd", "factors": "@intensity_scale", "channel_wise": True}
    shift = {"_target_": "RandShiftIntensityd", "channel_wise": True}
    noise = {"_target_": "custom_nets.transforms.RandGaussianNoised", "std": "@noise_std", "sample_std": False}
    crop_changes = [scale, {**shift, "offsets": "@intensity_shift"}]
    changes = crop_changes if crops else [{**shift, "offsets": "@brightness_shift"}, noise]
    intensity = [{**change, "keys": "image", "prob": 1.0 if crops else 0.5} for change in changes]
    return [*([crop] if crops else []), *flips, *intensity]
