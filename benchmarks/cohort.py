"""Hard synthetic cohorts for comparisons of methods, and what simple methods reach on them."""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from _report import report
from monai.transforms import Compose, CropForegroundd, NormalizeIntensityd, ResizeWithPadOrCropd
from monai.utils import optional_import
from numpy.typing import NDArray
from scipy import ndimage
from tqdm import tqdm

from custom_nets.io.files import atomic_file
from custom_nets.metrics.regions import compute_region_dice
from custom_nets.tools import brain_phantom
from custom_nets.tools.phantoms import brain as phantoms
from custom_nets.tools.phantoms.brain_anatomy import FIELD_OF_VIEW
from custom_nets.transforms import LabelsToRegionsd, regions

CACHE = Path(__file__).parent / ".cache"
STYLES = {"train": "hard", "validation": "hard", "test": "hard", "shifted": "shifted"}
"""The cohorts and the style of their cases, see `custom_nets.tools.phantoms.brain_styles`."""
SIZES = {"train": 32, "validation": 6, "test": 12, "shifted": 12}
SHAPE = (96, 96, 64)
MARGIN = 3
REGIONS = ("WT", "TC", "ET")


class Case(NamedTuple):
    """One preprocessed case.

    Attributes:
        name: cohort and number.
        image: float32 `[4, H, W, D]` (FLAIR, T1, T1ce, T2), each z-scored over the brain; 0 outside.
        regions: uint8 `[3, H, W, D]` (WT, TC, ET), nested.
        spacing: voxel size in mm.
    """

    name: str
    image: torch.Tensor
    regions: torch.Tensor
    spacing: tuple[float, float, float]


def load_cohort(
    shape: Sequence[int] = SHAPE,
    sizes: Mapping[str, int] | None = None,
    seed: int = 0,
    cache: str | Path | None = CACHE,
) -> dict[str, list[Case]]:
    """Makes the cohorts "train", "validation", "test" and "shifted", or reads them where they were made before.

    All cases have one size, a multiple of 16 along each axis that holds the largest brain.

    Args:
        shape: voxels of the whole field of view, before the brain is cut out.
        sizes: number of cases in each cohort; those left out have as many as in `SIZES`.
        seed: another seed gives other cases in all cohorts.
        cache: folder of the finished cohorts; None keeps none.
    """
    counts = {**SIZES, **(sizes or {})}
    if unknown := set(counts) - set(STYLES):
        msg = f"cohorts {sorted(unknown)} are unknown; expected {', '.join(STYLES)}"
        raise ValueError(msg)
    # The seeds of two cohorts never meet, whatever the seed of the whole.
    recipe = {
        "shape": [int(n) for n in shape],
        "cohorts": {n: [style, counts[n], len(STYLES) * seed + i] for i, (n, style) in enumerate(STYLES.items())},
    }
    path = None if cache is None else Path(cache) / f"cohort_{_fingerprint(recipe)}.pt"
    if path is not None and path.is_file():
        stored = torch.load(path, weights_only=True, mmap=True)
        print(f"cohort: read from {path}")
        return {name: [Case(*case) for case in cases] for name, cases in stored.items()}
    start = time.perf_counter()
    cohorts = _make(recipe)
    made = f"cohort: {sum(counts.values())} cases made in {time.perf_counter() - start:.0f} s"
    if path is None:
        print(made)
        return cohorts
    with atomic_file(path) as file:
        torch.save({name: [tuple(case) for case in cases] for name, cases in cohorts.items()}, file)
    print(f"{made}, kept in {path} ({path.stat().st_size / 1e6:.0f} MB)")
    return cohorts


