"""`histo report` from the command line: the page, its numbers, and what its script does in a browser."""

import csv
import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import cv2
import numpy as np
import pandas as pd
import pytest

from histocli.atomic import write_json
from histocli.models.checkpoint import load_checkpoint, save_checkpoint
from histocli.pages.charts import Chart, Line, make_learning_curves, make_rate_axis
from histocli.reports.run import Epoch
from histocli.reports.slides import Estimate, Recall, SlideEvaluation
from histocli.schema import to_json
from histocli.slides.records import SlideRecord, write_finished
from tests.cli import QUICK, TRAIN, read_rows
from tests.slides.files import make_finished
from tools.browser import CHROMIUM, open_browser

EVAL = ["eval", "--ckpt", "first", "--device", "cpu"]
HOSTILE = "</script><img src=x onerror=alert(1)>\"'&"
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")


class Page(HTMLParser):
    """The text of a page, its elements, and the JSON documents in it."""

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.words, self.elements, self.points, self._inside = [], [], [], ""
        self.feed(self.source)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self._inside = "points" if dict(attributes).get("class") == "points" else tag
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside == "points":
            self.points.append(json.loads(data))
        elif self._inside not in ("script", "style"):
            self.words.append(data)


def page_of(histo, *options, name="first-report.html"):
    histo("report", *options)
    return Page(next((histo.root / "plots").glob(name)))


def read_evaluation(histo):
    return json.loads((histo.root / "metrics" / "first-synthetic-val.json").read_text())


