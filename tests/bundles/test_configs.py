"""What holds for the configs of every bundle, whatever its task."""

import dataclasses
import inspect
import itertools
import json
import re
from pydoc import locate

import pytest

from custom_nets.datasets import get_record
from tests.bundles.bundle import Bundle

BUNDLES = {name: Bundle(name) for name in ("nvnet_brats", "ossnet_brats", "ossnet_lits")}
MAIN = (("train",), ("train", "evaluate"), ("inference",))
OWN_OF_ONE = {"metadata", "inference_trt", "multi_gpu_train", "multi_gpu_evaluate", "multi_gpu_inference"}
MOST_PARAMETERS = 8
FORMER_NAMES = {"reduction"}  # still taken for one release
RUN_BY_MONAI = {"imports", "initialize", "finalize", "run", "training", "evaluating", "inferring"}
every_bundle = pytest.mark.parametrize("bundle", BUNDLES.values(), ids=BUNDLES)


def names(bundle: Bundle) -> set[str]:
    return {file.stem for file in (bundle.folder / "configs").glob("*.json")}


def overrides(bundle: Bundle) -> set[str]:
    """Configs that are given after either main config."""
    return names(bundle) - {"train", "evaluate", "inference"} - OWN_OF_ONE


def targets(config) -> set[str]:
    """Names of all that a config has made."""
    parts = config.values() if isinstance(config, dict) else config if isinstance(config, list) else ()
    own = {config["_target_"]} if isinstance(config, dict) and "_target_" in config else set()
    return own.union(*map(targets, parts))


def agree(first, second) -> bool:
    """Whether two components are the same in all that both have."""
    if isinstance(first, dict) and isinstance(second, dict):
        return all(agree(first[key], second[key]) for key in set(first) & set(second))
    return first == second


@every_bundle
def test_our_constructors_are_short(bundle):
    """What takes more is a settings class; a constructor that is MONAI's own has the arguments that MONAI gave it."""
    files = (bundle.folder / "configs").glob("*.json")
    named = set().union(*(targets(json.loads(file.read_text())) for file in files))
    ours = [locate(name) for name in named if name.startswith("custom_nets.")]
    assert None not in ours
    classes = [kind for kind in ours if inspect.isclass(kind)]
    short = [kind for kind in classes if getattr(kind.__init__, "__module__", "monai").startswith("custom_nets.")]
    assert len(short) > 15
    for kind in short:
        taken = set(inspect.signature(kind).parameters) - FORMER_NAMES
        assert len(taken) <= MOST_PARAMETERS or dataclasses.is_dataclass(kind), f"{kind.__name__}: {sorted(taken)}"


@every_bundle
def test_training_and_inference_differ_where_they_must(bundle):
    """In all else they agree, under every override: network, preprocessing, search, numbers of labels."""
    must = {"output_dir", "load_model", "num_workers", "split_file", "initialize", "run", "invert"}
    must |= {"inferer", "member_inferer", "voxel_warnings", "load_weights", "ensemble"}
    must |= {"missing_modalities"} if bundle.name != "ossnet_lits" else set()
    must |= {"vae", "network_def"} if bundle.name == "nvnet_brats" else set()
    for override in [(), *((name,) for name in overrides(bundle))]:
        training, inference = (bundle.parse(main, *override).config for main in ("train", "inference"))
        differing = {key for key in set(training) & set(inference) if training[key] != inference[key]}
        assert differing <= must
        for key in {"network_def", "inferer", "member_inferer", "invert", "load_weights"} & differing:
            assert agree(training[key], inference[key])


@every_bundle
def test_evaluation_and_inference_see_and_clean_alike(bundle):
    training, inference = bundle.parse("train", "evaluate"), bundle.parse("inference")
    assert training["load_model"] == inference["load_model"]
    assert training["load_weights"] == inference["load_weights"]
    steps = [step for step in training["validate#postprocessing#transforms"] if step not in ("@invert", "@threshold")]
    assert all(step in inference["postprocessing#transforms"] for step in steps)
    if bundle.name == "nvnet_brats":
        assert training["missing_modalities"] == inference["missing_modalities"]
        assert training["vae"] is inference["vae"] is False


@every_bundle
def test_every_reference_leads_somewhere(bundle):
    for main, override in itertools.product(MAIN, [(), *((name,) for name in overrides(bundle))]):
        parser = bundle.parse(*main, *override)
        parser.resolve_macro_and_relative_ids()
        text = json.dumps(parser.get())
        assert '"%' not in text
        lost = {item for item in re.findall(r"@([\w:]+)", text) if item not in parser}
        if main != ("inference",):  # an override's steps of training stay unused there
            assert lost == set()


@every_bundle
def test_every_key_is_used(bundle):
    """A key of a main config is read in some config; one of an override besides is the main configs' or its own."""
    texts = {name: (bundle.folder / "configs" / f"{name}.json").read_text() for name in names(bundle) - {"metadata"}}
    main = {**bundle.parse("train", "evaluate").config, **bundle.parse("inference").config}
    read = {key for key in main if any(re.search(rf"[@%]{key}\b", text) for text in texts.values())}
    values = {key for key, value in main.items() if not isinstance(value, dict)}
    assert values - read - RUN_BY_MONAI == {"debug"}  # which is asked of the workflow
    for name, text in texts.items():
        keys = {key.removeprefix("+").split("#")[0] for key in json.loads(text)} - RUN_BY_MONAI
        assert {key for key in keys - set(main) if f"@{key}" not in text} == set(), name


@every_bundle
def test_no_step_is_picked_by_its_position(bundle):
    for name in names(bundle):
        assert not re.search(r"[@%][\w#:]*(#|::)\d", (bundle.folder / "configs" / f"{name}.json").read_text())


@pytest.mark.parametrize("name", ["nvnet_brats", "ossnet_brats"])
def test_channels_are_in_the_order_of_the_data_lists(name):
    assert tuple(BUNDLES[name].parse("train")["modalities"]) == get_record("brats2018").channel_names
