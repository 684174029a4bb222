"""Meshes at half the input's spacing: how far they lie from the true surface of a phantom's tumour.

An overfit check: Pyramid OSS-Net is trained on the voxels of one phantom and then queried between them. The true
surface is the zero level of the continuous functions that the phantom's labels are the sign of; labels on voxels only
serve training.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from _mesh_distance import Mesh, surface_errors
from _report import RESULTS, report
from _true_surface import TumourLevels, true_surfaces
from monai.data import MetaTensor
from monai.transforms import Compose, CropForegroundd, NormalizeIntensityd
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from custom_nets.inferers import OccupancyInferer, SearchSettings
from custom_nets.losses import OccupancyLoss
from custom_nets.metrics.regions import compute_region_dice
from custom_nets.networks import PyramidOSSNet, PyramidSettings
from custom_nets.tools import brain_phantom
from custom_nets.tools.phantoms.brain import _affine
from custom_nets.transforms import BorderMapd, LabelsToRegionsd, SamplePointsd
from custom_nets.transforms.saving.meshes import region_mesh

MEASURED = ("WT", "TC")
"""The regions whose surface is one level function's; that of the enhancing tumour has corners no voxel resolves."""

MARGIN = 8
"""Voxels around the tumour that the network sees."""


@dataclass(frozen=True)
class Training:
    """How the network is trained on the voxels of the phantom.

    Attributes:
        steps: of AdamW.
        learning_rate: at the start; falls linearly to 0.
        points: voxels a step.
        border_balance: share of them near a border.
        border_radius: what is near, in voxels.
        neighbourhood: samples a side of the raw neighbourhood.
        weight_decay: of AdamW.
        views: further views of the image, whose points lie between its voxels; 0 trains on whole voxels alone.
        noise: standard deviation of what is added to the normalised image.
        seed: of weights and points.
    """

    steps: int
    learning_rate: float
    points: int
    border_balance: float
    border_radius: int
    neighbourhood: int
    weight_decay: float
    views: int
    noise: float
    seed: int


def prepare(shape: Sequence[int], seed: int, case: int, style: str) -> dict[str, MetaTensor]:
    """Image and regions of a phantom, cut to the brain, with their affine."""
    phantom = brain_phantom(shape, seed, case, style)
    affine = torch.from_numpy(_affine(shape))
    item = {
        "image": MetaTensor(torch.from_numpy(phantom.images).float(), affine=affine),
        "label": MetaTensor(torch.from_numpy(phantom.label[None]), affine=affine),
    }
    return Compose(
        [
            LabelsToRegionsd("label", "brats2018"),
            NormalizeIntensityd("image", nonzero=True, channel_wise=True),
            CropForegroundd(["image", "label"], source_key="label", margin=MARGIN, k_divisible=16),
        ]
    )(item)


class View(NamedTuple):
    """An image resampled onto a turned and shifted grid; the labels stay those of the original voxels.

    Attributes:
        image: `[C, H, W, D]`.
        turn: `[3, 3]`; voxel o of the view lies at `turn @ o + start` of the original.
        start: `[3]`.
    """

    image: torch.Tensor
    turn: NDArray[np.float64]
    start: NDArray[np.float64]

    def positions(self, points: torch.Tensor) -> torch.Tensor:
        """Where the original's voxels `[N, 3]` lie in this view (float32): between its voxels."""
        return torch.from_numpy((points.numpy() - self.start) @ self.turn).float()


def turned_view(image: NDArray, rng: np.random.Generator) -> View:
    """A view from a random direction, with cubic splines, which blur less than the network's own interpolation."""
    turn = Rotation.from_rotvec(rng.uniform(-0.5, 0.5, 3)).as_matrix() * rng.choice([-1, 1], (3, 1))
    middle = (np.array(image.shape[1:]) - 1) / 2
    start = middle + rng.uniform(-0.5, 0.5, 3) - turn @ middle
    channels = [ndimage.affine_transform(channel, turn, start, order=3, mode="nearest") for channel in image]
    return View(torch.from_numpy(np.stack(channels)), turn, start)


