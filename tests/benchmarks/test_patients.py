"""Real patients: folds, normalisation, the bent view, and the table."""

from itertools import chain

import numpy as np
import pytest
import torch
from _patients_data import NORMALISATIONS, head_mask, split_fold
from _patients_methods import CHANGES, METHODS, DenseMethod, PointMethod, RandLesionContrast, recipe_of, transplant
from _patients_network import Bend, TrialPyramidOSSNet
from _patients_table import summarise

from custom_nets.networks import PyramidOSSNet


@pytest.fixture
def head() -> torch.Tensor:
    """A head of signal 10 with a bright scalp of 40, in noise of 1."""
    x, y, _ = np.mgrid[-1:1:192j, -1:1:192j, -1:1:8j]
    radius = np.hypot(x, y)
    image = np.where(radius < 0.6, 10.0, np.where(radius < 0.7, 40.0, np.random.RandomState(0).rand(192, 192, 8)))
    return torch.from_numpy(image).float()[None]


def test_every_patient_is_held_out_once() -> None:
    held_out = [split_fold(42, 3, fold)[1] for fold in range(3)]
    assert sorted(chain(*held_out)) == list(range(42))
    for fold in range(3):
        training, own = split_fold(42, 3, fold)
        assert not set(training) & set(own)
        assert len(training) + len(own) == 42


def test_head_holds_brain_and_scalp_without_the_air(head: torch.Tensor) -> None:
    mask = head_mask(head)
    truth = head[0].numpy() > 5
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.95


def test_median_puts_brain_at_zero_whatever_the_air_is(head: torch.Tensor) -> None:
    padded = torch.nn.functional.pad(head, (0, 0, 32, 32, 32, 32))
    for image in (head, padded):
        assert NORMALISATIONS["median"](image)[image == 10].abs().max() < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_from_images_of_different_depth_and_answers_on_each(method: str) -> None:
    torch.manual_seed(0)
    recipe = recipe_of(method)
    network = recipe.network(2, 1, (64, 64, 32), **recipe.keys)
    trained = (PointMethod if recipe.points else DenseMethod)(network, recipe, 0, dense=True)
    items = [{"image": torch.rand(2, 32, 32, d), "label": torch.zeros(1, 32, 32, d).byte()} for d in (13, 18)]
    for item in items:
        item["label"][:, 10:20, 10:20, 5:9] = 1
    loss = trained.loss([trained.prepare(item) for item in items[: recipe.batch]])
    loss.backward()
    assert torch.isfinite(loss)
    with torch.no_grad():
        answer = trained.predict(network.eval(), items[1]["image"])
    assert answer.shape == (1, 32, 32, 18)
    assert ((answer >= 0) & (answer <= 1)).all()


def test_every_change_has_its_place_in_a_recipe() -> None:
    for change in CHANGES:
        assert recipe_of(f"pyramid+{change}") != METHODS["pyramid"]
    both = recipe_of("pyramid+topdown+deep")
    assert both.keys == {"top_down": True, "supervised": True}


def test_bend_is_undone_by_its_inverse() -> None:
    torch.manual_seed(0)
    bend = Bend.draw(torch.tensor([128.0, 128.0, 28.0]), angle=0.8, scale=0.4, shift=0.2, elastic=0.03)
    places = torch.rand(1000, 3) * 2 - 1
    assert (bend.of_view(bend.of_image(places)) - places).abs().max() < 1e-3


def test_point_lies_in_the_bent_view_where_its_tissue_lies() -> None:
    torch.manual_seed(0)
    network = TrialPyramidOSSNet(1, 1, bend=(0.4, 0.25, 0.1, 0.03)).train()
    image = torch.zeros(1, 1, 64, 64, 32)
    image[:, :, 20:36, 30:46, 8:20] = 1
    view = network._downsample(image, torch.ones(1, 3), 1.0)
    assert network._bends is not None
    inside = torch.cartesian_prod(torch.arange(24.0, 32), torch.arange(34.0, 42), torch.arange(11.0, 17))
    places = network._bends[0].of_image((inside * 2 + 1) / torch.tensor([64.0, 64, 32]) - 1)
    sampled = torch.nn.functional.grid_sample(view, places.flip(-1)[None, :, None, None], align_corners=False)
    assert sampled.mean() > 0.95


def test_view_is_not_bent_in_inference() -> None:
    torch.manual_seed(0)
    network = TrialPyramidOSSNet(1, 1, bend=(0.4, 0.25, 0.1, 0.03)).eval()
    plain = PyramidOSSNet(1, 1).eval()
    plain.load_state_dict(network.state_dict())
    image, points = torch.rand(1, 1, 32, 32, 16), torch.randint(0, 16, (1, 50, 3))
    torch.testing.assert_close(network(image, points)[0], plain(image, points)[0])


