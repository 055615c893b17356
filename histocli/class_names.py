"""Find the labels and splits in names such as `no_tumor` and `val`."""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence

from histocli.errors import HistoError, UsageError

# The usual names of columns, arrays and keys that hold labels, in lower case with underscores.
_LABEL_NAMES = (
    "label labels target targets class center_tumor_patch tumor tumour class_name classname "
    "class_label category is_tumor has_tumor is_cancer cancer malignant metastasis diagnosis ground_truth y"
)
LABEL_NAMES = tuple(_LABEL_NAMES.split())

_WORDS = {
    "negative": "negative neg",
    "healthy": "normal norm benign healthy nontumor nontumour nontumorous noncancer noncancerous nonmalignant",
    "disease": "tumor tumors tumour tumours tumoral tumorous tum cancer cancers cancerous malignant malignancy "
    "metastasis metastases metastatic carcinoma adenocarcinoma",
    "positive": "positive pos",
    "negation": "no non not without free absent",
    "unclear": "unknown unclear uncertain unsure maybe other others undefined unlabelled unlabeled",
    # Words without a meaning for the label. Numbers do not belong to them: `tumor_001` is the name of a slide.
    "filler": "has have is with present contains containing the of class label tissue tissues patch patches image "
    "images img imgs tile tiles cell cells sample samples folder lymph node nodes breast colon lung idc",
}
_KIND_OF_WORD = {word: kind for kind, words in _WORDS.items() for word in words.split()}
# The kinds of the words in a name of normal patches, and in a name of tumour patches.
_NORMAL_KINDS = [
    {"negative"},
    {"healthy"},
    {"negative", "healthy"},
    {"negative", "disease"},
    {"negation", "disease"},
]
_TUMOUR_KINDS = [{"positive"}, {"disease"}, {"positive", "disease"}]
_EXACT_NAMES = {"0": 0, "1": 1}
_EXACT_NAMES |= {f"{word}{mark}{i}": i for word in ("class", "label") for mark in ("", "_", "-", "=") for i in (0, 1)}
# The folders of a partitioned table, as Spark and pandas write them.
_EXACT_NAMES |= {f"{word}={i}": i for word in ("y", "target", "tumor", "tumour") for i in (0, 1)}
# True and False, also as a spreadsheet writes them in German, French, Spanish, Italian, Portuguese and Dutch.
BOOLEANS = {"no": 0, "yes": 1, "false": 0, "true": 1, "falsch": 0, "wahr": 1, "faux": 0, "vrai": 1, "falso": 0}
BOOLEANS |= {"verdadero": 1, "vero": 1, "verdadeiro": 1, "onwaar": 0, "waar": 1}
_EXACT_NAMES |= BOOLEANS
_ORDER_PREFIX = re.compile(r"^[a-z0-9]_(?=[a-z]{2})")  # sorts the folders: `a_no_tumor`, `1_tumor`

EVALUATION = "eval"  # some data sets call their test split so, others their validation split

_SPLITS = {
    "train": "train training",
    "valid": "val valid validation dev",
    "test": "test testing holdout hold_out heldout held_out",
    EVALUATION: "eval evaluation",
}
_SPLIT_OF = {name: split for split, names in _SPLITS.items() for name in names.split()}
_SPLIT_ENDING = re.compile(r"_?(dir|data|dataset|set|split|folder|images|imgs|patches|\d+_of_\d+|\(?\d\d?\)?)$")
_NUMBERED_PART = re.compile(r"(.+?)_?\d{3,}")  # of a set in several archives: `pcam-train-00012.tar`
_SPLIT_ORDER_PREFIX = re.compile(r"^\d\d?_")  # a number that sorts the folders: `1_train`

SPLIT_NAMES = "train, val (or valid, validation, dev) and test (or testing, holdout)"
_NUMBER = re.compile(r"-?\d{1,15}(\.0)?")
_NEGATED = re.compile(r"\b(no|non|not|without) \w+|\b\w+ (free|absent)\b")  # a negation and its word
_NUMBERED_CLASS = re.compile(r"([a-z_]*[a-z])[ _=-]?(\d{1,15})", re.IGNORECASE)
_MAX_NAMES_SHOWN = 12  # the names of folders that a message lists


class SplitError(HistoError):
    """The splits of images are not understood, or they contradict each other.

    This is always an error, because test images could be used for training.
    """


def parse_classes(options: Sequence[str]) -> dict[str, int]:
    """Return the label of each name in options such as `negative=NORM,MUC` and `positive=TUM`.

    Raises:
        UsageError: an option has another form, or a name is on both sides.
    """
    hint = "give --classes negative=NAME[,NAME...] --classes positive=NAME[,NAME...]"
    labels: dict[str, int] = {}
    for option in options:
        side, equals, names = option.partition("=")
        label = {"negative": 0, "0": 0, "positive": 1, "1": 1}.get(side.strip().lower())
        listed = [name.strip() for name in names.split(",") if name.strip()]
        if not equals or label is None or not listed:
            raise UsageError(f"--classes {option} is not understood", hint)
        for name in listed:
            if labels.setdefault(name.lower(), label) != label:
                raise UsageError(f"--classes names {name} as negative and as positive", hint)
    if labels and len(set(labels.values())) < 2:
        missing = "positive" if 0 in labels.values() else "negative"
        raise UsageError(f"--classes names no {missing} class", hint)
    return labels


