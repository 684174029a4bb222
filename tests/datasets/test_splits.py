"""Splits are reproducible, keep patients together, and survive writing and reading."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from custom_nets.datasets.splits import (
    apply_split,
    load_folds,
    load_split,
    save_split,
    split_cases,
    split_folds,
    split_section,
)
from custom_nets.errors import InputError


def make_items(number):
    return [{"case": f"BraTS20_Training_{n:03}"} for n in range(1, number + 1)]


def names(split):
    return {section: [item["case"] for item in items] for section, items in split.items()}


class TestSplitCases:
    def test_published_size(self):
        split = split_cases(make_items(369), validation=45)
        assert (len(split["training"]), len(split["validation"])) == (324, 45)

    def test_is_the_same_on_every_platform(self):
        # From coreutils: for n in 1..8, `printf '0:BraTS20_Training_%03d' $n | sha256sum`; the smallest two.
        expected = ["BraTS20_Training_001", "BraTS20_Training_004"]
        assert names(split_cases(make_items(8), validation=2))["validation"] == expected

    def test_does_not_depend_on_the_order_of_the_list(self):
        items = make_items(20)
        shuffled = random.Random(1).sample(items, len(items))
        assert split_cases(shuffled) == split_cases(items)

    def test_seeds_differ(self):
        assert split_cases(make_items(20), seed=0) != split_cases(make_items(20), seed=1)

    def test_another_case_does_not_reshuffle_the_others(self):
        before = set(names(split_cases(make_items(100), validation=20))["validation"])
        after = set(names(split_cases(make_items(101), validation=20))["validation"])
        assert len(before & after) >= 19

    @pytest.mark.parametrize(("fraction", "count"), [(0.2, 2), (0.25, 3), (0.01, 1), (0.0, 0)])
    def test_fraction(self, fraction, count):
        assert len(split_cases(make_items(10), validation=fraction)["validation"]) == count

    @given(st.lists(st.integers(0, 500), min_size=3, max_size=40, unique=True), st.integers(0, 9))
    def test_every_case_is_in_one_section(self, numbers, seed):
        items = [{"case": f"c{n}"} for n in numbers]
        split = names(split_cases(items, validation=1, test=1, seed=seed))
        assert sorted(case for cases in split.values() for case in cases) == sorted(item["case"] for item in items)

    @given(st.integers(4, 30), st.integers(0, 9))
    def test_time_points_of_a_patient_stay_together(self, patients, seed):
        items = [{"case": f"BraTS-GLI-{n // 2:05}-{100 + n % 2}"} for n in range(2 * patients)]
        split = names(split_cases(items, validation=0.3, test=0.3, seed=seed))
        sections = {case[:15]: section for section, cases in split.items() for case in cases}
        assert all(sections[case[:15]] == section for section, cases in split.items() for case in cases)

    @pytest.mark.parametrize(("validation", "test"), [(5, 0), (3, 2), (9, 9)])
    def test_too_few_cases(self, validation, test):
        with pytest.raises(InputError, match=r"of 5 in all leave none for training"):
            split_cases(make_items(5), validation, test)

    @pytest.mark.parametrize("wanted", [-1, 1.0, 1.5, -0.1, True, "45", float("nan")])
    def test_senseless_numbers(self, wanted):
        with pytest.raises(InputError, match="expected a number of cases"):
            split_cases(make_items(5), wanted)

    def test_case_twice(self):
        with pytest.raises(InputError, match="case BraTS20_Training_001 is in the list twice"):
            split_cases(make_items(3) + make_items(1))

    def test_section_smaller_than_any_patient(self):
        items = [{"case": f"BraTS-GLI-0000{n}-{t}"} for n in range(3) for t in (100, 101)]
        with pytest.raises(InputError, match="1 cases for validation are fewer than any patient has time points"):
            split_cases(items, validation=1)


class TestFiles:
    @pytest.fixture
    def file(self, tmp_path):
        file = tmp_path / "made" / "split.json"
        save_split(file, split_cases(make_items(10), validation=2, test=1, seed=5), seed=5)
        return file

    def test_round_trip(self, file):
        assert load_split(file) == names(split_cases(make_items(10), validation=2, test=1, seed=5))

    def test_seed_and_counts_are_written(self, file):
        record = json.loads(file.read_text())
        assert (record["seed"], record["counts"]) == (5, {"training": 7, "validation": 2, "test": 1})

    def test_nothing_else_is_left_behind(self, file):
        assert [entry.name for entry in file.parent.iterdir()] == ["split.json"]

    def test_apply(self, file):
        assert names(apply_split(make_items(10), file)) == load_split(file)

    def test_cases_missing_from_the_folder(self, file):
        with pytest.raises(
            InputError, match=r"split.json: 3 of 10 cases are not in the data set: BraTS20_Training_008"
        ):
            apply_split(make_items(7), file)

    def test_only_the_wanted_section_must_be_there(self, file):
        held = [{"case": case} for case in load_split(file)["validation"]]
        assert len(apply_split(held, file, ["validation"])["validation"]) == 2

    def test_cases_that_the_split_does_not_name(self, file, caplog):
        apply_split(make_items(12), file)
        assert "does not name 2 cases of the data set: BraTS20_Training_011, BraTS20_Training_012" in caplog.text

    @pytest.mark.parametrize("content", ["", "[]", "{}", '{"training": "all"}', '{"training": [1]}'])
    def test_no_split(self, tmp_path, content):
        (tmp_path / "x.json").write_text(content)
        with pytest.raises(InputError, match=r"x.json.*delete it to have it made again"):
            load_split(tmp_path / "x.json")

    def test_case_in_two_sections(self, tmp_path):
        (tmp_path / "x.json").write_text('{"training": ["a", "b"], "validation": ["b"]}')
        with pytest.raises(InputError, match="b in two places"):
            load_split(tmp_path / "x.json")

    def test_place_that_cannot_be_written(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(InputError, match="cannot be written"):
            save_split(tmp_path / "file" / "split.json", {"training": ["a"]})


class TestSection:
    def test_made_and_written(self, tmp_path):
        training = split_section(make_items(10), "training", tmp_path / "s.json", validation=3)
        assert [item["case"] for item in training] == load_split(tmp_path / "s.json")["training"]

    def test_without_a_file_nothing_is_written(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        split_section(make_items(10), "training")
        assert not list(tmp_path.iterdir())

    def test_another_seed_than_the_file_warns(self, tmp_path, caplog):
        split_section(make_items(10), "training", tmp_path / "s.json")
        split_section(make_items(10), "training", tmp_path / "s.json", seed=1)
        assert "was made with seed 0, seed 1 has no effect" in caplog.text

    def test_empty_section(self):
        with pytest.raises(InputError, match=r"section 'test' is empty; ask for cases \(test=...\)"):
            split_section(make_items(10), "test")

    def test_unknown_section(self):
        with pytest.raises(InputError, match="section 'train' is unknown; expected one of training, validation, test"):
            split_section(make_items(10), "train")


class TestFolds:
    @given(st.integers(9, 40), st.integers(2, 6), st.integers(0, 3), st.integers(0, 9))
    def test_every_case_is_in_one_fold_or_in_the_test(self, number, folds, test, seed):
        parts, tested = split_folds(make_items(number), folds, test, seed)
        assert sorted(case for part in [*parts, tested] for case in part) == [
            each["case"] for each in make_items(number)
        ]
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= 1
        assert (len(parts), len(tested)) == (folds, test)

    @given(st.integers(4, 30), st.integers(0, 9))
    def test_time_points_of_a_patient_stay_together(self, patients, seed):
        items = [{"case": f"BraTS-GLI-{n // 2:05}-{100 + n % 2}"} for n in range(2 * patients)]
        parts, tested = split_folds(items, folds=3, test=2, seed=seed)
        homes = {case[:15]: number for number, part in enumerate([*parts, tested]) for case in part}
        assert all(homes[case[:15]] == number for number, part in enumerate([*parts, tested]) for case in part)

    def test_sections_of_all_folds_cover_the_cases_once(self, tmp_path):
        items, seen, file = make_items(20), [], tmp_path / "split.json"
        for fold in range(4):
            parts = {
                section: {item["case"] for item in split_section(items, section, file, test=2, fold=fold, folds=4)}
                for section in ("training", "validation", "test")
            }
            assert not parts["training"] & parts["validation"]
            assert not parts["test"] & (parts["training"] | parts["validation"])
            seen += parts["validation"]
        assert len(seen) == len(set(seen)) == 18
        # The file's own sections are those of the fold that made it, for inference, which knows no folds.
        assert load_split(file)["validation"] == load_folds(file)[0][0]

    def test_a_folder_of_its_own_gives_the_same_folds(self, tmp_path):
        for fold in (0, 1):
            split_section(make_items(10), "training", tmp_path / f"{fold}.json", fold=fold, folds=2)
        assert load_folds(tmp_path / "0.json") == load_folds(tmp_path / "1.json")

    @pytest.mark.parametrize(
        ("options", "fault"),
        [
            ({"fold": 3, "folds": 3}, "fold=3: the split has the folds 0 to 2"),
            ({"fold": -1, "folds": 3}, "fold=-1: the split has the folds 0 to 2"),
            ({"fold": 0, "folds": 1}, "folds=1: expected a number from 2 to 9"),
            ({"fold": 0, "folds": 10}, "folds=10: expected a number from 2 to 9"),
        ],
    )
    def test_senseless_folds(self, options, fault):
        with pytest.raises(InputError, match=fault):
            split_section(make_items(10), "training", test=1, **options)

    def test_a_split_without_folds_is_refused(self, tmp_path):
        split_section(make_items(10), "training", tmp_path / "split.json")
        with pytest.raises(InputError, match="holds no folds; give another split_file"):
            split_section(make_items(10), "training", tmp_path / "split.json", fold=0)
        save_split(tmp_path / "twice.json", {"training": ["a"]}, folds=[["a"], ["a"]], fold=0)
        with pytest.raises(InputError, match="a in two folds"):
            load_folds(tmp_path / "twice.json")
