"""`histo predict` and `histo eval --maps` on whole slides: progress, messages and results."""

import os
from collections import Counter
from collections.abc import Sequence

from rich.progress import MofNCompleteColumn

from histocli.cli.app import State
from histocli.cli.listener import ConsoleListener
from histocli.config import PredictConfig, SlideEvalConfig
from histocli.console import Rate, Reporter, format_cell
from histocli.enums import OUTPUT_SUFFIXES
from histocli.errors import HistoError, PartialError, UsageError
from histocli.files.file import is_image
from histocli.reports.slides import Estimate
from histocli.slides.detection import FoundSlides, SlideFile, list_without_maps
from histocli.slides.listener import SlideListener
from histocli.slides.records import FAILED, NO_TISSUE, OWN_MASK, SCORED, TABLE, SlideRecord
from histocli.stdio import write_out_json
from histocli.text import format_count, join_first, shorten_to_length

_MAX_NAME = 24  # the largest number of characters of a slide's name beside its bar
_MAX_LISTED = 3  # how many names of files or slides a message shows


class SlideBars(ConsoleListener, SlideListener):
    """Two progress bars: of the slide that is scored, and of all slides of this process."""

    def __init__(self, reporter: Reporter) -> None:
        super().__init__(reporter)
        self.progress = reporter.make_progress(MofNCompleteColumn(), Rate("squares"), width=16)
        self.overall = self.progress.add_task("all slides", total=None)
        self.current = self.progress.add_task("", total=None, visible=False)
        self.number = self.count = self.squares = 0

    def __enter__(self) -> "SlideBars":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def on_slide_start(self, slide: SlideFile, number: int, total: int) -> None:
        """Show the bar of the next slide."""
        self.number, self.count = number, total
        self.progress.update(self.overall, total=total, completed=number - 1)
        self.progress.reset(
            self.current, description=shorten_to_length(slide.name, _MAX_NAME), total=None, visible=True
        )

    def on_total(self, total: int | None) -> None:
        """Set the number of squares of the current slide."""
        self.squares = total or 0
        self.progress.update(self.current, total=total)

    def on_progress(self, done: int) -> None:
        """Move the bars."""
        self.progress.update(self.current, completed=done)
        self.progress.update(self.overall, completed=self.number - 1 + done / max(self.squares, 1))

    def on_slide_end(self, record: SlideRecord) -> None:
        """Print what was found in a slide."""
        self.progress.update(self.overall, completed=self.number)
        where = f"[{self.number} of {self.count}] {record.slide}"
        if record.status == FAILED:
            self.reporter.warn(f"{where}: {record.error}")
        elif record.status == NO_TISSUE and OWN_MASK in record.flags:
            self.reporter.warn(
                f"{where}: the mask covers less than a tenth of every square, so nothing was scored; see tissue.png"
            )
        elif record.status == NO_TISSUE:
            why = f" ({record.flags})" if record.flags else ""
            self.reporter.warn(
                f"{where}: no tissue was found{why}, so nothing was scored; if you see tissue in tissue.png, draw "
                "its outline, and give the outline with --mask FILE"
            )
        else:
            self.reporter.note(f"{where}: {_describe_record(record)}")


def _describe_record(record: SlideRecord) -> str:
    """Return the measures of a scored slide as text."""
    text = f"{format_count(record.squares, 'square')}, {record.tissue_mm2:.2f} mm2 tissue, {record.tumour_mm2:.2f} mm2"
    text += f" of it at or above the threshold {record.threshold:.3g}"
    return text + (f" ({record.flags})" if record.flags else "")


def _describe_table(records: list[SlideRecord]) -> str:
    """Return how many slides a table has, and how many of each status, as text."""
    counts = Counter(record.status for record in records)
    statuses = ", ".join(f"{counts[status]:,} {status}" for status in (SCORED, NO_TISSUE, FAILED) if counts[status])
    return f"{format_count(len(records), 'slide')}: {statuses}"


