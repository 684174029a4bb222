"""Every bundle in a MONAI Label server, over REST: infer, save labels, train, infer with the new weights."""

import nibabel
import numpy as np
import pytest
import torch

from tests.label.conftest import BRAINS, LIVERS
from tests.label.server import voxels

MODELS = [*BRAINS, *LIVERS]
REGIONS = {name: ["WT", "TC", "ET"] for name in BRAINS} | {name: ["liver", "tumour"] for name in LIVERS}
NUMBERS = {name: {0, 1, 2, 4} for name in BRAINS} | {name: {0, 1, 2} for name in LIVERS}

pytestmark = pytest.mark.parametrize("model", MODELS)


def test_it_is_offered_for_inference_and_training(server, model):
    assert model in server.info["models"]
    assert model in server.info["trainers"]


@pytest.mark.parametrize("grid", ["plain", "turned", "flipped", "oblique", "thick"])
def test_one_label_map_comes_back_on_the_input_grid(server, model, grid):
    source, result = nibabel.load(server.studies / f"{grid}.nii.gz"), server.infer(model, grid)
    assert result.shape == source.shape[:3]
    np.testing.assert_allclose(result.affine, source.affine, atol=1e-4)
    numbers = set(np.unique(voxels(result)))
    assert numbers <= NUMBERS[model]
    assert len(numbers) > 1, "a result that is the same everywhere shows nothing"


@pytest.mark.parametrize("grid", ["turned", "flipped"])
def test_the_order_of_storage_changes_no_voxel(server, model, grid):
    plain = server.infer(model, "plain")
    other = server.infer(model, grid)
    back = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(other.affine), nibabel.io_orientation(plain.affine)
    )
    assert (voxels(other.as_reoriented(back)) == voxels(plain)).mean() == 1


def test_an_oblique_grid_changes_no_voxel(server, model):
    """Nothing is resampled for it: the voxels are those of the straight grid."""
    assert (voxels(server.infer(model, "oblique")) == voxels(server.infer(model, "plain"))).mean() == 1


def test_the_client_is_told_the_volumes(server, model):
    label, facts = server.infer(model, "thick"), server.infer_facts(model, "thick")
    assert list(facts["volumes_ml"]) == list(facts["label_numbers"]) == REGIONS[model]
    unit = abs(np.linalg.det(label.affine[:3, :3])) / 1000
    whole = np.count_nonzero(voxels(label)) * unit
    assert facts["volumes_ml"][REGIONS[model][0]] == pytest.approx(whole, rel=1e-5)


def test_all_studies_are_inferred_in_one_call(server, model):
    server.infer_all(model)
    labels = server.labels()
    assert len(labels) == len(list(server.studies.glob("*.nii.gz")))
    assert all("original" in tags for tags in labels.values())


def test_a_training_changes_what_is_inferred(server, model):
    labels = sorted((server.studies.parent / "labels").iterdir())
    for label in labels:
        server.save_label(label.name.removesuffix(".nii.gz"), label)
    assert sum("final" in tags for tags in server.labels().values()) == len(labels)
    weights = server.app / "model" / model / "models" / "model.pt"
    before, plain = weights.read_bytes(), voxels(server.infer(model, "plain"))
    server.train(model)
    assert weights.read_bytes() != before, server.tail()
    # A few steps need not move a voxel: what the file says now must, at once.
    state = torch.load(weights, weights_only=True)
    for name, tensor in state.items():
        if name.endswith("bias") and tensor.shape == (len(REGIONS[model]),):
            tensor -= 100
    torch.save(state, weights)
    assert plain.any()
    assert not voxels(server.infer(model, "plain")).any()
