"""Why the metrics of an evaluation may be better, or their intervals narrower, than on new slides."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from histocli.enums import Weights
from histocli.text import format_count

if TYPE_CHECKING:
    from histocli.reports.evaluation import EvaluationReport

_PCAM_SOURCES = ("pcam", "kaggle")  # Kaggle's patches are of PCam's slides
_MAX_ODDS_RATIO = 1.5  # of the assumed and the measured prevalence, for no caveat: 40% and 50% are near enough


@dataclass(frozen=True)
class Caveat:
    """A sentence about an evaluation, without a full stop; the metrics can be far off if it is serious."""

    text: str
    is_serious: bool = False


def list_caveats(report: "EvaluationReport") -> list[Caveat]:
    """Return why the metrics may be better, or their intervals narrower, than on new slides."""
    caveats = [*_list_training_caveats(report), *_list_slide_caveats(report), *_list_weights_caveats(report)]
    if report.calibration_mismatch:
        text = "temperature and threshold were chosen for one network without --tta, not for a mean of several scores"
        caveats.append(Caveat(text))
    caveats += _list_prevalence_caveats(report)
    if report.likeness and report.likeness.warning:
        caveats.append(Caveat(report.likeness.warning))
    if (by := report.uncertainty.bootstrap.by) != "slide":
        why = "because patches of one slide are not independent"
        caveats.append(Caveat(f"not all slides are known: intervals by {by} are too narrow, {why}"))
    return caveats


def _list_training_caveats(report: "EvaluationReport") -> list[Caveat]:
    """Return what is known about patches that the networks were trained or validated on."""
    caveats = []
    n, n_unknown, n_all = report.n_in_training, report.n_unknown_checkpoints, len(report.checkpoints)
    has_packaged = any(checkpoint.run == Weights.HISTONET_PCAM for checkpoint in report.checkpoints)
    where = "is not in the workspace"
    if n is None and not has_packaged:
        text = "it is not known whether the network was trained on these patches: the run's manifest or data set"
        caveats.append(Caveat(f"{text} {where}"))
    elif n and n_unknown:
        text = f"the networks were trained on at least {n:,} of these patches: the metrics are too good"
        caveats.append(Caveat(f"{text}; it is not known for {n_unknown} of the {n_all} checkpoints", is_serious=True))
    elif n:
        text = f"the network was trained on {n:,} of these patches: the metrics are too good"
        caveats.append(Caveat(text, is_serious=True))
    elif n_unknown - int(has_packaged) > 0:  # that the packaged network is unknown is said below
        text = f"it is not known whether {n_unknown} of the {n_all} checkpoints were trained on these patches"
        caveats.append(Caveat(f"{text}: the manifest or data set of a run {where}"))
    if has_packaged and (n is None or n_unknown) and not _is_pcam_test(report):
        text = (
            f"{Weights.HISTONET_PCAM} was trained on patches of PCam's training slides: if these patches are from "
            "PCam's or Kaggle's training set, the metrics are too good"
        )
        caveats.append(Caveat(text, is_serious=True))
    if count := report.n_in_validation:
        used = f"{count:,} of these patches {'was' if count == 1 else 'were'} used"
        caveats.append(Caveat(f"{used} to choose epoch, temperature and threshold"))
    return caveats


def _list_slide_caveats(report: "EvaluationReport") -> list[Caveat]:
    """Return how many other patches are of slides that the networks were trained or validated on."""
    caveats = []
    if count := report.n_of_training_slides:
        others = _count_others(count, report.n_in_training)
        text = f"{others} of slides that the network was trained on (by their names): the metrics are too good"
        caveats.append(Caveat(text, is_serious=True))
    if count := report.n_of_validation_slides:
        others = _count_others(count, report.n_in_validation)
        caveats.append(Caveat(f"{others} of slides that were used to choose epoch, temperature and threshold"))
    return caveats


def _count_others(count: int, n_named: int | None) -> str:
    """Return the subject and verb of a sentence about some patches; `n_named` others are in the sentence before it."""
    are = "is" if count == 1 else "are"
    return f"{format_count(count, 'more patch')} {are}" if n_named else f"{count:,} of these patches {are}"


def _list_weights_caveats(report: "EvaluationReport") -> list[Caveat]:
    """Return what is known about the patches of the weights that training started from."""
    notes = dict.fromkeys(checkpoint.weights_note for checkpoint in report.checkpoints if checkpoint.weights_note)
    if _is_pcam_test(report):
        return []
    is_pcam = report.data_source in _PCAM_SOURCES
    return [Caveat(f"training did not start from random weights: {note}", is_serious=is_pcam) for note in notes]


def _is_pcam_test(report: "EvaluationReport") -> bool:
    """Return whether the patches are of PCam's test slides, which no published weights were trained on."""
    return report.data_source == "pcam" and set(report.splits) == {"test"}


def _list_prevalence_caveats(report: "EvaluationReport") -> list[Caveat]:
    """Return that the share of tumour is not the one that the probabilities were adjusted to."""
    assumed, measured = report.assumed_prevalence, report.measured.prevalence
    if assumed is None:
        return []
    odds = sorted((assumed * (1 - measured), measured * (1 - assumed)))  # times the same number
    if odds[1] <= _MAX_ODDS_RATIO * odds[0]:
        return []
    text = (
        f"the probabilities are for data of which {100 * assumed:.3g}% is tumour (--prevalence), but of these patches "
        f"{100 * measured:.3g}% is: ECE, Brier score and log loss do not show how well the probabilities fit such data"
        ", and accuracy, PPV and NPV would be different there"
    )
    return [Caveat(text, is_serious=True)]
