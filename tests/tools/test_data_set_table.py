"""The documents' table of data sets is that of the records."""

from custom_nets.tools.data_set_table import data_set_table
from tests.conftest import REPOSITORY


def test_the_table_is_up_to_date():
    page = (REPOSITORY / "docs" / "data_sets.md").read_text(encoding="utf-8")
    begin, end = "<!-- data sets: begin -->\n", "<!-- data sets: end -->"
    assert page.split(begin)[1].split(end)[0] == data_set_table(), "put data_set_table() between the marks of the page"
