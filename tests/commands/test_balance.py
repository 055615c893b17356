"""`histo balance` from the command line: counts, cleaning, splits, overlap groups, seeds, refusals."""

import json
from collections import Counter

import pytest

from tests.cli import QUICK, read_rows, rename_slides, write_rows
from tests.data.tissue import crop, texture, write_patches


def subset(histo):
    return read_rows(histo.root / "manifests" / "balanced.csv")


def test_the_subset_has_half_of_each_class_and_no_slide_in_both_splits(histo):
    result = histo("balance", "--n", 100, "--val-fraction", 0.3, "--json")
    rows, report = subset(histo), json.loads(result.stdout)
    assert Counter(row["label"] for row in rows) == {"0": 50, "1": 50}
    slides = {part: {row["slide"] for row in rows if row["split"] == part} for part in ("train", "val")}
    assert slides["train"].isdisjoint(slides["val"])
    assert report["split"] == "slide"
    assert not report["can_leak"]
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
    words = {
        "held_out": "in a split for evaluation",
        "unlabelled": "without a label",
        "outliers": "without tissue",
        "duplicates": "duplicates of another patch",
        "leaking": "sharing pixels or a slide",
    }
    for name, count in dropped.items():
        assert (words[name] in result.stderr) == (count > 0)
        assert not count or f"{words[name]} ({count})" in result.stderr
    cells = [line.split() for line in result.stderr.splitlines()]
    rows = {line[0]: list(map(int, line[1:])) for line in cells if line[0] in ("train", "val")}
    assert [a + b for a, b in zip(rows["train"][:2], rows["val"][:2], strict=True)] == [50, 50]
    assert "next: histo train" in result.stderr


def test_max_takes_all_patches_and_a_larger_number_is_refused(histo):
    report = json.loads(histo("balance", "--n", "max", "--json").stdout)
    assert report["n"] == 2 * min(report["available"].values())
    error, hint = histo.fails("balance")
    assert "--n 160000 asks for 80,000 of each class" in error
    assert hint == f"the largest n possible is --n {report['n']}"
    histo("balance", "--n", report["n"])


@pytest.mark.parametrize(
    ("n", "why"), [("7", "is not an even number"), ("0", "is not an even number"), ("abc", "whole number above 0")]
)
def test_an_invalid_number_is_refused(histo, n, why):
    error, hint = histo.fails("balance", "--n", n, code=2)
    assert f"--n {n}" in error
    assert why in error
    assert "even number" in hint


@pytest.mark.parametrize("fraction", ["0", "1", "-0.5", "nan"])
def test_an_invalid_fraction_is_refused(histo, fraction):
    error, _ = histo.fails("balance", "--n", 40, "--val-fraction", fraction, code=2)
    assert "--val-fraction" in error


def test_the_same_seed_gives_the_same_bytes(histo):
    def draw(seed):
        histo("balance", "--n", 60, "--seed", seed)
        return (histo.root / "manifests" / "balanced.csv").read_bytes()

    assert draw(1) == draw(1) != draw(2)


def test_a_random_split_gives_a_warning_about_leaks(histo):
    result = histo("balance", "--n", 100, "--val-fraction", 0.2, "--split", "random", "--json")
    assert "warning: a random split leaks" in result.stderr
    assert json.loads(result.stdout)["can_leak"]
    assert Counter((row["split"], row["label"]) for row in subset(histo)) == {
        ("train", "0"): 40,
        ("train", "1"): 40,
        ("val", "0"): 10,
        ("val", "1"): 10,
    }


def edit(histo, change):
    """Change every row of the data set's manifest."""
    path = histo.root / "manifests" / "synthetic.csv"
    write_rows(path, list(map(change, read_rows(path))))


def without_slides(histo):
    edit(histo, lambda row: row | {"slide": ""})


