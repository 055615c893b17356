"""Show the reports of `histo balance`: the splits and the leakage audit."""

from histocli.console import Reporter
from histocli.enums import Group, Split
from histocli.metrics.intervals import FEW_CLUSTERS
from histocli.reports.audit import AuditReport
from histocli.reports.balance import BalanceReport
from histocli.text import format_count


def show_balance(reporter: Reporter, balance: BalanceReport, *, has_audit: bool) -> None:
    """Print the counts of the subset, the dropped patches, and why validation metrics may be too good."""
    if dropped := balance.dropped.list_reasons():
        reporter.note("dropped patches: " + ", ".join(f"{reason} ({count:,})" for reason, count in dropped.items()))
    rows = [[part, c.negative, c.positive, c.slides or "unknown"] for part, c in balance.counts.items()]
    title = f"patches of the subset of {balance.data}, split by {balance.split}"
    reporter.print_table(title, ["split", "normal", "tumour", "slides"], rows)
    if has_audit:
        _show_audit(reporter, balance.audit)
    _show_split_leaks(reporter, balance)
    _warn_of_few_slides(reporter, balance)
    _show_audit_leaks(reporter, balance.audit)


def _show_audit(reporter: Reporter, audit: AuditReport) -> None:
    """Print what each split shares with train and val, and the overlaps within the data set."""
    rows = [
        [
            leak.source,
            leak.into,
            leak.patches,
            *("unknown" if n is None else n for n in (leak.duplicates, leak.overlaps, leak.shared_slides)),
        ]
        for leak in audit.leaks
    ]
    columns = ["patches of", "shared with", "patches", "exact duplicates", "overlapping patches", "shared slides"]
    reporter.print_table("audit: patches and slides that each split shares with train and val", columns, rows)
    reporter.note(f"{audit.describe_duplicates()} {audit.describe_overlaps()}")


def _show_split_leaks(reporter: Reporter, balance: BalanceReport) -> None:
    """Print whether patches of one slide may be in both train and validation."""
    consequence = "one slide may have patches in train and in validation, which makes validation metrics too good"
    if balance.split == Split.FOLDERS:
        reporter.note(
            f"train and validation are the splits train and valid of {balance.data}; --val-fraction is not used"
        )
        if balance.can_leak:
            why = "slides have patches in both" if balance.slides else f"slides are not known, and {consequence}"
            reporter.warn(f"the splits of {balance.data} may leak: {why}")
    elif balance.split == Split.RANDOM:
        if balance.can_leak:
            reporter.warn(f"a random split leaks: {consequence}; --split slide and --split overlap avoid this")
    elif balance.split == Split.OVERLAP:
        _show_overlap_leaks(reporter, balance, consequence)
    elif balance.split == Split.SLIDE and balance.audit.overlaps is None:
        reporter.note("histo did not check whether overlapping patches are of one slide; --audit checks it")
    elif balance.split == Group.HOSPITAL and balance.hospitals:
        names = "; ".join(f"{part}: {', '.join(hospitals)}" for part, hospitals in balance.hospitals.items())
        reporter.note(
            f"no hospital is in both splits ({names}), so the validation share can differ from --val-fraction"
        )
    elif balance.appearance:
        groups = "; ".join(
            f"{name} has {counts.negative + counts.positive:,} patches, {counts.positive:,} of them with tumour"
            for name, counts in balance.appearance.items()
        )
        reporter.note(f"two groups differ in sharpness and colour: {groups}. One of them is the validation split")
    if balance.split in (Group.HOSPITAL, Group.APPEARANCE) and balance.can_leak:
        reporter.warn(consequence)


def _show_overlap_leaks(reporter: Reporter, balance: BalanceReport, consequence: str) -> None:
    """Print how many patches a split by overlap keeps together, and whether a slide may be in both splits."""
    if not balance.sharing_pixels and not any(counts.slides for counts in balance.counts.values()):
        reporter.warn(
            "no overlapping patches were found (lossy compression can hide them). So the split is random, and "
            f"{consequence}; histo download --slides CSV adds the slides"
        )
        return
    others = "no slide is in both splits"
    if balance.can_leak:
        others = "other patches of a slide may be in both splits, which makes validation metrics too good"
    found = "no two patches overlap"
    if balance.sharing_pixels:
        shares = f"{balance.sharing_pixels:,} of {balance.n:,} patches overlap with another patch"
        found = f"{shares}, and are in the same split as it"
    reporter.note(f"{found}; {others}")


def _warn_of_few_slides(reporter: Reporter, balance: BalanceReport) -> None:
    """Warn if a split by slide or hospital has too few slides to validate on, or to train on."""
    if balance.split not in (Split.SLIDE, Group.HOSPITAL) or balance.slides is None:  # then the slides are not known
        return
    few = {part: counts.slides for part, counts in balance.counts.items() if counts.slides < FEW_CLUSTERS}
    if not few:
        return
    which = " and ".join(f"{format_count(count, 'slide')} in {part}" for part, count in few.items())
    remedy = "a larger --val-fraction, or histo train --folds" if set(few) == {"val"} else "add patches of more slides"
    reporter.warn(
        f"only {which}: metrics on few slides say little about new ones, and fewer than {FEW_CLUSTERS} validation "
        f"slides give no 95% intervals by bootstrap; {remedy}"
    )


def _show_audit_leaks(reporter: Reporter, audit: AuditReport) -> None:
    """Print equal patches with different labels, wrong slides, and patches for evaluation that leak into train."""
    if count := audit.contradictions.patches:
        ids = ", ".join(audit.contradictions.ids)
        reporter.warn(f"{count:,} patches have the same pixels as another patch, but the other label: {ids}")
    if reason := audit.slide_contradiction:
        reporter.warn(f"{reason}; correct the table, or use --split overlap, which keeps overlapping patches together")
    if leaks := audit.describe_leaks():
        reporter.warn(
            f"{leaks}; histo train ends with an error on this subset; --drop-leaks leaves these patches out of train"
        )
    if parts := audit.parts_not_compared:
        reporter.note(
            f"{', '.join(parts)} {'was' if len(parts) == 1 else 'were'} compared with train only for exact copies, not "
            "for overlapping patches; --audit compares both"
        )
