"""The model card that training writes."""

import json
import re
from dataclasses import replace
from html import unescape

import pytest

from histocli.errors import HistoError
from histocli.models.checkpoint import load_checkpoint, save_checkpoint
from histocli.pages.markdown import escape_markdown, make_code_span
from histocli.pages.model_card import write_card
from histocli.workspace import Workspace
from tests.cli import SMALL_TRAIN


def make_card(histo, run):
    """Write the model card of a run again, and return its text."""
    write_card(Workspace(histo.root), run)
    return (histo.root / "runs" / run / "model_card.md").read_text()


def test_the_model_card_is_complete(histo):
    text = (histo.root / "runs" / "first" / "model_card.md").read_text()
    config = json.loads((histo.root / "runs" / "first" / "config.json").read_text())
    dataset = json.loads((histo.root / "data" / "synthetic" / "dataset.json").read_text())
    best = load_checkpoint(histo.root / "runs" / "first" / "best.pt")
    assert config["manifest_sha256"] in text
    assert dataset["sha256"] in text
    assert f"{best.temperature:.4f}" in text
    assert "Train and validation share no slide." in text
    assert re.search(rf"^\| AUC \| {best.metrics['val_auc']:.4f}", text, re.M)
    metrics = text.partition("## Metrics")[2].partition("\n## ")[0]
    assert ("95% intervals by bootstrap over" in metrics) == bool(re.search(r"\| [\d.]+ \([\d.]+ to", metrics))
    assert "There are no 95% intervals by bootstrap" in metrics  # the validation patches are of few slides
    assert "trained on synthetic patches" in text
    for heading in ("Intended use", "Data", "Leakage", "Training", "Calibration and threshold", "Limits"):
        section = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
        assert len(section.split()) > 6, heading
    assert not re.search(r"\b(TODO|TBD|None|nan|Undefined)\b|[{}]", text.partition("## Evaluations")[0])


def test_an_undefined_metric_needs_no_reason_for_a_missing_interval(histo):
    path = histo.root / "runs" / "first" / "best.pt"
    save_checkpoint(replace(load_checkpoint(path), threshold=1.0), path)  # no patch is predicted as tumour
    text = make_card(histo, "first")
    assert "| PPV | undefined |" in text
    missing = re.findall(r"^- No interval by bootstrap of (.*)", text, re.M)
    assert missing
    assert not any("PPV" in line or "undefined" in line for line in missing)


def test_the_model_card_has_the_audit_and_a_warning_about_random_splits(histo):
    histo("balance", "--n", 64, "--split", "random")
    histo(*SMALL_TRAIN, "--epochs", 1, "--name", "leaky")
    folder = histo.root / "runs" / "leaky"
    text = (folder / "model_card.md").read_text()
    assert "the validation metrics are too good" in text
    metrics = text.partition("## Metrics")[2].partition("\n## ")[0]
    assert ("95% intervals by bootstrap over" in metrics) == bool(re.search(r"\| [\d.]+ \([\d.]+ to", metrics))
    config = json.loads((folder / "config.json").read_text())
    (leak, *_) = config["audit"]["leaks"]
    config["audit"] |= {
        "duplicates": 3,
        "compared_with": [],
        "contradictions": {"patches": 2, "ids": ["mine: a", "other: b"]},
        "overlaps": {"pairs": 7, "groups": 2, "patches": 12, "largest_group": 5, "across_slides": 0, "examples": []},
        "leaks": [leak | {"from": "x|y: test", "held_out": True, "patches": 80, "duplicates": 4, "overlaps": None}],
    }
    (folder / "config.json").write_text(json.dumps(config))
    text = make_card(histo, "leaky")
    section = text.partition("## Leakage\n")[2].partition("\n## ")[0]
    assert "- 3 patches of synthetic are exact copies of an earlier one.\n" in section
    assert "- 2 patches have the same pixels as a patch with the other label: mine: a, other: b.\n" in section
    assert "12 patches of synthetic overlap with another one (7 pairs). They form 2 groups, the largest of" in section
    assert "no other data set in the workspace to compare with" in section
    assert "- The 80 patches of x\\|y: test (for evaluation only) share 4 exact copies, " in section
    assert "with train. Not compared: overlapping patches.\n" in section
    assert "different slides" not in section
    config["audit"]["overlaps"] |= {"across_slides": 2, "examples": ["a (s1) and b (s2)"]}
    (folder / "config.json").write_text(json.dumps(config))
    text = make_card(histo, "leaky")
    assert (
        "**2 pairs of overlapping patches of synthetic are of different slides, so the slides are wrong: a (s1)" in text
    )
    config["audit"]["leaks"][0]["patches"] = "80"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        HistoError, match=r"config\.json: the field audit\.leaks\[0\]\.patches is '80', not a whole number"
    ):
        make_card(histo, "leaky")
    del config["audit"]
    (folder / "config.json").write_text(json.dumps(config))
    assert "Not audited." in make_card(histo, "leaky")


HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "`</code><b>x</b>",
    "``` <b>x</b>",
    "](javascript:alert(1)) [x](javascript:alert(2))",
    "![](http://127.0.0.1/x.png)",
    "a|b\n\n# Heading\n<b>x</b>",
    "&lt;b&gt; \\`<b>",
    "\x1b[31m\u202e",
]


@pytest.mark.attack
@pytest.mark.parametrize("text", HOSTILE)
def test_html_and_markdown_in_names_and_ids_are_shown_as_text(histo, text):
    """python-markdown, which keeps raw HTML as many sites do, shows each text as it is."""
    markdown = pytest.importorskip("markdown", reason="it is installed with the tools of a developer only")
    folder = histo.root / "runs" / "first"
    config = json.loads((folder / "config.json").read_text())
    config["audit"]["contradictions"] = {"patches": 1, "ids": [text]}
    config["audit"]["data"] = text
    config["audit"]["compared_with"] = [text]
    config["audit"]["leaks"][0]["from"] = text
    config["versions"]["histo"] = config["git_commit"] = config["options"]["augment"] = text
    (folder / "config.json").write_text(json.dumps(config))
    path = histo.root / "data" / "synthetic" / "dataset.json"
    dataset = json.loads(path.read_text())
    dataset |= {"origin": text, "checksums": {text: text}, "counts": {text: 3}}
    path.write_text(json.dumps(dataset))
    card = make_card(histo, "first")
    assert {c for c in card if not c.isprintable()} == {"\n"}
    html = markdown.markdown(card, extensions=["tables", "fenced_code"])
    tags = set(re.findall(r"</?(\w+)", html))
    assert tags <= set("h1 h2 p ul li code strong table thead tbody tr th td".split())  # noqa: SIM905
    assert "javascript:" not in "".join(re.findall(r'(?:href|src)="([^"]*)"', html))
    assert html.count("<h1") == 1


@pytest.mark.attack
def test_markdown_is_escaped_and_code_spans_end_where_they_should():
    markdown = pytest.importorskip("markdown", reason="it is installed with the tools of a developer only")
    for text in [*HOSTILE, "plain_name-1.png", "*a* _b_ ~c~", "a\\|b"]:
        shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
        for filtered in (escape_markdown(text), make_code_span(text)):
            rendered = markdown.markdown(f"| x |\n| --- |\n| {filtered} |\n", extensions=["tables"])
            (cell,) = re.findall(r"<td>(.*)</td>", rendered, re.S)
            text_shown = unescape(re.sub(r"</?code>", "", cell)).strip()  # GitHub drops the backslash of a bar in code
            assert shown.strip() in (text_shown, text_shown.replace("\\|", "|")), rendered


def test_notes_in_another_encoding_stay_in_the_model_card(histo):
    """An editor on Windows may save a card as Latin-1, with \\r\\n; this was a bug after all patches were scored."""
    card = histo.root / "runs" / "first" / "model_card.md"
    saved = "# Geprüft\r\n".encode("latin-1") + card.read_bytes().replace(b"\n", b"\r\n")
    card.write_bytes(saved)
    histo("eval", "--ckpt", "first", "--device", "cpu")
    written = card.read_bytes()
    assert written.startswith(saved.partition(b"## Evaluations")[0])
    assert written.count(b"## Evaluations") == 1
    assert b"None yet" not in written
    assert b"| synthetic, val |" in written
