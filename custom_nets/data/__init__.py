"""Data sets: layouts, splits, downloads, synthetic cases, preprocessed cases on the disk."""

from custom_nets.data.abdomen_phantoms import abdomen_phantom, write_abdomen_phantoms
from custom_nets.data.brats import brats_cases, brats_datalist, brats_split
from custom_nets.data.caching import PersistentCaseDataset
from custom_nets.data.checks import check_ct_case, check_datalist
from custom_nets.data.download import download_msd
from custom_nets.data.hashing import hash_case, hash_settings
from custom_nets.data.kinds import recognise
from custom_nets.data.lits import describe_cases, lits_cases, lits_datalist, lits_split
from custom_nets.data.phantoms import brain_phantom, write_brain_phantoms
from custom_nets.data.splits import apply_split, load_split, save_split, split_cases
from custom_nets.data.stacking import stack_case
from custom_nets.data.submission import check_submission, write_submission

__all__ = [
    "PersistentCaseDataset",
    "abdomen_phantom",
    "apply_split",
    "brain_phantom",
    "brats_cases",
    "brats_datalist",
    "brats_split",
    "check_ct_case",
    "check_datalist",
    "check_submission",
    "describe_cases",
    "download_msd",
    "hash_case",
    "hash_settings",
    "lits_cases",
    "lits_datalist",
    "lits_split",
    "load_split",
    "recognise",
    "save_split",
    "split_cases",
    "stack_case",
    "write_abdomen_phantoms",
    "write_brain_phantoms",
    "write_submission",
]