def find_label(name: str, classes: Mapping[str, int] | None = None) -> int | None:
    """Return the label that the name of a class means: 0, 1, or None if it is not understood.

    If `classes` (names in lower case) is not empty, only these names are understood.
    """
    if classes:
        return classes.get(name.strip().lower())
    if (label := _label_of_class(name)) is not None:
        return label
    both = find_split_and_class(name)
    return both[1] if both else None


def _label_of_class(name: str) -> int | None:
    """Return the label that a name without a split says; None if it is not understood."""
    if (label := _EXACT_NAMES.get(name.strip().lower().replace(" ", "_"))) is not None:  # but not -1
        return label
    text = _normalise(name)
    order = _ORDER_PREFIX.match(text)
    words = (text[order.end() :] if order else text).split("_")
    if not all(word in _KIND_OF_WORD for word in words):
        return None
    kinds = {_KIND_OF_WORD[word] for word in words} - {"filler"}
    label = 0 if kinds in _NORMAL_KINDS else 1 if kinds in _TUMOUR_KINDS else None  # None for `benign_tumor`
    is_contrary = order is not None and order[0][0] in "01" and label is not None and int(order[0][0]) != label
    return None if is_contrary else label


def find_split(name: str) -> str:
    """Return the split that the name of a folder means: train, valid, test, `EVALUATION`, or ""."""
    text = _SPLIT_ORDER_PREFIX.sub("", _normalise(name))
    return _SPLIT_OF.get(text) or _SPLIT_OF.get(_SPLIT_ENDING.sub("", text)) or ""


def find_splits_of_folders(names: Iterable[str]) -> dict[str, str]:
    """Return the split that each name of a folder means; names that mean none are left out.

    A name may be that of a split (`train`), or also contain a number (`train_001`) or a class (`test_tumor`). Names
    with a number or a class are used only if they mean at least two different splits: a single folder `test_positive`
    may be the result of a test, and `test_001` is a slide of Camelyon16.
    """
    splits, others = {}, {}
    for name in set(names):
        if split := find_split(name):
            splits[name] = split
        elif both := find_split_and_class(name):
            others[name] = both[0]
        elif part := _NUMBERED_PART.fullmatch(_normalise(name)):
            found = {find_split(word) for word in part[1].split("_")} - {""}
            if len(found) == 1:
                others[name] = found.pop()
    return splits | (others if len(set(others.values())) > 1 else {})


def find_split_and_class(name: str) -> tuple[str, int] | None:
    """Return the split and the label of a name that contains both, such as `test_tumor`; None for other names."""
    words = _normalise(name).split("_")
    for split, rest in ((words[0], words[1:]), (words[-1], words[:-1])):
        if split not in _SPLIT_OF or not rest or rest[0].isdecimal():
            continue
        if (label := _label_of_class("_".join(rest))) is not None:
            return _SPLIT_OF[split], label
    return None


def format_classes_option(names: Iterable[str]) -> str:
    """Return the options `--classes` for some names of classes, for the user to check.

    The lowest of several numbers is negative, the others are positive; so are names such as `class1` and `class2`.
    Names that are not understood are put on the side that would be empty, or are dropped. If none of two names is
    understood, the options are returned both ways round; if none of more names is understood, NAME is written instead.
    """
    names = sorted(set(names), key=_natural_sort_key)
    if numbers := _find_numbers(names):
        lowest = min(numbers.values())
        sides = {label: [name for name in numbers if (numbers[name] > lowest) == label] for label in (0, 1)}
    else:
        sides = _suggest_sides(names)
    if len(names) == 2 and not sides[0] + sides[1]:
        return f"{_format_sides(names[0], names[1])}, or {_format_sides(names[1], names[0])}"
    return _format_sides(*(",".join(sides[label]) or "NAME" for label in (0, 1)))


def _find_numbers(names: Sequence[str]) -> dict[str, float]:
    """Return the number of each name if all are numbers, or differ only in the number after a word such as `class`."""
    clear = [name for name in names if not _is_unclear(name)]  # not `unknown` beside 1 and 2
    names = clear if len(clear) > 1 else names
    if all(map(_NUMBER.fullmatch, names)):
        return {name: float(name) for name in names}
    parts = {name: _NUMBERED_CLASS.fullmatch(name) for name in names}
    words = {part[1].lower() if part else "" for part in parts.values()}
    is_class = len(words) == 1 < len(names) and words <= set(LABEL_NAMES) and _suggest(*words) is None
    return {name: float(part[2]) for name, part in parts.items() if part} if is_class else {}