def test_without_slides_and_overlaps_the_split_gives_a_warning_about_leaks(histo):
    without_slides(histo)
    result = histo("balance", "--n", "max", "--json")
    assert "no overlapping patches were found" in result.stderr
    assert "So the split is random, and one slide may have patches in train and in validation" in result.stderr
    report = json.loads(result.stdout)
    assert (report["split"], report["can_leak"]) == ("overlap", True)
    assert report["audit"]["overlaps"]["pairs"] == report["dropped"]["duplicates"]  # the source's own copies
    assert {row["overlap_group"] for row in subset(histo)} == {""}
    error, hint = histo.fails("balance", "--n", 40, "--split", "slide")
    assert "slides of synthetic are not known" in error
    assert "--slides" in hint


def test_patches_of_the_same_tissue_are_in_the_same_split(empty, tmp_path):
    """Forty places of each class, with three shifted patches of each place, named so that neighbours are apart."""
    patches = {
        f"{label}/{shift}-{place}": crop(texture((label, place)), 13 * shift, 29 * shift)
        for label in (0, 1)
        for place in range(40)
        for shift in range(3)
    }
    write_patches(tmp_path / "mine", patches)
    empty("download", "--source", "folder", "--from", tmp_path / "mine", "--name", "mine")
    result = empty("balance", "--n", "max", "--val-fraction", 0.3, "--json")
    rows, report = subset(empty), json.loads(result.stdout)
    assert (report["split"], report["can_leak"]) == ("overlap", True)  # slides are not known
    counts = {"pairs": 240, "groups": 80, "patches": 240, "largest_group": 3}
    assert report["audit"]["overlaps"] == counts | {"across_slides": 0, "examples": []}
    assert "240 of 240 patches overlap with another patch, and are in the same split as it" in result.stderr
    assert "other patches of a slide may be in both splits" in " ".join(result.stderr.split())
    sides = {}
    for row in rows:
        sides.setdefault((row["label"], row["id"].partition("-")[2]), set()).add((row["split"], row["overlap_group"]))
    assert all(len(side) == 1 for side in sides.values())  # one side, and one name
    groups = [next(iter(side))[1] for side in sides.values()]
    assert len(set(groups)) == len(groups) == 80
    assert "" not in groups
    assert Counter((row["split"], row["label"]) for row in rows if row["split"] == "val") == {
        ("val", "0"): 36,
        ("val", "1"): 36,
    }


def test_known_slides_are_not_divided_even_if_others_are_unknown(empty, tmp_path):
    """Of sixty patches that share no pixels, all but two have a slide: ten slides of each class."""
    patches = {f"{label}/{label}-{i}": crop(texture((label, i)), 0, 0) for label in (0, 1) for i in range(30)}
    write_patches(tmp_path / "mine", patches)
    slides = {key: f"slide {key[0]}-{int(key[2:]) // 3}" for key in (name[2:] for name in patches) if key[2:] != "29"}
    table = tmp_path / "slides.csv"
    table.write_text("id,wsi\n" + "".join(f"{key},{slide}\n" for key, slide in slides.items()))
    empty("download", "--source", "folder", "--from", tmp_path / "mine", "--name", "mine", "--slides", table)
    report = json.loads(empty("balance", "--n", "max", "--val-fraction", 0.3, "--json").stdout)
    assert (report["split"], report["can_leak"], report["sharing_pixels"]) == ("overlap", True, 0)  # two are unknown
    sides = {}
    for row in subset(empty):
        sides.setdefault(row["slide"], set()).add(row["split"])
    assert len(sides) == 21
    assert all(len(side) == 1 for slide, side in sides.items() if slide)


