"""`edgecall data report`: what training and test files hold, and what leaks, as Markdown with pictures."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from export.checkpoint import locate
from router.tokenizer import RouterTokenizer
from runtimes.errors import UserError
from train.data.importers.files import replacing
from train.data.importers.store import toolset_lookup
from train.data.leak_counts import KINDS, Leakage, leakage
from train.data.report import Contents, contents

_COLOURS: Final = ("#1f6fb4", "#c77d0a", "#2e8b57", "#7d4ea8", "#c0392b", "#17808c", "#8c564b", "#555555")
_MOST: Final = 30
"""Bars in a picture; what is rarer is summed."""


def add_parser(verbs: Any) -> None:
    """Add ``report`` to `edgecall data`'s subparsers; it sets ``run``, a function of the arguments."""
    parser = verbs.add_parser(
        "report",
        help="counts, lengths, coverage and leakage of case files: Markdown and pictures",
        description="Describe training and test files (rows by tool, bucket and source, lengths in tokens, how often\n"
        "optional parameters and enum values occur, repeated requests) and count what every training file gives away\n"
        "of every test file.",
        examples=[
            "edgecall data report --train work/data/train.jsonl --test work/data/dev.jsonl work/data/test.jsonl"
            " --out work/data/report",
            "edgecall data report --train work/kiwi/train.jsonl work/toolbox/train.jsonl"
            " --test requests.jsonl --toolset kiwi --out work/report",
        ],
    )
    parser.add_argument("--train", type=Path, nargs="+", required=True, help="files of cases that are trained on")
    parser.add_argument("--test", type=Path, nargs="*", default=[], help="files of cases that are not")
    parser.add_argument(
        "--toolset",
        help="for files without a toolset.json or toolsets.jsonl beside them: a name, or a file of either kind",
    )
    parser.add_argument("--model", default="seed", help="model whose tokenizer counts lengths (default: seed)")
    parser.add_argument("--out", type=Path, required=True, help="folder for report.md, report.json and pictures")
    parser.set_defaults(run=main)


