"""The plots of balanced subsets, `histo plot --kind balance`."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from histocli.config import SUBSET
from histocli.enums import PlotKind
from histocli.plots import MissingInputError, Plot
from histocli.reports.balance import BalanceReport, read_balance_report
from histocli.reports.run import read_run
from histocli.workspace import Workspace


def plan_balance(workspace: Workspace, run: str | None, data: Sequence[str]) -> list[Plot]:
    """Return a plot of the run's subset, or of the subsets that `data` names or that are drawn from `data`.

    Raises:
        MissingInputError: there is no such subset.
    """
    from histocli.plots.style import COLUMN
    from histocli.plots.subset import draw_balance

    if run is not None and not data:
        reports = _read_report_of_run(workspace, run)
    else:
        reports = {path: read_balance_report(path) for path in workspace.list_balance_reports()}
    if data:
        reports = {path: report for path, report in reports.items() if {report.name, report.data} & set(data)}
    if not reports:
        which = f"that {run} was trained on" if run and workspace.list_balance_reports() else "yet"
        which = f"of {', '.join(data)}" if data else which
        raise MissingInputError(
            f"there is no balanced subset {which}", "histo balance draws one; --data NAME chooses it"
        )
    return [
        Plot(
            f"{report.data}-{PlotKind.BALANCE}" if path == workspace.balance_path(SUBSET) else path.stem,
            COLUMN,
            4.4 if report.slides else 2.4,
            partial(draw_balance, report=report),
        )
        for path, report in reports.items()
    ]


def _read_report_of_run(workspace: Workspace, run: str) -> dict[Path, BalanceReport]:
    """Return the report of the subset that a run was trained on; nothing if the subset has changed or is unknown."""
    folder = workspace.run_dir(run)
    if not (folder / "config.json").is_file():
        return {}
    record = read_run(folder)
    path = workspace.balance_path(str(record.options.get("data", SUBSET)))
    report = read_balance_report(path) if path in workspace.list_balance_reports() else None
    return {path: report} if report and report.manifest_sha256 == record.manifest_sha256 else {}