def in_browser(page, script, tmp_path, width=1200):
    """Run a script at the end of a page in Chromium; return its `result` and the problems that the page had."""
    before = (
        "<head><script>const problems = [];"
        "addEventListener('error', (event) => problems.push(event.message));"
        "document.addEventListener('securitypolicyviolation', (event) => problems.push(event.blockedURI));"
        "const result = {};</script>"
    )
    after = (
        f"<script>{script};"
        "for (const one of performance.getEntriesByType('resource'))"
        " if (!one.name.startsWith('data:')) problems.push(one.name);"
        "document.title = JSON.stringify({ result, problems });</script></body>"
    )
    path = tmp_path / "probe.html"
    path.write_text(page.source.replace("<head>", before, 1).replace("</body>", after, 1), encoding="utf-8")
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'chromium'}"]
    options.append(f"--window-size={width},800")
    command = [CHROMIUM, *options, "--virtual-time-budget=2000", "--dump-dom", path.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    found = json.loads(html.unescape(re.search("<title>(.*?)</title>", dom, re.DOTALL)[1]))
    return found["result"], found["problems"]


def test_a_page_shows_the_run_its_metrics_and_its_data(evaluated_run):
    page = page_of(evaluated_run, "--pictures", 0)
    made = read_evaluation(evaluated_run)
    config = json.loads((evaluated_run.root / "runs" / "first" / "config.json").read_text())
    dataset = json.loads((evaluated_run.root / "data" / "synthetic" / "dataset.json").read_text())
    for value in ("auc", "accuracy", "sensitivity", "specificity", "ece"):
        assert f"{made['metrics'][value]:.4f}" in page.text, value
    low, high = made["intervals"]["brier"] or made["delong"]["interval"]
    assert f"{low:.4f} to {high:.4f}" in page.text
    assert f"trained on {config['train_patches']} patches of synthetic" in page.text
    for digest in (config["manifest_sha256"], dataset["sha256"], made["checkpoint_sha256"]):
        assert digest in page.text
    assert "Train and validation share no slide." in page.text
    assert "deterministic False" in page.text
    assert "extended after" not in page.text
    titles = {"Loss by epoch", "ROC curve", "Precision and recall", "Calibration", "Scores by class"}
    assert all(title in page.text for title in titles)


def test_the_page_needs_no_other_file_and_no_network(evaluated_run):
    page = page_of(evaluated_run)
    addresses = [value for _, names in page.elements for key, value in names.items() if key in ("src", "href")]
    assert addresses
    assert all(address.startswith(("data:image/jpeg;base64,", "#")) for address in addresses)
    assert not re.search(r"url\(|@import|https?://", page.source)
    policies = [names["content"] for tag, names in page.elements if tag == "meta" and "http-equiv" in names]
    assert policies
    assert "default-src 'none'" in policies[0]
    assert str(evaluated_run.root) not in page.source  # nor does it name the folders of whoever made it


def test_the_counts_of_the_slider_are_those_of_eval(evaluated_run):
    path = evaluated_run.root / "metrics" / "first-synthetic-val.csv"
    table = pd.read_csv(path)
    table["prob"] = (table["prob"].rank(method="first") / 20).round(3)  # each score is exactly at a threshold
    table.to_csv(path, index=False)
    (points,) = page_of(evaluated_run, "--pictures", 0).points
    called = set()
    for threshold in (0.0, *table["prob"].unique()[:6].tolist(), 0.999, 0.99991, 1.0):
        made = json.loads(evaluated_run("eval", "--scores", path, "--threshold", threshold, "--json").stdout)
        i = points["thresholds"].index(threshold)
        tp, fp = points["tp"][i], points["fp"][i]
        counts = {"tn": points["negatives"] - fp, "fp": fp, "fn": points["positives"] - tp, "tp": tp}
        assert counts == made["confusion"], threshold
        called.add(tp + fp)
    assert len(called) > 3


def test_the_galleries_show_the_most_confident_errors(evaluated_run):
    made = read_evaluation(evaluated_run)
    rows = read_rows(evaluated_run.root / "metrics" / made["scores"])
    called = [(float(row["prob"]) >= made["threshold"], row["label"] == "1", row) for row in rows]
    errors = [row for is_called, is_tumour, row in called if is_called != is_tumour]
    page = page_of(evaluated_run)
    texts = [names["alt"] for tag, names in page.elements if tag == "img"]
    shown = {text.removeprefix("Patch ") for text in texts if text.startswith("Patch ")}
    explained = {text.removeprefix("Explanation of the patch ") for text in texts if text.startswith("Explanation")}
    assert explained == shown
    assert len(texts) == 2 * len(shown)
    assert shown == {row["id"] for row in errors}
    assert len(shown) == made["confusion"]["fp"] + made["confusion"]["fn"] > 0
    without = page_of(evaluated_run, "--pictures", 0)
    assert "img" not in {tag for tag, _ in without.elements}
    assert f"{made['confusion']['fp']}, of which no picture is shown." in without.text


def test_without_the_checkpoint_the_patches_are_shown_and_the_page_says_why(evaluated_run):
    evaluated_run(*EVAL)  # so that the evaluation names the checkpoint in this workspace
    for path in (*evaluated_run.root.glob("checkpoints/*.pt"), *evaluated_run.root.glob("runs/*/*.pt")):
        path.unlink()
    page = page_of(evaluated_run)
    texts = [names["alt"] for tag, names in page.elements if tag == "img"]
    assert texts
    assert all(text.startswith("Patch ") for text in texts)
    assert "Without explanations: the checkpoint of first, epoch" in page.text
    assert str(evaluated_run.root) not in page.source


@pytest.mark.parametrize("auc", [0.02, 0.31, 0.45, 0.52, 0.69, 0.78, 0.84, 0.93, 0.99])
def test_the_axis_of_the_learning_curve_ends_at_1_and_has_round_numbers(auc):
    epoch = Epoch(epoch=1, train_loss=0.5, val_loss=0.5, val_auc=auc, val_accuracy=0.9, lr=0.001)
    axis = make_learning_curves([epoch])[1].y
    assert axis.low <= auc
    assert axis.high == pytest.approx(1)
    assert all(len(text) <= 4 for _, text in axis.ticks)
    assert 3 <= len(axis.ticks) <= 8


def test_writing_twice_gives_the_same_page(evaluated_run):
    first = page_of(evaluated_run).source
    assert page_of(evaluated_run).source == first


@pytest.fixture
def hostile(histo, tmp_path):
    """Return `histo` for a workspace with an evaluation whose ids, slides and hospitals are HTML."""
    patches = np.load(histo.root / "data" / "synthetic" / "patches.npy", mmap_mode="r")
    folder = tmp_path / "a&b"
    folder.mkdir()
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "label", "slide", "hospital"])
        for i in range(16):
            name = f"{i}<b>\"'&"
            cv2.imwrite(str(tmp_path / "patch.png"), patches[i][..., ::-1])
            (tmp_path / "patch.png").rename(folder / f"{name}.png")
            table.writerow([name, i % 2, f"slide {i % 4} {HOSTILE}", HOSTILE])
    histo(*EVAL, "--data", folder, "--labels", tmp_path / "labels.csv")
    return histo


def test_ids_with_html_and_quotes_stay_text(hostile):
    page = page_of(hostile)
    assert HOSTILE in page.text
    assert "<b>\"'&" in page.text
    assert {tag for tag, _ in page.elements}.isdisjoint({"b", "x"})
    assert not [names for _, names in page.elements if "onerror" in names]
    slides = {names["data-slide"] for tag, names in page.elements if tag == "figure" and "data-slide" in names}
    assert slides
    assert all(slide.endswith(HOSTILE) for slide in slides)


