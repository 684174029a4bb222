"""Challenge submissions: every prediction checked against its release and its input, then packed into one zip."""

from __future__ import annotations

import os
import re
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np

from custom_nets.datasets.case_record import CASE_RECORD, RecordedCase, load_case_record, record_cases
from custom_nets.datasets.datalists import datalist
from custom_nets.datasets.record import Challenge, Record, shipped_records
from custom_nets.errors import MAX_NAMED, InputError, first_names
from custom_nets.io.files import atomic_file
from custom_nets.io.nifti import (
    AFFINE_TOLERANCE,
    SUFFIXES,
    VolumeHeader,
    is_nifti,
    read_header,
    read_voxels,
    stem,
    where,
)

POSTFIX = "_prediction"
"""End of the name of a case's label map."""


class Release(NamedTuple):
    """The challenge of one year: its tasks, each a record with what it expects of a submission.

    Args:
        year: of the challenge.
        tasks: records, and what the challenge expects of their cases.
    """

    year: int
    tasks: tuple[tuple[Record, Challenge], ...]

    @property
    def example(self) -> str:
        """A case name, for messages."""
        return self.tasks[0][1].example

    def task_of(self, case: str) -> tuple[Record, Challenge]:
        """Returns the task of a case by its name; the first one for a name of none."""
        return next((task for task in self.tasks if re.fullmatch(task[1].cases, case)), self.tasks[0])


def releases() -> dict[int, Release]:
    """Returns the challenges by year, as the records tell them; the task that takes any name comes first."""
    by_year: dict[int, list[tuple[Record, Challenge]]] = defaultdict(list)
    for record in sorted(shipped_records(), key=lambda record: not record.others):
        for challenge in record.challenges:
            by_year[challenge.year].append((record, challenge))
    return {year: Release(year, tuple(by_year[year])) for year in sorted(by_year)}


def find_release(release: int | str) -> Release:
    """Returns the challenge of a year.

    Args:
        release: the year, with or without its century (2020, 20, "2020").

    Raises:
        InputError: when no record has a challenge of that year.
    """
    text = str(release).strip()
    year = int(text) if re.fullmatch(r"[0-9]{2}|[0-9]{4}", text) else 0
    known = releases()
    found = known.get(year + 2000 if year < 100 else year)
    if found is None:
        msg = f"release={release!r} is unknown; expected one of {', '.join(map(str, known))}"
        raise InputError(msg)
    return found


def check_submission(
    results: str | os.PathLike, release: int | str, dataset_dir: str | os.PathLike | None = None
) -> tuple[list[tuple[str, Path]], list[str]]:
    """Checks every prediction in a folder of results; collects all faults of all cases.

    Args:
        results: where a bundle wrote `<case>/<case>_prediction.nii.gz`, or a folder of `<case>.nii.gz` files.
        release: year of the challenge, see `find_release`.
        dataset_dir: the inputs, see `datalist`, which say what cases are expected on which grids; None takes
            the record that inference left in `results` (`CASE_RECORD`).

    Returns:
        Cases without a fault and their files, sorted by case, and one line for each fault.

    Raises:
        InputError: when the release is unknown, there is no folder of results, or no case is known to be expected.
    """
    chosen = find_release(release)
    folder = _results_folder(results)
    expected = {recorded.case: recorded for recorded in _expected_cases(folder, dataset_dir)}
    found = _find_predictions(folder)
    cases = sorted(expected)
    with ThreadPoolExecutor(max_workers=8) as pool:
        check = partial(_case_faults, results=folder, release=chosen)
        by_case = list(pool.map(check, [expected[case] for case in cases], [found.get(case, []) for case in cases]))
    good = [(case, found[case][0]) for case, faults in zip(cases, by_case, strict=True) if not faults]
    faults = [fault for lines in by_case for fault in lines]
    for case in sorted(set(found) - set(expected)):
        hint = "" if _fits(case, chosen) else f" (the name {_name_fault(case, chosen)})"
        faults += [
            f"{where(case, file)}: the case is not among the {len(expected)} expected ones{hint}; "
            "remove the file, or give the data set that holds the case (--dataset_dir)"
            for file in found[case]
        ]
    return good, faults


