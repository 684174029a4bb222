"""Scores of results that exist, ours or another program's, against the labels of their cases."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from monai.data.utils import affine_to_spacing
from tqdm import tqdm

from custom_nets.datasets.datalists import in_order
from custom_nets.datasets.discovery import recognise
from custom_nets.datasets.layouts import search_folders
from custom_nets.datasets.names import split_end
from custom_nets.datasets.record import Labels, Record, get_record, parse_record, shipped_records
from custom_nets.errors import InputError, first_names
from custom_nets.io.nifti import check_same_grid, read_header, read_voxels, stem, where
from custom_nets.metrics import (
    count_detections,
    score_lesions,
    write_case_metrics,
)
from custom_nets.metrics.regions import (
    compute_region_dice,
    compute_region_hausdorff95,
    compute_region_iou,
    compute_region_surface_dice,
)
from custom_nets.transforms.saving.volumes import region_millilitres

logger = logging.getLogger(__name__)

Missing = Literal["refuse", "leave_out", "empty"]
"""What becomes of a labelled case without a result: an error, no score, or the score of a result that finds nothing."""

_RESULT_ENDS = ("prediction", "pred", "seg", "segmentation", "label", "mask", "dseg")


class Pair(NamedTuple):
    """A case to score.

    Args:
        case: its name.
        label: file of the label.
        result: file of the result; None scores a result that finds nothing.
    """

    case: str
    label: str
    result: str | None


def score_results(
    results_dir: str | os.PathLike,
    labels_dir: str | os.PathLike,
    output_dir: str | os.PathLike,
    *,
    dataset: str | None = None,
    results_dataset: str | None = None,
    labels: str | None = None,
    regions: tuple[str, ...] | None = None,
    missing: Missing = "refuse",
    tolerance: float = 1.0,
    lesion_dilation: float | None = None,
    lesion_min_ml: float | None = None,
) -> Path:
    """Scores results against labels, and writes `metrics.csv` and `metrics.json`, as the bundles' evaluation does.

    Results and labels belong together by the names of their cases: a result is `<case>/<case>_prediction.nii.gz`, as
    our inference writes it, or `<case>.nii.gz`, also with an ending such as `_seg`. Their grids must be the same.

    Args:
        results_dir: folder of the results.
        labels_dir: a data set with labels, as `datalist` knows it, or a folder of label files, named likewise.
        output_dir: folder of the two files.
        dataset: name or file of the record whose numbers the labels have; None recognises the data set.
        results_dataset: likewise of the results; None: that of the labels.
        labels: regions and their numbers in place of a record, such as `"WT=1,2,4 TC=1,4 ET=4"`.
        regions: names of the regions that are scored; None: all.
        missing: what becomes of a labelled case without a result.
        tolerance: of surface Dice, millimetres.
        lesion_dilation: of the lesion-wise scores, millimetres; None: that of the record, else 3.
        lesion_min_ml: of the lesion-wise scores, millilitres; None: that of the record, else 0.05.

    Returns:
        The file `metrics.json`.

    Raises:
        InputError: when a folder holds no case, cases do not match, or files cannot be read, lie on other grids or hold
            unknown numbers; all of these are listed before anything is scored, but for the numbers.
    """
    pairs, record = match_cases(results_dir, labels_dir, dataset, missing)
    of_labels, of_results = _numbers(pairs, record, labels, results_dataset)
    _check_grids(pairs)
    chosen = [region.name for region in of_labels.select(regions)]
    lesions = record.lesions if record is not None and record.lesions is not None else None
    dilation = lesion_dilation if lesion_dilation is not None else lesions.dilation if lesions else 3.0
    min_ml = lesion_min_ml if lesion_min_ml is not None else lesions.min_ml if lesions else 0.05
    rows = []
    for pair in tqdm(pairs, desc="scoring", unit="case", dynamic_ncols=True):
        true, affine = read_regions(pair.label, pair.case, of_labels, chosen)
        found = torch.zeros_like(true)
        if pair.result is not None:
            found, _ = read_regions(pair.result, pair.case, of_results, chosen)
        rows.append(score_case(found, true, affine, tolerance, dilation, min_ml))
    columns = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    write_case_metrics(output_dir, [pair.case for pair in pairs], chosen, columns)
    return Path(output_dir) / "metrics.json"


def score_case(
    found: torch.Tensor, true: torch.Tensor, affine: np.ndarray, tolerance: float, dilation: float, min_ml: float
) -> dict[str, np.ndarray]:
    """Returns all scores of a case, each `[R]`, by the name of their column.

    Args:
        found: regions of the result, bool `[R, H, W, D]`.
        true: regions of the label, likewise.
        affine: voxel indices to millimetres `[4, 4]`.
        tolerance: of surface Dice, millimetres.
        dilation: of the lesion-wise scores, millimetres.
        min_ml: of the lesion-wise scores, millilitres.
    """
    spacing = [float(side) for side in affine_to_spacing(affine)]
    pair = (found[None], true[None])
    volumes = [np.array(region_millilitres(part, affine)) for part in (true, found)]
    lesions = score_lesions(*pair, spacing, min_ml, dilation)
    in_label, missed, invented = lesions.counts[0].T.numpy()
    wanted, detected, parts, detecting = count_detections(*pair)[0].T.numpy()
    scores: dict[str, Any] = {
        "dice": compute_region_dice(*pair)[0],
        "iou": compute_region_iou(*pair)[0],
        "hd95_mm": compute_region_hausdorff95(*pair, spacing)[0],
        "surface_dice": compute_region_surface_dice(*pair, spacing, tolerance)[0],
        "volume_error_ml": volumes[1] - volumes[0],
        "lesion_dice": lesions.dice[0],
        "lesion_hd95_mm": lesions.hausdorff95[0],
        "lesions": in_label,
        "lesions_missed": missed,
        "lesions_invented": invented,
        "lits_lesions": wanted,
        "lits_lesions_detected": detected,
        "lits_predicted": parts,
        "lits_predicted_detecting": detecting,
        "label_ml": volumes[0],
        "prediction_ml": volumes[1],
    }
    return {name: np.asarray(values, dtype=np.float64) for name, values in scores.items()}


def match_cases(
    results_dir: str | os.PathLike,
    labels_dir: str | os.PathLike,
    dataset: str | None = None,
    missing: Missing = "refuse",
) -> tuple[list[Pair], Record | None]:
    """Returns the cases of labels and results, and the record of the labels' data set, None where it is unknown.

    Args:
        results_dir: see `score_results`, as for those below.
        labels_dir: folder of the labels.
        dataset: name or file of a record.
        missing: what becomes of a case without a result.

    Raises:
        InputError: when a folder holds no case, two results are of one case, or a case has none.
    """
    by_case, record = _find_labels(labels_dir, dataset)
    found: dict[str, str] = {}
    strangers = []
    for file in _nifti_files(results_dir):
        case = next((name for name in _names(file, record) if name in by_case), None)
        if case is None:
            strangers.append(file.name)
        elif case in found:
            msg = f"case {case}: two results, {found[case]} and {file}; leave one in {results_dir}"
            raise InputError(msg)
        else:
            found[case] = str(file)
    lost = [case for case in by_case if case not in found]
    if not found or (lost and missing == "refuse"):
        other = f"; no case of these: {first_names(strangers)}" if strangers else ""
        msg = (
            f"{results_dir}: {len(lost)} of {len(by_case)} labelled cases have no result: {first_names(lost)}{other}; "
            "add them (<case>.nii.gz or <case>/<case>_prediction.nii.gz), or give --missing leave_out or empty"
        )
        raise InputError(msg)
    if lost:
        how = "are left out" if missing == "leave_out" else "count as results that find nothing"
        logger.warning(
            "%d of %d labelled cases have no result, and %s: %s", len(lost), len(by_case), how, first_names(lost)
        )
    if strangers:
        logger.warning("%d results are of no labelled case: %s", len(strangers), first_names(strangers))
    chosen = [case for case in by_case if case in found or missing == "empty"]
    ordered = [item["case"] for item in in_order([{"case": case} for case in chosen])]
    return [Pair(case, by_case[case], found.get(case)) for case in ordered], record


def read_regions(
    file: str | os.PathLike, case: str, labels: Labels, regions: Sequence[str]
) -> tuple[torch.Tensor, np.ndarray]:
    """Reads a label map as regions, bool `[R, H, W, D]`, and the affine of its voxels `[4, 4]`.

    Args:
        file: of the label map.
        case: that messages name.
        labels: numbers and regions.
        regions: names of those wanted.

    Raises:
        InputError: when the file cannot be read, or holds a number that is not among the labels.
    """
    header = read_header(file, case)
    voxels = np.round(read_voxels(file, case, np.float32)).reshape(header.shape[:3])
    unknown = [f"{number:g}" for number in np.unique(voxels) if number not in labels.known]
    if unknown:
        msg = (
            f"{where(case, file)}: label numbers {first_names(unknown)} are unknown (known are 0 background, "
            f"{labels.meanings}); name the data set that they are of (--dataset NAME, of the results "
            "--results_dataset), or give --labels"
        )
        raise InputError(msg)
    masks = [np.isin(voxels, region.numbers) for region in labels.select(regions)]
    return torch.from_numpy(np.stack(masks)), header.affine


def parse_labels(text: str) -> Labels:
    """Returns regions and numbers as they are typed.

    >>> [(region.name, region.numbers) for region in parse_labels("WT=1,2,4 ET=4").regions]
    [('WT', (1, 2, 4)), ('ET', (4,))]

    Raises:
        InputError: when the text is no list of regions.
    """
    entries = re.findall(r"([^\s=]+)=(\d+(?:,\d+)*)(?:\s+|$)", text)
    if " ".join(f"{name}={numbers}" for name, numbers in entries) != " ".join(text.split()) or not entries:
        msg = f"labels is '{text}'; expected names and numbers, such as 'WT=1,2,4 TC=1,4 ET=4'"
        raise InputError(msg)
    regions = {name: [int(number) for number in numbers.split(",")] for name, numbers in entries}
    return _labels_of({number: str(number) for numbers in regions.values() for number in numbers}, regions)


def _labels_of(names: Mapping[int, str], regions: Mapping[str, list[int]]) -> Labels:
    content = {
        "title": "as typed",
        "channels": {"image": None},
        "layouts": "files",
        "labels": names,
        "regions": regions,
    }
    return parse_record(content, "labels", "labels").require_labels()


def _numbers(
    pairs: Sequence[Pair], record: Record | None, labels: str | None, results_dataset: str | None
) -> tuple[Labels, Labels]:
    """Returns what the numbers of the labels mean, and those of the results; each its own region where nothing says."""
    if labels is not None:
        of_labels = parse_labels(labels)
    elif record is not None:
        of_labels = record.require_labels()
    else:
        seen: set[int] = set()
        for pair in pairs:
            for file in filter(None, (pair.label, pair.result)):
                seen |= {int(number) for number in np.unique(np.round(read_voxels(file, pair.case))) if number}
        if not seen:
            msg = "the labels hold no region, and their data set is not known; give --dataset NAME, or --labels"
            raise InputError(msg)
        of_labels = _labels_of({n: str(n) for n in sorted(seen)}, {str(n): [n] for n in sorted(seen)})
    return of_labels, of_labels if results_dataset is None else get_record(results_dataset).require_labels()


def _check_grids(pairs: Sequence[Pair]) -> None:
    """Checks that each result lies on the grid of its label.

    Raises:
        InputError: with a line for each that does not, or cannot be read.
    """
    faults = []
    for pair in pairs:
        try:
            headers = [read_header(file, pair.case) for file in (pair.label, pair.result) if file is not None]
            check_same_grid(pair.case, headers)
        except InputError as error:
            faults.append(str(error))
    if faults:
        msg = "\n".join([f"{len(faults)} of {len(pairs)} cases cannot be scored:", *faults])
        raise InputError(msg)


def _find_labels(labels_dir: str | os.PathLike, dataset: str | None) -> tuple[dict[str, str], Record | None]:
    """Returns the label file of each case, and the record of their data set."""
    named = None if dataset is None else get_record(dataset)
    try:
        entries = recognise(labels_dir, dataset)
    except InputError:
        if not Path(labels_dir).is_dir():
            raise
        entries = []
    by_case = {case.case: str(case.label[0]) for entry in entries for case in entry.cases if case.label}
    if by_case:
        records = {entry.record for entry in entries}
        return by_case, named or (records.pop() if len(records) == 1 else None)
    files = [(next(_names(file, named)), str(file)) for file in _nifti_files(labels_dir)]
    twice = [case for case, count in Counter(case for case, _ in files).items() if count > 1]
    if twice or not files:
        what = f"several files are of case {twice[0]}" if twice else "there is no NIfTI file"
        msg = f"{labels_dir}: {what}; expected one label map a case, or a data set with labels (custom-nets check)"
        raise InputError(msg)
    cases = [case for case, _ in files]
    knowing = [record for record in shipped_records() if record.labels and all(record.knows(case) for case in cases)]
    return dict(files), named or (knowing[0] if len(knowing) == 1 else None)


def _nifti_files(folder: str | os.PathLike) -> list[Path]:
    root = Path(os.path.abspath(Path(folder).expanduser()))
    found = [file for files in search_folders(root).values() for file in files]
    ours = [file for file in found if stem(file).endswith("_prediction")]
    return sorted(ours or found)  # of our results, neither probabilities nor uncertainty


def _names(file: Path, record: Record | None) -> Iterator[str]:
    """Yields the cases that a label map may be of, by its name, the likeliest first."""
    name = stem(file)
    for known in [record] if record is not None else shipped_records():
        for image, label in known.pairs:
            if match := re.fullmatch(label, name):
                shape = re.sub(r"\(\?P<id>[^()]*\)", match["id"], image)
                yield re.sub(r"\(\?i:([^()]*)\)", r"\1", shape)
    ends = (*_RESULT_ENDS, *(record.label_ends if record is not None else ()))
    yield split_end(name, ends)[0] or file.parent.name
    yield name
    yield file.parent.name
