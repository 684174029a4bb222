"""A bundle in a Python program: images in memory or on the disk in, label map, regions, volumes and surfaces out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from custom_nets.datasets import datalist
from custom_nets.errors import InputError, find_input_error, first_names
from custom_nets.io.orientation import make_header
from custom_nets.io.readers import FORMS_KEY
from custom_nets.logs import quiet
from custom_nets.tools.bundle_config import read_bundle
from custom_nets.tools.images import in_order, is_path, read_image
from custom_nets.transforms.saving.meshes import Space, as_array, region_mesh

_OF_FILES = ("save_meshes", "save_overlay", "output_dir", "skip_existing", "split_file", "dataset_dir")
"""Keys about files, of which a result in memory has none."""


@dataclass(frozen=True)
class Segmentation:
    """What a bundle finds in an image, on the image's own grid.

    Args:
        case: name of the case.
        regions: names of the regions.
        labels: the label map, uint8 `[H, W, D]`, with the numbers that the bundle writes.
        probabilities: of each region, `[R, H, W, D]`, after the bundle's postprocessing.
        affine: voxel indices to RAS millimetres `[4, 4]`.
        volumes_ml: millilitres of each region.
        label_numbers: number of the label map that holds what is in a region and in no inner one.
        uncertainty: `[R, H, W, D]` where `save_uncertainty` is true: the standard deviation over flips and checkpoints.
        forms: what a NIfTI header says of the place, see `make_header`.
    """

    case: str
    regions: tuple[str, ...]
    labels: np.ndarray = field(repr=False)
    probabilities: np.ndarray = field(repr=False)
    affine: np.ndarray = field(repr=False)
    volumes_ml: Mapping[str, float]
    label_numbers: Mapping[str, int]
    uncertainty: np.ndarray | None = field(default=None, repr=False)
    forms: str = field(default="", repr=False)

    @property
    def masks(self) -> dict[str, np.ndarray]:
        """Each region as a mask, bool `[H, W, D]`; regions may lie within each other."""
        return {name: part > 0.5 for name, part in zip(self.regions, self.probabilities, strict=True)}

    def meshes(self, space: Space = "RAS") -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Returns the surface of each region that is not empty: vertices `[V, 3]` in millimetres, triangles `[T, 3]`.

        Args:
            space: RAS or LPS.
        """
        found = {
            name: region_mesh(part, self.affine, space=space)
            for name, part in zip(self.regions, self.probabilities, strict=True)
        }
        return {name: mesh for name, mesh in found.items() if mesh is not None}

    def to_nibabel(self) -> nib.Nifti1Image:
        """Returns the label map as an image of nibabel, placed as the input was."""
        header = make_header(self.affine, self.forms)
        header.set_data_dtype(np.uint8)
        return nib.Nifti1Image(self.labels, header.get_best_affine(), header)  # the header's own: it stays as it is