def run_predict_slides(state: State, config: PredictConfig, found: FoundSlides) -> None:
    """Score slides, show the progress, and report what was written.

    Raises:
        HistoError: some slides could not be scored.
    """
    from histocli.commands.predict_slides import predict_slides
    from histocli.compute.ddp import LONG_TIMEOUT, connect_processes

    is_for_patches = config.out is None or config.out.suffix.lower() in OUTPUT_SUFFIXES
    if is_for_patches and found.others:
        raise UsageError(
            f"{found.slides[0].path.name} is a whole slide, and {len(found.others):,} other files are not",
            "--out DIR scores the slides; to score the others, name them, for example 'DIR/*.png'",
        )
    if found.others:
        names = join_first([path.name for path in found.others], _MAX_LISTED)
        what = "file that is not a slide" if len(found.others) == 1 else "files that are not slides"
        state.reporter.note(f"skipped {len(found.others):,} {what}: {names}")
    with connect_processes(LONG_TIMEOUT) as ranks, SlideBars(state.reporter) as bars:
        prediction = predict_slides(state.workspace, config, found.slides, listener=bars, ranks=ranks)
    if not ranks.is_rank0:
        return
    if prediction.finished_before:
        verb = "was" if prediction.finished_before == 1 else "were"
        total = format_count(len(prediction.records), "slide")
        state.reporter.note(f"{prediction.finished_before:,} of {total} {verb} finished before")
    failed = [record for record in prediction.records if record.status == FAILED]
    assert config.out is not None
    count = len(prediction.records) - len(failed)
    scored = f"scored {format_count(prediction.scored, 'slide')}"
    state.reporter.print_done(f"{scored}; {config.out / TABLE} lists {_describe_table(prediction.table)}")
    if failed:
        kind = PartialError if count else HistoError
        raise kind(
            f"{len(failed):,} of {format_count(len(prediction.records), 'slide')} could not be scored: "
            + join_first([record.slide for record in failed], _MAX_LISTED),
            "the warnings above say why; the same command scores only these again",
        )


def report_no_slides(state: State, config: PredictConfig, names: Sequence[str]) -> bool:
    """If it is no error that the inputs `names` have no slide, say so and return True; else return False.

    It is no error if the inputs are folders without images and `config.out` has the maps of earlier calls, as for a job
    that runs every night and finds no new slide. An image, such as a damaged slide, would be skipped without an error.

    Raises:
        UsageError: an option is wrong, which would be an error if there were slides.
    """
    from histocli.commands.slide_options import check_slide_options

    if config.out is None or not (config.out / TABLE).is_file() or not all(map(os.path.isdir, config.inputs)):
        return False
    files = [file for name in config.inputs for file in list_without_maps(name)]
    if any(map(is_image, files)):
        return False
    check_slide_options(config, [])
    skipped = f"; skipped {format_count(len(files), 'other file')}" if files else ""
    state.reporter.note(f"there are no slides in {', '.join(names)}{skipped}")
    state.reporter.print_done(f"scored 0 slides; {config.out / TABLE} is not changed")
    return True


def run_evaluate_slides(state: State, config: SlideEvalConfig, json: bool) -> None:
    """Evaluate the maps of a folder, and show the result."""
    from histocli.cli.render import show_caveats
    from histocli.commands.evaluate_slides import evaluate_slides
    from histocli.schema import to_json

    written = evaluate_slides(state.workspace, config)
    report = written.report
    for note in written.notes:
        state.reporter.note(note)
    for names, of_one, of_several in (
        (report.without_truth, "it has no label or annotation", "they have no label or annotation"),
        (report.failed, "histo predict could not score it", "histo predict could not score them"),
    ):
        if names:
            why = f"is not measured, because {of_one}" if len(names) == 1 else f"are not measured, because {of_several}"
            state.reporter.warn(f"{format_count(len(names), 'slide')} {why}: {', '.join(names)}")
    chosen = report.chosen.name if report.chosen else None
    rows = [
        [f"AUC of slides by {name}" + (", chosen" if name == chosen else ""), *_format_estimate(auc)]
        for name, auc in report.auc.items()
    ]
    if report.chosen is None and "auc" not in report.undefined:
        state.reporter.note(
            "the table has three AUCs: report the one that you chose before you saw them, or let --choose-on choose"
        )
    elif report.chosen is not None:
        there = ", ".join(f"{name} {format_cell(value)}" for name, value in report.chosen.auc.items())
        state.reporter.note(f"chosen on {report.chosen.slides:,} training slides: {report.chosen.name} (AUC: {there})")
    if report.sensitivity:
        rows.append(["FROC score of Camelyon16", *_format_estimate(report.froc)])
        for size, recall in report.recall.items():
            rows.append([f"recall, {size}: {recall.found} of {recall.lesions}", *_format_estimate(recall.recall)])
    count = format_count(report.slides, "slide")
    title = f"{count}, {report.tumour_slides:,} with tumour; threshold {report.threshold:.3g}"
    state.reporter.print_table(title, ["", "value", "95% interval"], rows)
    show_caveats(state.reporter, report.list_caveats())
    state.reporter.print_done(f"wrote {', '.join(map(str, [written.path, *written.plots]))}")
    if json:
        write_out_json(to_json(report))


def _format_estimate(estimate: Estimate) -> tuple[str, str]:
    interval = f"{estimate.interval[0]:.4f} to {estimate.interval[1]:.4f}" if estimate.interval else "-"
    return format_cell(estimate.value), interval
