"""The audit: what a subset shares with its own splits and other data sets, and when `histo train` refuses it."""

import csv
import json

from histocli.atomic import read_json
from histocli.workspace import Workspace
from tests.cli import QUICK, SMALL_TRAIN
from tests.data.tissue import crop, texture, write_patches
from tests.sources.kaggle_layout import tiff


def make_patches(classes=(0, 1), places=20):
    """Return patches of unique places: name -> pixels; each name has the class and the number of the place."""
    return {
        f"{label}/{label}{place:02}": crop(texture((label, place)), 0, 0)
        for label in classes
        for place in range(places)
    }


def pack(histo, folder, name, patches, slides=None):
    """Pack patches under the name; `slides` maps their file names to slides."""
    write_patches(folder / name, patches)
    line = ["download", "--source", "folder", "--from", folder / name, "--name", name]
    if slides:
        table = folder / f"{name}-slides.csv"
        table.write_text("id,wsi\n" + "".join(f"{key.partition('/')[2]},{slide}\n" for key, slide in slides.items()))
        line += ["--slides", table]
    histo(*line)


def run_balance(histo, *options):
    return json.loads(histo("balance", "--n", "max", "--data", "mine", "--json", *options).stdout)["audit"]


def leak(audit, part, into="train"):
    (found,) = [leak for leak in audit["leaks"] if (leak["from"], leak["into"]) == (part, into)]
    return found


