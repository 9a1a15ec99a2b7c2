"""A lift for people: ``lift.md``, ``lift.csv`` and the picture ``lift.png``, all from the report's data."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from bench.lift import LISTED
from bench.metrics import FIGURES
from bench.page import code, section, suite_line, told_calls
from bench.plot import save
from bench.records import MODES
from bench.tables import Table, percent, with_interval

MOST_CASES: Final = 20
"""Won and lost cases listed in the page; ``report.json`` has them all."""

COLUMNS: Final = (
    "mode", "scope", "bucket", "metric", "n", "base", "base_low", "base_high", "tuned", "tuned_low", "tuned_high",
    "difference", "difference_low", "difference_high", "difference_ci_method", "won", "lost", "p",
)  # fmt: skip

TITLES: Final = {"exact": "Calls exactly right", "tool": "Right tool"}
FORM: Final = {"syntax_valid": "parses", "schema_valid": "keeps to the schema", "no_call": "calls if and only if"}
"""Metrics in one table, from base to tuned."""
HOW: Final = {"grammar": "with the grammar", "unconstrained": "without the grammar"}
BASE, TUNED, BETTER, WORSE, OPEN = "#8a8f98", "#1f6fb4", "#2e8b57", "#c0392b", "#555555"


def render(report: dict[str, Any], *, plot: str | None = None) -> str:
    """The page in Markdown; `plot` is the file name of the picture beside it."""
    asked = report["mode"]
    base, tuned = report["base"]["model"]["name"], report["tuned"]["model"]["name"]
    parts = [f"# {tuned} against {base} on {report['toolset']}", verdict(report), _head(report)]
    if plot:
        parts.append(f"![Accuracy and difference by bucket]({plot})")
    for mode in sorted(MODES, key=lambda m: m != asked):
        parts += [section(table, level=2) for table in tables(report, mode)]
    parts += [_cases(report, kind) for kind in ("won", "lost")]
    if report["notes"]:
        parts.append("\n".join(["## Remarks", "", *(f"- {note}" for note in report["notes"])]))
    parts.append(_METHOD)
    return "\n\n".join(part for part in parts if part) + "\n"


def verdict(report: dict[str, Any]) -> str:
    """The whole result in one sentence."""
    mode = report["mode"]
    overall = report["modes"][mode]["overall"]
    exact = overall["exact"]
    base, tuned = percent(exact["base"]["share"]), percent(exact["tuned"]["share"])
    return (
        f"Exact {HOW[mode]}: {base} to {tuned} of {overall['n']} cases, {_points(exact)} points; "
        f"{exact['won']} won, {exact['lost']} lost, p = {exact['p']:.2g} (McNemar)."
    )


def tables(report: dict[str, Any], mode: str) -> list[Table]:
    """A table for each metric of a mode, all cases first, then the buckets; none where the mode was not compared.

    The last table holds the metrics of form and whether there was a call at all.
    """
    if report["modes"][mode] is None:
        return []
    columns = ("bucket", "n", "base (95% CI)", "tuned (95% CI)", "difference, points (95% CI)", "won", "lost", "p")
    out = []
    for metric in LISTED:
        rows = []
        for scope, bucket, figures in _rows(report["modes"][mode]):
            figure = figures[metric]
            rows.append(
                (
                    "all cases" if scope == "overall" else bucket,
                    str(figures["n"]),
                    _share(figure["base"]),
                    _share(figure["tuned"]),
                    _points(figure),
                    str(figure["won"]),
                    str(figure["lost"]),
                    f"{figure['p']:.2g}",
                )
            )
        out.append(Table(f"{TITLES[metric]}, {HOW[mode]}", columns, tuple(rows)))
    form = [
        (bucket or "all cases", str(figures["n"]), *(_change(figures[metric]) for metric in FORM))
        for _, bucket, figures in _rows(report["modes"][mode])
    ]
    out.append(Table(f"Form, base to tuned, {HOW[mode]}", ("bucket", "n", *FORM.values()), tuple(form)))
    return out


def write_csv(report: dict[str, Any], path: Path) -> None:
    """One line for each mode, bucket (empty for all cases) and metric; shares and differences in 0..1."""
    with path.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(COLUMNS)
        for mode in MODES:
            for scope, bucket, figures in _rows(report["modes"][mode]) if report["modes"][mode] else ():
                for metric in FIGURES:
                    writer.writerow([mode, scope, bucket, metric, figures["n"], *_cells(figures[metric])])


def draw(report: dict[str, Any], path: Path) -> bool:
    """Write the picture of the mode asked for; False where matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter

    rows = list(_rows(report["modes"][report["mode"]]))
    names = [f"{'all cases' if scope == 'overall' else bucket} (n={f['n']})" for scope, bucket, f in rows]
    places = [-float(i) - (0.4 if i else 0.0) for i in range(len(rows))]
    figure, panels = plt.subplots(
        1, 4, figsize=(13, 1.9 + 0.42 * len(rows)), dpi=150, sharey=True, width_ratios=(3, 2, 3, 2)
    )
    for metric, (shares, differences) in zip(LISTED, (panels[:2], panels[2:]), strict=True):
        for place, (_, _, figures) in zip(places, rows, strict=True):
            _accuracies(shares, place, figures[metric])
            _difference(differences, place, figures[metric])
        shares.set_xlim(-0.02, 1.02)
        shares.set_title(TITLES[metric], fontsize=10, loc="left")
        differences.axvline(0, color="#999999", linewidth=0.9, zorder=1)
        differences.set_title("tuned minus base, points", fontsize=10, loc="left")
        differences.set_xlim(*_reach(rows))
        shares.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:.0f}%"))
        differences.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:+.0f}" if x else "0"))
    for panel in panels:
        panel.grid(True, axis="x", color="#dddddd", linewidth=0.8)
        panel.set_axisbelow(True)
        panel.tick_params(axis="y", length=0)
        for side in ("top", "right", "left"):
            panel.spines[side].set_visible(False)
    panels[0].set_yticks(places, names)
    panels[0].set_ylim(places[-1] - 0.6, 0.6)
    for colour, label in ((BASE, "base"), (TUNED, "tuned")):
        name = report[label]["model"]["name"]
        panels[0].plot([], [], "o", color=colour, markersize=7, label=f"{label}: {name}")
    figure.suptitle(verdict(report), x=0.01, ha="left", fontsize=10.5)
    figure.tight_layout()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower left", bbox_to_anchor=(0.0, -0.07), ncol=2, frameon=False, fontsize=9)
    save(figure, path)
    return True


