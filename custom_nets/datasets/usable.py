"""The cases of a data list that inference can use."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from custom_nets.datasets.case_record import save_case_record
from custom_nets.datasets.splits import Section, apply_split
from custom_nets.datasets.validation import Check, Item, check_datalist, raise_faults

logger = logging.getLogger(__name__)


def usable_cases(
    items: Sequence[Item],
    check: Check,
    dataset_dir: str | os.PathLike,
    split_file: str | os.PathLike | None,
    section: Section,
    record: str | os.PathLike | None,
) -> list[Item]:
    """Returns the cases to infer: a faulty one is logged and left out, so that it does not stop the others.

    Args:
        items: a data list, labels optional.
        check: of one case.
        dataset_dir: where the items were found, for messages.
        split_file: an existing split, to infer the cases of one section alone; None takes all.
        section: of that split.
        record: JSON file that is written with the grid of each case, faulty ones too; None writes none.

    Raises:
        InputError: when no case can be used, or the split does not belong to the data set.
    """
    if split_file is not None:
        items = apply_split(items, split_file, (section,))[section]
    if record is not None:
        save_case_record(record, items)
    good, faults = check_datalist(items, check=check)
    if not good:
        raise_faults(faults or [f"{dataset_dir}: no case in section '{section}' of {split_file}"], len(items))
    for fault in faults:
        logger.error("left out: %s", fault)
    return good
