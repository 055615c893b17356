"""Find the slides or patients in the names of images."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from histocli.errors import HistoError, UsageError
from histocli.labels.result import format_examples

# Names of files in public data sets, and the pattern that finds the patient or slide in them.
_KNOWN_PATTERNS = (
    ("IDC", r"(\d+)_idx\d+_x\d+_y\d+_class[01]"),
    ("BreakHis", r"SOB_[BM]_\w+-(\d+-\w+?)-\d+-\d+"),
    ("WILDS", r"(patient_\d+_node_\d+)"),
    ("Camelyon16", r"((?:normal|tumor|test)_\d{3})(?!\d)"),
    ("TCGA", r"(TCGA-\w\w-\w{4})"),
    ("slides", r"((?:slide|wsi|patient|case)[_-]?\d+)"),
)
_SAMPLE_SIZE = 1000  # images whose names are compared with the known patterns


def compile_slide_pattern(text: str | None, *, has_table: bool = False) -> re.Pattern[str] | None:
    """Compile the value of `--slide-pattern`; None stays None. `has_table` says whether a table of slides is given too.

    Raises:
        UsageError: it is not a regular expression, or a table is given too.
    """
    if text is None:
        return None
    if has_table:
        raise UsageError("--slide-pattern cannot be combined with a table of slides", "use one of them")
    try:
        return re.compile(text)
    except re.error as error:
        raise UsageError(
            f"--slide-pattern {text} is not a regular expression: {error}", r"for example '(patient_\d+)'"
        ) from error


def find_slides_by_pattern(pattern: re.Pattern[str], names: Sequence[str]) -> dict[str, str]:
    """Return the slide of each image whose path matches: the group `slide`, else the first group, else the whole match.

    Raises:
        HistoError: no path matches.
    """
    group: str | int = "slide" if "slide" in pattern.groupindex else min(1, pattern.groups)
    found = {name: match[group] for name in names if (match := pattern.search(name)) and match[group]}
    if not found:
        raise HistoError(
            f"--slide-pattern {pattern.pattern} matches no image, for example not {names[0]!r}",
            r"it is searched in the path of each image: for example '(patient_\d+)'",
        )
    return found


def describe_slides(slides: Mapping[str, str], names: Sequence[str], has_table: bool) -> str:
    """Return a line with the numbers of slides and images; `has_table` if a table has slides too."""
    instead = ", instead of those of the table" if has_table else ""
    counts = Counter(slides.values())
    largest, n = counts.most_common(1)[0]
    text = f"slides by --slide-pattern{instead}: {len(counts):,} in {len(slides):,} of {len(names):,} images, "
    text += f"for example {largest!r} with {n:,}"
    if missing := [name for name in names if name not in slides]:
        text += f"; images without a slide: {format_examples(missing)}"
    if len(counts) == 1 and len(names) > 1:
        text += "; with only one slide, no split by slide is possible: check the pattern"
    if n == 1 and len(names) > 1:
        text += "; every image is a slide of its own, so a split by slide is a random split: check the pattern"
    return text


def suggest_pattern(names: Sequence[str]) -> str:
    """Return a line that offers the pattern of a public data set that all names match; "" if there is none."""
    sample = names[:: max(1, len(names) // _SAMPLE_SIZE)]
    for title, pattern in _KNOWN_PATTERNS:
        found = [match[1] for name in sample if (match := re.search(pattern, name))]
        if len(found) == len(sample) and len(set(found)) > 1:
            return (
                f"the names look like {title}: --slide-pattern '{pattern}' uses {found[0]} as a slide; then no slide "
                "is in train and in validation"
            )
    return ""