_METHOD = """## How this was compared

- Both models answered the same cases; only those that both answered count. Won: tuned alone is right; lost: base alone.
- Shares: Wilson's interval. Differences: Newcombe's interval for paired shares (1998, method 10). Where cases share a
  template, whole templates are resampled instead (bootstrap), or counted where they all agree.
- Form: an answer parses, keeps to the schema, and holds a call if and only if one is right; p where it is below 0.05.
- p: exact McNemar test, two-sided, every case on its own: where templates are shared the interval is the better guide.
  It is not corrected for the number of buckets: up to one in twenty falls under 0.05 where nothing has changed."""


def _rows(mode: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Scope, bucket (empty for all cases) and figures."""
    yield "overall", "", mode["overall"]
    for bucket, figures in mode["by_bucket"].items():
        yield "bucket", bucket, figures


def _cells(figure: dict[str, Any]) -> list[Any]:
    shares = [value for label in ("base", "tuned") for value in (figure[label]["share"], *figure[label]["ci95"])]
    difference = [figure["difference"], *figure["difference_ci95"]]
    rounded = [f"{value:.6f}" for value in (*shares, *difference)]
    return [*rounded, figure["difference_ci_method"], figure["won"], figure["lost"], f"{figure['p']:.6g}"]


def _head(report: dict[str, Any]) -> str:
    lines = []
    for label in ("base", "tuned"):
        side = report[label]
        run, model = side["run"], side["model"]
        lines.append(
            f"- {label}: {model['name']} (sha256 {model['sha256'][:12]}), {run['artifact']} on {run['runtime']}, "
            f"{run['dtype']} on {run['device']}; given as `{side['source']}`"
        )
    lines.append(suite_line(report["suite"]))
    lines.append(f"- code: {code(report)}; compared {report['created']}")
    if report["command"]:
        lines.append(f"- command: `{report['command']}`")
    return "\n".join(lines)


def _cases(report: dict[str, Any], kind: str) -> str:
    found = report["modes"][report["mode"]]["exact"][kind]
    lines = [f"## {kind.capitalize()}: {len(found)} case{'s' * (len(found) != 1)}", ""]
    for entry in found[:MOST_CASES]:
        said = f" {entry['user']!r}" if entry["user"] is not None else ""
        gold = f"; gold {told_calls(entry['gold'])}" if kind == "lost" and entry["gold"] is not None else ""
        lines.append(
            f"- `{entry['case']}` ({entry['bucket']}){said}: base calls {told_calls(entry['base'])}, "
            f"tuned {told_calls(entry['tuned'])}{gold}"
        )
    if len(found) > MOST_CASES:
        lines.append(f"- and {len(found) - MOST_CASES} more in report.json")
    return "\n".join(lines) if found else ""


def _share(side: dict[str, Any]) -> str:
    return with_interval(side["share"], side["ci95"])


def _change(figure: dict[str, Any]) -> str:
    said = f"{percent(figure['base']['share'])} to {percent(figure['tuned']['share'])}"
    return said if figure["p"] >= 0.05 else f"{said}, p = {figure['p']:.2g}"


def _points(figure: dict[str, Any]) -> str:
    low, high = figure["difference_ci95"]
    return f"{100 * figure['difference']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def _accuracies(axes: Any, place: float, figure: dict[str, Any]) -> None:
    axes.plot([figure[label]["share"] for label in ("base", "tuned")], [place, place], color="#cccccc", zorder=1)
    for label, colour, offset in (("base", BASE, 0.11), ("tuned", TUNED, -0.11)):
        _bar(axes, place + offset, figure[label]["share"], figure[label]["ci95"], colour)


def _difference(axes: Any, place: float, figure: dict[str, Any]) -> None:
    low, high = figure["difference_ci95"]
    _bar(axes, place, figure["difference"], (low, high), BETTER if low > 0 else WORSE if high < 0 else OPEN)


def _reach(rows: list[tuple[str, str, dict[str, Any]]]) -> tuple[float, float]:
    """Limits that hold every difference of both metrics, so that the two panels can be compared."""
    ends = [end for _, _, figures in rows for metric in LISTED for end in figures[metric]["difference_ci95"]]
    return min(-0.02, *ends) - 0.03, max(0.02, *ends) + 0.03


def _bar(axes: Any, y: float, x: float, interval: Any, colour: str) -> None:
    low, high = interval
    axes.errorbar(
        x, y, xerr=[[max(0.0, x - low)], [max(0.0, high - x)]], fmt="o", markersize=6, color=colour,
        markeredgecolor="white", elinewidth=1.2, capsize=2.5, zorder=3,
    )  # fmt: skip
