"""Options of `histo download` that sources declare; sources with the same option share one `Option`."""

import os
from dataclasses import dataclass, fields
from typing import Any, get_args, get_type_hints

from histocli.config import PATCH_MPP
from histocli.enums import Resize
from histocli.errors import UsageError
from histocli.sources import SOURCE_NAMES, SourceOptions, find_source_type
from histocli.text import parse_number

_MIN_MPP, _MAX_MPP = 0.05, 20.0  # micrometres per pixel: from the sharpest oil lens to an overview
COMMON = ("n", "seed")  # fields that are set by --n and --seed, which every source has


@dataclass(frozen=True)
class Option:
    """An option of `histo download`: its flag, its help text, and the name of its value in the help."""

    flag: str
    help: str
    metavar: str | None = None
    envvar: str | None = None


@dataclass(frozen=True)
class DeclaredOption:
    """An option, the type and default of its field, and the names of the sources that have it."""

    option: Option
    type: Any
    default: Any
    sources: tuple[str, ...]


FROM = Option(
    "--from",
    "Archive, folder or base URL to read instead of a download; may be repeated.",
    metavar="PATH|URL",
    envvar="HISTO_DOWNLOAD_FROM",
)
LABELS = Option("--labels", "CSV with the columns id,label: the label of each image.")
SLIDES = Option("--slides", "CSV with the columns id and slide (or wsi): the slide of each patch.")
SLIDE_PATTERN = Option(
    "--slide-pattern",
    "Regular expression that finds the slide in the path of an image; a group in it is the slide.",
    metavar="REGEX",
)
CLASSES = Option(
    "--classes",
    "Names of class folders or labels: negative=NAME[,NAME...]; give it again for positive=NAME[,NAME...].",
    metavar="CLASS=NAMES",
)
ID_COLUMN = Option("--id-column", "Column of the ids in the tables.", metavar="NAME")
LABEL_COLUMN = Option("--label-column", "Column of the labels in the table.", metavar="NAME")
SLIDE_COLUMN = Option("--slide-column", "Column of the slides in the table.", metavar="NAME")
HOSPITAL_COLUMN = Option("--hospital-column", "Column of the hospitals in the table.", metavar="NAME")
SPLIT_COLUMN = Option("--split-column", "Column of the splits in the table: train, val or test.", metavar="NAME")
MPP_HELP = f"Micrometres per pixel of images, such as 0.25 for 40x; they are rescaled to {PATCH_MPP}."
MPP = Option(
    "--mpp",
    f"{MPP_HELP} For whole slides: a number, for files without a resolution; or a CSV with the columns slide,mpp, "
    "which replaces the resolution in the files.",
    metavar="NUMBER|CSV",
)
RESIZE = Option("--resize", "How to change images that are not 96x96: cut out the centre, or scale.")


def list_declared_options() -> dict[str, DeclaredOption]:
    """Return the options of all sources, by the name of the field."""
    declared: dict[str, DeclaredOption] = {}
    for source in SOURCE_NAMES:
        options = find_source_type(source).options
        types = get_type_hints(options, include_extras=True)
        for item in fields(options):
            if item.name in COMMON:
                continue
            kind, option = get_args(types[item.name])
            before = declared.get(item.name)
            sources = (*(before.sources if before else ()), source)
            this = DeclaredOption(option, kind, item.default, sources)
            if before and (before.option, before.type, before.default) != (this.option, this.type, this.default):
                raise ValueError(f"{source} and {before.sources[0]} declare {item.name} differently")
            declared[item.name] = this
    return declared


def make_source_options(source: str, values: dict[str, Any], n: int | None, seed: int) -> SourceOptions:
    """Return the options of a source, with its values from `values`, which has the options of all sources.

    Raises:
        UsageError: an option was given that this source does not have.
    """
    options = find_source_type(source).options
    names = {item.name for item in fields(options)}
    for name, declared in list_declared_options().items():
        if name not in names and values.get(name, declared.default) != declared.default:
            hint = f"use it with --source {' or '.join(declared.sources)}"
            variable = declared.option.envvar
            if variable and values[name] == (os.environ.get(variable),):  # else it was typed
                hint += f", or unset the environment variable {variable}"
            raise UsageError(f"--source {source} has no option {declared.option.flag}", hint)
    common = {"n": n, "seed": seed}
    arguments = {name: value for name, value in {**values, **common}.items() if name in names and value is not None}
    result: SourceOptions = options(**arguments)
    return result


def parse_mpp(text: str | None, resize: Resize) -> float | None:
    """Return the micrometres per pixel of images, the value of `--mpp`; None stays None.

    Raises:
        UsageError: it is not a number between 0.05 and 20, or is combined with `--resize scale`.
    """
    if text is None:
        return None
    try:
        mpp = parse_number(text)
    except ValueError:
        mpp = 0
    if not _MIN_MPP <= mpp <= _MAX_MPP:
        hint = f"give a number from {_MIN_MPP} to {_MAX_MPP:g}, such as 0.25 for 40x or 0.5 for 20x"
        raise UsageError(f"--mpp {text}: not the micrometres per pixel of patches", hint)
    if resize is Resize.SCALE:
        raise UsageError("--mpp and --resize scale exclude each other", "leave out --resize: --mpp rescales the images")
    return mpp


def require_single_location(source: str, locations: tuple[str, ...]) -> str | None:
    """Return the only location; None if there is none.

    Raises:
        UsageError: there are several locations.
    """
    if len(locations) > 1:
        raise UsageError(f"--source {source} takes one --from", "give one of them")
    return locations[0] if locations else None