def test_targets_of_a_level_are_the_shares_of_its_cells() -> None:
    network = TrialPyramidOSSNet(1, 1, supervised=True).eval()
    network(torch.rand(1, 1, 32, 32, 32), torch.zeros(1, 1, 3, dtype=torch.long))
    label = torch.zeros(1, 1, 32, 32, 32)
    label[:, :, :8, :8, :4] = 1
    targets = network.level_targets(label)
    assert [target.shape[-1] for target in targets] == [16, 8, 4, 2]
    assert targets[2][0, 0, 0, 0, 0] == 0.5
    assert targets[2].sum() == 0.5


def _row(method: str, patient: str, dice: float, **changed: object) -> dict:
    facts = {"fold": 0, "folds": 3, "seed": 0, "part": "held out", "steps": 10, "hd95": [1.0], "inference s": 1.0}
    return {"method": method, "patient": patient, "dice": [dice], **facts, **changed}


def test_difference_is_taken_on_the_patients_that_both_methods_have() -> None:
    rows = [_row("a", "1", 0.5), _row("a", "2", 0.7), _row("b", "2", 0.8), _row("b", "3", 0.1)]
    first, second = summarise(rows, "a")
    assert first["Dice"] == "0.600"
    assert first["difference"] == ""
    assert second["difference"] == "+0.100 of 1"


def test_seeds_of_a_patient_count_as_one_patient() -> None:
    rows = [_row("a", "1", 0.4), _row("a", "1", 0.6, seed=1), _row("a", "2", 0.9), _row("a", "2", 1.0, part="training")]
    (line,) = summarise(rows, None)
    assert (line["patients"], line["runs"], line["Dice"]) == (2, 2, "0.700")


def test_padding_of_a_batch_changes_no_answer() -> None:
    torch.manual_seed(0)
    network = TrialPyramidOSSNet(1, 1, grid=(16, 16, 8), supervised=True, corrected=0).eval()
    images = [torch.rand(1, 1, 32, 32, depth) for depth in (12, 20)]
    points = torch.cartesian_prod(torch.arange(4, 28, 4), torch.arange(4, 28, 4), torch.arange(2, 11, 4))[None]
    alone = [network(image, points)[0] for image in images]
    network.sizes = [image.shape[2:] for image in images]
    batch = torch.cat([torch.nn.functional.pad(image, (0, 20 - image.shape[-1])) for image in images])
    together = network(batch, points.expand(2, -1, -1))[0]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=1e-3)


def test_contrast_of_a_lesion_changes_and_nothing_far_from_it() -> None:
    image, label = torch.full((2, 32, 32, 12), -0.5), torch.zeros(1, 32, 32, 12)
    label[:, 10:20, 10:20, 2:6] = 1
    image[0, 10:20, 10:20, 2:6] = 1
    changed = RandLesionContrast(prob=1).set_random_state(0)({"image": image, "label": label})["image"]
    assert (changed != image)[:, 12:18, 12:18, 2:6].all()
    assert torch.equal(changed[..., 6:], image[..., 6:])
    assert torch.equal(changed[:, 25:], image[:, 25:])


def test_transplant_brings_tissue_label_and_border_and_spares_the_air() -> None:
    def item(depth: int, value: float, where: slice) -> dict[str, torch.Tensor]:
        image, label = torch.zeros(1, 32, 32, depth), torch.zeros(1, 32, 32, depth, dtype=torch.uint8)
        image[:, :4] = -1
        label[:, where, where] = 1
        image[:, where, where] = value
        return {"image": image, "label": label, "border": torch.zeros(1, 32, 32, depth, dtype=torch.bool)}

    donor, receiver = item(4, 3.0, slice(0, 12)), item(8, 1.0, slice(20, 28))
    first, second = transplant([donor, receiver], np.random.RandomState(0), 1.0)
    assert second["image"][0, 8, 6, 3] == 3
    assert second["label"][0, 8, 6, 3] == 1
    assert second["border"][0, 8, 6, 3]
    assert second["label"][0, 24, 24].all()
    assert not second["label"][0, :4].any()
    assert first["image"].shape == donor["image"].shape


@pytest.mark.parametrize("name", NORMALISATIONS)
def test_normalisation_leaves_the_scan_as_it_is(name: str, head: torch.Tensor) -> None:
    before = head.clone()
    NORMALISATIONS[name](head)
    assert torch.equal(head, before)


def test_weighted_points_estimate_the_share_of_all_voxels() -> None:
    recipe = recipe_of("pyramid+lesion+weighted")
    method = PointMethod(torch.nn.Identity(), recipe, 0, dense=True)
    label = torch.zeros(1, 40, 40, 20, dtype=torch.uint8)
    label[:, 10:16, 10:16, 5:9] = 1
    item = method.prepare({"image": torch.zeros(1, 40, 40, 20), "label": label})
    shares, totals = [], []
    for _ in range(30):
        sample = method.sampler(item)
        weights = method.weights(item, sample["points"])
        shares.append(float((weights * sample["point_labels"][:, 0]).mean()))
        totals.append(float(weights.mean()))
    assert np.mean(totals) == pytest.approx(1, rel=0.02)
    assert np.mean(shares) == pytest.approx(float(label.float().mean()), rel=0.05)
