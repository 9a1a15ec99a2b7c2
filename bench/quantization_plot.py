"""The picture of a quantization report: exact calls against size and against p50, the Pareto front in colour."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import Any, Final

from bench.plot import colours_of, save
from bench.quantization_page import numbered
from bench.tables import ms, number

GREY: Final = "#b4b8be"
_MARKERS: Final = ("o", "s", "D", "^")


def draw(report: dict[str, Any], path: Path) -> bool:
    """Write the PNG; False where matplotlib is not installed or nothing was measured."""
    places = numbered(report)
    if not any(places):
        return False
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    colours = colours_of([entry["runtime"] for entry in report["formats"]])
    figure, (by_size, by_time) = plt.subplots(1, 2, sharey=True, figsize=(12, 5.4), dpi=150)
    handles: list[Any] = []
    for entry, order, marker in zip(report["formats"], places, cycle(_MARKERS), strict=False):
        colour = colours[entry["runtime"]]
        for place, one in order.items():
            name = str(place) if _named(one, entry) else ""
            _point(by_size, one["size_mb"], name, one, colour, marker)
            if one["latency_ms"]:
                _point(by_time, one["latency_ms"]["p50"], name, one, colour, marker)
            if _named(one, entry):
                shown = colour if one["front"] else GREY
                label = _label(place, one, entry)
                handles.append(Line2D([], [], linestyle="", marker=marker, color=shown, label=label))
    handles.append(Line2D([], [], linestyle="", marker="o", color=GREY, label="beaten by another, or (left) not timed"))
    for axes, what in ((by_size, "size of the weights, MB"), (by_time, "p50 latency of a request, ms")):
        axes.set_xlabel(f"{what} (log scale)")
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
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


def _named(one: dict[str, Any], entry: dict[str, Any]) -> bool:
    return one["front"] or one["artifact"] in (entry["recommended"], entry["reference"])


def _label(place: int, one: dict[str, Any], entry: dict[str, Any]) -> str:
    p50 = f", {ms(one['latency_ms']['p50'])} ms" if one["latency_ms"] else ""
    what = {entry["reference"]: " (unquantized)", entry["recommended"]: "  ← the smallest within bounds"}
    return f"{place}  {one['artifact']}: {number(one['size_mb'], 3)} MB{p50}{what.get(one['artifact'], '')}"


def _point(axes: Any, x: float, name: str, one: dict[str, Any], colour: str, marker: str) -> None:
    """On the front in colour, with its interval; the others small and grey behind. `name` is its number, if shown."""
    y, front = one["accuracy"]["exact"], one["front"]
    if front:
        low, high = one["accuracy"]["exact_ci95"]
        axes.errorbar(
            x, y, yerr=[[max(0.0, y - low)], [max(0.0, high - y)]], fmt=marker, markersize=7, color=colour,
            markeredgecolor="white", ecolor=colour, elinewidth=0.9, capsize=2, alpha=0.9, zorder=3,
        )  # fmt: skip
    else:
        axes.plot(x, y, marker, color=GREY, markersize=5, alpha=0.8, zorder=1)
    if name:
        axes.annotate(
            name, (x, y), textcoords="offset points", xytext=(6, 5), fontsize=9, zorder=4,
            color=colour if front else "#666666",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.3},
        )  # fmt: skip
