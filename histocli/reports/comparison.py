"""The report of `histo eval --compare`: two evaluations on the patches that both scored."""

from dataclasses import dataclass, field

from histocli.metrics import PairedDifference
from histocli.schema import Count


@dataclass(frozen=True)
class ComparedEvaluation:
    """One of the two: its metrics file, what it evaluated, and its AUC on the common patches."""

    file: str
    run: str
    data: str
    split: str
    tta: bool
    n_in_training: Count | None
    n_in_validation: Count | None
    auc: float | None


@dataclass(frozen=True)
class ComparisonReport:
    """The AUC of `a` minus that of `b` on the `n` patches that both scored.

    `left_out` counts the patches that only `a`, and only `b`, scored.
    """

    a: ComparedEvaluation
    b: ComparedEvaluation
    n: Count
    left_out: tuple[Count, Count]
    paired: PairedDifference = field(metadata={"flat": True})