def rows(histo, split):
    with (histo.root / "manifests" / "balanced.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["split"] == split]


def test_duplicates_overlaps_and_slides_shared_with_another_set_are_counted(empty, tmp_path):
    patches = make_patches()
    pack(empty, tmp_path, "mine", patches, {key: f"slide {key[-1]}" for key in patches})
    run_balance(empty)
    trained, held = rows(empty, "train"), rows(empty, "val")
    other = {
        "copy": patches[f"{trained[0]['label']}/{trained[0]['id']}"],
        "shifted": crop(texture((int(trained[1]["id"][0]), int(trained[1]["id"][1:]))), 33, 71),
        "of val": patches[f"{held[0]['label']}/{held[0]['id']}"],
        "own": crop(texture(99), 0, 0),
    }
    slides = {f"x/{name}": "slide z" for name in other} | {"x/own": trained[0]["slide"]}
    pack(empty, tmp_path, "other", {f"x/{name}": pixels for name, pixels in other.items()}, slides)
    counts = {"held_out": False, "patches": 4, "duplicates": 1, "shared_slides": 1, "patches_of_shared_slides": 1}
    before = run_balance(empty)
    assert leak(before, "other: all") == {"from": "other: all", "into": "train", "overlaps": None} | counts
    assert before["overlaps_searched"] == ["mine"]  # to compare its slides with the pixels
    audit = run_balance(empty, "--audit")
    assert (
        leak(audit, "other: all") == {"from": "other: all", "into": "train", "overlaps": 2} | counts
    )  # a copy overlaps, too
    val = leak(audit, "other: all", "val")
    assert (val["duplicates"], val["overlaps"], val["shared_slides"]) == (1, 1, 0)
    assert leak(audit, "val")["shared_slides"] == leak(audit, "val")["overlaps"] == 0
    assert audit["overlaps_searched"] == ["mine", "other"]
    assert leak(run_balance(empty), "other: all")["overlaps"] == 2  # searched before, and still known
    stored = read_json(Workspace(empty.root).metrics_dir / "balance.json")["audit"]
    assert stored == run_balance(empty)


def test_searched_overlaps_stay_valid_when_another_set_is_packed(empty, tmp_path):
    image = texture(50)
    shared = {f"{i % 2}/shared{i}": crop(image, 4 * i, 4 * i) for i in range(6)}
    pack(empty, tmp_path, "mine", make_patches() | shared)
    pack(empty, tmp_path, "test", {"a": crop(image, 20, 30), "b": crop(image, 30, 20), "c": crop(texture(51), 0, 0)})
    at_random = "--split", "random"
    reported = "test: all was compared with train only for exact copies, not for overlapping patches; --audit"
    assert reported in empty("balance", "--n", "max", "--data", "mine", *at_random).stderr
    audit = run_balance(empty, "--audit", *at_random)
    assert leak(audit, "test: all")["overlaps"] == 2
    pack(empty, tmp_path, "third", {"x": crop(texture(60), 0, 0), "y": crop(image, 40, 40)})
    again = run_balance(empty, *at_random)
    assert again["overlaps_searched"] == ["mine", "test"]
    assert [leak(again, part)["overlaps"] for part in ("test: all", "third: all")] == [2, None]
    assert reported not in empty("balance", "--n", "max", "--data", "mine", *at_random).stderr
    error, _ = empty.fails("train", "--epochs", 1)
    assert "patches for evaluation leak into train: test: all (overlapping patches: 2)" in error
    known = run_balance(empty, "--audit", *at_random)
    assert known["overlaps_searched"] == ["mine", "test", "third"]
    assert [leak(known, part)["overlaps"] for part in ("test: all", "third: all")] == [2, 1]
    assert known["overlaps"] == again["overlaps"]
    write_patches(tmp_path / "test", {"d": crop(texture(52), 0, 0)})
    empty("download", "--source", "folder", "--from", tmp_path / "test", "--name", "test", "--force")
    assert run_balance(empty, *at_random)["overlaps_searched"] == ["mine", "third"]


def test_the_audit_is_shown_as_a_table(empty, tmp_path):
    patches = make_patches(places=6)
    pack(empty, tmp_path, "mine", patches)
    pack(empty, tmp_path, "other", {"a": patches["0/000"], "b": patches["1/101"], "c": patches["1/102"]})
    result = empty("balance", "--n", "max", "--data", "mine", "--audit")
    audit = read_json(empty.root / "metrics" / "balance.json")["audit"]
    cells = [line.split() for line in result.stderr.splitlines()]
    for into in ("train", "val"):
        found = leak(audit, "other: all", into)
        assert ["other:", "all", into, "3", str(found["duplicates"]), str(found["overlaps"]), "unknown"] in cells
    assert "No patch of mine is an exact copy of an earlier one. No two patches of mine overlap." in result.stderr
    assert "audit: " not in empty("balance", "--n", "max", "--data", "mine").stderr


def test_the_audit_counts_the_leaks_of_a_random_split(empty, tmp_path):
    image = texture(0)
    pack(empty, tmp_path, "mine", {f"{i % 2}/{i}": crop(image, 0, 3 * i) for i in range(30)})
    audit = run_balance(empty, "--audit", "--split", "random", "--val-fraction", "0.2")
    assert leak(audit, "val")["patches"] == leak(audit, "val")["overlaps"] == 6
    pairs, across = 30 * 29 // 2 - 6, {"across_slides": 0, "examples": []}
    assert audit["overlaps"] == {"pairs": pairs, "groups": 1, "patches": 30, "largest_group": 30, **across}


def test_slides_that_contradict_overlapping_pixels_are_reported_by_balance_and_in_the_card(empty, tmp_path):
    """Two patches of each place, of which the table says for three places that they are of different slides."""
    patches = {f"{i % 2}/{i:03}{x}": crop(texture(i), x, 0) for i in range(40) for x in (0, 30)}
    slides = {f"{i % 2}/{i:03}{x}": f"s{(i + 2 * (i < 3 and x > 0)) % 20}" for i in range(40) for x in (0, 30)}
    pack(empty, tmp_path, "mine", patches, slides)
    result = empty("balance", "--n", "max", "--val-fraction", 0.3, "--json")
    audit = json.loads(result.stdout)["audit"]
    assert (audit["overlaps"]["pairs"], audit["overlaps"]["across_slides"]) == (40, 3)
    assert audit["overlaps"]["examples"][0] == "0000 (s0) and 00030 (s2)"
    warning = "3 pairs of overlapping patches of mine are of different slides, so the slides are wrong"
    assert warning in result.stderr
    assert "--split overlap" in result.stderr
    empty(*QUICK, "--name", "net")
    assert f"**{warning}" in (empty.root / "runs" / "net" / "model_card.md").read_text()
    overlap = run_balance(empty, "--split", "overlap", "--val-fraction", "0.3")
    assert leak(overlap, "val")["overlaps"] == 0


def test_equal_pixels_with_both_labels_are_named(empty, tmp_path):
    patches = make_patches(places=8)
    patches |= {"1/wrong": patches["0/003"], "0/again": patches["0/004"]}
    pack(empty, tmp_path, "mine", patches)
    pack(empty, tmp_path, "other", {"0/elsewhere": patches["1/105"], "unlabelled": patches["1/106"]})
    result = empty("balance", "--n", "max", "--data", "mine", "--json")
    audit = json.loads(result.stdout)["audit"]
    named = ["mine: 003", "mine: 105", "mine: wrong", "other: elsewhere"]
    assert sorted(audit["contradictions"]["ids"]) == named
    assert audit["contradictions"]["patches"] == 4
    assert audit["duplicates"] == 2
    assert "4 patches have the same pixels as another patch, but the other label" in result.stderr


def test_slides_of_different_synthetic_data_sets_are_different(empty):
    for name, seed in (("mine", 0), ("second", 5)):
        empty("download", "--source", "synthetic", "--n", 120, "--seed", seed, "--name", name)
    found = leak(run_balance(empty), "second: all")
    assert (found["duplicates"], found["shared_slides"], found["patches_of_shared_slides"]) == (0, 0, 0)


def test_training_is_refused_if_patches_for_evaluation_leak_into_train(empty, tmp_path):
    """The names of the data sets say that they are for evaluation; the first are listed, and the others counted."""
    patches = make_patches(places=8)
    pack(empty, tmp_path, "mine", patches)
    run_balance(empty)
    copy = rows(empty, "train")[0]
    held_out = {"a": patches[f"{copy['label']}/{copy['id']}"], "b": crop(texture(99), 0, 0)}
    for name in ("Valid.2", "mine-test", "test", "test2", "validation"):
        pack(empty, tmp_path, name, held_out)
    error, hint = empty.fails(*SMALL_TRAIN)
    named = "; ".join(f"{name}: all (exact duplicates: 1)" for name in ("Valid.2", "mine-test", "test"))
    assert error == f"patches for evaluation leak into train: {named}; 2 more"
    assert "--allow-leak" in hint
    assert not (empty.root / "runs").exists()
    assert "histo balance --data mine --n max --drop-leaks" in hint
    told = f"leak into train: {named}; 2 more; histo train ends with an error on this subset"
    assert told in empty("balance", "--n", "max", "--data", "mine").stderr


def test_leaking_patches_are_dropped_from_train_with_drop_leaks(empty, tmp_path):
    """A copy in another data set, an overlap with the set's own test split, and a slide that is in both."""
    patches = {f"train/{key}": pixels for key, pixels in make_patches(places=8).items()}
    patches["test/0/held"] = crop(texture((0, 0)), 40, 40)
    pack(empty, tmp_path, "mine", patches)
    pack(empty, tmp_path, "valid", {"1/copy": patches["train/1/103"], "0/own": crop(texture(99), 0, 0)})
    result = empty("balance", "--n", "max", "--data", "mine", "--drop-leaks", "--json")
    drawn = {row["id"] for split in ("train", "val") for row in rows(empty, split)}
    assert drawn.isdisjoint({"000", "103"})
    assert len(drawn) == 14  # 7 of each class are left
    assert json.loads(result.stdout)["dropped"]["leaking"] == 2
    assert "sharing pixels or a slide with patches for evaluation (2)" in result.stderr
    assert not any(found["held_out"] and found["overlaps"] for found in json.loads(result.stdout)["audit"]["leaks"])
    empty(*SMALL_TRAIN, "--epochs", 1)


def test_patches_of_a_slide_that_is_also_for_evaluation_are_dropped_with_drop_leaks(empty, tmp_path):
    patches = make_patches(places=8)
    pack(empty, tmp_path, "mine", patches, {key: f"slide {key[-1]}" for key in patches})
    pack(empty, tmp_path, "test", {"x/new": crop(texture(99), 0, 0)}, {"x/new": "slide 3"})
    run_balance(empty, "--drop-leaks")
    slides = {row["slide"] for split in ("train", "val") for row in rows(empty, split)}
    assert slides == {f"slide {number}" for number in range(8)} - {"slide 3"}


def test_folds_divide_the_own_validation_split_too_but_are_refused_if_the_own_test_split_leaks(empty, tmp_path):
    patches = {f"{'valid' if '02' in key else 'train'}/{key}": pixels for key, pixels in make_patches(places=8).items()}
    pack(empty, tmp_path, "mine", patches)
    run_balance(empty)
    assert [row["id"] for row in rows(empty, "val")] == ["002", "102"]
    empty(*SMALL_TRAIN, "--epochs", 1, "--folds", 2, "--name", "cv")
    fold = read_json(empty.root / "runs" / "cv-fold1" / "config.json")
    assert [found["from"] for found in fold["audit"]["leaks"]] == ["val"]
    others = {f"train/{label}/{i}": crop(texture((label, 50 + i)), 0, 0) for label in (0, 1) for i in range(8)}
    pack(empty, tmp_path, "held", others | {"test/0/copy": others["train/0/3"]})
    empty("balance", "--n", "max", "--data", "held", "--name", "leaky")
    error, _ = empty.fails(*SMALL_TRAIN, "--data", "leaky", "--epochs", 1, "--folds", 2, "--name", "other")
    assert error == "patches for evaluation leak into train: held: test (exact duplicates: 1, overlapping patches: 1)"


def test_an_allowed_leak_is_recorded(empty, tmp_path):
    patches = make_patches(places=8)
    pack(empty, tmp_path, "mine", patches)
    pack(empty, tmp_path, "test", dict(list(patches.items())[:3]))
    audit = run_balance(empty)
    empty(*SMALL_TRAIN, "--epochs", 1, "--allow-leak", "--name", "leaky")
    config = read_json(empty.root / "runs" / "leaky" / "config.json")
    assert config["options"]["allow_leak"] is True
    assert config["audit"] == audit
    assert leak(config["audit"], "test: all")["duplicates"] > 0
    empty("train", "--resume", "--name", "leaky")  # it was decided when the run began


def test_a_data_set_can_have_the_name_of_a_split(empty, tmp_path):
    patches = make_patches(places=8)
    for name in ("mine", "train", "val"):
        pack(empty, tmp_path, name, patches)
    audit = run_balance(empty)
    assert leak(audit, "val")["duplicates"] == 0
    assert leak(audit, "val: all")["duplicates"] == leak(audit, "train: all")["duplicates"] == 14


def test_only_leaks_of_patches_for_evaluation_prevent_training(empty, tmp_path):
    patches = make_patches(places=8)
    pack(empty, tmp_path, "mine", patches)
    pack(empty, tmp_path, "latest", patches)
    assert leak(run_balance(empty), "latest: all")["duplicates"] > 0
    empty(*SMALL_TRAIN, "--epochs", 1)


def test_a_data_set_named_valid_is_held_out(empty, tmp_path):
    pack(empty, tmp_path, "pcam_valid", make_patches(places=8))
    empty("balance", "--n", "max", "--data", "pcam_valid")
    error, _ = empty.fails(*SMALL_TRAIN)
    assert "leak into train: pcam_valid: all (exact duplicates: 14" in error


def test_held_out_patches_of_the_same_set_that_overlap_train_are_refused(empty, tmp_path):
    """Kaggle's archive is like this: its test patches have no labels and no slides."""
    names = {"test": {"held": crop(texture((0, 0)), 40, -136 + 176)}}
    names["train"] = {f"{i}": crop(texture((0, i)), 0, 0) for i in range(12)}
    for split, patches in names.items():
        (tmp_path / "layout" / split).mkdir(parents=True)
        for key, pixels in patches.items():
            (tmp_path / "layout" / split / f"{key}.tif").write_bytes(tiff(pixels))
    labels = "".join(f"{key},{int(key) % 2}\n" for key in names["train"])
    (tmp_path / "layout" / "train_labels.csv").write_text("id,label\n" + labels)
    empty("download", "--from", tmp_path / "layout", "--name", "mine")
    for seed in range(20):
        audit = run_balance(empty, "--seed", seed)
        if any(row["id"] == "0" for row in rows(empty, "train")):
            break
    assert leak(audit, "mine: test") | {"patches": 1, "held_out": True, "overlaps": 1} == leak(audit, "mine: test")
    error, _ = empty.fails(*SMALL_TRAIN)
    assert "leak into train: mine: test (overlapping patches: 1)" in error
