"""Messages about the result of `histo predict`."""

from pathlib import Path
from typing import TYPE_CHECKING

from histocli.cli.app import State
from histocli.cli.listener import ConsoleListener
from histocli.config import PATCH_MPP, PredictConfig
from histocli.enums import Resize
from histocli.errors import HistoError, PartialError
from histocli.images.remarks import Remarks
from histocli.text import format_count

if TYPE_CHECKING:
    from histocli.commands.predict_job import Prediction


def show_prediction(state: State, config: PredictConfig, prediction: "Prediction") -> None:
    """Print how many patches were scored, flagged and changed.

    Raises:
        HistoError: some or all files could not be read.
    """
    from histocli.inference.inputs import STDIN

    reporter, counts = state.reporter, prediction.counts
    if not prediction.can_find_duplicates:
        reporter.warn("the training patches are not in this workspace, so the column duplicate is empty")
    if counts.flagged:
        reporter.note("flagged: " + ", ".join(f"{count:,} {flag}" for flag, count in counts.flagged.items()))
    scored, unreadable = counts.scored, len(counts.unreadable)
    listed = f", and {config.failed} lists them" if config.failed else "; --failed FILE lists them"
    hint = f"the warnings above name the files that could not be read{listed}"
    if unreadable and not scored and not prediction.done_before:
        raise HistoError(
            "the only file could not be read" if unreadable == 1 else f"none of the {unreadable:,} files could be read",
            hint,
        )
    _report_images(state, config, Remarks(counts.remarks), scored)
    if warning := counts.likeness.warning:
        reporter.warn(warning)
    if config.inputs == (STDIN,) and not (scored or unreadable or prediction.inputs_done):
        reporter.warn("there are no paths on stdin")
    before = f"; it had {prediction.done_before:,} before" if prediction.done_before else ""
    reporter.print_done(f"{format_count(scored, 'patch')} scored to {config.out or 'stdout'}{before}")
    if unreadable:
        files = f"{scored + unreadable:,} {'new files' if prediction.done_before else 'files'}"
        raise PartialError(f"{unreadable:,} of {files} could not be read; all others are scored", hint)


def _report_images(state: State, config: PredictConfig, remarks: Remarks, scored: int) -> None:
    """Say how many images were changed or guessed, and which magnification was assumed."""
    from histocli.images.decode import RESIZED

    datasets = state.workspace.list_datasets()
    if resized := {what: remarks.pop(what) for what in RESIZED if what in remarks}:
        before = "" if config.mpp is None else " before"
        how = ", ".join(f"{remark.images:,} {what} ({remark.sizes}{before})" for what, remark in resized.items())
        verb = "were not 96x96" if config.mpp is None else f"were not 96x96 at {PATCH_MPP} um per pixel"
        state.reporter.warn(f"{sum(remark.images for remark in resized.values()):,} of {scored:,} images {verb}: {how}")
    for what, count in remarks.count_images().items():
        state.reporter.warn(f"{count:,} of {scored:,} images: {what}")
    if config.mpp is not None:
        state.reporter.note(
            f"rescaled the images from {config.mpp} to {PATCH_MPP} um per pixel, the resolution of the training patches"
        )
    elif scored and any(
        name not in datasets or (config.split is None and Path(name).exists()) for name in config.inputs
    ):
        what = "the scaled images" if config.resize is Resize.SCALE else "the images"
        state.reporter.note(
            f"assumed that {what} have {PATCH_MPP} um per pixel (10x), like the training patches; if this is wrong, "
            "give --mpp"
        )


class PredictionListener(ConsoleListener):
    """Shows the messages and the progress of `predict`; `is_rescaled` says whether --mpp is given."""

    is_rescaled = False

    def on_remark(self, what: str, example: str) -> None:
        """Warn of the first image that was changed in this way, and say which option changes less."""
        from histocli.images.channels import GREY
        from histocli.images.decode import CUT, CUT_AND_PADDED

        is_cut = what in (CUT, CUT_AND_PADDED) and not self.is_rescaled
        hint = "; --resize scale takes the whole image, --mpp NUMBER rescales it" if is_cut else ""
        hint = "; networks are usually trained on colour" if what == GREY else hint
        self.reporter.warn(f"{example}: {what} (the first; others are counted){hint}")