@needs_browser
def test_the_slider_shows_in_the_page_what_eval_prints(evaluated_run, tmp_path):
    made = json.loads(evaluated_run(*EVAL, "--json", "--threshold", "0.37").stdout)
    script = """
      const number = document.querySelector(".threshold-controls input[type=number]");
      const slider = document.querySelector(".threshold-controls input[type=range]");
      const read = (name) => Object.fromEntries(
        Array.from(document.querySelectorAll(`[data-${name}]`), (cell) => [cell.dataset[name], cell.textContent]));
      number.value = 0.37;
      number.dispatchEvent(new Event("change"));
      result.metrics = read("metric");
      result.counts = read("count");
      result.spoken = slider.getAttribute("aria-valuetext");
      slider.value = Number(slider.value) - 1;
      slider.dispatchEvent(new Event("input"));
      result.next = document.querySelector("[data-threshold]").textContent;
      result.formatted = [1 / 32, 3 / 32, 0.00005, 2 / 3, 0, 1, 0 / 0].map(format);
    """
    result, problems = in_browser(page_of(evaluated_run, "--pictures", 0), script, tmp_path)
    assert problems == []
    assert result["counts"] == {name: f"{count:,}" for name, count in made["confusion"].items()}
    expected = {
        name: "undefined" if made["metrics"][name] is None else f"{made['metrics'][name]:.4f}"
        for name in result["metrics"]
    }
    assert result["metrics"] == expected
    assert result["spoken"] == "threshold 0.37"
    assert result["next"] == "0.369"
    assert result["formatted"] == [*(f"{value:.4f}" for value in (1 / 32, 3 / 32, 0.00005, 2 / 3, 0, 1)), "undefined"]


@needs_browser
def test_headings_sort_and_the_pictures_can_be_filtered(hostile, tmp_path):
    script = """
      const table = document.querySelector("[aria-label='Metrics by slide'] table");
      const buttons = table.querySelectorAll("th button");
      const column = (i) => Array.from(table.tBodies[0].rows, (row) => row.cells[i].textContent);
      buttons[0].click();
      result.increasing = column(0);
      buttons[0].click();
      result.decreasing = column(0);
      result.sort = buttons[0].parentNode.getAttribute("aria-sort");
      buttons[4].click();
      result.accuracy = column(4).map(Number);
      const [slide, low] = document.querySelectorAll(".filter-controls input");
      const visible = () => document.querySelectorAll(".gallery figure:not([hidden])").length;
      result.pictures = visible();
      slide.value = "SLIDE 2";
      slide.dispatchEvent(new Event("input", { bubbles: true }));
      result.ofSlide = visible();
      low.value = 1;
      low.dispatchEvent(new Event("input", { bubbles: true }));
      result.none = document.querySelector(".filter-controls output").textContent;
    """
    page = page_of(hostile)
    result, problems = in_browser(page, script, tmp_path)
    assert problems == []
    names = [f"slide {i} {HOSTILE}" for i in range(4)]
    assert (result["increasing"], result["decreasing"]) == (names, names[::-1])
    assert result["sort"] == "descending"
    assert result["accuracy"] == sorted(result["accuracy"])
    slides = [names["data-slide"] for tag, names in page.elements if tag == "figure" and "data-slide" in names]
    assert result["pictures"] == len(slides)
    assert result["ofSlide"] == sum(slide.startswith("slide 2") for slide in slides)
    assert result["none"] == f"0 of {len(slides)} pictures are shown"


@needs_browser
def test_keys_sort_a_table_and_move_the_threshold(hostile, tmp_path):
    page = page_of(hostile)
    (points,) = page.points
    table = "document.querySelector(\"[aria-label='Metrics by slide'] table\")"
    rows = f"Array.from({table}.tBodies[0].rows, (row) => row.cells[0].textContent)"
    numbers = """Object.fromEntries(Array.from(document.querySelectorAll(".threshold-controls ~ * [data-count]"),
      (cell) => [cell.dataset.count, Number(cell.textContent)]))"""
    slides = [f"slide {i} {HOSTILE}" for i in range(4)]
    with open_browser(tmp_path / "chromium") as browser:
        browser.open(hostile.root / "plots" / "first-report.html")
        slider = "document.querySelector('.threshold-controls input[type=range]')"
        browser.tab_to(f"element === {slider}")
        at = points["initial"]
        for key, to in (("ArrowRight", at + 1), ("ArrowLeft", at), ("Home", 0), ("End", len(points["thresholds"]) - 1)):
            browser.press(key)
            spoken = browser.evaluate(f"{slider}.getAttribute('aria-valuetext')")
            assert spoken == f"threshold {points['thresholds'][to]:g}"
            tp, fp = points["tp"][to], points["fp"][to]
            expected = {"tn": points["negatives"] - fp, "fp": fp, "fn": points["positives"] - tp, "tp": tp}
            assert browser.evaluate(numbers) == expected
        for key, expected, sort in (("Enter", slides, "ascending"), ("Space", slides[::-1], "descending")):
            if key == "Enter":
                browser.tab_to(f"element === {table}.querySelector('th button')")
            browser.press(key)
            assert browser.evaluate(rows) == expected
            assert browser.evaluate("document.activeElement.parentNode.getAttribute('aria-sort')") == sort


