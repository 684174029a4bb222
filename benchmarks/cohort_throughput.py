"""Cases a minute of a cohort, file to file: the documented inference, and what its readers and writers bring.

The cohort is made of a few synthetic cases under many names. Each setting runs the bundle's own inference over it, in a
process of its own, with an untrained network whose answer is known (see `_known_answer.py`). Settings are run in turn
(A B A B ...), so that a change of the machine's speed meets all of them alike; each counts by its best run.

With `--reference FOLDER`, a checkout of another commit, both run over the same cases:

    git worktree add FOLDER COMMIT
    python benchmarks/cohort_throughput.py --reference FOLDER

`--sweep` varies readers, writers and cores of this checkout alone, and draws where it saturates.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from end_to_end import CACHE, SUBJECTS, Case

HERE = Path(__file__).parent
FOLDER = CACHE / "cohort_throughput"
CT_SPACING = (0.8, 0.8, 1.0)
SAMPLE_SECONDS = 0.25


@dataclass(frozen=True)
class Setting:
    """One way to run the inference.

    Args:
        name: in the table.
        root: the checkout that runs.
        keys: keys of the config.
        cores: how many processors may be used; None: all.
    """

    name: str
    root: Path
    keys: Mapping[str, Any] = field(default_factory=dict)
    cores: int | None = None


def make_cohort(name: str, cases: int, distinct: int) -> Case:
    """A folder of `cases` synthetic cases, `distinct` of which differ, and the label that all are answered with."""
    ct = name.startswith("lits")
    source, folder = FOLDER / f"{'ct' if ct else 'brain'}_source", FOLDER / f"{'ct' if ct else 'brain'}_{cases}"
    label = source / "label.nii.gz"
    if not label.is_file():
        (_make_abdomens if ct else _make_brains)(source, distinct, label)
    found = sorted(path for path in source.iterdir() if path != label)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number in range(cases):
        origin = found[number % len(found)]
        if ct:
            os.link(origin, folder / f"volume-{number}.nii.gz")
            continue
        case = f"BraTS20_Training_{number + 1:03d}"
        (folder / case).mkdir()
        for file in origin.iterdir():
            os.link(file, folder / case / file.name.replace(origin.name, case))
    size = "a CT" if ct else "240x240x155 voxels, four files"
    return Case(folder, label, f"{cases} synthetic cases ({min(len(found), cases)} distinct) of {size}")


def _make_brains(folder: Path, count: int, label: Path) -> None:
    from custom_nets.tools import write_brain_phantoms

    write_brain_phantoms(folder, count, seed=5)
    for number, file in enumerate(sorted(folder.glob("*/*_seg.nii.gz"))):
        file.unlink() if number else shutil.move(file, label)


def _make_abdomens(folder: Path, count: int, label: Path) -> None:
    from custom_nets.tools import abdomen_phantom
    from custom_nets.tools.phantoms.files import write_nifti

    folder.mkdir(parents=True)
    for number in range(count):
        phantom = abdomen_phantom(seed=3, case=number + 1, spacing=CT_SPACING)
        write_nifti(folder / f"volume-{number}.nii.gz", phantom.image, phantom.affine)
        if number == 0:
            write_nifti(label, phantom.label, phantom.affine)


def tree(process: int) -> Iterator[int]:
    """Yields a process and all below it."""
    yield process
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        for other in Path(f"/proc/{process}/task").iterdir():
            if other.name != str(process):
                children += (other / "children").read_text().split()
    except OSError:
        return
    for child in children:
        yield from tree(int(child))


def held(process: int) -> int:
    """Bytes that a process and all below it hold, shared pages counted once (PSS)."""
    total = 0
    for number in tree(process):
        try:
            lines = Path(f"/proc/{number}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def run(setting: Setting, subject: str, case: Case, device: str) -> dict[str, float]:
    """Runs the inference of one setting over the cohort."""
    chosen = SUBJECTS[subject]
    configs = [setting.root / "bundles" / chosen.bundle / "configs" / n for n in ("inference.json", *chosen.overrides)]
    known = {
        "_target_": "_known_answer.KnownAnswer",
        "network": "@network_def",
        "label_file": str(case.label),
        "dataset": chosen.dataset,
    }
    override = FOLDER / "known_answer.json"
    override.write_text(json.dumps({"known_answer": known, "network": "$@known_answer.to(@device)"}))
    results = FOLDER / "results"
    shutil.rmtree(results, ignore_errors=True)
    keys = {"dataset_dir": case.images, "output_dir": results, "load_model": FOLDER / f"{subject}.pt"}
    keys |= {"device": device, **setting.keys}
    files = f"[{','.join(repr(str(path)) for path in [*configs, override])}]"
    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", "inferring", "--config_file", files]
    command += [f"--{name}={value}" for name, value in keys.items()]
    processors = sorted(os.sched_getaffinity(0))[: setting.cores]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(setting.root)])}
    log = FOLDER / "log.txt"
    with log.open("wb") as file:
        began = time.time()
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=file,
            env=environment,
            preexec_fn=lambda: os.sched_setaffinity(0, processors),
        )
        peak, ended = [0], threading.Event()

        def watch() -> None:
            while not ended.wait(SAMPLE_SECONDS):
                peak[0] = max(peak[0], held(process.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.time() - began
        ended.set()
        watcher.join()
    if status:
        msg = f"status {status} of {' '.join(command)}\n{log.read_text()[-3000:]}"
        raise SystemExit(msg)
    finished = sorted(path.stat().st_mtime for path in (results / ".finished").glob("*.json"))
    return {
        "command, s": seconds,
        "to the first case, s": finished[0] - began,
        # Between the ends of the first and of the last case: without the start.
        "cases a minute": 60 * (len(finished) - 1) / (finished[-1] - finished[0]),
        "CPU s a case": (usage.ru_utime + usage.ru_stime) / len(finished),
        "peak GiB": peak[0] / 2**30,
        "files": float(sum(1 for path in results.rglob("*") if path.is_file())),
    }


def save_weights(subject: str) -> None:
    """Random weights, the same for every setting."""
    import torch
    from _stages import read_bundle

    chosen = SUBJECTS[subject]
    folder = HERE.parent / "bundles" / chosen.bundle / "configs"
    torch.manual_seed(0)
    parser = read_bundle([folder / file for file in ("inference.json", *chosen.overrides)], {"device": "cpu"})
    state = {f"network.{name}": value for name, value in parser.get_parsed_content("network_def").state_dict().items()}
    torch.save(state, FOLDER / f"{subject}.pt")


def settings_of(options: argparse.Namespace) -> list[Setting]:
    """What is compared."""
    root = HERE.parent
    if options.sweep:
        cores = len(os.sched_getaffinity(0))
        return [
            Setting(f"{used} cores, {readers} readers, {writers} writers", root, _parts(readers, writers), used)
            for used in sorted({1, cores})
            for readers in options.readers
            for writers in options.writers
        ]
    chosen = [Setting("this checkout", root)]
    return [*([Setting("reference", options.reference)] if options.reference else []), *chosen]


def _parts(readers: int, writers: int) -> dict[str, int]:
    return {"num_workers": readers, "num_writers": writers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subject", default="brats_pyramid", choices=list(SUBJECTS))
    parser.add_argument("--cases", type=int, default=12)
    parser.add_argument("--distinct", type=int, default=3, help="cases that are made; the others are links to them")
    parser.add_argument("--reference", type=Path, help="checkout of another commit, run over the same cases")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sweep", action="store_true", help="vary readers, writers and cores")
    parser.add_argument("--readers", type=int, nargs="+", default=[0, 1, 2], help="of the sweep")
    parser.add_argument("--writers", type=int, nargs="+", default=[0, 1, 2], help="of the sweep")
    options = parser.parse_args()
    from _report import report

    FOLDER.mkdir(parents=True, exist_ok=True)
    case = make_cohort(options.subject, options.cases, options.distinct)
    save_weights(options.subject)
    settings = settings_of(options)
    runs: dict[str, list[dict[str, float]]] = {setting.name: [] for setting in settings}
    for _ in range(options.repeats):
        for setting in settings:
            runs[setting.name].append(run(setting, options.subject, case, options.device))
            print(setting.name, {key: round(value, 2) for key, value in runs[setting.name][-1].items()}, flush=True)
    rows = [{"setting": name, **summarise(found)} for name, found in runs.items()]
    if options.reference:
        rows.append({"setting": "ratio, median of pairs", **ratios(runs["this checkout"], runs["reference"])})
    kind = "_sweep" if options.sweep else ""
    suffix = "" if options.device == "cpu" else f"_{options.device}"
    about = f"Inference of {case.about}, file to file, {options.subject} on {options.device}, answer known"
    report(f"cohort_throughput_{options.subject}{kind}{suffix}", about, rows, "cases a minute")


def summarise(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The best run of a setting; of memory the most."""
    best = max(found, key=lambda row: row["cases a minute"])
    return {**best, "peak GiB": max(row["peak GiB"] for row in found)}


def ratios(new: Sequence[Mapping[str, float]], old: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of runs that followed each other, new by old."""
    return {key: statistics.median(a[key] / b[key] for a, b in zip(new, old, strict=True)) for key in new[0]}


if __name__ == "__main__":
    main()