def _suggest_sides(names: Sequence[str]) -> dict[int, list[str]]:
    """Return the names that probably mean label 0 and those that probably mean label 1; others are left out.

    Numbers do not count beside words that are understood.
    """
    words = [name for name in names if not _NUMBER.fullmatch(name)]
    used = words if any(_suggest(name) is not None for name in words) else names
    sides = {label: [name for name in used if _suggest(name) == label] for label in (0, 1)}
    if not sides[0] or not sides[1]:
        sure = {label: [name for name in sides[label] if find_label(name) == label] for label in (0, 1)}
        # Names with a word for a disease may be the contrary, such as `kein_tumor` beside `tumor`.
        sides = sure if sure[0] + sure[1] or len(sides[0]) == len(used) else {0: sides[0], 1: []}
    known = sides[0] + sides[1]
    if not all(name.lower() in BOOLEANS or _NUMBER.fullmatch(name) for name in known):  # not `maybe` beside `yes`
        rest = [name for name in words if name not in known and not _is_unclear(name)]
        if len(rest) > 1 and any(_suggest(name) is not None for name in rest):  # `kein_tumor` and `lesion`
            rest = []
        sides = {label: sides[label] or rest for label in (0, 1)}
    return sides


def format_meanings(label_of_word: Mapping[str, int]) -> str:
    """Return the options `--classes` that give each word its label; NAME is written for a class without a word."""
    sides = (",".join(word for word, label in label_of_word.items() if label == side) or "NAME" for side in (0, 1))
    return _format_sides(*sides)


def _format_sides(negative: str, positive: str) -> str:
    """Return the options `--classes` for the names of two classes, quoted for a shell where it is needed."""
    quoted = [text if re.fullmatch(r"[\w.,+-]+", text) else shlex.quote(text) for text in (negative, positive)]
    return f"--classes negative={quoted[0]} --classes positive={quoted[1]}"


def has_other_label(name: str, above: str, label: int) -> bool:
    """Return whether a word of a name means another label than a folder above, as `normal_adjacent` below `tumor`.

    A name with a number is the name of a slide or patient: normal patches of the slide `tumor_001` are correct. Below
    `benign`, the word tumour is correct too: BreakHis has the folder `benign/SOB/phyllodes_tumor`.
    """
    if "benign" in _normalise(above).split("_"):
        name = re.sub(r"tumou?rs?", "", name, flags=re.IGNORECASE)
    return len(name) > 2 and not re.search(r"\d", name) and _suggest(name) == 1 - label


def find_split_in_stem(stem: str) -> str:
    """Return the split that the first or the last word of a file name means, or ""."""
    words = _normalise(stem).split("_")
    return _SPLIT_OF.get(words[0]) or _SPLIT_OF.get(words[-1]) or ""


def _normalise(name: str) -> str:
    """Return a name in lower case, with underscores between its words."""
    return re.sub(r"[\s.\-]+", "_", name.strip().lower()).strip("_")


def _suggest(name: str) -> int | None:
    """Return the label that a name probably means; it is used for hints only, never as a label."""
    if (label := find_label(name)) is not None:
        return label
    words = set(_NEGATED.sub("", " ".join(_split_words(name))).split())  # `not_normal` says nothing
    if words & {"n", "normal", "norm", "benign", "healthy"}:
        return 0
    return 1 if words & {"aca", "scc", "situ", "invasive", "dcis", "tumor", "tumour", "carcinoma"} else None


def _split_words(name: str) -> list[str]:
    """Return the words of a name in lower case."""
    return re.split(r"[\W_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())


def _is_unclear(name: str) -> bool:
    """Return whether a name has a word such as `unknown`."""
    return any(_KIND_OF_WORD.get(word) == "unclear" for word in _split_words(name))


def replace_evaluation(splits: Mapping[str, str]) -> dict[str, str]:
    """Return the splits with `EVALUATION` replaced by what it means among them: test, or valid beside test.

    Raises:
        SplitError: there are valid and test besides.
    """
    others = set(splits.values())
    if EVALUATION in others and {"valid", "test"} <= others:
        raise SplitError("the splits val, test and eval cannot all be used", "rename eval to val or test, or remove it")
    meaning = {EVALUATION: "valid" if "test" in others else "test"}
    return {key: meaning.get(split, split) for key, split in splits.items()}


def find_unknown_splits(names: Iterable[str]) -> list[str]:
    """Return the names that are not splits, sorted; [] if none of the names is a split."""
    names = set(names) - {""}
    unknown = sorted(name for name in names if not find_split(name))
    return unknown if len(unknown) < len(names) else []


def describe_counts(counts: Mapping[str, int]) -> str:
    """Return names with their counts, as in `NORM (20), MUC (10)`; at most a dozen."""
    names = sorted(counts, key=_natural_sort_key)
    more = f" and {len(names) - _MAX_NAMES_SHOWN:,} more" if len(names) > _MAX_NAMES_SHOWN else ""
    return ", ".join(f"{name} ({counts[name]:,})" for name in names[:_MAX_NAMES_SHOWN]) + more


def _natural_sort_key(name: str) -> tuple[int, str]:
    return (int(name), "") if name.isdecimal() and len(name) < 16 else (1 << 60, name)