def main(args: argparse.Namespace) -> int:
    """Write the report; prints a summary as JSON."""
    paths = [*args.train, *args.test]
    if len(set(paths)) < len(paths):
        twice = next(p for p in paths if paths.count(p) > 1)
        raise UserError(f"{twice}: given twice; a file is either trained on or not")
    toolsets = {path: toolset_lookup(declared(path, args.toolset)) for path in paths}
    tokenizer = RouterTokenizer.load(locate(args.model, adapter="none").base / "tokenizer.json")
    found = {path: contents(path, toolsets[path], tokenizer) for path in paths}
    names = list(dict.fromkeys(toolset.name for toolset in toolsets.values()))
    leaks = [leak for path in args.train for leak in leakage(path, args.test)]
    args.out.mkdir(parents=True, exist_ok=True)
    pictures = draw(found, args.out)
    data = {
        "toolsets": names,
        "train": [found[path].to_dict() for path in args.train],
        "test": [found[path].to_dict() for path in args.test],
        "leakage": [leak.to_dict() for leak in leaks],
    }
    with replacing(args.out / "report.json") as file:
        file.write(json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    with replacing(args.out / "report.md") as file:
        file.write(markdown(", ".join(names), args.train, found, leaks, pictures))
    summary = {
        "rows": {str(path): c.rows for path, c in found.items()},
        "leakage": [
            {"train": str(leak.train), "test": str(leak.test), "test_rows": leak.rows, **leak.counts} for leak in leaks
        ],
        "report": str(args.out / "report.md"),
    }
    print(json.dumps(summary, indent=1))
    return 0


def declared(path: Path, other: str | None) -> Path | str:
    """The toolset that lies beside a file of a build or an import, else `other`. Raises `UserError` without either."""
    for name in ("toolsets.jsonl", "toolset.json"):
        if (found := path.with_name(name)).is_file():
            return found
    if other is not None:
        return other
    raise UserError(f"{path}: no toolset.json or toolsets.jsonl lies beside it; say which with --toolset")


def markdown(
    toolset: str, train: Sequence[Path], found: dict[Path, Contents], leaks: Sequence[Leakage], pictures: Sequence[str]
) -> str:
    """The report as Markdown; `pictures` are file names beside it."""
    lines = [f"# Data for {toolset}", "", "## Files", ""]
    lines += _table(
        ["file", "use", "rows", "repeated requests", "request tokens p50 / p95 / max", "completion tokens"],
        [
            [p.as_posix(), "train" if p in train else "test", f"{c.rows:,}", f"{c.repeated:,}"]
            + [" / ".join(str(n) for n in c.to_dict()[key].values()) for key in ("request_tokens", "completion_tokens")]
            for p, c in found.items()
        ],
    )
    lines += ["", "## Leakage", ""]
    if leaks:
        lines += [
            "Test requests that training gives away, each counted once, as the worst that holds: the same request;"
        ]
        lines += [
            "the same but for case, marks and spaces; at least four words in five shared (Jaccard index of the word"
        ]
        lines += ["sets, compared exactly); from the same template; from a template with the same words once slots and"]
        lines += ["stop words are gone.", ""]
        lines += _table(
            ["train", "test", "test rows", *KINDS],
            [[x.train.as_posix(), x.test.as_posix(), x.rows, *(x.counts[k] for k in KINDS)] for x in leaks],
        )
        shown = [(kind, *pair) for leak in leaks for kind in KINDS for pair in leak.examples[kind][:3]]
        if shown:
            lines += ["", *_table(["kind", "test request", "training request, or template"], shown)]
    else:
        lines += ["No test files were given."]
    for title, field in (("Rows by tool", "tools"), ("Rows by bucket", "buckets"), ("Rows by source", "sources")):
        names = sorted({name for c in found.values() for name in getattr(c, field)})
        lines += ["", f"## {title}", ""]
        lines += _table(
            ["", *(p.name for p in found)], [[n, *(f"{getattr(c, field)[n]:,}" for c in found.values())] for n in names]
        )
    lines += ["", "## Coverage", "", "How often an optional parameter is given, of the calls of its tool.", ""]
    lines += _table(["tool", "parameter", *(p.name for p in found)], _optional(found))
    lines += ["", "Calls by enum value; a dash is a value that never occurs.", ""]
    lines += _table(["parameter", "value", *(p.name for p in found)], _enums(found))
    for name in pictures:
        lines += ["", f"![{name}]({name})"]
    return "\n".join(lines) + "\n"


def _optional(found: dict[Path, Contents]) -> list[list[str]]:
    tools = {tool: names for c in found.values() for tool, names in c.optional.items()}
    return [
        [tool, name]
        + [f"{c.given[tool][name] / c.given[tool]['']:.0%}" if tool in c.given else "-" for c in found.values()]
        for tool, names in sorted(tools.items())
        for name in names
    ]


def _enums(found: dict[Path, Contents]) -> list[list[str]]:
    possible = {key: values for c in found.values() for key, values in c.possible.items()}
    return [
        [key, value] + [f"{n:,}" if (n := c.values.get(key, Counter())[value]) else "-" for c in found.values()]
        for key, values in sorted(possible.items())
        for value in values
    ]


def _table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> list[str]:
    if not rows:
        return ["(none)"]
    lines = [head, ["---"] * len(head), *rows]
    return [
        "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines
    ]


def draw(found: dict[Path, Contents], out: Path) -> list[str]:
    """Draw ``tools.png`` and ``lengths.png`` into `out`; their names, none where matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        return []
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    total: Counter[str] = sum((c.tools for c in found.values()), Counter())
    kept = [name for name, _ in total.most_common(_MOST)]
    names = kept + (["(others)"] if len(total) > len(kept) else [])
    figure, axes = plt.subplots(figsize=(9, 1.6 + 0.16 * len(names) * (1 + len(found))), layout="constrained")
    height = 0.8 / len(found)
    for number, (path, c) in enumerate(found.items()):
        shares = [c.tools[name] / c.rows for name in kept]
        shares += [1 - sum(shares)] if len(names) > len(kept) else []
        places = [i + (number - (len(found) - 1) / 2) * height for i in range(len(names))]
        axes.barh(places, shares, height=height, color=_COLOURS[number % len(_COLOURS)], label=_label(path, c))
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(lambda x, _: f"{100 * x:.0f}%")
    axes.set(xlabel="share of the file's rows", title="Rows by tools called")
    axes.grid(True, axis="x", alpha=0.25)
    axes.legend(frameon=False, fontsize=8)
    _save(figure, out / "tools.png")

    figure, panels = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for panel, field, title in zip(panels, ("request", "completion"), ("request", "completion"), strict=True):
        for number, (path, c) in enumerate(found.items()):
            counts: Counter[int] = getattr(c, field)
            at, below = 0, []
            for length in sorted(counts):
                at += counts[length]
                below.append(100 * at / c.rows)
            panel.step(
                sorted(counts), below, where="post", color=_COLOURS[number % len(_COLOURS)], label=_label(path, c)
            )
        panel.set(xlabel=f"tokens of the {title}", ylabel="rows at most as long, %", ylim=(0, 101))
        panel.grid(True, alpha=0.25)
    panels[0].legend(frameon=False, fontsize=8)
    figure.suptitle("Lengths")
    _save(figure, out / "lengths.png")
    return ["tools.png", "lengths.png"]


def _label(path: Path, c: Contents) -> str:
    return f"{path.parent.name}/{path.name} ({c.rows:,})"


def _save(figure: Any, path: Path) -> None:
    import matplotlib.pyplot as plt

    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, format="png", dpi=120)
    plt.close(figure)
    temporary.replace(path)