@needs_browser
def test_printed_tables_fit_the_page(evaluated_run, tmp_path):
    """The styles for printing, on a screen as wide as the text of an A4 page."""
    page = page_of(evaluated_run, "--pictures", 0)
    assert "@media print" in page.source
    page.source = page.source.replace("@media print", "@media all")
    script = """
      result.tables = document.querySelectorAll("table").length;
      result.wide = Array.from(document.querySelectorAll("table"))
        .filter((table) => table.getBoundingClientRect().right > document.documentElement.clientWidth)
        .map((table) => table.caption.textContent);
    """
    result, problems = in_browser(page, script, tmp_path, width=700)
    assert problems == []
    assert result["tables"] > 6
    assert result["wide"] == []


@needs_browser
def test_a_narrow_page_scrolls_sideways_in_its_wide_tables_only(evaluated_run, tmp_path):
    script = """
      Object.assign(document.body.style, { width: "360px", margin: "0" });
      result.wide = Array.from(document.querySelectorAll("body *"))
        .filter((one) => !one.closest(".scroll table, .frame, .skip, svg"))
        .filter((one) => one.getBoundingClientRect().right > 361)
        .map((one) => one.outerHTML.slice(0, 80));
    """
    result, problems = in_browser(page_of(evaluated_run), script, tmp_path)
    assert problems == []
    assert result["wide"] == []


OUTDATED = "is an evaluation of another network than best.pt and last.pt of the run first,"


def test_an_evaluation_of_an_earlier_network_of_the_run_is_left_out_until_it_is_made_again(evaluated_run):
    evaluated_run(*EVAL, "--tta")
    assert len(page_of(evaluated_run, "--pictures", 0).points) == 2
    path = evaluated_run.root / "runs" / "first" / "best.pt"
    best = load_checkpoint(path)
    save_checkpoint(replace(best, epoch=best.epoch + 1), path)  # as `histo train --resume --epochs` does
    reason = f"is not used: it {OUTDATED} an earlier one or one of another run of this name"
    command = "histo eval --ckpt first"
    warnings = [
        f"first-synthetic-val-tta.json {reason}; {command}, with the same other options, evaluates the present one",
        f"first-synthetic-val.json {reason}; {command} evaluates the present one",
    ]
    for outdated in (warnings, warnings[:1]):
        printed = " ".join(evaluated_run("report", "--pictures", 0).stderr.split())
        page = Page(evaluated_run.root / "plots" / "first-report.html")
        assert len(page.points) == 2 - len(outdated)
        for warning in warnings:
            assert printed.count(warning) == page.text.count(warning) == outdated.count(warning)
        evaluated_run(*EVAL)


def test_a_new_run_with_the_name_of_a_removed_one_has_none_of_its_evaluations(evaluated_run):
    plot = ["plot", "--run", "first", "--kind", "roc", "--kind", "pr"]
    evaluated_run("runs", "rm", "first")
    assert OUTDATED not in evaluated_run(*plot).stderr  # there is no other network of this name
    evaluated_run(*QUICK, "--seed", 5, "--name", "first")
    assert " ".join(evaluated_run(*plot, code=1).stderr.split()).count(OUTDATED) == 1
    evaluated_run(*EVAL, "--data", "synthetic")
    shutil.rmtree(evaluated_run.root / "plots")
    assert " ".join(evaluated_run(*plot).stderr.split()).count(OUTDATED) == 1
    drawn = sorted(path.name for path in (evaluated_run.root / "plots").iterdir())
    assert drawn == ["first-synthetic-all-pr.png", "first-synthetic-all-roc.png"]


