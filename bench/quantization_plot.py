"""The picture of a quantization report: exact calls against size and against p50, the Pareto front in colour."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from bench.plot import _colours, save
from bench.quantization_page import numbered
from bench.tables import ms, number

GREY: Final = "#b4b8be"
_MARKERS: Final = ("o", "s", "D", "^")


def draw(report: dict[str, Any], path: Path) -> bool:
    """Write the PNG; False where matplotlib is not installed or nothing was measured."""
    entries = [entry for entry in report["formats"] if numbered(entry)]
    if not entries:
        return False
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter

    colours = _colours([entry["runtime"] for entry in entries])
    figure, (by_size, by_time) = plt.subplots(1, 2, sharey=True, figsize=(12, 5.4), dpi=150)
    handles: list[Any] = []
    for entry, marker in zip(entries, _MARKERS * len(entries), strict=False):
        colour = colours[entry["runtime"]]
        for place, one in numbered(entry).items():
            _point(by_size, one["size_mb"], place, one, colour, marker)
            if one["latency_ms"]:
                _point(by_time, one["latency_ms"]["p50"], place, one, colour, marker)
            if one["front"] or one["artifact"] == entry["recommended"]:
                p50 = f", {ms(one['latency_ms']['p50'])} ms" if one["latency_ms"] else ""
                taken = "  ← smallest within bounds" if one["artifact"] == entry["recommended"] else ""
                label = f"{place}  {one['artifact']}: {number(one['size_mb'], 3)} MB{p50}{taken}"
                handles.append(Line2D([], [], linestyle="", marker=marker, color=colour, label=label))
    handles.append(Line2D([], [], linestyle="", marker="o", color=GREY, label="beaten by another in all three"))
    for axes, what in ((by_size, "size of the weights, MB"), (by_time, "p50 latency of a request, ms")):
        axes.set_xlabel(what)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.0f}%"))
        axes.grid(True, color="#dddddd", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.margins(x=0.08, y=0.1)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    by_size.set_ylabel("calls exactly right (bars on the front: 95% interval)")
    suite = report["suite"]
    figure.suptitle(f"{report['model']['name']} · {report['toolset']}: smaller weights", x=0.07, ha="left")
    by_size.set_title(
        f"{suite['cases']} cases ({suite['name']}), threads {report['settings']['threads']}", fontsize=8.5,
        color="#555555", loc="left",
    )  # fmt: skip
    figure.tight_layout()
    figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.06, 0.0), frameon=False, fontsize=8.5)
    save(figure, path)
    return True


def _point(axes: Any, x: float, place: int, one: dict[str, Any], colour: str, marker: str) -> None:
    """On the front in colour, with its interval and its number in the tables; the others small and grey behind."""
    y = one["accuracy"]["exact"]
    if not one["front"]:
        axes.plot(x, y, marker, color=GREY, markersize=5, alpha=0.8, zorder=1)
        return
    low, high = one["accuracy"]["exact_ci95"]
    axes.errorbar(
        x, y, yerr=[[max(0.0, y - low)], [max(0.0, high - y)]], fmt=marker, markersize=7, color=colour,
        markeredgecolor="white", ecolor=colour, elinewidth=0.9, capsize=2, alpha=0.9, zorder=3,
    )  # fmt: skip
    axes.annotate(
        str(place), (x, y), textcoords="offset points", xytext=(6, 5), fontsize=9, color=colour, zorder=4,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.3},
    )  # fmt: skip
