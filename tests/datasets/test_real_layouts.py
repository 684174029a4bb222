"""Real patients, copied into the layouts of other releases, give the very same images and regions."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import Compose

from custom_nets.datasets import datalist
from custom_nets.transforms import LabelsToRegionsd, LoadCased
from tests.conftest import SHARED

LGG = SHARED / "data" / "real" / "LGG_FLAIR"
CASES = ("TCGA_CS_4941_19960909", "TCGA_DU_5853_19950823")
NAMES = ("T1", "FLAIR", "T1ce")
ORDER = ("FLAIR", "T1", "T1ce")
LABELS = {"background": 0, "FLAIR abnormality": 1}

pytestmark = pytest.mark.skipif(not LGG.is_dir(), reason="the real patients are not beside this checkout")


def copy(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def split(source, targets):
    """Writes the channels of a 4D file as 3D files, their stored numbers as they are."""
    image = nib.load(source)
    for channel, target in enumerate(targets):
        target.parent.mkdir(parents=True, exist_ok=True)
        nib.save(image.slicer[..., channel], target)


def decathlon(root):
    for case in CASES:
        for part in ("imagesTr", "labelsTr"):
            copy(LGG / part / f"{case}.nii.gz", root / part / f"{case}.nii.gz")
    labels = {str(number): name for name, number in LABELS.items()}
    (root / "dataset.json").write_text(json.dumps({"modality": dict(enumerate(NAMES)), "labels": labels}))


def nnunet(root):
    for case in CASES:
        split(LGG / "imagesTr" / f"{case}.nii.gz", [root / "imagesTr" / f"{case}_{i:04}.nii.gz" for i in range(3)])
        copy(LGG / "labelsTr" / f"{case}.nii.gz", root / "labelsTr" / f"{case}.nii.gz")
    content = {"channel_names": dict(enumerate(NAMES)), "labels": LABELS, "file_ending": ".nii.gz", "numTraining": 2}
    (root / "dataset.json").write_text(json.dumps(content))


def bids(root):
    for case in CASES:
        subject = "sub-" + case.replace("_", "")
        anat = root / subject / "anat"
        ends = ("T1w", "FLAIR", "ce-gadolinium_T1w")
        split(LGG / "imagesTr" / f"{case}.nii.gz", [anat / f"{subject}_{end}.nii.gz" for end in ends])
        label = root / "derivatives" / "masks" / subject / "anat" / f"{subject}_dseg.nii.gz"
        copy(LGG / "labelsTr" / f"{case}.nii.gz", label)
    (root / "dataset_description.json").write_text(json.dumps({"Name": "LGG", "BIDSVersion": "1.9.0"}))
    (root / "dseg.tsv").write_text("index\tname\n1\tFLAIR abnormality\n")


@pytest.mark.parametrize("layout", [decathlon, nnunet, bids])
def test_a_layout_changes_nothing(tmp_path, layout):
    layout(tmp_path)
    items = datalist(tmp_path, modalities=ORDER)
    assert len(items) == len(CASES)
    to_regions = LabelsToRegionsd("label", dataset=items[0]["dataset"])
    read = Compose([LoadCased(["image", "label"], modalities=ORDER), to_regions])
    for case, item in zip(CASES, sorted(items, key=lambda item: item["case"]), strict=True):
        found = read(item)
        image, label = (nib.load(LGG / part / f"{case}.nii.gz") for part in ("imagesTr", "labelsTr"))
        expected = np.moveaxis(image.get_fdata(dtype=np.float32), -1, 0)[[NAMES.index(name) for name in ORDER]]
        assert np.array_equal(np.asarray(found["image"]), expected)
        assert np.array_equal(np.asarray(found["label"])[0] > 0, np.asarray(label.dataobj) == 1)
        assert np.allclose(found["image"].affine, image.affine, atol=1e-6)