def test_runs_are_compared_at_the_same_threshold(evaluated_run):
    """A run that was evaluated at two thresholds is compared at the one that the other run has too."""
    evaluated_run(*EVAL, "--threshold", 0.99)
    evaluated_run(*QUICK, "--seed", 1, "--name", "second")
    second = ["eval", "--ckpt", "second", "--device", "cpu"]
    evaluated_run(*second)
    options = ["--run", "first", "--run", "second", "--pictures", 0]
    page = page_of(evaluated_run, *options, name="first-vs-second-report.html")
    assert "different patches" not in page.text
    assert len(page.points) == 3  # one for each evaluation
    assert page.text.count("Each run at its own threshold, with 95% intervals.") == 1
    assert ", val intervals by slide" in page.text
    assert "intervals by slide slide" in page.text
    assert "Each run with --threshold" not in page.text
    metrics = evaluated_run.root / "metrics"
    stored, at = (json.loads(path.read_text()) for path in sorted(metrics.glob("first-synthetic-val*.json"))[::-1])
    assert (stored["threshold_rule"], at["threshold_rule"]) == ("stored", "0.99")
    values = [f"{made['metrics']['sensitivity']:.4f}" for made in (stored, at)]
    assert values[0] != values[1]
    compared = page.source[page.source.index('id="comparison"') : page.source.index('id="run-1"')]
    assert re.search(r"sensitivity[^<]*</th><td>([\d.]+)<", compared)[1] == values[0]
    files = ["first-synthetic-val.json", "second-synthetic-val.json"]
    paired = json.loads(evaluated_run("eval", "--compare", *files, "--json").stdout)
    assert f"{paired['difference']:+.4f}" in page.text
    assert f"first: AUC {paired['a']['auc']:.4f} second: AUC {paired['b']['auc']:.4f}" in page.text
    evaluated_run(*second, "--threshold", "0.990")
    page = page_of(evaluated_run, *options, name="first-vs-second-report.html")
    assert "Each run with --threshold 0.99, with 95% intervals." in page.text
    assert "synthetic, val, threshold 0.99" in page.text


@needs_browser
def test_tables_of_three_runs_with_long_names_are_not_cut(evaluated_run, tmp_path):
    names = ["first", f"second-run_{'0123456789' * 5}", f"third-{'run-' * 12}name"]
    metrics = evaluated_run.root / "metrics"
    made = json.loads((metrics / "first-synthetic-val.json").read_text())
    for name in names[1:]:
        shutil.copytree(evaluated_run.root / "runs" / "first", evaluated_run.root / "runs" / name)
        shutil.copyfile(metrics / made["scores"], metrics / f"{name}-synthetic-val.csv")
        write_json(metrics / f"{name}-synthetic-val.json", made | {"run": name, "scores": f"{name}-synthetic-val.csv"})
    runs = [word for name in names for word in ("--run", name)]
    page = page_of(evaluated_run, "--pictures", 0, *runs, name="*-report.html")
    script = """
      result.cut = Array.from(document.querySelectorAll(".scroll"))
        .filter((one) => one.scrollWidth > one.clientWidth)
        .map((one) => `${one.getAttribute("aria-label")} ${one.scrollWidth} ${one.clientWidth}`);
    """
    result, problems = in_browser(page, script, tmp_path, width=1250)
    assert problems == []
    assert result["cut"] == []


def test_runs_on_other_patches_are_not_compared_silently(evaluated_run):
    shutil.copytree(evaluated_run.root / "runs" / "first", evaluated_run.root / "runs" / "other")
    metrics = evaluated_run.root / "metrics"
    made = json.loads((metrics / "first-synthetic-val.json").read_text())
    write_json(metrics / "other-synthetic-val.json", made | {"run": "other", "scores": "other-synthetic-val.csv"})
    table = (metrics / made["scores"]).read_text().splitlines()
    for n_renamed, reason in (
        (2, "first, other scored different patches of synthetic, val"),
        (len(table), "first and other cannot be compared: first and other have no scored patch in common"),
    ):
        lines = [f"other-{line}" if 0 < i <= n_renamed else line for i, line in enumerate(table)]
        (metrics / "other-synthetic-val.csv").write_text("\n".join(lines) + "\n")
        result = evaluated_run("report", "--run", "first", "--run", "other", "--pictures", 0)
        page = Page(evaluated_run.root / "plots" / "first-vs-other-report.html")
        assert reason in " ".join(result.stderr.split())
        assert reason in page.text
        assert f"patches {made['n']} {made['n']} AUC" in page.text
        assert ("scored: 2 of first , 2 of other ." in page.text) == (n_renamed == 2)
        assert ("The difference of first and other has no 95% interval by bootstrap: " in page.text) == (n_renamed == 2)