def test_overlaps_are_searched_once_for_the_same_pixels(empty, tmp_path):
    image = texture(0)
    patches = {f"{i % 2}/{i}": crop(image, 9 * i, 5 * i) for i in range(20)}
    write_patches(tmp_path / "mine", patches)
    download = ["download", "--source", "folder", "--from", tmp_path / "mine", "--name", "mine"]
    empty(*download)
    split = ["balance", "--n", "max", "--split", "overlap"]
    error, hint = empty.fails(*split)
    assert error == "1 overlap group cannot be split with both classes in train and in validation"
    assert "--split random" in hint
    (kept,) = (empty.root / "data" / "mine").glob("overlaps-*.npy")
    kept.write_bytes(kept.read_bytes()[:-1])  # read, and not searched again
    error, hint = empty.fails(*split)
    assert str(kept) in error
    assert "delete it" in hint
    write_patches(tmp_path / "mine", {f"{i % 2}/new{i}": crop(texture(i + 1), 0, 0) for i in range(10)})
    empty(*download, "--force")
    empty(*split)
    (again,) = (empty.root / "data" / "mine").glob("overlaps-*.npy")
    assert again != kept


def test_a_hospital_is_in_one_split_only(histo):
    result = histo("balance", "--n", 100, "--group", "hospital", "--json")
    report, sides = json.loads(result.stdout), {}
    for row in subset(histo):
        sides.setdefault(row["hospital"], set()).add(row["split"])
    assert all(len(side) == 1 for side in sides.values())
    for part in ("train", "val"):
        assert report["hospitals"][part] == sorted(name for name, side in sides.items() if side == {part})
    assert (report["split"], report["can_leak"]) == ("hospital", False)
    assert f"val: {', '.join(report['hospitals']['val'])}" in result.stderr


@pytest.mark.parametrize("are_slides_known", [True, False])
def test_a_split_by_appearance_can_leak(histo, are_slides_known):
    """Its groups are computed patch by patch, so that one slide can be in both."""
    if not are_slides_known:
        without_slides(histo)
    result = histo("balance", "--n", "max", "--group", "appearance", "--json")
    report, slides = json.loads(result.stdout), {"train": set(), "val": set()}
    for row in subset(histo):
        slides[row["split"]].add(row["slide"])
    assert not slides["train"].isdisjoint(slides["val"])
    assert report["can_leak"]
    assert json.loads((histo.root / "metrics" / "balance.json").read_text())["can_leak"]
    assert "one slide may have patches in train and in validation" in " ".join(result.stderr.split())


def test_a_split_by_overlap_that_divides_no_known_slide_does_not_leak(histo):
    result = histo("balance", "--n", 100, "--split", "overlap", "--json")
    slides = {part: {row["slide"] for row in subset(histo) if row["split"] == part} for part in ("train", "val")}
    assert slides["train"].isdisjoint(slides["val"])
    assert not json.loads(result.stdout)["can_leak"]
    assert "no slide is in both splits" in " ".join(result.stderr.split())


def test_a_split_by_hospital_without_known_slides_does_not_leak(histo):
    without_slides(histo)
    result = histo("balance", "--n", 100, "--group", "hospital", "--json")
    assert not json.loads(result.stdout)["can_leak"]
    assert "warning: only 0 slides" not in result.stderr  # the slides are not known


def test_with_two_hospitals_one_is_for_validation(histo):
    edit(histo, lambda row: row | {"hospital": "RUMC" if row["slide"] < "tumor_002" else "UMCU"})
    report = json.loads(histo("balance", "--n", 100, "--group", "hospital", "--val-fraction", 0.1, "--json").stdout)
    assert sorted(report["hospitals"]["train"] + report["hospitals"]["val"]) == ["RUMC", "UMCU"]


def test_a_split_by_hospital_is_refused_if_it_is_not_possible(histo):
    edit(histo, lambda row: row | {"hospital": "RUMC"})
    error, _ = histo.fails("balance", "--n", 40, "--group", "hospital")
    assert error == "1 hospital cannot be split with both classes in train and in validation"
    edit(histo, lambda row: row | {"hospital": ""})
    error, hint = histo.fails("balance", "--n", 40, "--group", "hospital")
    assert error == "the hospitals of synthetic are not known for every patch"
    assert "--hospital-column" in hint


