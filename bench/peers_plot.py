"""The picture of a peers report: p50 of every contender with its interval, p95 beside it, on a log scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from bench.plot import save
from bench.tables import ms, percent

OURS: Final = "#1f6fb4"
PEER: Final = "#8a8f98"


def draw(report: dict[str, Any], path: Path) -> bool:
    """Write the PNG; False where matplotlib is not installed or nothing was measured."""
    found = [one for one in report["contenders"] if one["latency_ms"] and one["accuracy"]]
    if not found:
        return False
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    found.sort(key=lambda one: one["latency_ms"]["p50"], reverse=True)
    figure, axes = plt.subplots(figsize=(10, 1.7 + 0.42 * len(found)), dpi=150)
    for place, one in enumerate(found):
        _row(axes, place, one)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    fastest, slowest = found[-1]["latency_ms"], max(one["latency_ms"]["p95"] for one in found)
    axes.set_xlim(min(fastest["p50"], *(fastest["p50_ci95"] or ())) / 1.4, slowest * 1.4)
    axes.set_yticks(range(len(found)), [f"{one['name']} ({one['precision']}-bit)" for one in found], fontsize=9)
    for text, one in zip(axes.get_yticklabels(), found, strict=True):
        text.set_color(OURS if one["side"] == "ours" else "#333333")
    axes.set_ylim(-0.7, len(found) - 0.3)
    axes.grid(True, axis="x", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.set_xlabel("latency of a request, ms (log scale; dot: p50 with its 95% interval, tick: p95)")
    for colour, label in ((OURS, "edgecall"), (PEER, "peers")):
        axes.plot([], [], "o", color=colour, markersize=7, label=label)
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncol=2, frameon=False, fontsize=9)
    suite, settings = report["suite"], report["settings"]
    axes.set_title(
        f"{report['model']['name']} · {report['toolset']}: {suite['cases']} cases, threads {settings['threads']}",
        fontsize=10.5, loc="left",
    )  # fmt: skip
    figure.tight_layout()
    save(figure, path)
    return True


def _row(axes: Any, place: int, one: dict[str, Any]) -> None:
    """One contender: a thin line to p95, the dot, and what it got right, in words at the margin."""
    latency, colour = one["latency_ms"], OURS if one["side"] == "ours" else PEER
    p50, p95 = latency["p50"], latency["p95"]
    low, high = latency["p50_ci95"] or (p50, p50)
    axes.plot([p50, p95], [place, place], color=colour, linewidth=1.2, alpha=0.5, zorder=1)
    axes.plot(p95, place, "|", color=colour, markersize=10, zorder=2)
    axes.errorbar(
        p50, place, xerr=[[max(0.0, p50 - low)], [max(0.0, high - p50)]], fmt="o", markersize=7, color=colour,
        markeredgecolor="white", elinewidth=2.2, capsize=3, zorder=3,
    )  # fmt: skip
    axes.text(
        1.01, place, f"p50 {ms(p50)}, exact {percent(one['accuracy']['exact'])}", fontsize=8.5, va="center",
        color="#333333", transform=axes.get_yaxis_transform(), clip_on=False,
    )  # fmt: skip
