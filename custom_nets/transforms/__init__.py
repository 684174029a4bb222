"""Transforms: input checks, regions, training points, result files."""

from custom_nets.transforms.intensity.bias_field import CorrectBiasField, CorrectBiasFieldd
from custom_nets.transforms.intensity.foreground import is_above_least, is_foreground
from custom_nets.transforms.intensity.hounsfield import WindowHounsfield, WindowHounsfieldd, to_intensities
from custom_nets.transforms.intensity.noise import RandGaussianNoise, RandGaussianNoised
from custom_nets.transforms.intensity.normalization import NormalizeNonzero, NormalizeNonzerod
from custom_nets.transforms.loading import CheckCased, DropMissingd, LoadCased, ReloadCased
from custom_nets.transforms.points import (
    AuxiliaryTarget,
    AuxiliaryTargetd,
    BorderMap,
    BorderMapd,
    SamplePoints,
    SamplePointsd,
)
from custom_nets.transforms.postprocessing import (
    DropSmallParts,
    DropSmallPartsd,
    DropSmallRegion,
    DropSmallRegiond,
    FillRegionHoles,
    FillRegionHolesd,
    KeepLargestRegion,
    KeepLargestRegiond,
)
from custom_nets.transforms.regions import (
    LabelsToRegions,
    LabelsToRegionsd,
    NestRegions,
    NestRegionsd,
    RegionsToLabels,
    RegionsToLabelsd,
)
from custom_nets.transforms.saving.case_files import case_name
from custom_nets.transforms.saving.meshes import MeshSettings, SaveRegionMeshesd, region_mesh
from custom_nets.transforms.saving.overlay import OverlaySettings, SaveOverlayd
from custom_nets.transforms.saving.results import SaveMapsd, SaveResultsd
from custom_nets.transforms.saving.segments import SaveSegmentsd, SegmentSettings, algorithm_of
from custom_nets.transforms.saving.volumes import RegionVolumesd, SaveRegionVolumesd
from custom_nets.transforms.saving.whole_files import WholeNibabelWriter
from custom_nets.transforms.saving.writers import ResultWriters
from custom_nets.transforms.spacing import ResampleSpacingd
from custom_nets.transforms.spread import SplitSpreadd

__all__ = [
    "AuxiliaryTarget",
    "AuxiliaryTargetd",
    "BorderMap",
    "BorderMapd",
    "CheckCased",
    "CorrectBiasField",
    "CorrectBiasFieldd",
    "DropMissingd",
    "DropSmallParts",
    "DropSmallPartsd",
    "DropSmallRegion",
    "DropSmallRegiond",
    "FillRegionHoles",
    "FillRegionHolesd",
    "KeepLargestRegion",
    "KeepLargestRegiond",
    "LabelsToRegions",
    "LabelsToRegionsd",
    "LoadCased",
    "MeshSettings",
    "NestRegions",
    "NestRegionsd",
    "NormalizeNonzero",
    "NormalizeNonzerod",
    "OverlaySettings",
    "RandGaussianNoise",
    "RandGaussianNoised",
    "RegionVolumesd",
    "RegionsToLabels",
    "RegionsToLabelsd",
    "ReloadCased",
    "ResampleSpacingd",
    "ResultWriters",
    "SamplePoints",
    "SamplePointsd",
    "SaveMapsd",
    "SaveOverlayd",
    "SaveRegionMeshesd",
    "SaveRegionVolumesd",
    "SaveResultsd",
    "SaveSegmentsd",
    "SegmentSettings",
    "SplitSpreadd",
    "WholeNibabelWriter",
    "WindowHounsfield",
    "WindowHounsfieldd",
    "algorithm_of",
    "case_name",
    "is_above_least",
    "is_foreground",
    "region_mesh",
    "to_intensities",
]
