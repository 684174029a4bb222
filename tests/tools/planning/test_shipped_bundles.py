"""The shipped bundles are what is planned for phantoms of their data, but for what is set by hand."""

import json

import pytest

from custom_nets.tools import write_abdomen_phantoms, write_brain_phantoms
from custom_nets.tools.planning.fingerprint import labelled_data, measure
from custom_nets.tools.planning.new_bundle import bundle_files
from custom_nets.tools.planning.plan import make_plan
from tests.conftest import REPOSITORY

BY_HAND = {
    "ossnet_brats": {"label_scheme", "model_keys", "overlay_modalities", "voxel_warnings"},
    "nvnet_brats": {"label_scheme", "model_keys", "overlay_modalities", "voxel_warnings"}
    | {"clean", "fill_holes", "min_enhancing_ml"},  # the post-processing of the challenge
    "ossnet_lits": {"label_scheme", "model_keys"}
    | {"clean", "keep_largest_liver", "save_results"}  # of a liver there is one, of tumours each is measured
    | {"identity_affines", "training_cases", "validation_cases", "dataset"}  # LiTS lost affines
    | {"num_workers", "num_writers"},  # scans are large
}
"""What a bundle sets beside its plan: the record that the package ships, and what is known of the organ."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms")
    write_brain_phantoms(folder / "brats", 4, (40, 40, 28), seed=5, progress=False)
    write_abdomen_phantoms(folder / "lits", 4, spacing=8.0, progress=False)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_HAND)
def test_a_shipped_bundle_differs_from_its_plan_by_what_is_set_by_hand(data, monkeypatch, name):
    monkeypatch.setattr("custom_nets.tools.planning.plan.SMALL", 0)  # phantoms are smaller than patients
    network, data_set = name.split("_")
    record, items = labelled_data(data / data_set)
    plan = make_plan(measure(record, items), network)
    files = bundle_files(name, record, plan)
    differing = set()
    for config in ("train", "evaluate", "inference"):
        planned = json.loads(files[f"configs/{config}.json"])
        shipped = json.loads((REPOSITORY / "bundles" / name / "configs" / f"{config}.json").read_text())
        differing |= {key for key in {*planned, *shipped} if planned.get(key) != shipped.get(key)}
    # The keys of a plan follow from the data.
    assert differing - set(plan.keys) == BY_HAND[name]
