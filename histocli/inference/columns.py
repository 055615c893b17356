"""The columns of the table that `histo predict` writes: a column is one entry of the list `COLUMNS`.

PyTorch is not imported, so that `histo predict --help` can list the columns.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from histocli.config import PredictConfig
from histocli.enums import Columns
from histocli.files.file import to_utf8

if TYPE_CHECKING:
    from histocli.inference.predictor import ScoredChunk
    from histocli.inference.qc import Flagger, QualityControl
    from histocli.inference.writers import Table

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # also full-width


@dataclass
class ScoredRows:
    """N scored patches, and the other inputs of their columns; None for an input that no column needs."""

    chunk: "ScoredChunk"
    threshold: float | None = None
    flagger: "Flagger | None" = None

    @property
    def probs(self) -> list[float]:
        """The probabilities of tumour."""
        values: list[float] = self.chunk.scores.probs.tolist()
        return values

    @cached_property
    def quality(self) -> "QualityControl":
        """The quality control of the patches."""
        assert self.flagger is not None
        return self.flagger.check(self.chunk)


class Column(NamedTuple):
    """A column: its name, the type of its values, a function that computes them, and whether the options ask for it."""

    name: str
    type: type
    values: Callable[[ScoredRows], list[Any]]
    is_written: Callable[[PredictConfig], bool] = lambda config: True


def has_class(config: PredictConfig) -> bool:
    """Return whether the table has the column `class`, which needs a threshold."""
    return config.threshold is not None or _is_full(config)


def _is_full(config: PredictConfig) -> bool:
    return config.columns is Columns.FULL


def _is_for_kaggle(config: PredictConfig) -> bool:
    return config.columns is Columns.KAGGLE


def _has_qc(config: PredictConfig) -> bool:
    return config.qc


def _compute_classes(rows: ScoredRows) -> list[int]:
    assert rows.threshold is not None
    values: list[int] = (rows.chunk.scores.probs >= rows.threshold).astype(int).tolist()
    return values


COLUMNS = (
    Column("id", str, lambda rows: [patch.id for patch in rows.chunk.patches]),
    Column("path", str, lambda rows: [to_utf8(patch.path) for patch in rows.chunk.patches], _is_full),
    Column("probability", float, lambda rows: rows.probs, _is_full),
    Column("label", float, lambda rows: rows.probs, _is_for_kaggle),
    Column("class", int, _compute_classes, has_class),
    Column("spread", float, lambda rows: rows.chunk.scores.spread.tolist(), _has_qc),
    Column("colour", float, lambda rows: rows.quality.colour, _has_qc),
    Column("focus", float, lambda rows: rows.quality.focus, _has_qc),
    Column("contrast", float, lambda rows: rows.quality.contrast, _has_qc),
    Column("duplicate", str, lambda rows: rows.quality.duplicate, _has_qc),
    Column("flags", str, lambda rows: rows.quality.flags, _has_qc),
)


def list_column_types(config: PredictConfig) -> dict[str, type]:
    """Return the name and the type of each column that the options ask for, in their order in the table."""
    return {column.name: column.type for column in COLUMNS if column.is_written(config)}


def make_table(config: PredictConfig, rows: ScoredRows) -> "Table":
    """Return the values of each column that the options ask for, in the same order.

    With `escape_formulas`, text that a spreadsheet would compute gets an apostrophe.
    """
    table = {column.name: column.values(rows) for column in COLUMNS if column.is_written(config)}
    if not config.escape_formulas:
        return table
    return {name: [escape_formula(v) if isinstance(v, str) else v for v in values] for name, values in table.items()}


def escape_formula(text: str) -> str:
    """Add an apostrophe to a text that a spreadsheet would compute."""
    return "'" + text if text.startswith(_FORMULA_STARTS) else text