def write_submission(
    results: str | os.PathLike,
    output: str | os.PathLike,
    release: int | str,
    dataset_dir: str | os.PathLike | None = None,
) -> int:
    """Packs predictions as `<case>.nii.gz` at the root of a zip, when all of them are without fault.

    The same predictions give the same bytes. An existing zip is replaced; folders above it are made.

    Args:
        results: see `check_submission`.
        output: the file, `.zip`.
        release: likewise.
        dataset_dir: likewise.

    Returns:
        The number of cases written.

    Raises:
        InputError: with the number of faults and then one line for each, or as `check_submission`, or when the file
            cannot be written; then nothing is written.
    """
    target = Path(output).expanduser()
    if target.suffix.lower() != ".zip":
        msg = f"output {target}: expected a name that ends with .zip; give one such as {target.name or 'out'}.zip"
        raise InputError(msg)
    good, faults = check_submission(results, release, dataset_dir)
    if faults:
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        msg = "\n".join([f"{count} in {results}, {target} is not written; mend and try again:", *faults])
        raise InputError(msg)
    try:
        with atomic_file(target) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            for case, file in good:
                entry = zipfile.ZipInfo(case + SUFFIXES[0])  # dated 1980, whatever the clock
                entry.create_system = 3  # Unix on every platform: permissions below, and equal bytes
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, file.read_bytes())
    except OSError as error:
        msg = f"output {target}: cannot be written ({error.strerror or error}); give a place that can"
        raise InputError(msg) from error
    return len(good)


def _results_folder(results: str | os.PathLike) -> Path:
    folder = Path(results).expanduser()
    if not folder.is_dir():
        msg = f"results {folder}: there is no such folder; give the folder that inference wrote to"
        raise InputError(msg)
    return folder


def _expected_cases(results: Path, dataset_dir: str | os.PathLike | None) -> list[RecordedCase]:
    """Returns the cases that must be there, from the data set or from the record beside the results."""
    record = results / CASE_RECORD
    if dataset_dir is not None:
        return record_cases(datalist(dataset_dir, labels="ignore", check=False))
    if not record.is_file():
        msg = (
            f"results {results}: which cases are expected is not known, there is no {CASE_RECORD}; "
            "give the folder of the cases that were inferred (--dataset_dir)"
        )
        raise InputError(msg)
    cases = load_case_record(record)
    if not cases:
        msg = f"case record {record}: names no case; infer again, or give the folder of the cases (--dataset_dir)"
        raise InputError(msg)
    return cases


def _find_predictions(results: Path) -> dict[str, list[Path]]:
    """Returns the label maps of each case: those in its own folder, and those lying flat."""
    found: dict[str, list[Path]] = defaultdict(list)
    for entry in sorted(results.iterdir()):
        if entry.is_dir():
            files = [file for file in sorted(entry.iterdir()) if is_nifti(file) and stem(file).endswith(POSTFIX)]
            if files:
                found[entry.name] = files + found[entry.name]
        elif is_nifti(entry):
            found[stem(entry).removesuffix(POSTFIX)].append(entry)
    return dict(found)


def _case_faults(recorded: RecordedCase, files: list[Path], results: Path, release: Release) -> list[str]:
    """Returns what is wrong with one expected case: its name, the number of its files, each of these."""
    case = recorded.case
    faults = [] if _fits(case, release) else [f"case {case}: the name {_name_fault(case, release)}"]
    if not files:
        return [*faults, _missing(recorded, results)]
    if len(files) > 1:
        names = first_names([str(file.relative_to(results)) for file in files])
        faults.append(f"case {case}: {len(files)} predictions, {names}; keep the one to be submitted")
    for file in files:
        faults += [f"{where(case, file)}: {fault}" for fault in _file_name_faults(file, case, results)]
        try:
            header = read_header(file, case)
        except InputError as error:
            faults.append(str(error))
            continue
        record, challenge = release.task_of(case)
        lines = [*_grid_faults(header, recorded, release.year, challenge), *_storage_faults(file)]
        try:
            lines += _number_faults(read_voxels(file, case), release.year, record)
        except InputError as error:
            faults.append(str(error))
        faults += [f"{where(case, file)}: {line}" for line in lines]
    return faults


def _missing(recorded: RecordedCase, results: Path) -> str:
    """Returns the fault of a case without a prediction, with what its folder holds instead."""
    case = recorded.case
    folder = results / case
    there = [file.name for file in sorted(folder.iterdir()) if is_nifti(file)] if folder.is_dir() else []
    instead = f", the folder holds {first_names(there)}" if there else ""
    mend = "infer this case" if recorded.shape else "its input cannot be read: mend that, then infer this case"
    return f"{where(case, folder / (case + POSTFIX + SUFFIXES[0]))}: there is no prediction{instead}; {mend}"