def _fingerprint(recipe: Mapping[str, Any]) -> str:
    """Name of the settings and of all source code that has a say in the cases."""
    data = Path(phantoms.__file__).parent
    sources = [*sorted(data.glob("phantom*.py")), data / "smooth_fields.py", Path(regions.__file__), Path(__file__)]
    parts = [json.dumps(recipe, sort_keys=True).encode(), *(source.read_bytes() for source in sources)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _make(recipe: Mapping[str, Any]) -> dict[str, list[Case]]:
    shape = recipe["shape"]
    x, y, z = (size / n for size, n in zip(FIELD_OF_VIEW, shape, strict=True))
    crop = Compose(
        [
            LabelsToRegionsd("label", "brats2018"),
            CropForegroundd(["image", "label"], source_key="image", margin=MARGIN, allow_smaller=True),
        ]
    )
    cropped: dict[str, list[dict[str, Any]]] = {name: [] for name in recipe["cohorts"]}
    plan = [(name, number + 1) for name, (_, count, _) in recipe["cohorts"].items() for number in range(count)]
    for name, number in tqdm(plan, desc="cohort", unit="case", disable=not sys.stderr.isatty()):
        style, _, seed = recipe["cohorts"][name]
        phantom = brain_phantom(shape, seed, number, style)
        item = {"image": torch.from_numpy(phantom.images).float(), "label": torch.from_numpy(phantom.label[None])}
        cropped[name].append(crop(item))
    largest = np.max([item["image"].shape[1:] for items in cropped.values() for item in items], axis=0)
    # A voxel of background on each side is enough.
    size = [16 * int(np.ceil((n - 2 * MARGIN + 2) / 16)) for n in largest]
    finish = Compose(
        [
            ResizeWithPadOrCropd(["image", "label"], spatial_size=size),
            NormalizeIntensityd("image", nonzero=True, channel_wise=True),
        ]
    )
    cohorts: dict[str, list[Case]] = {}
    for name, items in cropped.items():
        cohorts[name] = []
        for number, item in enumerate(items, start=1):
            done = finish(item)
            image, label = (torch.as_tensor(done[key]).as_subclass(torch.Tensor) for key in ("image", "label"))
            case = Case(f"{name}_{number:03d}", image.float().contiguous(), label.byte().contiguous(), (x, y, z))
            cohorts[name].append(case)
    return cohorts


def brain_mask(case: Case) -> NDArray[np.bool_]:
    """Voxels `[H, W, D]` of the brain."""
    return (case.image != 0).any(dim=0).numpy()


def mean_dice(cases: Sequence[Case], predict: Callable[[Case], NDArray[np.bool_]]) -> NDArray[np.float64]:
    """Mean Dice of each region that `predict` returns (`[R, H, W, D]`, outermost first)."""
    scores = []
    for case in cases:
        predicted = torch.from_numpy(predict(case))
        scores.append(compute_region_dice(predicted[None], case.regions[None, : len(predicted)].bool())[0].numpy())
    return np.mean(scores, axis=0)


def otsu(case: Case) -> NDArray[np.bool_]:
    """Whole tumour `[1, H, W, D]`: what is brighter in FLAIR than Otsu's threshold within the brain."""
    from skimage.filters import threshold_otsu

    flair, brain = case.image[0].numpy(), brain_mask(case)
    return (brain & (flair > threshold_otsu(flair[brain])))[None]


class VoxelRegression:
    """A logistic regression of each region on the signals of a voxel and, if wanted, of its blurred surroundings.

    Args:
        widths: standard deviations (mm) of the Gaussians that give further features.
        samples: voxels drawn in each case from the region, and as many from the rest of the brain.
        seed: of the drawing.
    """

    def __init__(self, widths: Sequence[float] = (), samples: int = 1500, seed: int = 0) -> None:
        self.widths, self.samples, self.seed = tuple(widths), samples, seed
        self.models: list[Any] = []
        self.thresholds = np.full(len(REGIONS), 0.5)

    def fit(self, train: Sequence[Case], validation: Sequence[Case]) -> "VoxelRegression":
        """Learns from `train`, and takes for each region the threshold of the best mean Dice on `validation`."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        rng = np.random.default_rng(self.seed)
        rows: list[list[NDArray]] = [[] for _ in REGIONS]
        truths: list[list[NDArray]] = [[] for _ in REGIONS]
        for case in train:
            features, truth = self._features(case), case.regions.numpy()[:, brain_mask(case)] > 0
            for index, inside in enumerate(truth):
                drawn = [np.flatnonzero(inside), np.flatnonzero(~inside)]
                chosen = np.concatenate([rng.choice(d, min(self.samples, d.size), replace=False) for d in drawn])
                rows[index].append(features[chosen])
                truths[index].append(inside[chosen])
        self.models = [
            make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000)).fit(
                np.concatenate(x), np.concatenate(y)
            )
            for x, y in zip(rows, truths, strict=True)
        ]
        candidates = np.concatenate([np.arange(0.02, 0.98, 0.02), 1 - np.geomspace(0.02, 0.0005, 12)])
        scores = np.zeros((len(REGIONS), len(candidates)))
        for case in validation:
            truth = case.regions.numpy()[:, brain_mask(case)] > 0
            for index, (probability, inside) in enumerate(zip(self._probabilities(case), truth, strict=True)):
                predicted = probability > candidates[:, None]
                sizes = predicted.sum(axis=1) + inside.sum()
                common = (predicted & inside).sum(axis=1)
                scores[index] += np.where(sizes > 0, 2 * common / np.maximum(sizes, 1), 1)
        self.thresholds = candidates[scores.argmax(axis=1)]
        return self

    def __call__(self, case: Case) -> NDArray[np.bool_]:
        """Regions `[3, H, W, D]` of a case, nested."""
        brain = brain_mask(case)
        predicted = np.zeros((len(REGIONS), *brain.shape), dtype=bool)
        predicted[:, brain] = self._probabilities(case) > self.thresholds[:, None]
        return np.logical_and.accumulate(predicted, axis=0)

    def _probabilities(self, case: Case) -> NDArray[np.floating]:
        features = self._features(case)
        return np.stack([model.predict_proba(features)[:, 1] for model in self.models])

    def _features(self, case: Case) -> NDArray[np.floating]:
        """Features `[N, F]` of the voxels of the brain."""
        image, brain = case.image.numpy(), brain_mask(case)
        columns = [channel[brain] for channel in image]
        for width in self.widths:
            sigma = [width / step for step in case.spacing]
            # Divided by the blurred brain, so that the background does not darken the cortex.
            weight = np.maximum(ndimage.gaussian_filter(brain.astype(np.float32), sigma)[brain], 1e-3)
            columns += [ndimage.gaussian_filter(channel, sigma)[brain] / weight for channel in image]
        return np.stack(columns, axis=1)


def lesion_volumes(case: Case, region: int = 0) -> NDArray[np.float64]:
    """Volumes (ml) of the separate lesions of one region."""
    pieces, count = ndimage.label(case.regions[region].numpy(), np.ones((3, 3, 3)))
    return np.bincount(pieces.ravel(), minlength=count + 1)[1:] * np.prod(case.spacing) / 1000


def describe(name: str, cases: Sequence[Case]) -> dict[str, Any]:
    """Numbers of the lesions of one cohort, a row of a table."""
    lesions = [lesion_volumes(case) for case in cases]
    every = np.concatenate(lesions)
    enhancing = np.array([lesion_volumes(case, 2).sum() for case in cases])
    return {
        "cohort": name,
        "cases": len(cases),
        "lesions": len(every),
        "cases with several": sum(len(volumes) > 1 for volumes in lesions),
        "lesions under 1 ml": float(np.mean(every < 1)),
        "median WT ml": float(np.median([volumes.sum() for volumes in lesions])),
        "median ET ml": float(np.median(enhancing)),
        "cases without ET": int((enhancing == 0).sum()),
    }


def score(method: str, predict: Callable[[Case], NDArray[np.bool_]], cohorts: Mapping[str, list[Case]]) -> dict:
    """Mean Dice of a method on the test and the shifted cohort, a row of a table."""
    row: dict[str, Any] = {"method": method}
    for name in ("test", "shifted"):
        dice = mean_dice(cohorts[name], predict)
        for index, region in enumerate(REGIONS):
            row[f"{name} {region}"] = float(dice[index]) if index < len(dice) else "-"
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", type=int, nargs=3, default=SHAPE)
    for name, count in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=count, help=f"cases of the {name} cohort")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=CACHE)
    options = parser.parse_args()
    if not all(optional_import(package)[1] for package in ("skimage", "sklearn")):
        sys.exit(
            "error: the simple methods need scikit-image and scikit-learn: pip install -c constraints.txt -e .[bench]"
        )

    cohorts = load_cohort(options.shape, {name: getattr(options, name) for name in SIZES}, options.seed, options.cache)
    grid = " x ".join(str(n) for n in cohorts["train"][0].image.shape[1:])
    setting = f"{grid} voxels cut from {' x '.join(map(str, options.shape))}, seed {options.seed}"
    rows = [describe(name, cases) for name, cases in cohorts.items()]
    report("cohort_lesions", f"Lesions of the synthetic cohorts, {setting}", rows, "lesions under 1 ml")

    learners = {
        "logistic regression, 4 signals": VoxelRegression(),
        "logistic regression, with blurred copies": VoxelRegression((2.0, 4.0, 8.0, 16.0)),
    }
    rows = [score("Otsu on FLAIR", otsu, cohorts)]
    for method, learner in learners.items():
        rows.append(score(method, learner.fit(cohorts["train"], cohorts["validation"]), cohorts))
    counts = f"fit on {options.train}, thresholds from {options.validation}, mean Dice of {options.test} test"
    report("cohort", f"Simple methods: {counts} and {options.shifted} shifted cases, {setting}", rows, "test WT")


if __name__ == "__main__":
    main()
