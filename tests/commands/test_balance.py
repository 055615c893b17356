"""`histo balance` from the command line: counts, cleaning, splits, seeds, refusals."""

import csv
import json
from collections import Counter

import pytest

from tests.cli import empty_fixture, histo_fixture, one_thread_fixture  # noqa: F401


def subset(histo):
    with (histo.root / "manifests" / "balanced.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_half_of_each_class_and_no_slide_on_both_sides(histo):
    result = histo("balance", "--n", 100, "--val-fraction", 0.3, "--json")
    rows, report = subset(histo), json.loads(result.stdout)
    assert Counter(row["label"] for row in rows) == {"0": 50, "1": 50}
    slides = {part: {row["slide"] for row in rows if row["split"] == part} for part in ("train", "val")}
    assert slides["train"].isdisjoint(slides["val"])
    assert report["split"] == "slide"
    assert not report["leaks"]
    for part, counts in report["counts"].items():
        mine = [row for row in rows if row["split"] == part]
        assert counts["positive"] == sum(row["label"] == "1" for row in mine)
        assert counts["negative"] == sum(row["label"] == "0" for row in mine)
        assert counts["slides"] == len(slides[part])
    assert json.loads((histo.root / "metrics" / "balance.json").read_text()) == report


def test_the_table_shows_the_counts_and_what_was_dropped(histo):
    result = histo("balance", "--n", 100)
    assert result.stdout == ""
    dropped = json.loads((histo.root / "metrics" / "balance.json").read_text())["dropped"]
    assert dropped["duplicates"] > 0
    for what, count in dropped.items():
        assert (f"{count} {what}" in result.stderr) == (count > 0)
    cells = [line.split() for line in result.stderr.splitlines()]
    rows = {line[0]: list(map(int, line[1:])) for line in cells if line[0] in ("train", "val")}
    assert [a + b for a, b in zip(rows["train"][:2], rows["val"][:2], strict=True)] == [50, 50]
    assert "next: histo train" in result.stderr


def test_max_takes_all_there_is_and_more_is_refused_with_that_number(histo):
    report = json.loads(histo("balance", "--n", "max", "--json").stdout)
    assert report["n"] == 2 * min(report["available"].values())
    error, hint = histo.fails("balance")
    assert "--n 160000 asks for 80,000 of each class" in error
    assert hint == f"the largest n possible is --n {report['n']}"
    histo("balance", "--n", report["n"])


@pytest.mark.parametrize(("n", "code", "why"), [("7", 1, "halved"), ("0", 1, "halved"), ("abc", 2, "whole number")])
def test_a_number_that_will_not_do(histo, n, code, why):
    error, hint = histo.fails("balance", "--n", n, code=code)
    assert f"--n {n}" in error
    assert why in error
    assert "even number" in hint


@pytest.mark.parametrize("fraction", ["0", "1", "-0.5", "nan"])
def test_a_fraction_that_will_not_do(histo, fraction):
    error, _ = histo.fails("balance", "--n", 40, "--val-fraction", fraction, code=2)
    assert "--val-fraction" in error


def test_the_seed_decides_every_byte(histo):
    def drawn(seed):
        histo("balance", "--n", 60, "--seed", seed)
        return (histo.root / "manifests" / "balanced.csv").read_bytes()

    assert drawn(1) == drawn(1) != drawn(2)


def test_a_random_split_leaks_and_says_so(histo):
    result = histo("balance", "--n", 100, "--val-fraction", 0.2, "--split", "random", "--json")
    assert "warning: a random split leaks" in result.stderr
    assert json.loads(result.stdout)["leaks"]
    assert Counter((row["split"], row["label"]) for row in subset(histo)) == {
        ("train", "0"): 40,
        ("train", "1"): 40,
        ("val", "0"): 10,
        ("val", "1"): 10,
    }


def without_slides(histo):
    path = histo.root / "manifests" / "synthetic.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(row | {"slide": ""} for row in rows)


def test_where_no_slide_is_known_the_split_is_random_and_by_slide_is_refused(histo):
    without_slides(histo)
    assert "a random split leaks" in histo("balance", "--n", 40).stderr
    error, hint = histo.fails("balance", "--n", 40, "--split", "slide")
    assert "slides of synthetic are not known" in error
    assert "--slides" in hint


def test_a_missing_data_set_names_those_there_are(empty, histo):
    error, hint = histo.fails("balance", "--data", "nothing")
    assert (error, hint) == ("there is no data set 'nothing'", "choose --data from synthetic")
    error, hint = empty.fails("balance")
    assert "histo download" in hint


def test_of_several_data_sets_one_must_be_named(histo):
    histo("download", "--source", "synthetic", "--n", 120, "--seed", 5, "--name", "second")
    error, hint = histo.fails("balance", "--n", 40)
    assert "'kaggle'" in error
    assert hint == "choose --data from second, synthetic"
    histo("balance", "--n", 20, "--data", "second", "--split", "random")
    assert {row["data"] for row in subset(histo)} == {"second"}


def test_held_out_patches_are_never_drawn(empty, shared_data):
    empty("download", "--from", shared_data / "kaggle_layout.zip")
    empty("balance", "--n", "max")
    with (empty.root / "manifests" / "kaggle.csv").open(newline="") as file:
        test = {row["id"] for row in csv.DictReader(file) if row["split"] == "test"}
    assert len(test) == 28
    assert test.isdisjoint(row["id"] for row in subset(empty))


def test_a_manifest_damaged_in_an_editor_is_named_with_its_line(histo):
    path = histo.root / "manifests" / "synthetic.csv"
    lines = path.read_text().splitlines()
    fields = lines[7].split(",")
    lines[7] = ",".join([fields[0], "tumour", *fields[2:]])
    path.write_text("\n".join(lines) + "\n")
    error, _ = histo.fails("balance", "--n", 40)
    assert f"{path}, line 8, column label: 'tumour' is not 0, 1 or empty" in error
