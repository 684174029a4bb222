"""The page of results: every case, its volumes and files, whatever its name."""

import csv
import json
import re

import pytest
from ignite.engine import Engine

from custom_nets.handlers import ResultsPage
from custom_nets.handlers.results_page import PAGE, TABLE, write_results_page
from custom_nets.transforms.saving.case_files import result_file


def write_case(folder, case, volumes, label=None, picture=True, orientation="qform"):
    for suffix, numbers in (("", volumes), ("_label", label)):
        if numbers is not None:
            file = result_file(folder, case, f"_volumes{suffix}.json")
            file.parent.mkdir(parents=True, exist_ok=True)
            regions = {name: {"ml": ml} for name, ml in numbers.items()}
            file.write_text(json.dumps({"case": case, "orientation": orientation, "regions": regions}))
    if picture:
        result_file(folder, case, "_overlay.png").write_bytes(b"")


def rows(folder):
    with (folder / TABLE).open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_lists_every_case_with_its_volumes(tmp_path):
    write_case(tmp_path, "a", {"WT": 31.25, "TC": 0.0}, label={"WT": 30.0, "TC": 1.0})
    write_case(tmp_path, "b", {"WT": 2.0}, picture=False)
    write_results_page(tmp_path, left_out=["case c: no image"])
    assert rows(tmp_path) == [
        ["case", "WT_ml", "TC_ml", "WT_label_ml", "TC_label_ml"],
        ["a", "31.25", "0.0", "30.0", "1.0"],
        ["b", "2.0", "", "", ""],
    ]
    page = (tmp_path / PAGE).read_text()
    assert "2 cases, 1 left out" in page
    assert "<li>case c: no image</li>" in page
    assert re.search(r">31\.2\s*<small>/ 30\.0</small>", page)
    assert page.count("<img") == 1


@pytest.mark.parametrize("case", ["<script>alert(1)</script>", 'a"b', "50 %", "Müller", "x#y?z"])
def test_any_name_is_shown_as_it_is(tmp_path, case):
    write_case(tmp_path, case, {"WT": 1.0})
    write_results_page(tmp_path)
    page = (tmp_path / PAGE).read_text(encoding="utf-8")
    assert "<script>alert" not in page
    links = re.findall(r'(?:href|src)="([^"]+_overlay\.png)"', page)
    assert links
    assert not re.search(r"[ #?<>]", links[0])
    assert rows(tmp_path)[1][0] == case


def test_loads_nothing_from_elsewhere(tmp_path):
    write_case(tmp_path, "a", {"WT": 1.0})
    write_results_page(tmp_path)
    assert not re.search(r"https?://|//cdn", (tmp_path / PAGE).read_text())


def test_what_is_no_result_is_passed_over(tmp_path):
    write_results_page(tmp_path)
    assert not (tmp_path / PAGE).exists()
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "x_volumes.json").write_text("{")
    write_case(tmp_path, "a", {"WT": 1.0}, orientation="unknown")
    write_results_page(tmp_path)
    assert len(rows(tmp_path)) == 2
    assert "does not tell left from right" in (tmp_path / PAGE).read_text()


def test_is_written_at_the_end_of_an_inference(tmp_path):
    write_case(tmp_path, "a", {"WT": 1.0})
    engine = Engine(lambda engine, batch: None)
    ResultsPage(tmp_path, tmp_path / "no_model.pt").attach(engine)
    engine.run([0])
    assert "1 case;" in (tmp_path / PAGE).read_text()
