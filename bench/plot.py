"""The picture of a report: accuracy against p95, one point per run, with its intervals."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

_COLOURS = {
    "torch": "#c0392b",
    "llama_cpp": "#1f6fb4",
    "onnxruntime": "#2e8b57",
    "mlx": "#7d4ea8",
    "coreml": "#c77d0a",
}
_OTHERS = ("#17808c", "#8c564b", "#555555", "#bc4b8c")
_MARKERS = {32: "o", 16: "s", 8: "D", 4: "^"}


def draw(report: dict[str, Any], path: Path) -> bool:
    """Write the PNG; False where matplotlib is not installed or no run has both figures."""
    points = [run for run in report["runs"] if run["accuracy"] and run["latency_ms"]]
    if not points:
        return False
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure, axes = plt.subplots(figsize=(10, 6), dpi=150)
    colours = colours_of([run["runtime"] for run in points])
    for run in points:
        _point(axes, run, colours[run["runtime"]])
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.0f}%"))
    axes.grid(True, which="major", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    _limits(axes, points)
    axes.set_xlabel("p95 latency of a request, ms (log scale; bars: 95% interval)")
    axes.set_ylabel("calls exactly right, with grammar (bars: 95% interval)")
    figure.suptitle(
        f"{report['model']['name']} · {report['toolset']}: accuracy and latency by runtime", x=0.07, ha="left"
    )
    axes.set_title(_subtitle(report), fontsize=8.5, color="#555555", loc="left")
    figure.tight_layout()
    _labels(figure, axes, points, colours)
    runtimes = [
        Line2D([], [], linestyle="", marker="o", markersize=8, color=colour, label=name)
        for name, colour in colours.items()
    ]
    bits = sorted({run["precision"] for run in points}, reverse=True)
    precisions = [
        Line2D([], [], linestyle="", marker=_MARKERS.get(b, "o"), markersize=8, markerfacecolor="none", color="#444444",
               label=f"{b}-bit")
        for b in bits
    ]  # fmt: skip
    axes.legend(handles=runtimes + precisions, loc="lower center", bbox_to_anchor=(0.5, -0.235),
                ncol=len(runtimes) + len(precisions), frameon=False, fontsize=9)  # fmt: skip
    save(figure, path)
    return True


def save(figure: Any, path: Path) -> None:
    """Write a matplotlib figure as PNG and let it go."""
    from matplotlib import pyplot

    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    figure.savefig(temporary, format="png", bbox_inches="tight")
    pyplot.close(figure)
    temporary.replace(path)


def _point(axes: Any, run: dict[str, Any], colour: str) -> None:
    x, y = run["latency_ms"]["p95"], run["accuracy"]["exact"]
    low, high = run["accuracy"]["exact_ci95"]
    across = run["latency_ms"]["p95_ci95"]
    axes.errorbar(
        x, y,
        yerr=[[max(0.0, y - low)], [max(0.0, high - y)]],
        xerr=None if across is None else [[max(0.0, x - across[0])], [max(0.0, across[1] - x)]],
        fmt=_MARKERS.get(run["precision"], "o"), markersize=8, color=colour, markeredgecolor="white",
        ecolor=colour, elinewidth=1.1, capsize=3, alpha=0.9,
    )  # fmt: skip


def _limits(axes: Any, points: list[dict[str, Any]]) -> None:
    """Room for the labels; the whole scale of accuracy is not needed where all runs are close."""
    lows = [run["accuracy"]["exact_ci95"][0] for run in points]
    highs = [run["accuracy"]["exact_ci95"][1] for run in points]
    span = max(max(highs) - min(lows), 0.05)
    axes.set_ylim(max(-0.02, min(lows) - 0.25 * span), min(1.02, max(highs) + 0.25 * span))
    xs = [run["latency_ms"]["p95"] for run in points]
    axes.set_xlim(min(xs) / 1.6, max(xs) * 1.9)


def _labels(figure: Any, axes: Any, points: list[dict[str, Any]], colours: dict[str, str]) -> None:
    """A name beside every point, moved up or down until no two names and no name and point overlap."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    bounds = axes.get_window_extent(renderer)
    marks = [axes.transData.transform((r["latency_ms"]["p95"], r["accuracy"]["exact"])) for r in points]
    taken: list[Any] = []
    order = sorted(range(len(points)), key=lambda i: (marks[i][0], -marks[i][1]))
    for index in order:
        run = points[index]
        text = axes.annotate(
            run["artifact"], (run["latency_ms"]["p95"], run["accuracy"]["exact"]),
            textcoords="offset points", xytext=(8, 6), fontsize=9, color=colours[run["runtime"]],
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.4},
        )  # fmt: skip
        for dx, dy in _offsets():
            text.set_position((dx, dy))
            text.set_ha("left" if dx > 0 else "right" if dx < 0 else "center")
            box = text.get_window_extent(renderer).expanded(1.02, 1.1)
            inside = bounds.x0 <= box.x0 and box.x1 <= bounds.x1 and bounds.y0 <= box.y0 and box.y1 <= bounds.y1
            covers = any(box.x0 - 6 < x < box.x1 + 6 and box.y0 - 6 < y < box.y1 + 6 for x, y in marks)
            if inside and not covers and not any(box.overlaps(other) for other in taken):
                break
        taken.append(text.get_window_extent(renderer).expanded(1.02, 1.1))
        dx, dy = text.get_position()
        if abs(dy) > 14:
            axes.annotate(
                "", (run["latency_ms"]["p95"], run["accuracy"]["exact"]), textcoords="offset points", xytext=(dx, dy),
                arrowprops={"arrowstyle": "-", "color": colours[run["runtime"]], "linewidth": 0.6, "alpha": 0.6},
            )  # fmt: skip


def _offsets() -> list[tuple[float, float]]:
    """Places for a label around its point, nearest first."""
    steps = [(9, 6), (9, -13), (-9, 6), (-9, -13)]
    for distance in range(20, 170, 14):
        steps += [(9, distance), (9, -distance - 8), (-9, distance), (-9, -distance - 8)]
    return [(float(x), float(y)) for x, y in steps]


def colours_of(runtimes: list[str]) -> dict[str, str]:
    """A colour for each runtime, ours always the same."""
    others = iter(_OTHERS * (1 + len(runtimes)))
    return {name: _COLOURS.get(name) or next(others) for name in dict.fromkeys(runtimes)}


def _subtitle(report: dict[str, Any]) -> str:
    machine, suite = report["machines"][0], report["suite"]
    commit = (report["commit"] or "no commit")[:8] + ("+" if report["dirty"] else "")
    return f"{suite['cases']} cases ({suite['name']}) · {machine['cpu']}, {machine['cores']} cores · {commit}"
