"""File in to file out by stage: a brain of four modalities or a CT through the inference of its bundle.

Each network is measured in a process of its own, on one case several times over: the first case also pays for what is
done once (warming up libraries and the device). What is measured is what the bundle's configs name, in their order, fed
as MONAI's evaluator feeds it; the documented command is measured beside it, with the start of Python.

The networks are not trained: they do all of their work, and what they would answer is known (see `_known_answer.py`),
so that search, cleaning, meshes and picture meet a realistic result. The cases are synthetic unless one is given.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CACHE = Path(__file__).parent / ".cache"
BUNDLES = Path(__file__).parent.parent / "bundles"
CT_SPACING = (0.8, 0.8, 1.5)


@dataclass(frozen=True)
class Case:
    """Where a case's images are, its label map beside them, and what is said about it."""

    images: Path
    label: Path
    about: str


@dataclass(frozen=True)
class Subject:
    """A bundle and the overriding configs that choose its network."""

    bundle: str
    overrides: tuple[str, ...]
    dataset: str
    make: Callable[[], Case]


def make_brain() -> Case:
    """A synthetic brain at the size of BraTS: four files, the label apart, so that it is not read as an input."""
    folder = CACHE / "end_to_end" / "brain"
    name = "BraTS20_Training_001"
    label = folder.parent / f"{name}_seg.nii.gz"
    if not label.is_file():
        from custom_nets.tools import write_brain_phantoms  # not at the top: imports are measured

        write_brain_phantoms(folder, 1, seed=5)
        shutil.move(folder / name / label.name, label)
    return Case(folder, label, "a synthetic brain of 240x240x155 voxels, four files")


def make_abdomen() -> Case:
    """A synthetic CT of the liver at a clinical spacing."""
    folder = CACHE / "end_to_end" / "abdomen"
    label = folder.parent / "segmentation-0.nii.gz"
    if not label.is_file():
        from custom_nets.tools import abdomen_phantom
        from custom_nets.tools.phantoms.files import write_nifti

        phantom = abdomen_phantom(seed=3, case=1, spacing=CT_SPACING)
        folder.mkdir(parents=True, exist_ok=True)
        write_nifti(folder / "volume-0.nii.gz", phantom.image, phantom.affine)
        write_nifti(label, phantom.label, phantom.affine)
    return Case(folder, label, f"a synthetic CT with voxels of {'x'.join(map(str, CT_SPACING))} mm")


SUBJECTS: dict[str, Subject] = {
    "brats_pyramid": Subject("ossnet_brats", (), "brats2018", make_brain),
    "brats_c": Subject("ossnet_brats", ("variant.json",), "brats2018", make_brain),
    "lits_pyramid": Subject("ossnet_lits", (), "lits", make_abdomen),
}


def given_case(folder: Path) -> Case:
    """A real case: its images linked into a folder without the label map, which is the known answer."""
    files = sorted(file for file in folder.iterdir() if file.name.endswith((".nii", ".nii.gz")))
    labels = [
        file for file in files if file.name.split(".")[0].endswith(("_seg", "-seg")) or "segmentation" in file.name
    ]
    if len(labels) != 1:
        msg = f"{folder}: expected the images and one label map (*_seg.nii.gz or segmentation-*.nii.gz)"
        raise SystemExit(msg)
    images = CACHE / "end_to_end" / "given" / folder.name
    shutil.rmtree(images, ignore_errors=True)
    images.mkdir(parents=True)
    for file in files:
        if file not in labels:
            (images / file.name).symlink_to(file.resolve())
    return Case(images.parent, labels[0].resolve(), f"the case {folder.name}")


def write_override(subject: Subject, case: Case) -> Path:
    """A config that lets the bundle's network do its work and answer with the label."""
    path = CACHE / "end_to_end" / "known_answer.json"
    known = {
        "_target_": "_known_answer.KnownAnswer",
        "network": "@network_def",
        "label_file": str(case.label),
        "dataset": subject.dataset,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"known_answer": known, "network": "$@known_answer.to(@device)"}))
    return path


def prepare(name: str, case_folder: Path | None, device: str) -> tuple[list[Path], dict[str, Any], Case]:
    """The configs and keys of a subject, its case on the disk."""
    subject = SUBJECTS[name]
    case = subject.make() if case_folder is None else given_case(case_folder)
    folder = BUNDLES / subject.bundle / "configs"
    configs = [*(folder / file for file in ("inference.json", *subject.overrides)), write_override(subject, case)]
    keys = {
        "dataset_dir": str(case.images),
        "output_dir": str(CACHE / "end_to_end" / f"results_{name}"),
        "load_model": str(CACHE / "end_to_end" / f"{name}.pt"),
        "device": device,
    }
    return configs, keys, case


def measure(configs: list[Path], keys: dict[str, Any], repeats: int) -> dict[str, Any]:
    """Runs the stages of one subject in this process."""
    start = time.perf_counter()
    import torch

    torch_seconds = time.perf_counter() - start
    start = time.perf_counter()
    from _stages import Stages, infer_case, load_network, read_bundle

    stages = Stages()
    stages.add("import of torch", torch_seconds)
    stages.add("import of MONAI", time.perf_counter() - start)
    parser = stages.measure("read the configs", lambda: read_bundle(configs, keys))
    get = parser.get_parsed_content
    network = stages.measure("imports of the configs, network", lambda: get("network"))
    torch.save(network.state_dict(), keys["load_model"])
    stages.measure("weights", lambda: load_network(parser))
    stages.measure("list of cases", lambda: get("dataset"))
    network.eval()
    for _ in range(repeats):
        found = infer_case(parser, stages, network)
    return {**found, "rows": stages.rows()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--subjects", nargs="+", default=list(SUBJECTS), choices=list(SUBJECTS))
    parser.add_argument("--case", type=Path, help="folder of a real case with its label map, not a synthetic one")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--repeats", type=int, default=3, help="times that the case is inferred")
    parser.add_argument("--no-command", action="store_true", help="leave the whole command out")
    parser.add_argument("--one", help="measure the stages of this subject in this process")
    options = parser.parse_args()
    if options.one:
        configs, keys, _ = prepare(options.one, options.case, options.device)
        print(json.dumps(measure(configs, keys, options.repeats)))
        return
    from _report import report
    from _stages import run_command

    summary = []
    for name in options.subjects:
        configs, keys, case = prepare(name, options.case, options.device)
        command = [sys.executable, "-W", "ignore", __file__, "--one", name, "--device", options.device]
        command += ["--repeats", str(options.repeats), *(["--case", str(options.case)] if options.case else [])]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        rows = found["rows"]
        suffix = "" if options.device == "cpu" else f"_{options.device}"
        about = f"Inference of {case.about}, file in to file out by stage, {name} on {options.device}, answer known"
        report(f"end_to_end_{name}{suffix}", about, rows, "later cases, s")
        later = sum(row["later cases, s"] for row in rows)
        network = found["encode_s"] + found["decode_s"] + found["search_s"]
        row = {"network": name, "a further case, s": later, "but its network, s": later - network}
        row |= {"queries, thousands": found["queries"] / 1000, "voxels found, thousands": found["foreground"] / 1000}
        if not options.no_command:
            whole = run_command(configs, keys)
            row |= {"whole command, s": whole["s"], "its peak GiB": whole["peak GiB"]}
        summary.append(row)
    report(f"end_to_end{suffix}", f"Inference, file in to file out, on {options.device}", summary, "a further case, s")


if __name__ == "__main__":
    main()
