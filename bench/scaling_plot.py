"""The pictures of a scaling report, one for each sweep: measured p50, both floors, and a line through p50."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from bench.laws import Line
from bench.plot import colours_of, save
from bench.scaling_page import TITLES, UNITS, picture

_X: Final = {
    "tools": "tools (log scale)",
    "prompt": "cached tokens (log scale)",
    "argument": "tokens of the argument (log scale)",
    "vocabulary": "rows of the vocabulary (log scale)",
}
_AT: Final = {"tools": "size", "prompt": "cached_tokens", "argument": "argument_tokens", "vocabulary": "rows"}


def draw(report: dict[str, Any], folder: Path) -> list[str]:
    """Write a PNG for every sweep with points; the names written. None where matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        return []
    matplotlib.use("Agg")
    return [picture(sweep["sweep"]) for sweep in report["sweeps"] if _draw(report, sweep, folder)]


def _draw(report: dict[str, Any], sweep: dict[str, Any], folder: Path) -> bool:
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter, NullFormatter

    drawn = [(one, _measured(one)) for one in sweep["variants"]]
    drawn = [(one, points) for one, points in drawn if points]
    if not drawn:
        return False
    figure, axes = plt.subplots(figsize=(9, 5), dpi=150)
    at = _AT[sweep["sweep"]]
    runtimes = [next(iter(run["runtime"] for run in one["runs"]), one["variant"]) for one, _ in drawn]
    colours = colours_of(runtimes)
    for (one, points), runtime in zip(drawn, runtimes, strict=True):
        _variant(axes, sweep, one, points, at, colours[runtime])
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(bottom=0)
    axes.grid(True, color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.set_xlabel(_X[sweep["sweep"]])
    axes.set_ylabel("latency of a request, ms")
    axes.legend(frameon=False, fontsize=8.5)
    axes.set_title(
        f"{report['model']['name']} · {TITLES[sweep['sweep']].lower()}, threads {report['settings']['threads']}",
        fontsize=10.5, loc="left",
    )  # fmt: skip
    figure.tight_layout()
    path = folder / picture(sweep["sweep"])
    save(figure, path)
    return True


def _variant(
    axes: Any, sweep: dict[str, Any], one: dict[str, Any], points: list[dict[str, Any]], at: str, colour: str
) -> None:  # fmt: skip
    """Dots with intervals for p50, open squares for the floor, a dashed line for p50's law."""
    xs = [point[at] for point in points]
    p50 = [point["p50"] for point in points]
    low = [max(0.0, p["p50"] - (p["p50_ci95"] or [p["p50"]])[0]) for p in points]
    high = [max(0.0, (p["p50_ci95"] or [p["p50"]])[-1] - p["p50"]) for p in points]
    axes.errorbar(
        xs, p50, yerr=[low, high], fmt="o", markersize=6, color=colour, markeredgecolor="white", capsize=3, zorder=3,
        label=f"{one['variant']}: p50 (95% interval)",
    )  # fmt: skip
    floor = [(x, point["floor_p50"]) for x, point in zip(xs, points, strict=True) if point["floor_p50"] is not None]
    if floor:
        axes.plot(*zip(*floor, strict=True), "s", markersize=6, markerfacecolor="none", color=colour, zorder=2,
                  label=f"{one['variant']}: floor behind as many cached tokens")  # fmt: skip
    predicted = [(x, p["predicted"]) for x, p in zip(xs, points, strict=True) if p["predicted"] is not None]
    if predicted:
        axes.plot(*zip(*predicted, strict=True), ":", color=colour, linewidth=1.4, zorder=1,
                  label=f"{one['variant']}: floor predicted from bytes and operations")  # fmt: skip
    if one["p50_law"] is not None:
        law = Line(**one["p50_law"])
        r2 = "" if law.r2 is None else f", R2 {law.r2:.3f}"
        label = f"{one['variant']}: {law.a:.2f} ms + {1e3 * law.b:.3g} us for each {UNITS[sweep['grows_with']]}{r2}"
        dense = np.geomspace(xs[0], xs[-1], 200)
        ys = [law.at(x) for x in np.interp(dense, xs, [point[sweep["grows_with"]] for point in points])]
        axes.plot(dense, ys, "--", color=colour, linewidth=1.1, zorder=1, label=label)


def _measured(one: dict[str, Any]) -> list[dict[str, Any]]:
    return [point for point in one["points"] if point["p50"] is not None]