def train(item: dict[str, MetaTensor], training: Training) -> PyramidOSSNet:
    """Trains a network on the voxels of one case."""
    torch.manual_seed(training.seed)
    network = PyramidOSSNet(settings=PyramidSettings(neighbourhood=training.neighbourhood))
    prepared = BorderMapd(radius=training.border_radius)(item)
    sampler = SamplePointsd(num_points=training.points, border_balance=training.border_balance)
    sampler.set_random_state(training.seed)
    criterion = OccupancyLoss(auxiliary_weight=0, dice_weight=1.0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1e-3, training.steps)
    rng = np.random.default_rng(training.seed)
    views = [View(item["image"].as_tensor(), np.eye(3), np.zeros(3))]
    views += [turned_view(item["image"].numpy(), rng) for _ in range(training.views)]
    start = time.perf_counter()
    for step in range(1, training.steps + 1):
        sample = sampler(prepared)
        # The image itself is what will be queried: every fourth step is its own.
        view = views[0] if step % 4 == 0 or len(views) == 1 else views[rng.integers(1, len(views))]
        image = view.image + training.noise * torch.randn(view.image.shape)
        points = sample["points"] if view is views[0] else view.positions(sample["points"])
        loss = criterion(network(image[None], points[None]), (sample["point_labels"][None], None))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % max(training.steps // 6, 1) == 0:
            print(f"step {step}: loss {loss.item():.4f}, {time.perf_counter() - start:.0f} s", flush=True)
    return network.eval()


def predict(network: PyramidOSSNet, image: MetaTensor, spacing: Sequence[float] | None) -> MetaTensor:
    """Probabilities `[R, H, W, D]` on the image's voxels, or on a grid of another spacing."""
    inferer = OccupancyInferer(SearchSettings(coarse_step=2), output_spacing=spacing)
    return inferer(image[None], network)[0]


def plane_cut(mesh: Mesh, axis: int, at: float) -> NDArray[np.float64]:
    """Line segments `[S, 2, 3]` in which a plane meets a mesh."""
    corners = mesh[0][mesh[1]]
    height = corners[..., axis] - at
    corners, height = (values[(height.min(1) < 0) & (height.max(1) >= 0)] for values in (corners, height))
    after, heights = np.roll(corners, -1, axis=1), np.roll(height, -1, axis=1)
    crossed = (height < 0) != (heights < 0)  # two of three edges
    share = (height[crossed] / (height[crossed] - heights[crossed]))[:, None]
    return (corners[crossed] + share * (after[crossed] - corners[crossed])).reshape(-1, 2, 3)


def meshes_of(network: PyramidOSSNet, item: dict[str, MetaTensor], channel: int) -> dict[str, Mesh]:
    """All meshes of one region that are compared, in world mm."""
    image, label = item["image"], item["label"]
    spacing = [float(length) for length in image.pixdim]
    fields: dict[str, MetaTensor] = {"(f) input grid, true label": label[channel]}
    grids = (("input grid", 1, "ab"), ("half spacing", 2, "cd"), ("quarter spacing", 4, " e"))
    for name, factor, letters in grids:
        probability = predict(network, image, None if factor == 1 else [length / factor for length in spacing])
        if factor == 1:
            dice = compute_region_dice(probability[None] > 0.5, label[None].bool())[0, channel]
            print(f"{MEASURED[channel]}: Dice {dice:.4f} on the voxels it was trained on", flush=True)
        fields[f"({letters[1]}) {name}, probabilities"] = probability[channel]
        fields[f"({letters[0]}) {name}, binary"] = (probability[channel] > 0.5).float()
    meshes = {}
    for name, field in fields.items():
        if not name.startswith("( )"):
            mesh = region_mesh(field, field.affine)
            assert mesh is not None, f"{name}: nothing found; train longer"
            meshes[name] = mesh
    return dict(sorted(meshes.items()))


def draw(path: Path, item: dict[str, MetaTensor], contours: list[dict[str, Mesh]], title: str) -> None:
    """Draws the border of each region on a slice: all of it, and a piece of it."""
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure

    image, affine = item["image"], item["image"].affine.numpy()
    x, y = (affine[i, i] * np.arange(n) + affine[i, 3] for i, n in enumerate(image.shape[1:3]))
    figure = Figure(figsize=(13, 13), layout="constrained")
    colours = ("#F0E442", "#D55E00", "#56B4E9")
    rows = figure.subplots(len(contours), 2)
    for row, meshes, region, channel in zip(rows, contours, MEASURED, (0, 2), strict=True):
        depth = int(np.argmax(item["label"][MEASURED.index(region)].sum((0, 1)).numpy()))
        cuts = [plane_cut(mesh, 2, affine[2, 2] * depth + affine[2, 3]) for mesh in meshes.values()]
        points = cuts[0].reshape(-1, 3)[:, :2]
        middle, reach = (points.max(0) + points.min(0)) / 2, np.ptp(points, axis=0).max() / 2 + 4
        # A piece of the border in the direction of the patient's right and front.
        corner = points[np.argmax((points - middle).sum(1))]
        for axes, centre, half in zip(row, (middle, corner), (reach, 8.0), strict=True):
            axes.pcolormesh(x, y, image[channel, :, :, depth].numpy().T, cmap="gray", shading="nearest")
            for name, cut, colour in zip(meshes, cuts, colours, strict=True):
                lines = LineCollection(list(cut[..., :2]), colors=colour, linewidths=1.6, label=f"{region}, {name}")
                axes.add_collection(lines)
            axes.set(xlim=(centre[0] - half, centre[0] + half), ylim=(centre[1] - half, centre[1] + half))
            axes.set(xlabel="mm to the right", ylabel="mm to the front", aspect="equal")
        row[1].legend(loc="lower left")
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", type=int, nargs=3, default=[160, 160, 104], help="voxels of the phantom")
    parser.add_argument("--style", default="standard", help="of the phantom: standard, hard or shifted")
    parser.add_argument("--phantom-seed", type=int, default=0)
    parser.add_argument("--case", type=int, default=1)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--lr", type=float, default=2e-3, help="learning rate at the start; falls linearly to 0")
    parser.add_argument("--points", type=int, default=4096, help="voxels a step")
    parser.add_argument("--border-balance", type=float, default=0.6, help="share of them near a border")
    parser.add_argument("--border-radius", type=int, default=3, help="what is near, in voxels")
    parser.add_argument("--neighbourhood", type=int, default=3, help="samples a side of the raw neighbourhood")
    parser.add_argument("--weight-decay", type=float, default=1e-2)
    parser.add_argument("--views", type=int, default=24, help="turned views of the image; 0: whole voxels alone")
    parser.add_argument("--noise", type=float, default=0.05, help="added to the normalised image while training")
    parser.add_argument("--seed", type=int, default=0, help="of weights and points")
    parser.add_argument("--samples", type=int, default=30_000, help="points on each surface")
    parser.add_argument("--name", default="surface_error", help="of the result files")
    options = parser.parse_args()
    torch.set_num_threads(1)

    start, shape = time.perf_counter(), tuple(options.shape)
    phantom = brain_phantom(shape, options.phantom_seed, options.case, options.style)
    affine = _affine(shape)
    levels = TumourLevels(shape, options.phantom_seed, options.case, options.style)
    coarse, truths, finer = (true_surfaces(levels, phantom.label, affine, factor) for factor in (1, 4, 8))
    print(
        f"true surfaces: {time.perf_counter() - start:.0f} s; voxels that differ from the labels: "
        f"{', '.join(f'{name} {truth.differing}' for name, truth in zip(MEASURED, truths, strict=True))}",
        flush=True,
    )
    item = prepare(shape, options.phantom_seed, options.case, options.style)
    start = time.perf_counter()
    keys = Training.__dataclass_fields__
    given = {**vars(options), "learning_rate": options.lr}
    network = train(item, Training(**{key: given[key] for key in keys}))
    seconds = time.perf_counter() - start

    rows: list[dict[str, Any]] = []
    contours = []
    voxel = float(np.prod([float(length) for length in item["image"].pixdim]) ** (1 / 3))
    for channel, (region, truth) in enumerate(zip(MEASURED, truths, strict=True)):
        meshes = meshes_of(network, item, channel)
        everything = {**meshes, "(x) input grid, true level function at the voxels": coarse[channel].mesh}
        everything["(y) the reference, against one twice as fine"] = truth.mesh
        errors = {}
        for name, mesh in everything.items():
            errors[name] = surface_errors(mesh, (finer if name[1] == "y" else truths)[channel].mesh, options.samples)
        base = errors["(a) input grid, binary"]["mean mm"]
        for name, error in errors.items():
            rows.append({"surface": f"{region} {name}", **{key: float(value) for key, value in error.items()}})
            rows[-1] |= {"mean voxels": float(error["mean mm"] / voxel), "mean / (a)": float(error["mean mm"] / base)}
        contours.append(
            {
                "true surface": truth.mesh,
                "(a) voxel grid, binary": meshes["(a) input grid, binary"],
                "(d) half spacing, probabilities": meshes["(d) half spacing, probabilities"],
            }
        )
    size = " x ".join(map(str, shape))
    title = (
        f"Overfit check: distance of meshes from the true surface, {options.style} phantom {options.case} of {size} "
        f"voxels of {voxel:.2f} mm; Pyramid OSS-Net, {options.steps} steps in {seconds:.0f} s on one core"
    )
    report(options.name, title, rows, "mean mm")
    draw(RESULTS / f"{options.name}_slice.png", item, contours, title)


if __name__ == "__main__":
    main()