def test_a_missing_data_set_is_an_error_that_names_the_existing_ones(empty, histo):
    error, hint = histo.fails("balance", "--data", "nothing")
    assert (error, hint) == ("there is no data set 'nothing'", "choose --data from synthetic")
    error, hint = empty.fails("balance")
    assert "histo download" in hint


def test_with_several_data_sets_the_name_is_required(histo):
    histo("download", "--source", "synthetic", "--n", 120, "--seed", 5, "--name", "second")
    error, hint = histo.fails("balance", "--n", 40)
    assert "'kaggle'" in error
    assert hint == "choose --data from second, synthetic"
    histo("balance", "--n", 20, "--data", "second", "--split", "random")
    assert {row["data"] for row in subset(histo)} == {"second"}


def test_held_out_patches_are_never_drawn(empty, shared_data):
    empty("download", "--from", shared_data / "kaggle_layout.zip")
    empty("balance", "--n", "max")
    test = {row["id"] for row in read_rows(empty.root / "manifests" / "kaggle.csv") if row["split"] == "test"}
    assert len(test) == 28
    assert test.isdisjoint(row["id"] for row in subset(empty))


def test_a_second_subset_does_not_replace_the_first(histo):
    first = (histo.root / "manifests" / "balanced.csv").read_bytes()
    result = histo("balance", "--n", 40, "--name", "small", "--json")
    assert (histo.root / "manifests" / "balanced.csv").read_bytes() == first
    report = json.loads(result.stdout)
    assert json.loads((histo.root / "metrics" / "small-balance.json").read_text()) == report
    assert (report["name"], report["n"]) == ("small", 40)
    assert "next: histo train --data small" in result.stderr
    histo(*QUICK, "--data", "small", "--name", "r")
    copy = (histo.root / "runs" / "r" / "manifest.csv").read_bytes()
    assert copy == (histo.root / "manifests" / "small.csv").read_bytes()
    for option, expected in ((), {"small-balance.png"}), (("--run", "first"), {"synthetic-balance.png"}):
        shown = histo("plot", "--kind", "balance", *option).stderr
        assert {name for name in ("small-balance.png", "synthetic-balance.png") if name in shown} == expected
    histo("plot", "--kind", "balance", "--data", "synthetic")
    assert {"synthetic-balance.png", "small-balance.png"} <= {path.name for path in (histo.root / "plots").iterdir()}


def test_a_subset_and_a_data_set_cannot_have_the_same_name(histo):
    error, hint = histo.fails("balance", "--n", 40, "--name", "synthetic", code=2)
    assert error == "--name synthetic is the name of a data set"
    assert hint
    error, _ = histo.fails("balance", "--n", 40, "--name", "cv-fold1", code=2)  # it would be overwritten
    assert error == "--name cv-fold1 is the name of a fold of histo train --folds"
    histo("balance", "--n", 40, "--name", "small")
    error, _ = histo.fails("download", "--source", "synthetic", "--n", 20, "--name", "small", code=2)
    assert error == "--name small is the name of a subset that histo balance writes"
    assert "cannot name" in histo.fails("balance", "--n", 40, "--name", "a/b", code=2)[0]


def test_few_slides_in_a_split_give_a_warning(histo):
    result = histo("balance", "--n", 64, "--val-fraction", 0.25)
    counts = json.loads((histo.root / "metrics" / "balance.json").read_text())["counts"]
    few = [f"{n} slide{'s' * (n != 1)} in {part}" for part in counts if (n := counts[part]["slides"])]
    assert f"warning: only {few[0]} and {few[1]}: " in result.stderr
    assert "give no 95% intervals by bootstrap" in result.stderr
    rename_slides(histo, 60)
    assert "slides in" not in histo("balance", "--n", 200, "--val-fraction", 0.3).stderr


# the splits of folders


def split_folders(folder, sizes):
    """Class folders in split folders; `sizes` are the numbers of normal and tumour patches of each split."""
    write_patches(
        folder,
        {
            f"{split}/{name}/{i}": crop(texture((at, len(name), i), 160), 0, 0)
            for at, (split, counts) in enumerate(sizes.items())
            for name, count in zip(("normal", "tumor"), counts, strict=True)
            for i in range(count)
        },
    )
    return folder


