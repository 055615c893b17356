"""The resolution of a slide: from its file, or from `--mpp`; it is never guessed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from histocli.errors import HistoError, UsageError
from histocli.files.tables import read_columns
from histocli.slides.detection import SlideFile
from histocli.slides.slide import Slide, keep_plausible_mpp
from histocli.text import format_count, join_first, parse_number

_MAX_LISTED = 3  # names in a message
_MPP_TOLERANCE = 0.02  # relative difference of two resolutions that mean the same


class UnknownResolutionError(HistoError):
    """The micrometres per pixel of a slide are not known."""


@dataclass(frozen=True)
class GivenResolutions:
    """The values of `--mpp`: one number for the slides whose files have none, or one for each slide in a table."""

    for_all: float | None = None
    by_slide: dict[str, float] = field(default_factory=dict)

    def describe_unknown(self, slides: Sequence[SlideFile]) -> list[str]:
        """Return a note if names in the table belong to none of these slides."""
        unknown = set(self.by_slide).difference(*(list_keys(slide) for slide in slides))
        if not unknown:
            return []
        names = join_first(sorted(unknown), _MAX_LISTED)
        what = "is not the name" if len(unknown) == 1 else "are not the name"
        return [f"{format_count(len(unknown), 'name')} in the --mpp table {what} of any of these slides: {names}"]

    def find(self, slide: Slide, file: SlideFile) -> tuple[tuple[float, float], str]:
        """Return the micrometres per level-0 pixel (x, y), and a remark, "" if they are from the file.

        Raises:
            UnknownResolutionError: neither the file nor the user gives them.
            HistoError: the number for all slides differs from the file.
        """
        in_table = self._find_in_table(file)
        if in_table is None and slide.mpp is not None:
            if self.for_all is not None and are_different(self.for_all, slide.mpp[0]):
                raise HistoError(
                    f"{slide.path} says {slide.mpp[0]:.4g} micrometres per pixel, and --mpp says {self.for_all:g}",
                    f"omit --mpp; if the file is wrong, give --mpp FILE.csv with the line {file.name},{self.for_all:g}",
                )
            return slide.mpp, ""
        given = self.for_all if in_table is None else in_table
        if given is None:
            raise UnknownResolutionError(
                f"{slide.path}: its resolution is not known: {slide.mpp_remark}",
                "give the micrometres per pixel: --mpp 0.25, or --mpp FILE.csv, a table with two lines: "
                f"slide,mpp and {file.name},0.25",
            )
        remark = f"mpp {given:g} given"
        if slide.mpp is not None and are_different(given, slide.mpp[0]):
            remark += f", not {slide.mpp[0]:.4g} as in the file"
        return (given, given), remark

    def list_possible(self, file: SlideFile) -> list[float | None]:
        """Return the values that `find` may use for a slide that is not open; None is the resolution in its file.

        The first one is what the user gives for this slide. A number for all slides is used only if the file of the
        slide has no resolution.
        """
        in_table = self._find_in_table(file)
        return [self.for_all, None] if in_table is None else [in_table]

    def _find_in_table(self, file: SlideFile) -> float | None:
        return next((self.by_slide[key] for key in list_keys(file) if key in self.by_slide), None)


def list_keys(file: SlideFile) -> tuple[str, ...]:
    """Return the names by which a table can mean a slide."""
    suffix = file.path.suffix
    return (*file.keys, *(f"{key}{suffix}" for key in file.keys), str(file.path))


def read_resolutions(value: str | None) -> GivenResolutions:
    """Read `--mpp`: a number, or the path of a CSV table with the columns `slide,mpp`.

    Raises:
        UsageError: it is neither, or a number is not possible for a slide.
    """
    if value is None:
        return GivenResolutions()
    try:
        return GivenResolutions(_parse_mpp(value, f"--mpp {value}"))
    except ValueError:
        path = Path(value)
    if not path.is_file():
        raise UsageError(f"--mpp {value} is neither a number nor a file", "give micrometres per pixel, such as 0.25")
    with path.open(encoding="utf-8-sig", newline="") as file:
        columns = read_columns(file, str(path))
    if not {"slide", "mpp"} <= set(columns):
        raise UsageError(f"{path}, line 1: the columns slide and mpp are needed", "the first line is: slide,mpp")
    found: dict[str, float] = {}
    for slide, text in zip(columns["slide"], columns["mpp"], strict=True):
        try:
            number = _parse_mpp(text, f"{path}: the mpp of {slide}, {text},")
        except ValueError:
            raise UsageError(f"{path}: the mpp of {slide} is {text!r}", "give a number, such as 0.25") from None
        if found.setdefault(slide, number) != number:
            raise UsageError(f"{path}: {slide} occurs twice with different mpp", "remove one of the lines")
    return GivenResolutions(by_slide=found)


def are_different(first: float, second: float) -> bool:
    """Return whether two resolutions are too different to mean the same."""
    return abs(first / second - 1) > _MPP_TOLERANCE


def _parse_mpp(text: str, what: str) -> float:
    """Return micrometres per pixel; raise `ValueError` if the text is no number, `UsageError` if it is not possible."""
    mpp = parse_number(text)
    if keep_plausible_mpp(mpp, mpp)[0] is None:
        raise UsageError(f"{what} is not possible for a slide", "most slides have 0.2 to 0.5 micrometres per pixel")
    return mpp
