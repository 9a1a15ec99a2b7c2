"""What a file of cases holds. It is read line by line; what stays in memory is one hash a row."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from router.cases import Case
from router.tokenizer import RouterTokenizer
from router.toolset import Toolset
from router.validate import schema_errors
from runtimes.errors import UserError
from train.data.formats import stream_cases
from train.data.importers.store import ToolsetLookup
from train.data.leakage import normalised

_NUMBER: Final = re.compile(r"[-_.:@~#]?\d.*$")


@dataclass
class Contents:
    """Counts over one file of cases."""

    path: Path
    rows: int = 0
    tools: Counter[str] = field(default_factory=Counter)
    """Rows by the tools that are called, joined by ``+``; ``no call`` without any."""
    buckets: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    """Rows by `source_of` their ids."""
    request: Counter[int] = field(default_factory=Counter)
    """Rows by the tokens of the user's turn."""
    completion: Counter[int] = field(default_factory=Counter)
    given: dict[str, Counter[str]] = field(default_factory=dict)
    """Tool -> parameter -> calls that give it; the key ``""`` counts the calls."""
    values: dict[str, Counter[str]] = field(default_factory=dict)
    """``tool.parameter`` -> value -> calls, for parameters with an enum."""
    possible: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """``tool.parameter`` -> all its enum's values."""
    optional: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Tool -> parameters that may be left out."""
    repeated: int = 0
    """Rows whose request an earlier row has, normalised."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "file": str(self.path),
            "rows": self.rows,
            "by_tool": dict(sorted(self.tools.items())),
            "by_bucket": dict(sorted(self.buckets.items())),
            "by_source": dict(sorted(self.sources.items())),
            "repeated_requests": self.repeated,
            "request_tokens": quantiles(self.request),
            "completion_tokens": quantiles(self.completion),
            "optional_given": {
                tool: {name: share(self.given[tool][name], self.given[tool][""]) for name in names}
                for tool, names in sorted(self.optional.items())
                if names
            },
            "enum_values": {
                key: {value: self.values[key][value] for value in values}
                for key, values in sorted(self.possible.items())
            },
        }


def contents(path: Path, toolset_of: ToolsetLookup, tokenizer: RouterTokenizer) -> Contents:
    """Count a file. Raises `UserError` with file and line for a row that is no case or breaks its toolset."""
    found = Contents(path)
    seen: set[int] = set()
    for place, case in stream_cases(path):
        toolset = toolset_of[case.id]
        found.rows += 1
        found.tools["+".join(c.name for c in case.calls) or "no call"] += 1
        found.buckets[case.bucket] += 1
        found.sources[source_of(case.id)] += 1
        found.request[len(tokenizer.behind_prefix(toolset, case.user, case.context))] += 1
        found.completion[len(tokenizer.completion_ids(list(case.calls)))] += 1
        key = hash(normalised(case.user))
        found.repeated += key in seen
        seen.add(key)
        _count_calls(found, place, case, toolset)
    if not found.rows:
        raise UserError(f"{path}: holds no cases")
    return found


def _count_calls(found: Contents, place: str, case: Case, toolset: Toolset) -> None:
    tools = {tool.name: tool for tool in toolset}
    for call in case.calls:
        errors = schema_errors(call, toolset)
        if errors:
            raise UserError(f"{place}: {case.id}: a call breaks toolset {toolset.name}: {errors[0]}; mend the case")
        tool = tools[call.name]
        given = found.given.setdefault(tool.name, Counter())
        given[""] += 1
        required = tool.required
        found.optional[tool.name] = tuple(name for name in tool.visible if name not in required)
        for name, schema in tool.visible.items():
            if schema.enum is not None:
                found.possible[f"{tool.name}.{name}"] = tuple(str(v) for v in schema.enum)
                found.values.setdefault(f"{tool.name}.{name}", Counter())
            if name in call.arguments:
                given[name] += 1
                if schema.enum is not None:
                    found.values[f"{tool.name}.{name}"][str(call.arguments[name])] += 1


def source_of(case: str) -> str:
    """Where a case is from, by its id: ``kiwi-train`` of ``kiwi-train-00012``, ``snips`` of ``snips/train/0001``."""
    return _NUMBER.sub("", case.split("/")[0]) or "(no name)"


def quantiles(counts: Counter[int]) -> dict[str, int]:
    """Median, 95th percentile and largest of a counted quantity (nearest rank)."""
    total, at, out = sum(counts.values()), 0, {}
    wanted = [("p50", 0.5), ("p95", 0.95), ("max", 1.0)]
    for value, number in sorted(counts.items()):
        at += number
        while wanted and at >= wanted[0][1] * total:
            out[wanted.pop(0)[0]] = value
    return out


def share(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 0.0
