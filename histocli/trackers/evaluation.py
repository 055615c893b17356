"""Send the metrics of `histo eval` to the trackers that a run was sent to while it was trained."""

from contextlib import suppress

from histocli.errors import HistoError, read_first_line
from histocli.listeners import CommandListener
from histocli.reports.evaluation import EvaluationReport
from histocli.trackers.records import make_measured_values, make_tracked_run, read_state
from histocli.trackers.registry import check_packages, make_tracker
from histocli.workspace import Workspace


def send_evaluation(workspace: Workspace, report: EvaluationReport, name: str, listener: CommandListener) -> None:
    """Send the metrics of an evaluation of a run's best epoch, with their intervals, as `eval/<name>/auc`, ...

    `name` says what was evaluated and how. The evaluation is complete without the trackers: a tracker that fails is
    reported in a note, and a damaged record of the trackers in a warning.
    """
    folder = workspace.run_dir(report.run)
    metrics = make_measured_values(report, f"eval/{name}/")
    try:
        states = read_state(folder)
    except HistoError as error:
        listener.on_warning(f"the metrics were not sent to a tracker: {error}")
        return
    for kind, state in states.items():
        tracker = make_tracker(kind)
        try:
            check_packages([kind])
            tracker.start(make_tracked_run(workspace, folder, state.id))
            tracker.log_run_metrics(metrics)
            tracker.close("finished")
        except Exception as error:  # noqa: BLE001 - another library may raise anything
            listener.on_note(
                f"the metrics were not sent to {kind.value}: {type(error).__name__}: {read_first_line(error)}"
            )
            with suppress(Exception):  # it is reported already; the training itself has not failed
                tracker.close("finished")
        else:
            listener.on_note(f"sent the metrics to {kind.value} as eval/{name}/auc, ...")