def test_what_is_missing_is_named_and_the_rest_is_shown(evaluated_run):
    np.save(evaluated_run.root / "data" / "synthetic" / "patches.npy", np.zeros((320, 96, 96, 3), np.uint8))
    result = evaluated_run("report")
    page = Page(evaluated_run.root / "plots" / "first-report.html")
    for text in (" ".join(result.stderr.split()), page.text):
        assert "The patches are not shown: the patch" in text
        assert "was scored with other pixels" in text
    assert len(page.points) == 1
    (evaluated_run.root / "metrics" / "first-synthetic-val.csv").unlink()
    result = evaluated_run("report")
    page = Page(evaluated_run.root / "plots" / "first-report.html")
    missing = "there is no file metrics/first-synthetic-val.csv"
    reason = f"The threshold cannot be moved, and its patches are not shown: {missing}"
    assert reason in page.text
    assert str(evaluated_run.root) not in page.source
    assert page.points == []
    assert "ROC curve" in page.text


def test_a_run_that_was_not_evaluated_is_shown_with_the_command_to_run(histo):
    result = histo("report")
    page = Page(histo.root / "plots" / "first-report.html")
    remedy = "first has no evaluation to show: histo eval --ckpt first makes one"
    assert remedy in " ".join(result.stderr.split())
    assert remedy in page.text
    assert "Loss by epoch" in page.text


def test_weights_that_were_trained_on_pcam_are_named_wherever_the_validation_metrics_are(histo):
    result = histo(*TRAIN, "--shots", 8, "--epochs", 1, "--weights", "histonet-pcam", "--name", "tuned")
    sentence = "histonet-pcam was trained on 31,157 training patches of PCam, and Kaggle has the same slides"
    evaluated = histo("eval", "--ckpt", "tuned", "--device", "cpu")
    assert f"training did not start from random weights: {sentence}" in " ".join(evaluated.stderr.split())
    assert f"warning: {sentence}" in " ".join(result.stderr.split())
    assert f"**{sentence}" in (histo.root / "runs" / "tuned" / "model_card.md").read_text()
    page = page_of(histo, name="tuned-report.html")
    assert sentence in page.text
    assert "for 1 epoch." in page.text
    assert sentence not in page_of(histo, "--run", "first").text


def test_a_page_of_thousands_of_slides_stays_small_enough_to_mail(evaluated_run):
    path = evaluated_run.root / "metrics" / "first-synthetic-val.json"
    made = read_evaluation(evaluated_run)
    write_json(path, made | {"slides": [made["slides"][0] | {"slide": f"slide-{i}"} for i in range(10_000)]})
    page = page_of(evaluated_run)
    assert "300 of 10,000 slides; the metrics file has all of them" in page.text
    assert len(page.source) < 5_000_000


def test_only_the_named_data_is_shown(evaluated_run, tmp_path):
    shutil.copy(
        evaluated_run.root / "metrics" / "first-synthetic-val.csv", evaluated_run.root / "metrics" / "first-new-all.csv"
    )
    made = read_evaluation(evaluated_run)
    new = made | {"data": "new", "split": "all", "scores": "first-new-all.csv"}
    write_json(evaluated_run.root / "metrics" / "first-new-all.json", new)
    assert len(page_of(evaluated_run, "--pictures", 0).points) == 2
    out = tmp_path / "new.html"
    result = evaluated_run("report", "--data", "new", "--out", out, "--pictures", 0)
    assert f"done: wrote {out}: 1 evaluation, " in result.stderr
    page = Page(out)
    assert "first-new-all.json" in page.text
    assert "first-synthetic-val.json" not in page.text


def test_what_cannot_be_reported_is_refused(histo, empty, tmp_path):
    for options in ((), ("--maps", tmp_path, "--data", "synthetic")):
        error, hint = empty.fails("report", *options)
        assert error == "there is no training run to report on"
        assert "histo train makes one" in hint
    assert histo.fails("report", "--run", "firts")[0] == "there is no run 'firts'"
    assert histo.fails("report", "--data", "nothing")[0] == "there is no data set 'nothing'"
    assert histo.fails("report", "--data", "synthetic") == (
        "first has no evaluation on synthetic",
        "histo eval --ckpt first --data synthetic",
    )
    config = histo.root / "runs" / "first" / "config.json"
    before = config.read_bytes()
    assert "is a file that other commands of histo read" in histo.fails("report", "--out", config, code=2)[0]
    assert "is a folder" in histo.fails("report", "--out", tmp_path, code=2)[0]
    assert config.read_bytes() == before


