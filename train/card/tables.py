"""The parts of a card that hold figures: each a piece of Markdown, made from `Facts` alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from train.card.accuracy import Accuracy
from train.card.facts import Adapter, Base
from train.card.measured import ALL, lift_tables, ms, number, percent, verdict, with_interval
from train.data.importers import find
from train.data.texts import LICENCES

LOSSES: Final = 12
"""Validations that a card lists at most; the log has them all."""
PREFERRED: Final = "gguf-q8_0"
"""The artifact whose buckets are shown, where it was measured; else the report's first."""


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; marks that would end a cell are escaped."""
    lines = [columns, ["---"] * len(columns), *rows]
    cells = [[str(c).replace("|", "\\|").replace("\n", " ") for c in line] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def shape(config: dict[str, Any], parameters: int | None) -> str:
    """A checkpoint in one line, from its `flat_config` and ``dtype``."""
    local = sum(kind == "sliding_attention" for kind in config["layer_types"])
    parts = [
        f"`{config['architectures'][0]}`",
        f"{parameters:,} weights" if parameters is not None else "",
        config["dtype"] or "",
        f"width {config['hidden_size']}",
        f"{config['num_hidden_layers']} layers"
        + (f" ({local} with a window of {config['sliding_window']})" if local else ""),
        f"{config['num_attention_heads']} query heads and {config['num_key_value_heads']} key of {config['head_dim']}",
        f"MLP {config['intermediate_size']}",
        f"vocabulary {config['vocab_size']:,}",
        f"context {config['max_position_embeddings']:,}",
    ]
    return ", ".join(part for part in parts if part)


def stages(base: Base) -> str:
    """What each stage of a base was trained on, and its loss."""
    assert base.stages is not None
    rows = []
    for stage in base.stages["stages"]:
        what = [f"text: {', '.join(stage['text'])}"] if stage["text"] else []
        what += [f"{name} {100 * weight:.0f}%" for name, weight in stage["weights"].items()]
        loss, step = stage.get("validation"), stage.get("step")
        rows.append(
            (
                stage["name"],
                ", ".join(what) + (f" (recipes: {', '.join(stage['recipes'])})" if stage["recipes"] else ""),
                f"{stage['steps']:,}",
                f"{stage['rows_per_step']} x {stage['row_tokens']:,}",
                f"{stage['learning_rate']:g}",
                stage["seed"],
                "not recorded" if loss is None else f"{loss:.4f} (step {step:,})",
            )
        )
    columns = ("stage", "blocks or text", "steps", "rows x tokens a step", "rate", "seed", "best validation loss")
    return table(columns, rows)


def sources(names: Sequence[str], requests: dict[str, int | None], kinds: Sequence[str] = ()) -> str:
    """Where data came from, under which licence; `kinds` are kinds of text that are no corpus."""
    rows: list[tuple[str, ...]] = []
    for name in names:
        source, count = find(name), requests.get(name)
        rows.append(
            (source.title, "-" if count is None else f"{count:,}", source.licence, source.address, source.held_out)
        )
    rows += [(LICENCES[kind][0], "-", LICENCES[kind][1], "", "") for kind in kinds]
    return table(("source", "training requests", "licence", "from", "never trained on"), rows)


def _origin(adapter: Adapter) -> list[tuple[str, str]]:
    recipe, files = adapter.training["config"]["recipe"], adapter.data.get("files", [])
    named = ", ".join(f"`{f['file']}` ({f['rows']:,} rows)" for f in files)
    return [
        *([("data recipe", f"`{recipe.rpartition('/')[2]}`, seed {adapter.data.get('seed', '-')}")] if recipe else []),
        *([("files of cases", named)] if files else []),
    ]


def settings(adapter: Adapter) -> str:
    """How an adapter was trained."""
    training, peft = adapter.training, adapter.peft
    config, best = training["config"], training["best"]
    loop = config["loop"]
    rows = [
        ("toolset", f"`{training['toolset']['name']}`, sha256 `{training['toolset']['sha256'][:12]}`"),
        *_origin(adapter),
        ("rows", f"{training['data']['train']:,} to train on, {training['data']['dev']:,} to validate"),
        ("LoRA", f"rank {config['rank']}, alpha {config['alpha']}, dropout {config['dropout']:g}"),
        ("adapted", f"{', '.join(config['targets'])}: {adapter.weights:,} weights"),
        ("steps", f"{loop['steps']:,}, epochs: {config['epochs']:g}"),
        ("packed rows a step", f"{config['rows_per_step']}, of up to {config['row_tokens']:,} tokens"),
        ("learning rate", f"{loop['learning_rate']:g} after {loop['warmup']} steps, then a cosine"),
        ("weight decay", f"{loop['weight_decay']:g}"),
        ("seed", config["seed"]),
        ("device", loop["device"]),
        ("best checkpoint", f"step {best['step']:,}, validation loss {best['validation']:.4f} per completion token"),
        ("PEFT", peft.get("peft_version", "not recorded")),
    ]  # fmt: skip
    if (rounding := config.get("quantize", "none")) != "none":
        rows.insert(4, ("trained under", f"the rounding of GGUF's {rounding}"))
    return table(("setting", "value"), rows)


def rows_by_tool(adapter: Adapter) -> str:
    """Rows by the tool that is right; requests that need several calls are one line."""
    counts = {split: dict(adapter.data[split]["by_tool"]) for split in ("train", "dev")}
    names = sorted({name for of in counts.values() for name in of if "+" not in name} - {"no call"})
    lines = [(f"`{name}`", *(f"{counts[split].get(name, 0):,}" for split in counts)) for name in names]
    for label, chosen in (("no call", lambda n: n == "no call"), ("several calls", lambda n: "+" in n)):
        lines.append((label, *(f"{sum(n for k, n in of.items() if chosen(k)):,}" for of in counts.values())))
    return table(("tool", "training rows", "validation rows"), lines)


def losses(adapter: Adapter) -> str:
    """Training and validation loss, at most `LOSSES` lines, the first, the last and the best among them."""
    validations = [event for event in adapter.log if "validation" in event]
    training = [event for event in adapter.log if "loss" in event]
    last, best = len(validations) - 1, min(range(len(validations)), key=lambda i: validations[i]["validation"])
    even = {round(i * last / (LOSSES - 2)) for i in range(LOSSES - 1)} if last >= LOSSES else set(range(last + 1))
    rows = []
    for event in (validations[i] for i in sorted({0, last, best} | even)):
        near = next((e for e in reversed(training) if e["step"] <= event["step"]), None)
        rows.append(
            (f"{event['step']:,}", "-" if near is None else f"{near['loss']:.4f}", f"{event['validation']:.4f}")
        )
    return table(("step", "training loss", "validation loss"), rows)


def measured(adapter: Adapter) -> str:
    """Suite, machine and commit of a report."""
    report = adapter.report
    assert report is not None
    machine, suite, how = report["machines"][0], report["suite"], report["settings"]
    of = f" of {suite['of']:,}" if suite.get("of", suite["cases"]) != suite["cases"] else ""
    commit = (report["commit"] or "not recorded")[:12] + (" with uncommitted changes" if report["dirty"] else "")
    files = ", ".join(suite.get("files", ())) or "no files named"
    parts = [
        f"{suite['cases']:,}{of} cases of suite `{suite['name']}` ({files}; sha256 `{suite['sha256'][:12]}`)",
        f"{machine['cpu']}, {machine['cores']} cores",
        machine.get("gpu") or "",
        f"{machine['os']}, Python {machine['python']}",
        "the runtimes' own choice of threads" if how["threads"] is None else f"threads: {how['threads']}",
        f"{report['started'][:10]}, commit {commit}",
        f"model sha256 `{report['model']['sha256'][:12]}`",
    ]
    return "; ".join(part for part in parts if part) + "."


def buckets(adapter: Adapter) -> str:
    """Accuracy by bucket with n and 95% intervals, with and without the grammar."""
    run = shown(adapter)
    bound, free = run["accuracy"], run["accuracy_unconstrained"]
    other = free["by_bucket"] if free else {}
    rows = [("**all**", f"{bound['n']:,}", *_shares(bound), *_shares(free))]
    for name, entry in sorted(bound["by_bucket"].items()):
        rows.append((name, f"{entry['n']:,}", *_shares(entry), *_shares(other.get(name))))
    columns = ("bucket", "n", "exact, grammar", "tool, grammar", "exact, free", "tool, free")
    return table(columns, rows)


def runs(adapter: Adapter) -> str:
    """Accuracy, latency and size by runtime and quantization."""
    rows = []
    for run in _done(adapter):
        latency, free, parity = run["latency_ms"], run["accuracy_unconstrained"], run["parity"]
        rows.append(
            (
                run["runtime"],
                run["artifact"] + ("" if run["status"] == "ok" else f" ({run['status']})"),
                percent(run["accuracy"]["exact"]),
                percent(run["accuracy"]["tool"]),
                percent(free and free["exact"]),
                percent(parity and parity["same_calls"]),
                *(ms(latency and latency[key]) for key in ("p50", "p95", "p99")),
                f"{latency['n']:,}" if latency else "-",
                number(run["size_mb"], 3),
            )
        )
    columns = ("runtime", "artifact", "exact", "tool", "exact, free", "same calls as the reference",
               "p50 ms", "p95 ms", "p99 ms", "requests timed", "MB")  # fmt: skip
    return table(columns, rows)


def not_run(adapter: Adapter) -> list[str]:
    """A line for every run without figures."""
    absent = [run for run in (adapter.report or {"runs": ()})["runs"] if not run["accuracy"]]
    return [f"{run['artifact']} ({run['runtime']}): {run['status']}, {run['reason']}" for run in absent]


def lift(adapter: Adapter) -> str:
    """The base against the adapter, where that was compared."""
    report = adapter.lift
    assert report is not None
    parts = [verdict(report)]
    for each in lift_tables(report, report["mode"]):
        parts += [f"{each.title}:", table(each.columns, each.rows)]
    return "\n\n".join(parts)


def shown(adapter: Adapter) -> dict[str, Any]:
    """The run whose buckets are shown."""
    found = _done(adapter)
    return next((run for run in found if run["artifact"] == PREFERRED), found[0])


def by_bucket(adapter: Adapter) -> dict[str, Any]:
    """The figures of every bucket, with the grammar: of the report's run that is shown, else of the accuracy report."""
    if adapter.report is not None:
        return dict(shown(adapter)["accuracy"]["by_bucket"])
    assert adapter.accuracy is not None
    return dict(adapter.accuracy.entry["sets"][ALL]["grammar"]["by_bucket"])