def _file_name_faults(file: Path, case: str, results: Path) -> Iterator[str]:
    if file.parent != results and stem(file) != case + POSTFIX:
        yield f"expected the name {case}{POSTFIX}{SUFFIXES[0]} in the folder {case}; check whose prediction this is"
    if not file.name.lower().endswith(SUFFIXES[0]):
        yield f"the name ends with {file.suffix}, expected {SUFFIXES[0]}; save it packed (gzip)"


def _grid_faults(header: VolumeHeader, recorded: RecordedCase, year: int, challenge: Challenge) -> Iterator[str]:
    """Compares the grid of a prediction with those of the release and of its input."""
    shape = header.shape[:3]
    advice = "save the prediction on the grid of the input"
    if challenge.shape is not None and shape != challenge.shape:
        yield f"shape {shape}, release {year} expects {challenge.shape}; {advice} as downloaded"
    if recorded.shape is None or recorded.affine is None:
        yield "the grid cannot be compared, the input could not be read; mend the input and give it (--dataset_dir)"
        return
    if shape != recorded.shape:
        yield f"shape {shape}, its input has {recorded.shape}; {advice}"
    apart = float(np.abs(header.affine - recorded.affine).max())
    if apart > AFFINE_TOLERANCE:
        codes, wanted = ("".join(nib.aff2axcodes(affine)) for affine in (header.affine, recorded.affine))
        turned = f", its axes are {codes} where the input's are {wanted} (flipped or swapped)" * (codes != wanted)
        yield f"affine differs from the input's by up to {apart:.4g} (allowed {AFFINE_TOLERANCE:g}){turned}; {advice}"


def _storage_faults(file: Path) -> Iterator[str]:
    """Checks how a readable file stores its numbers: three axes, an integer type, no fractions by scaling."""
    image: Any = nib.load(file)
    kind, proxy = image.get_data_dtype(), image.dataobj
    if len(image.shape) != 3:
        yield f"{len(image.shape)} axes, shape {tuple(image.shape)}; expected 3D (x, y, z): save one label map"
    if kind.kind not in "iu":
        yield f"stored as {kind}; expected an integer type: save it as uint8"
    if proxy.slope % 1 or proxy.inter % 1:
        scaling = f"scl_slope {proxy.slope:g} and scl_inter {proxy.inter:g}"
        yield f"{scaling} make fractions of the stored numbers; expected 1 and 0: save it unscaled, as uint8"


def _number_faults(voxels: np.ndarray, year: int, record: Record) -> Iterator[str]:
    """Checks the numbers of a label map, and tells of which release others are."""
    if voxels.dtype.kind not in "iuf":
        return  # colours, complex numbers: the type is a fault already
    missing = int(np.isnan(voxels).sum()) if voxels.dtype.kind == "f" else 0
    if missing:
        yield f"NaN in {missing:,} voxels; expected label numbers: check the network's output, infer this case again"
    known = record.require_labels().known
    strange = voxels[~np.isin(voxels, known)]
    wrong = np.unique(strange[strange == strange]).tolist()
    if not wrong:
        return
    numbers = {number for number in known if (voxels == number).any()} | set(wrong)
    fewest, years = _years_with(numbers)
    looks = f", looks like the numbers of {years}" if fewest else ""
    named = ", ".join(f"{number:g}" for number in wrong[:MAX_NAMED]) + ", ..." * (len(wrong) > MAX_NAMED)
    yield (
        f"label {named} not of release {year} (it has {', '.join(map(str, known))}){looks}; "
        f"write the numbers of the data set '{record.name}'"
    )


def _years_with(numbers: set[float]) -> tuple[int, str]:
    """Returns the years whose first task has the fewest numbers that hold those given, as text."""
    known = {year: release.tasks[0][0].require_labels().known for year, release in releases().items()}
    fitting = {year: labels for year, labels in known.items() if numbers <= set(labels)}
    fewest = min(map(len, fitting.values()), default=0)
    return fewest, _years([year for year, labels in fitting.items() if len(labels) == fewest])


def _fits(case: str, release: Release) -> bool:
    return any(re.fullmatch(challenge.cases, case) for _, challenge in release.tasks)


def _name_fault(case: str, release: Release) -> str:
    """Returns why a case name does not fit, and whose it looks like."""
    years = _years([year for year, other in releases().items() if _fits(case, other)])
    looks = f" and looks like {years}, give that release or its cases" if years else ", give the cases of that release"
    return f"is not of release {release.year} (such as {release.example}){looks}"


def _years(years: list[int]) -> str:
    """Returns adjoining years as text."""
    return "" if not years else str(years[0]) if len(years) == 1 else f"{years[0]} to {years[-1]}"