class Predictor:
    """A trained bundle that is read once and called for many images.

    Everything comes from the bundle's own inference config: reading, checks, preprocessing, network, search and
    postprocessing. So a result equals, voxel for voxel, what `custom-nets infer` writes. Nothing is written.

    Args:
        bundle: its folder, with weights in `models/model.pt` (else give `load_model`).
        configs: names of config files after inference.json, such as `variant`; one or several.
        keys: of the bundle, such as `device="cuda:1"`, `load_model="FILE"`, `mirror_axes=[0, 1, 2]`.

    Attributes:
        modalities: channels of an image, by name.
        regions: names of the regions.

    Raises:
        InputError: when the bundle or the weights cannot be read, or a key is unknown or makes no sense.
    """

    def __init__(self, bundle: str | Path, configs: str | Sequence[str] = (), **keys: Any) -> None:
        idle = [key for key in keys if key in _OF_FILES]
        if idle:
            msg = f"{idle[0]} has no effect on a result in memory; leave it out"
            raise InputError(msg)
        with quiet():
            parser, _ = read_bundle(bundle, configs, {"save_overlay": False, "num_workers": 0, **keys})
            parser["dataset#_target_"] = "Dataset"  # a fault is raised, and not noted for others to go on
            parser["dataset#data"] = [None]
            parser["evaluator#_target_"] = "SupervisedEvaluator"
            parser["handlers"] = []
            # In the places of what writes: what it would write is kept.
            parser["save_results"] = {"_target_": "CopyItemsd", "keys": "pred", "names": "regions"}
            if "save_map" in parser:
                parser["save_map#_disabled_"] = True
            parser.parse(reset=True)
            self.regions: tuple[str, ...] = tuple(parser.get_parsed_content("regions"))
            self.modalities: tuple[str, ...] = tuple(parser.get_parsed_content("modalities"))
            self._how_to_list = {
                "dataset": parser.get_parsed_content("dataset_record"),
                "missing_modalities": bool(parser.get("missing_modalities")),
            }
            self._parser = parser
            self._dataset = parser.get_parsed_content("dataset")
            parser.get_parsed_content("load_weights")(self._new_evaluator())

    def __call__(self, image: Any, affine: Any = None, case: str = "image") -> Segmentation:
        """Segments one image.

        Args:
            image: a path as `custom-nets infer` takes it (the folder of a case, a file, a folder of a DICOM series);
                several paths, one a modality (by their names, else in the order of the modalities); an image of
                nibabel, SimpleITK or itk; an array or tensor `[C, H, W, D]` (`[H, W, D]` with one channel); a list of
                these, one a modality; or a mapping from the names of the modalities to paths or images.
            affine: of an array or plain tensor: voxel indices to RAS millimetres `[4, 4]`.
            case: name of an image that comes without a file.

        Raises:
            InputError: when the image cannot be read or does not fit the network, or there are several cases.
        """
        try:
            with quiet():
                self._dataset.data = [self._item(image, affine, case)]
                evaluator = self._new_evaluator()
                evaluator.run()
            return self._result(self._dataset.data[0]["case"], evaluator.state.output[0])
        except Exception as error:
            message = find_input_error(error)
            if message is None or isinstance(error, InputError):
                raise
            raise InputError(message) from error
        finally:
            self._dataset.data = [None]

    def _new_evaluator(self) -> Any:
        """Returns an evaluator: a run that failed cannot be started again. What it runs is made once."""
        self._parser.ref_resolver.remove_resolved_content("evaluator")
        evaluator = self._parser.get_parsed_content("evaluator")
        evaluator.logger.setLevel("CRITICAL")  # ignite tells an error that is raised all the same
        return evaluator

    def _item(self, image: Any, affine: Any, case: str) -> dict[str, Any]:
        """Returns the item of a data list."""
        if isinstance(image, Mapping):
            image = in_order(image, self.modalities)
            if all(map(is_path, image)):
                return {"case": case, "image": [str(path) for path in image]}
        several = isinstance(image, (list, tuple)) and bool(image) and all(map(is_path, image))
        if not several and not is_path(image):
            return {"case": case, "image": read_image(image, self.modalities, affine)}
        places = [str(path) for path in image] if several else str(image)
        items = datalist(places, "ignore", modalities=self.modalities, **self._how_to_list)
        if len(items) > 1:
            named = first_names([item["case"] for item in items])
            msg = f"{image}: {len(items)} cases ({named}); expected one, call it for each"
            raise InputError(msg)
        return items[0]

    def _result(self, case: str, found: Mapping[str, Any]) -> Segmentation:
        labels, uncertainty = found["pred"], found.get("uncertainty")
        return Segmentation(
            case=str(case),
            regions=self.regions,
            labels=as_array(labels)[0],
            probabilities=as_array(found["regions"]),
            affine=np.asarray(labels.affine.cpu(), dtype=np.float64),
            volumes_ml=found["result"]["volumes_ml"],
            label_numbers=found["result"]["label_numbers"],
            uncertainty=None if uncertainty is None else as_array(uncertainty),
            forms=str(labels.meta.get(FORMS_KEY) or ""),
        )


def infer(
    image: Any, bundle: str | Path, configs: str | Sequence[str] = (), *, affine: Any = None, **keys: Any
) -> Segmentation:
    """Segments one image with a trained bundle; for many, make a `Predictor` once.

    Args:
        image: see `Predictor.__call__`.
        bundle: see `Predictor`, as for those below.
        configs: names of config files after inference.json.
        affine: of an array or plain tensor: voxel indices to RAS millimetres `[4, 4]`.
        keys: of the bundle.

    Raises:
        InputError: when the bundle or the image cannot be read, they do not fit, or a key makes no sense.
    """
    return Predictor(bundle, configs, **keys)(image, affine)
