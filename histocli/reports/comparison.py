"""The report of `histo eval --compare`: two evaluations on the patches that both scored."""

from dataclasses import dataclass, field

from histocli.metrics import PairedDifference
from histocli.reports.caveats import Caveat
from histocli.schema import Count


@dataclass(frozen=True)
class ComparedEvaluation:
    """One of two compared evaluations: its file, run, data and split, its AUC on the common patches and its caveats."""

    file: str
    run: str
    data: str
    split: str
    tta: bool
    n_in_training: Count | None
    n_in_validation: Count | None
    auc: float | None
    caveats: list[Caveat]


@dataclass(frozen=True)
class ComparisonReport:
    """The AUC of `a` minus that of `b` on the `n` patches that both scored.

    `left_out` has the number of patches that only `a` scored, and the number that only `b` scored.
    """

    a: ComparedEvaluation
    b: ComparedEvaluation
    n: Count
    left_out: tuple[Count, Count]
    paired: PairedDifference = field(metadata={"flat": True})
