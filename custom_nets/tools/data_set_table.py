"""The table of data sets in the documents, from their records."""

from __future__ import annotations

from custom_nets.datasets.layouts import LAYOUTS
from custom_nets.datasets.record import Record, shipped_records


def data_set_table() -> str:
    """Returns a Markdown table with a row for each record that comes with the package."""
    head = ["| name | data set | looks like | channels | label numbers | regions | licence |", "|" + " --- |" * 7]
    return "\n".join([*head, *(_row(record) for record in shipped_records())]) + "\n"


def _row(record: Record) -> str:
    labels = record.labels
    numbers = labels.meanings if labels else "none"
    regions = "; ".join(f"{r.name} {{{', '.join(map(str, r.numbers))}}}" for r in labels.regions) if labels else "none"
    looks = "; or ".join(f"`{LAYOUTS[layout].looks_like(record)}`" for layout in record.layouts)
    cells = [f"`{record.name}`", record.title, looks, ", ".join(record.channel_names), numbers, regions, record.licence]
    return f"| {' | '.join(cells)} |"