def test_folders_give_the_split_and_test_is_kept_out(empty, tmp_path):
    folder = split_folders(tmp_path / "x", {"train": (8, 5), "val": (3, 4), "test": (6, 6)})
    empty("download", "--source", "folder", "--from", folder, "--name", "mine")
    result = empty("balance", "--n", "max", "--json")
    report = json.loads(result.stdout)
    assert (report["split"], report["dropped"]["held_out"]) == ("folders", 12)
    counts = Counter((row["id"].split("/")[0], row["split"], row["label"]) for row in subset(empty))
    wanted = {("train", "train"): 5, ("val", "val"): 3}
    assert counts == {(*key, label): count for key, count in wanted.items() for label in "01"}
    assert report["n"] == 16
    assert report["can_leak"]  # slides are not known
    assert "the splits of mine may leak" in result.stderr
    empty("balance", "--n", 10)
    assert Counter((row["split"], row["label"]) for row in subset(empty)) == {
        ("train", "0"): 3,
        ("train", "1"): 3,
        ("val", "0"): 2,
        ("val", "1"): 2,
    }
    error, hint = empty.fails("balance", "--n", 18)
    assert "--n 18 asks for 9 of each class" in error
    assert hint == "the largest n possible is --n 16"
    report = json.loads(empty("balance", "--n", "max", "--split", "overlap", "--json").stdout)
    assert (report["split"], report["dropped"]["held_out"], report["n"]) == ("overlap", 19, 10)


def test_folders_without_validation_are_split_and_test_is_kept_out(empty, tmp_path):
    folder = split_folders(tmp_path / "x", {"train": (8, 8), "test": (4, 4)})
    empty("download", "--source", "folder", "--from", folder, "--name", "mine")
    report = json.loads(empty("balance", "--n", "max", "--val-fraction", 0.25, "--json").stdout)
    assert (report["split"], report["dropped"]["held_out"], report["n"]) == ("overlap", 8, 16)
    assert {row["id"].split("/")[0] for row in subset(empty)} == {"train"}
    error, hint = empty.fails("balance", "--n", "max", "--split", "folders")
    assert error == "mine has no splits train and valid; its splits: test, train"
    assert "--split slide or overlap" in hint


def test_a_slide_in_both_folders_leaks_and_one_in_each_does_not(empty, tmp_path):
    folder = split_folders(tmp_path / "x", {"train": (4, 4), "val": (2, 2)})
    for pattern, leaks in ((r"(train|val)/", False), (r"(normal|tumor)/", True)):
        line = ["download", "--source", "folder", "--from", folder, "--name", "mine", "--force"]
        empty(*line, "--slide-pattern", pattern)
        result = empty("balance", "--n", "max", "--json")
        assert json.loads(result.stdout)["can_leak"] == leaks
        assert ("slides have patches in both" in result.stderr) == leaks


@pytest.mark.parametrize(
    ("table", "reason", "hint"),
    [
        (
            None,
            "mine has 0 normal and 0 tumour patches, and both classes are needed; dropped patches: without a label (4)",
            "--labels",
        ),
        ("split", "dropped patches: in a split for evaluation (4)", "pack training patches too"),
    ],
)
def test_the_error_says_why_there_are_no_patches_to_draw(empty, tmp_path, table, reason, hint):
    write_patches(tmp_path / "x", {str(i): crop(texture(i), 0, 0) for i in range(4)})
    if table:
        rows = "".join(f"{i},{i % 2},test\n" for i in range(4))
        (tmp_path / "x" / "labels.csv").write_text("id,label,split\n" + rows)
    empty("download", "--source", "folder", "--from", tmp_path / "x", "--name", "mine")
    error, advice = empty.fails("balance", "--data", "mine", "--n", "max")
    assert reason in error
    assert hint in advice
