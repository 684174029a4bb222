"""What a loader hands to its processes can be pickled, as spawn (macOS, Windows) and forkserver need it."""

import pickle
from multiprocessing.reduction import ForkingPickler

import pytest
import torch

from tests.bundles.bundle import SMALLEST, Bundle


def handed_over(loader):
    return loader.dataset, loader.collate_fn, loader.worker_init_fn


@pytest.mark.parametrize("name", SMALLEST)
@pytest.mark.parametrize("step", ["train", "inference"])
def test_a_loader_can_be_handed_to_a_new_process(name, step, data_of, tmp_path):
    places = {"dataset_dir": str(data_of[name]), "output_dir": str(tmp_path), "ckpt_dir": str(tmp_path)}
    parser = Bundle(name).parse(step, **SMALLEST[name], **places, device="cpu", workflow=None, num_workers=1)
    for id_ in ("train#dataloader", "validate#dataloader") if step == "train" else ("dataloader",):
        sent = handed_over(parser.get_parsed_content(id_))
        got = pickle.loads(ForkingPickler.dumps(sent))
        batches = []
        for dataset, collate, _ in (sent, got):
            dataset.transform.set_random_state(seed=0)
            batches.append(collate([dataset[0]]))
        assert batches[0].keys() == batches[1].keys()
        assert torch.equal(*(batch["image"].as_tensor() for batch in batches)), id_
