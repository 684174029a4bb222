"""Data sets: records, recognition, checks, splits, data lists, preprocessed cases on the disk."""

from custom_nets.datasets.cache import PersistentCaseDataset
from custom_nets.datasets.datalists import cases_to_infer, datalist, labelled_cases
from custom_nets.datasets.discovery import recognise
from custom_nets.datasets.hashing import hash_case, hash_settings
from custom_nets.datasets.oddities import describe_cases
from custom_nets.datasets.record import Record, get_record, record_names
from custom_nets.datasets.splits import apply_split, load_folds, load_split, save_split, split_cases, split_folds
from custom_nets.datasets.validation import check_case, check_datalist

__all__ = [
    "PersistentCaseDataset",
    "Record",
    "apply_split",
    "cases_to_infer",
    "check_case",
    "check_datalist",
    "datalist",
    "describe_cases",
    "get_record",
    "hash_case",
    "hash_settings",
    "labelled_cases",
    "load_folds",
    "load_split",
    "recognise",
    "record_names",
    "save_split",
    "split_cases",
    "split_folds",
]
