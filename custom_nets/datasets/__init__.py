"""Data sets: layouts, checks, splits, data lists, preprocessed cases on the disk."""

from custom_nets.datasets.brats import brats_cases, brats_datalist, brats_split
from custom_nets.datasets.cache import PersistentCaseDataset
from custom_nets.datasets.hashing import hash_case, hash_settings
from custom_nets.datasets.kinds import recognise
from custom_nets.datasets.lits import describe_cases, lits_cases, lits_datalist, lits_split
from custom_nets.datasets.splits import apply_split, load_split, save_split, split_cases
from custom_nets.datasets.validation import check_ct_case, check_datalist

__all__ = [
    "PersistentCaseDataset",
    "apply_split",
    "brats_cases",
    "brats_datalist",
    "brats_split",
    "check_ct_case",
    "check_datalist",
    "describe_cases",
    "hash_case",
    "hash_settings",
    "lits_cases",
    "lits_datalist",
    "lits_split",
    "load_split",
    "recognise",
    "save_split",
    "split_cases",
]
