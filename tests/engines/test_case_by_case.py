"""A case that fails is left out, whatever its fault; the others go on."""

import pytest
import torch
from monai.data import DataLoader
from monai.inferers import SimpleInferer
from monai.transforms import Compose, Lambdad, MapTransform

from custom_nets.engines import CaseDataset, CaseEvaluator
from custom_nets.errors import InputError


class Read(MapTransform):
    """Fails as told by the entry."""

    def __call__(self, data):
        item = dict(data)
        for key in self.key_iterator(item):
            if isinstance(item[key], str):
                raise InputError(f"case {item['case']}, file {key}: {item[key]}")
            if isinstance(item[key], Exception):
                raise item[key]
            item[key] = torch.full((1, 4, 4, 4), float(item[key]))
        return item


class CaseList(list):
    left_out = ("case Z, file z: damaged",)


def infer(items, network=None, workers=0, postprocessing=None):
    """Returns the cases inferred, and what the run raised."""
    done = []
    keep = Lambdad("case", lambda case: done.append(case) or case)
    dataset = CaseDataset(items, Read(["image", "label"], allow_missing_keys=True))
    evaluator = CaseEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(dataset, batch_size=1, num_workers=workers),
        network=network or torch.nn.Identity(),
        inferer=SimpleInferer(),
        postprocessing=Compose([*(postprocessing or []), keep]),
    )
    try:
        evaluator.run()
    except (SystemExit, InputError) as error:
        return done, error
    return done, None


def cases(**images):
    return [{"case": case, "image": image} for case, image in images.items()]


def test_all_good():
    assert infer(cases(A=1, B=2)) == (["A", "B"], None)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("fault", ["damaged", RuntimeError("odd\nlong"), MemoryError("no memory")])
def test_one_that_cannot_be_read(fault, workers, caplog):
    done, error = infer(cases(A=1, B=fault, C=3), workers=workers)
    assert done == ["A", "C"]
    assert isinstance(error, SystemExit)
    assert error.code == 3
    assert [message for message in caplog.messages if message.startswith("left out: case B")] == caplog.messages[-1:]


class Fails(torch.nn.Module):
    """Fails for one image."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, image):
        if image.max() == 2:
            raise self.error
        return image


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("out of memory"), ValueError("NaN")])
def test_one_whose_inference_fails(error, caplog):
    done, ended = infer(cases(A=1, B=2, C=3), Fails(error))
    assert (done, ended.code) == (["A", "C"], 3)
    assert f"case B: {type(error).__name__}: {error}" in caplog.messages[-1]


def test_one_whose_results_cannot_be_written():
    def write(image):
        if image.max() == 2:
            raise OSError("disk full")
        return image

    done, ended = infer(cases(A=1, B=2), postprocessing=[Lambdad("image", write)])
    assert (done, ended.code) == (["A"], 3)


def test_a_label_at_fault_is_a_warning(caplog):
    items = [{"case": "A", "image": 1, "label": "holds 3.5"}, {"case": "B", "image": 1, "label": 1}]
    assert infer(items) == (["A", "B"], None)
    assert caplog.messages == ["label not used: case A, file label: holds 3.5"]


def test_all_left_out():
    done, error = infer(cases(A="damaged", B="empty"))
    assert done == []
    assert str(error) == "all 2 cases were left out:\ncase A, file image: damaged\ncase B, file image: empty"


def test_cases_left_out_before_count(caplog):
    done, error = infer(CaseList(cases(A=1)))
    assert (done, error.code) == (["A"], 3)
    assert caplog.messages == []  # what listed them has named them
