"""The picture of an accuracy report: a bar for each toolset and set, with its interval."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from bench.accuracy_cases import ALL, CORPORA, CORPUS, HARD, TEMPLATES
from bench.plot import save

_COLOURS: Final = {
    TEMPLATES: "#1f6fb4", HARD: "#7d4ea8", "handwritten_dev": "#8fc7a5", "handwritten_test": "#2e8b57",
    CORPUS: "#e3b873", CORPORA: "#c77d0a", ALL: "#8a8f98",
}  # fmt: skip
_OTHER: Final = "#17808c"
FREE: Final = "#222222"
GAP: Final = 0.8
"""Between two toolsets, in bars."""


def draw(report: dict[str, Any], path: Path) -> bool:
    """Write the PNG; False where matplotlib is not installed or nothing was measured."""
    bars = [(entry["toolset"], name, modes) for entry in report["toolsets"] for name, modes in entry["sets"].items()]
    if not bars:
        return False
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter

    places = _places([toolset for toolset, _, _ in bars])
    figure, axes = plt.subplots(figsize=(9, 1.6 + 0.27 * -places[-1]), dpi=150)
    for place, (_, name, modes) in zip(places, bars, strict=True):
        found, free = modes["grammar"], modes["unconstrained"]
        share, (low, high) = found["exact"], found["exact_ci95"]
        axes.barh(place, share, height=0.78, color=_colour(name), zorder=2)
        axes.errorbar(
            share, place, xerr=[[max(0.0, share - low)], [max(0.0, high - share)]], fmt="none", ecolor="#333333",
            elinewidth=1.1, capsize=2.5, zorder=3,
        )  # fmt: skip
        if free:
            axes.plot(
                free["exact"], place, "D", markersize=4, color="white", markeredgecolor=FREE, zorder=4, clip_on=False
            )
    axes.set_yticks(places, [f"{name} (n={modes['grammar']['n']:,})" for _, name, modes in bars], fontsize=8)
    for toolset in dict.fromkeys(toolset for toolset, _, _ in bars):
        first = next(place for place, bar in zip(places, bars, strict=True) if bar[0] == toolset)
        axes.text(1.015, first, toolset, fontsize=9, fontweight="bold", va="center", clip_on=False)
    axes.set_xlim(0, 1)
    axes.set_ylim(places[-1] - 0.7, 0.7)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:.0f}%"))
    axes.grid(True, axis="x", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    beside = "; diamonds: without it" if any(modes["unconstrained"] for _, _, modes in bars) else ""
    axes.set_title(
        f"{report['model']}, {report['variant']}: calls exactly right, with the grammar (lines: 95% interval){beside}",
        fontsize=9.5, loc="left",
    )  # fmt: skip
    figure.tight_layout()
    save(figure, path)
    return True


def _places(toolsets: list[str]) -> list[float]:
    """Where each bar stands: from 0 downwards, a gap before every further toolset."""
    out, at = [], 0.0
    for number, toolset in enumerate(toolsets):
        at -= 0.0 if number == 0 else 1.0 if toolset == toolsets[number - 1] else 1.0 + GAP
        out.append(at)
    return out


def _colour(name: str) -> str:
    return _COLOURS[CORPUS] if name.startswith(CORPUS) else _COLOURS.get(name, _OTHER)