def test_folds_are_shown_with_mean_and_spread_and_out_of_fold_scores(histo):
    made = json.loads(histo(*QUICK, "--folds", 2, "--name", "cv", "--json").stdout)
    page = page_of(histo, "--run", "cv", "--pictures", 0, name="cv-report.html")
    assert "cv is the common name of several runs." in page.text
    for value in (made["mean"]["auc"], made["standard_deviation"]["auc"], made["runs"][1]["metrics"]["log_loss"]):
        assert f"{value:.4f}" in page.text
    assert "cv-fold1 cv-fold2" in page.text
    assert "Written by histo train --folds to cv-synthetic-out-of-fold.json" in page.text
    (points,) = page.points
    assert points["positives"] + points["negatives"] == 64
    newest = page_of(histo, "--pictures", 0, name="cv-fold2-report.html")
    assert "Cross-validation: cv" in newest.text
    assert f"{made['mean']['auc']:.4f}" in newest.text
    assert "Cross-validation" not in page_of(histo, "--run", "first").text


def test_seeds_are_shown_without_an_evaluation(histo):
    made = json.loads(histo(*QUICK, "--seeds", 2, "--name", "net", "--json").stdout)
    result = histo("report", "--run", "net")
    assert "warning" not in result.stderr
    page = Page(histo.root / "plots" / "net-report.html")
    assert "Several seeds: net" in page.text
    assert "Results" not in page.text
    assert f"{made['mean']['auc']:.4f} {made['standard_deviation']['auc']:.4f}" in page.text
    path = histo.root / "metrics" / "net-seeds.json"
    write_json(path, made | {"mean": None})
    assert f"{path}: the field mean is None" in histo.fails("report", "--run", "net")[0]


