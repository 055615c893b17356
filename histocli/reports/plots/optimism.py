"""The picture of how much a random split flatters."""

from typing import Any

from matplotlib.figure import Figure

from histocli.reports.plots.style import GREY, NORMAL, TUMOUR, title

HEIGHT = 3.4
_SHIFT = 0.03  # runs side by side, so that their intervals do not hide one another


def draw_optimism(figure: Figure, report: dict[str, Any]) -> None:
    """Draw each run's AUC on its own validation patches and on unseen slides, joined by a line."""
    axes = figure.add_subplot()
    by = report["grouped_by"]
    sides = (("random", "patch", TUMOUR, "random split"), ("grouped", by, NORMAL, f"split by {by}"))
    for kind, parted_by, colour, label in sides:
        runs = [row for row in report["runs"] if row["parted_by"] == parted_by]
        for i, row in enumerate(runs):
            shift = _SHIFT * (i - (len(runs) - 1) / 2) + (_SHIFT if kind == "random" else -_SHIFT)
            points = [(x, row[key]) for x, key in enumerate(("validation", "unseen")) if row[key]]
            x, y = [x + shift for x, _ in points], [value["auc"] for _, value in points]
            axes.plot(x, y, "o-", color=colour, label=None if i else label)
            for at, (_, value) in zip(x, points, strict=True):
                if value["interval"]:
                    axes.plot([at, at], value["interval"], color=colour, linewidth=0.8)
    unseen = report["unseen"]
    place = f"{unseen['data']} {unseen['split']}" if unseen else "not evaluated"
    axes.set_xticks([0, 1], ["own validation", f"unseen slides\n({place})"])
    axes.set(ylabel="AUC", xlim=(-0.4, 1.4))
    axes.grid(axis="x", visible=False)
    figure.legend(loc="outside lower center", ncols=2)
    gaps = {"random split": "random_minus_unseen", f"split by {by}": "grouped_minus_unseen"}
    known = [(split, report["gaps"][key]) for split, key in gaps.items() if report["gaps"][key] is not None]
    flattered = f"{known[0][0]} minus unseen slides: {known[0][1]:+.3f}" if known else ""
    axes.axvline(0.5, color=GREY, linewidth=0.5, linestyle=":")
    title(figure, f"Optimism: {report['data']}", *filter(None, [flattered]))
