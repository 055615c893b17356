"""The options of `histo plot` and `histo report`."""

from dataclasses import dataclass
from pathlib import Path

from histocli.enums import PlotFormat, PlotKind
from histocli.errors import UsageError

PAGE_WIDTH = 7.2  # inches: the default width of sheets of patches
_MAX_PIXELS = 20_000  # of a PNG: with more, the picture can need more memory than there is


@dataclass(frozen=True)
class PlotConfig:
    """The options of `histo plot`."""

    run: tuple[str, ...] = ()  # none: the one trained or evaluated last; several are laid over one another
    kind: tuple[PlotKind, ...] = (PlotKind.ALL,)
    format: PlotFormat = PlotFormat.PNG
    data: tuple[str, ...] = ()  # none: the run's own data set and subset, and all of its evaluations
    title: bool = True
    dpi: int = 200
    width: float | None = None  # inches; None: 3.5, one column of a paper, and 7.2 for sheets of patches
    files: tuple[str, ...] = ()  # images to explain, as the inputs of `PredictConfig`; or tables of scores to map
    ids: tuple[str, ...] = ()  # patches of packed data sets to explain
    ckpt: tuple[str, ...] = ()  # what scores the patches to explain; none: that of `run`, else `CHECKPOINT`
    mpp: str | None = None  # of the slides to map, where the data set does not say it: a number or a table

    def check(self) -> None:
        """Raise `UsageError` naming the option whose value cannot be used."""
        is_explained, is_mapped = PlotKind.EXPLAIN in self.kind, PlotKind.MAP in self.kind
        for option, values in (("--ids", self.ids), ("--ckpt", self.ckpt)):
            if values and not is_explained:
                what = f"{option} {values[0]}"
                raise UsageError(f"{what} is only for --kind explain", f"histo plot --kind explain {what}")
        if self.files and is_explained is is_mapped:
            raise UsageError(
                f"{self.files[0]} needs exactly one of --kind explain and --kind map",
                f"histo plot --kind explain {self.files[0]} (an image), or --kind map {self.files[0]} (a table)",
            )
        if self.mpp is not None and not is_mapped:
            raise UsageError("--mpp is only for --kind map", "histo plot --kind map --mpp 0.25")
        if self.files and self.ids:
            raise UsageError("--ids names patches of packed data sets, and files were given too", "give one of them")
        if self.files and self.data and not is_mapped:
            raise UsageError(
                f"--data {self.data[0]} is for packed patches, and files were given", "leave one of them out"
            )
        if self.files and self.run and is_mapped:
            raise UsageError(f"--run {self.run[0]} names evaluations, and tables were given", "leave one of them out")
        if self.ckpt and not (self.files or self.ids):
            raise UsageError(
                "--ckpt needs the patches to explain",
                "give files, or --ids ID; --run alone explains the patches of its evaluations",
            )
        if self.ckpt and self.run:
            raise UsageError(
                "--ckpt and --run exclude each other", "leave --run out: --ckpt takes the name of a run too"
            )
        if not 20 <= self.dpi <= 2400:
            raise UsageError(f"--dpi {self.dpi}: a number from 20 to 2400 is needed", "200 is the default")
        if self.width is not None and not 2 <= self.width <= 40:
            raise UsageError(
                f"--width {self.width:g}: a number of inches from 2 to 40 is needed",
                "3.5 is the width of one column of a journal",
            )
        if self.format is PlotFormat.PNG and (pixels := self.dpi * (self.width or PAGE_WIDTH)) > _MAX_PIXELS:
            raise UsageError(
                f"--dpi {self.dpi}: a plot of {self.width or PAGE_WIDTH:g} inches would be {pixels:,.0f} pixels wide",
                f"at most {_MAX_PIXELS:,} are possible: lower --dpi or --width, or use --format pdf",
            )


@dataclass(frozen=True)
class ReportConfig:
    """The options of `histo report`."""

    run: tuple[str, ...] = ()  # none: the one trained or evaluated last; several are compared
    data: tuple[str, ...] = ()  # none: all evaluations of the runs
    out: Path | None = None  # None: RUN-report.html in the workspace's plots/
    pictures: int = 48  # false positives, and false negatives, of each evaluation at most
    maps: Path | None = None  # the folder of maps of slides that `histo predict` wrote
    mpp: str | None = None  # of the slides of placed patches, where the data set does not say it: a number or a table
