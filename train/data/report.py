"""What a data set holds, and how much of its test sets its training sets give away.

Files are read line by line; what stays in memory is one hash a row, and the test requests.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from router.cases import Case
from router.tokenizer import RouterTokenizer
from router.toolset import Toolset
from router.validate import schema_errors
from runtimes.errors import UserError
from train.data.formats import stream_cases
from train.data.importers.duplicates import near, near_index
from train.data.importers.store import ToolsetLookup
from train.data.leakage import bare, normalised

EXAMPLES: Final = 5
"""Leaks of a kind that are written out."""
KINDS: Final = ("exact", "normalised", "near", "template", "wording")


@dataclass
class Contents:
    """Counts over one file of cases."""

    path: Path
    rows: int = 0
    tools: Counter[str] = field(default_factory=Counter)
    """Rows by the tools that are called, joined by ``+``; ``no call`` without any."""
    buckets: Counter[str] = field(default_factory=Counter)
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


@dataclass
class Leakage:
    """What one training file gives away of one test file: test requests by kind, each counted once, as the worst kind.

    `exact`: the same request; `normalised`: the same but for case, marks and spaces; `near`: four words of five in
    common; `template`: from the same template; `wording`: from a template that differs in slots and stop words only.
    """

    train: Path
    test: Path
    rows: int
    counts: dict[str, int]
    examples: dict[str, list[tuple[str, str]]]
    """Kind -> test request and training request (or templates)."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "train": str(self.train), "test": str(self.test), "test_rows": self.rows, **self.counts,
            "examples": {kind: [list(pair) for pair in pairs] for kind, pairs in self.examples.items() if pairs},
        }  # fmt: skip


def leakage(train: Path, tests: Sequence[Path]) -> list[Leakage]:
    """What a training file gives away of each test file, found in one pass over it."""
    seekers = [_Seeker(path) for path in tests]
    for _, case in stream_cases(train):
        for seeker in seekers:
            seeker.look(case)
    return [seeker.found(train) for seeker in seekers]


class _Seeker:
    """The requests of one test file, and the worst way in which training showed each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cases = [case for _, case in stream_cases(path)]
        self.by_text = _group((c.user, c.user) for c in self.cases)
        self.by_normal = _group((normalised(c.user), c.user) for c in self.cases)
        self.by_template = _group((c.template, c.user) for c in self.cases if c.template)
        self.by_wording = _group((w, c.user) for c in self.cases if c.template and (w := wording(c.template)))
        self.index = near_index(c.user for c in self.cases)
        self.worst: dict[str, tuple[int, str]] = {}

    def look(self, case: Case) -> None:
        self._mark(0, self.by_text.get(case.user, ()), case.user)
        self._mark(1, self.by_normal.get(normalised(case.user), ()), case.user)
        self._mark(2, near(self.index, case.user), case.user)
        if case.template:
            self._mark(3, self.by_template.get(case.template, ()), case.template)
            self._mark(4, self.by_wording.get(wording(case.template), ()), case.template)

    def _mark(self, kind: int, users: Iterable[str], shown: str) -> None:
        for user in users:
            if user not in self.worst or kind < self.worst[user][0]:
                self.worst[user] = (kind, shown)

    def found(self, train: Path) -> Leakage:
        counts = dict.fromkeys(KINDS, 0)
        examples: dict[str, list[tuple[str, str]]] = {kind: [] for kind in KINDS}
        for case in self.cases:
            if case.user in self.worst:
                number, shown = self.worst[case.user]
                counts[KINDS[number]] += 1
                if len(examples[KINDS[number]]) < EXAMPLES:
                    examples[KINDS[number]].append((case.user, shown))
        return Leakage(train, self.path, len(self.cases), counts, examples)


def wording(template: str) -> str:
    """A template's own words: without its pattern's name, slots, macros and stop words. Empty where none are left."""
    text = re.sub(r"^[\w-]+: ", "", template)
    return bare(re.sub(r"[{<][^{}<>]*[}>]", " ", text))


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


def _group(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    out: dict[str, list[str]] = {}
    for key, value in pairs:
        if value not in out.setdefault(key, []):
            out[key].append(value)
    return out