def sets(found: Accuracy) -> str:
    """Accuracy by set of cases with n and 95% intervals, with and without the grammar."""
    rows = []
    for name, modes in found.entry["sets"].items():
        label = f"**{name}**" if name == ALL else name
        rows.append((label, f"{modes['grammar']['n']:,}", *_shares(modes["grammar"]), *_shares(modes["unconstrained"])))
    return table(("set", "n", "exact, grammar", "tool, grammar", "exact, free", "tool, free"), rows)


def calls(found: Accuracy) -> str:
    """No-call in both directions."""
    modes = found.entry["sets"][ALL]
    rows = []
    for key, what in (("declined", "no tool serves: no call"), ("called", "a tool serves: a call")):
        cells = [figures and figures[key] for figures in (modes["grammar"], modes["unconstrained"])]
        if cells[0]:
            told = (with_interval(cell["share"], cell["ci95"]) if cell else "-" for cell in cells)
            rows.append((what, f"{cells[0]['n']:,}", *told))
    return table(("requests", "n", "grammar", "free"), rows)


def _done(adapter: Adapter) -> list[dict[str, Any]]:
    return [run for run in (adapter.report or {"runs": ()})["runs"] if run["accuracy"]]


def _shares(entry: dict[str, Any] | None) -> tuple[str, str]:
    if entry is None:
        return "-", "-"
    exact, tool = (with_interval(entry[key], entry[f"{key}_ci95"]) for key in ("exact", "tool"))
    return exact, tool