@pytest.fixture
def placed(histo):
    """A workspace whose patches have positions in two slides, and their evaluation."""
    path = histo.root / "manifests" / "synthetic.csv"
    manifest = pd.read_csv(path, dtype=str, keep_default_na=False)
    manifest["slide"] = [f"slide {row % 2} {HOSTILE}" for row in manifest.index]
    manifest["x"], manifest["y"] = 128 * (manifest.index % 20), 128 * (manifest.index // 20)
    manifest["mpp_x"] = manifest["mpp_y"] = "0.243"
    manifest.to_csv(path, index=False)
    histo(*EVAL, "--data", "synthetic")
    return histo


def write_heatmaps(folder, count, side):
    """Write what `histo predict` leaves of slides that the report shows."""
    for number in range(count):
        values = {"squares": 9, "tumour_mm2": float(number), "maximum": number / 20, "checkpoint": "first"}
        record = SlideRecord(f"case {number} {HOSTILE}", "scored", **values)
        (folder / f"case-{number}").mkdir(parents=True)
        write_finished(folder / f"case-{number}", make_finished(f"{number}.tif", record))
        noise = np.random.default_rng(number).integers(0, 255, (side, side, 3), np.uint8)
        cv2.imwrite(str(folder / f"case-{number}" / "heatmap.png"), noise)


def maps_of(page):
    return [names for tag, names in page.elements if tag == "div" and names.get("class") == "frame"]


@needs_browser
def test_maps_of_slides_can_be_zoomed(placed, tmp_path):
    write_heatmaps(tmp_path / "maps", 2, 300)
    page = page_of(placed, "--pictures", 0, "--maps", tmp_path / "maps")
    names = [f"slide {number} {HOSTILE}" for number in (0, 1)] + [f"case {number} {HOSTILE}" for number in (1, 0)]
    found = [picture["aria-label"].removeprefix("Map of the slide ") for picture in maps_of(page)]
    assert sorted(found[:2]) == names[:2]
    assert found[2:] == names[2:]  # those with most tumour first
    script = """
      const image = document.querySelector(".map img"), slider = document.querySelector(".map input");
      const before = image.getBoundingClientRect().width;
      slider.value = 4;
      slider.dispatchEvent(new Event("input", { bubbles: true }));
      result.factor = image.getBoundingClientRect().width / before;
      const frame = document.querySelector(".map .frame");
      result.middle = (frame.scrollLeft + frame.clientWidth / 2) / frame.scrollWidth;
      result.text = slider.getAttribute("aria-valuetext");
      result.others = document.querySelectorAll(".map")[1].querySelector("img").style.width;
    """
    result, problems = in_browser(page, script, tmp_path)
    assert problems == []
    assert result["factor"] == pytest.approx(4, rel=0.05)
    assert result["middle"] == pytest.approx(0.5, abs=0.02)
    assert (result["text"], result["others"]) == ("4 times", "")


def test_a_page_of_many_large_maps_stays_small_enough_to_mail(evaluated_run, tmp_path):
    write_heatmaps(tmp_path / "maps", 12, 1000)  # noise: 12 x 700 kB as JPEG
    page = page_of(evaluated_run, "--maps", tmp_path / "maps")
    assert len(page.source) < 5_000_000
    assert len(maps_of(page)) == 12
    assert "12 of 12 slides" in page.text


def test_maps_need_no_run(empty, tmp_path):
    write_heatmaps(tmp_path / "my maps", 2, 300)
    result = empty("report", "--maps", tmp_path / "my maps")
    (path,) = (empty.root / "plots").iterdir()
    assert path.name.startswith("my-maps-")
    assert f"done: wrote {path}: 2 heat maps, " in " ".join(result.stderr.split())
    page = Page(path)
    assert "Report: heat maps of slides" in page.text
    assert len(maps_of(page)) == 2
    assert "Results" not in page.text
    assert "no training run" in empty.fails("report")[0]


def test_maps_that_cannot_be_shown_are_named(placed, empty, tmp_path):
    path = placed.root / "manifests" / "synthetic.csv"
    pd.read_csv(path, dtype=str, keep_default_na=False).drop(columns=["mpp_x", "mpp_y"]).to_csv(path, index=False)
    page = page_of(placed, "--pictures", 0)
    assert not maps_of(page)
    assert "The maps of slides are not shown: the resolution of the slide" in page.text
    assert len(maps_of(page_of(placed, "--pictures", 0, "--mpp", "0.243"))) == 2
    assert "is neither a number nor a file" in placed.fails("report", "--mpp", "fine", code=2)[0]
    error, hint = placed.fails("report", "--maps", tmp_path)
    assert error == f"there are no maps of slides in {tmp_path}"
    assert "histo predict SLIDES --out DIR writes them" in hint


def evaluate_maps(histo, folder, **changes):
    """Write what `histo eval --maps` leaves of the four slides of `write_heatmaps`."""
    names = [f"case {number} {HOSTILE}" for number in range(4)]
    evaluation = SlideEvaluation(
        folder=str(folder),
        truth="annotations",
        threshold=0.5,
        slides=4,
        tumour_slides=2,
        without_truth=[],
        failed=["broken"],
        auc={"maximum": Estimate(0.75, (0.5, 0.9))},
        scores={name: {"maximum": number / 20} for number, name in enumerate(names)},
        labels=dict(zip(names, (0, 1, 0, 1), strict=True)),
        froc=Estimate(0.61),
        false_positives=[0.0, 2.0, 12.0],
        sensitivity=[0.0, 0.5, 1.0],
        recall={"micrometastasis": Recall(1, 2, Estimate(0.5))},
        chosen=None,
        checkpoints=["first"],
        unknown_checkpoints=[],
        in_training=[],
        in_validation=[],
        weights_notes=[],
        undefined={},
    )
    write_json(histo.root / "metrics" / "slides-maps.json", to_json(replace(evaluation, **changes)))


def test_the_evaluation_of_maps_is_beside_them(histo, tmp_path):
    maps = tmp_path / "maps"
    write_heatmaps(maps, 4, 300)
    line = ("--pictures", 0, "--maps", maps)
    assert "The maps were not measured: histo eval --maps" in page_of(histo, *line).text
    evaluate_maps(histo, maps)
    page = page_of(histo, *line)
    assert "4 slides, 2 of them with tumour; threshold 0.5." in page.text
    assert "AUC of slides by maximum 0.7500 0.5000 to 0.9000 FROC score of Camelyon16 0.6100 -" in page.text
    assert "recall, micrometastasis: 1 of 2 0.5000 -" in page.text
    assert "With fewer than 10 slides of a class, the intervals are too narrow." in page.text
    assert "Not measured, because they could not be scored (1): broken" in page.text
    roc, froc = ([attributes["points"] for tag, attributes in page.elements if tag == "polyline"][i] for i in (-2, -1))
    chart = Chart("", "", make_rate_axis(""), make_rate_axis(""))
    assert roc == chart.format_points(Line("", ((0, 0), (0, 0.5), (0.5, 0.5), (0.5, 1), (1, 1))))
    assert froc == chart.format_points(Line("", ((0, 0), (0.25, 0.5), (1, 0.8))))  # the axis ends at 8 false positives
    case = f"case 0 {HOSTILE}"
    for changes in ({"scores": {case: {"maximum": 0.9}}, "labels": {case: 0}}, {"without_truth": ["case 9"]}):
        evaluate_maps(histo, maps, **changes)
        result = histo("report", *line)
        assert "slides-maps.json was computed from other maps" in " ".join(result.stderr.split())
        assert "AUC of slides" not in Page(histo.root / "plots" / "first-report.html").text
    evaluate_maps(histo, tmp_path)
    assert "The maps were not measured" in page_of(histo, *line).text
