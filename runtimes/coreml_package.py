"""What a Core ML package of ours takes and gives (docs/coreml.md), and how a pass over any tokens is made of that.

There are two kinds. A flexible package has one function, which takes any number of tokens at once. A package of fixed
shapes has one function for each number of tokens, all over the same state: ``decode_1``, ``prefill_8`` and so on give
the logits of their last row, ``verify_8`` and so on those of every row, ``choose_1`` says which of the allowed ids is
the best. A pass over other numbers is cut into theirs, and the last of them padded.

Padding repeats the last token, with its position and its masks, and writes nothing: what a padded row computes is what
the last row does, so that nothing new can become too large for float16, and the last row of a pass is always the last
token's.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from runtimes.base import BareLoop, CountingSession, Ids, Logits, Model, Pass, Rows, row_offsets
from runtimes.errors import ArtifactError, SessionError
from runtimes.shortlist import check_ids

MASKED: Final = -3e4
"""Added to, or put in place of, a forbidden score: representable in float16, and zero after the softmax."""

WINDOW: Final = "edgecall.sliding_window"
"""The metadata's key for how many positions back a local layer sees."""

CONTEXT: Final = "edgecall.context_length"
"""The metadata's key for how many positions the cache holds."""

_FLEXIBLE: Final = ("input_ids", "positions", "rows")
_FIXED: Final = ("input_ids", "positions", "write", "past", "near")
_NAME: Final = re.compile(r"(decode|prefill|verify|choose)_([1-9][0-9]*)")

Inputs = dict[str, npt.NDArray[Any]]
Predict = Callable[[str, Inputs], Mapping[str, Any]]
"""One prediction of a function of this name: outputs by name."""


class Step(NamedTuple):
    """One prediction of a pass."""

    function: str
    inputs: Inputs
    keep: Sequence[int]
    """The rows of its logits that the pass was asked for."""


@dataclass(frozen=True)
class Signature:
    """A function as a package describes it."""

    sizes: Mapping[str, Sequence[int]]
    """Input -> largest size of each axis."""
    outputs: Sequence[str]
    states: Sequence[str]


class Interface(Protocol):
    """One kind of package."""

    @property
    def capacity(self) -> int:
        """Positions that its cache holds."""
        ...

    @property
    def functions(self) -> Sequence[str]:
        """All that a session calls, by the names in its steps."""
        ...

    @property
    def states(self) -> Sequence[str]:
        """The states that every function has, by name."""
        ...

    def steps(self, tokens: Sequence[int], start: int, rows: Rows) -> Iterator[Step]:
        """The predictions of one pass over `tokens` behind `start` cached ones."""
        ...

    def choice(self, tokens: Sequence[int], start: int, allowed: Ids) -> Iterator[Step]:
        """The same for the best of some ids behind the last token; the last step gives it. Raises `SessionError` where
        the package cannot."""
        ...


@dataclass(frozen=True)
class Flexible:
    """One function over any number of tokens."""

    capacity: int
    states: Sequence[str]
    name: str

    @property
    def functions(self) -> Sequence[str]:
        return (self.name,)

    def steps(self, tokens: Sequence[int], start: int, rows: Rows) -> Iterator[Step]:
        inputs = package_inputs(tokens, start, rows)
        yield Step(self.name, inputs, range(len(inputs["rows"])))

    def choice(self, tokens: Sequence[int], start: int, allowed: Ids) -> Iterator[Step]:
        raise SessionError("coreml: this package gives logits alone; one of fixed shapes chooses among ids itself")


@dataclass(frozen=True)
class Fixed:
    """A function for each of some numbers of tokens."""

    capacity: int
    window: int
    vocab_size: int
    last: Mapping[int, str]
    """Number of tokens -> the function that gives the logits of its last row,"""
    every: Mapping[int, str]
    """or of all its rows."""
    choose: str | None
    functions: Sequence[str]
    states: Sequence[str]

    def steps(self, tokens: Sequence[int], start: int, rows: Rows) -> Iterator[Step]:
        count = len(tokens)
        asked = row_offsets(rows, count)
        # What lies before the first row that is asked for needs no logits; the very last one alone is a "last" too.
        first = count if asked[0] == count - 1 else asked[0]
        for begin, size, length in _cuts(0, first, sorted(self.last)):
            answers = (0,) if begin + length == count else ()
            yield self._step(self.last[size], tokens[begin : begin + length], start + begin, size, answers)
        for begin, size, length in _cuts(first, count, sorted(self.every)):
            keep = tuple(row - begin for row in asked if begin <= row < begin + length)
            yield self._step(self.every[size], tokens[begin : begin + length], start + begin, size, keep)

    def choice(self, tokens: Sequence[int], start: int, allowed: Ids) -> Iterator[Step]:
        if self.choose is None:
            raise SessionError("coreml: this package has no function that chooses; export again")
        if len(tokens) > 1:
            yield from self.steps(tokens[:-1], start, "last")
        step = self._step(self.choose, tokens[-1:], start + len(tokens) - 1, 1, ())
        step.inputs["allowed"] = np.full((1, self.vocab_size), MASKED, np.float16)
        step.inputs["allowed"][0, allowed] = 0
        yield step

    def _step(self, name: str, tokens: Sequence[int], start: int, size: int, keep: Sequence[int]) -> Step:
        return Step(name, fixed_inputs(tokens, start, size, self.capacity, self.window), keep)


def interface_of(
    package: Path, functions: Mapping[str, Signature], metadata: Mapping[str, str], vocab_size: int
) -> Interface:
    """Which kind of package it is, from its own description: a `Signature` for each function by name.

    Raises `ArtifactError` for an interface that is not ours.
    """
    if not any(_NAME.fullmatch(name) for name in functions):
        ((name, signature),) = list(functions.items())[:1]
        _check(package, signature, _FLEXIBLE, ("logits",))
        capacity = signature.sizes["positions"][-1]
        _check_capacity(package, metadata, capacity)
        return Flexible(capacity, signature.states, name)
    capacities: set[int] = set()
    states: set[tuple[str, ...]] = set()
    found: dict[str, dict[int, str]] = {kind: {} for kind in ("decode", "prefill", "verify", "choose")}
    for name, signature in functions.items():
        kind, size = _named(package, name, signature)
        found[kind][size] = name
        capacities.add(signature.sizes["past"][1])
        states.add(tuple(sorted(signature.states)))
    last, every = found["decode"] | found["prefill"], found["decode"] | found["verify"]
    window = metadata.get(WINDOW, "")
    if 1 not in last or len(capacities) != 1 or len(states) != 1 or not window.isdigit():
        raise ArtifactError(f"{package}: lacks decode_1, {WINDOW} or one cache for all functions; export again")
    choose, capacity = found["choose"].get(1), capacities.pop()
    _check_capacity(package, metadata, capacity)
    return Fixed(capacity, int(window), vocab_size, last, every, choose, tuple(functions), states.pop())


def _named(package: Path, name: str, signature: Signature) -> tuple[str, int]:
    """What a function does and over how many tokens, as its name says; it must be so."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise ArtifactError(f"{package}: has a function {name!r}, which is not one of ours; export again")
    kind, size = match[1], int(match[2])
    if kind == "choose":
        _check(package, signature, (*_FIXED, "allowed"), ("id", "logit"))
    else:
        _check(package, signature, _FIXED, ("logits",))
    capacity = signature.sizes["past"][1:2]
    if list(signature.sizes["input_ids"]) != [1, size] or list(signature.sizes["past"]) != [1, *capacity, 1, size]:
        raise ArtifactError(f"{package}: function {name!r} does not take {size} tokens; export again")
    return kind, size


def _check(package: Path, one: Signature, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    if set(one.sizes) != set(inputs) or list(one.outputs) != list(outputs) or not one.states:
        raise ArtifactError(
            f"{package}: takes {', '.join(sorted(one.sizes))} and gives {', '.join(one.outputs)}, "
            f"not {', '.join(inputs)} and {', '.join(outputs)} with a state; export again"
        )


def _check_capacity(package: Path, metadata: Mapping[str, str], capacity: int) -> None:
    if metadata.get(CONTEXT) != str(capacity):
        raise ArtifactError(
            f"{package}: takes {capacity} positions, but its {CONTEXT} is {metadata.get(CONTEXT)!r}; export again"
        )


def forward(predict: Predict, steps: Iterable[Step], vocab_size: int) -> Logits:
    """Make the predictions of a pass: the logits of the rows that it was asked for, (rows, vocab)."""
    parts = []
    for step in steps:
        out = predict(step.function, step.inputs)
        if step.keep:
            logits = np.asarray(out["logits"], dtype=np.float32).reshape(-1, vocab_size)
            parts.append(logits if len(step.keep) == len(logits) else logits[list(step.keep)])
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


class PackageSession(CountingSession):
    """One sequence in a package's state, whoever executes it."""

    def __init__(self, model: Model, interface: Interface) -> None:
        super().__init__(model)
        self._interface = interface

    def choose(self, tokens: Sequence[int], allowed: Ids) -> tuple[int, float]:
        """Append `tokens`; the best of the ids `allowed` (ascending) behind the last, found in the package, and its
        logit. Of equal ones the first. Raises `SessionError` as `append`, and where the package cannot.

        For apps, which decide by it alone. The router does not call it: it asks how near the next best was, to decide
        near ties alike on every runtime, and it appends a forced run with the decision behind it in one pass, where
        this takes another for the last token.
        """
        check_ids(allowed, self._model.vocab_size)
        found: list[Any] = []

        def forward(tokens: Sequence[int], rows: Rows) -> Logits:
            for step in self._interface.choice(tokens, self._position, allowed):
                found[:] = [self._predict(step.function, step.inputs)]
            return np.asarray(found[0]["logit"], np.float32)

        logit = self._pass(tokens, "last", forward)
        return int(np.asarray(found[0]["id"]).reshape(-1)[0]), float(logit.reshape(-1)[0])

    def _forward(self, tokens: Sequence[int], rows: Rows) -> Logits:
        logits = forward(self._predict, self._interface.steps(tokens, self._position, rows), self._model.vocab_size)
        return logits[-1] if rows == "last" else logits

    def disagreement(self, tokens: Sequence[int]) -> float | None:
        """`runtimes.base.Functions`: every function full of `tokens`, and padded, against ``decode_1`` token by token;
        beyond the longest that gives all rows against those, since by then they are known. And the choice against the
        best."""
        whole = self._interface
        if not isinstance(whole, Fixed):
            return None
        vocab = self._model.vocab_size
        known = min(max(whole.every), len(tokens))
        alone = replace(whole, last={1: whole.last[1]}, every={1: whole.last[1]})
        want = forward(self._predict, alone.steps(tokens[:known], 0, "all"), vocab)
        worst = 0.0
        for size, name in whole.every.items():
            for count in _fills(size, known):
                one = replace(whole, every={size: name}).steps(tokens[:count], 0, "all")
                worst = _worse(worst, forward(self._predict, one, vocab) - want[:count])
        for size, name in whole.last.items():
            for count in _fills(size, len(tokens)):
                row = want[count - 1] if count <= known else self._behind(tokens[:count])
                one = replace(whole, last={size: name}).steps(tokens[:count], 0, "last")
                worst = _worse(worst, forward(self._predict, one, vocab)[0] - row)
        if whole.choose is not None:
            (step,) = whole.choice(tokens[known - 1 : known], known - 1, np.arange(vocab))
            out = self._predict(step.function, step.inputs)
            best = want[-1][int(np.asarray(out["id"]).reshape(-1)[0])]
            worst = _worse(worst, np.array([best, np.asarray(out["logit"]).reshape(-1)[0]]) - want[-1].max())
        return worst

    def _behind(self, tokens: Sequence[int]) -> Logits:
        """The logits behind `tokens`, from an empty cache, by the functions that give all rows: (vocab,)."""
        *before, last = self._interface.steps(tokens, 0, "all")
        for step in before:
            self._predict(step.function, step.inputs)
        logits: Logits = forward(self._predict, [last._replace(keep=last.keep[-1:])], self._model.vocab_size)[0]
        return logits

    @abstractmethod
    def _predict(self, function: str, inputs: Inputs) -> Mapping[str, Any]:
        """One prediction on the session's state: outputs by name."""


def _fills(size: int, most: int) -> tuple[int, ...]:
    """Numbers of tokens that fill a function over `size` of them, and that leave it padding; at most `most`."""
    return tuple(sorted({min(size, most), min(size // 2 + 1, most)}))


def _worse(worst: float, differences: npt.NDArray[Any]) -> float:
    """The larger magnitude; NaN stays."""
    return float(np.maximum(worst, np.abs(differences).max()))


def bare_passes(predict: Predict, interface: Interface, prefix: Sequence[int], passes: Sequence[Pass]) -> BareLoop:
    """`predict` over the inputs of `passes`, made beforehand; the state that it knows holds `prefix` by then."""
    for step in interface.steps(prefix, 0, "last") if prefix else ():
        predict(step.function, step.inputs)
    steps = [step for start, tokens, rows, _ in passes for step in interface.steps(tokens, start, rows)]

    def run() -> None:
        for step in steps:
            predict(step.function, step.inputs)

    return run


def package_inputs(tokens: Sequence[int], start: int, rows: Rows) -> Inputs:
    """What a flexible package takes for one pass over `tokens` behind `start` cached ones (docs/coreml.md)."""
    count = len(tokens)
    return {
        "input_ids": np.array([list(tokens)], dtype=np.int32),
        "positions": np.arange(start + count, dtype=np.int32)[None],
        "rows": np.array(row_offsets(rows, count), dtype=np.int32),
    }


def fixed_inputs(tokens: Sequence[int], start: int, size: int, capacity: int, window: int) -> Inputs:
    """What a function over `size` tokens takes for `tokens`, as many or fewer, behind `start` cached ones.

    ``write`` (1, size, 1, capacity) has a 1 where a token's key and value go; ``past`` and ``near`` (1, capacity, 1,
    size) are added to the scores of global and local layers (docs/coreml.md).
    """
    count = len(tokens)
    ids = np.full((1, size), tokens[-1], dtype=np.int32)
    ids[0, :count] = tokens
    positions = np.arange(start, start + size, dtype=np.int32)
    positions[count:] = start + count - 1
    write = np.zeros((1, size, 1, capacity), np.float16)
    write[0, np.arange(count), 0, positions[:count]] = 1
    ahead = positions[None, :] - np.arange(capacity, dtype=np.int32)[:, None]  # how far back a key lies
    past = np.where(ahead >= 0, np.float16(0), np.float16(MASKED))
    near = np.where(ahead < window, past, np.float16(MASKED))
    masks = {"past": past[None, :, None, :], "near": near[None, :, None, :]}
    return {"input_ids": ids, "positions": positions, "write": write, **masks}


def _cuts(begin: int, end: int, sizes: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Where each step begins, the size of its function and how many tokens it takes: the fewest steps, and of those
    the ones with the least padding."""
    while begin < end:
        left = min(end - begin, sizes[-1])
        yield begin, sizes[bisect_left(sizes, left)], left
        begin += left


__all__ = [
    "CONTEXT",
    "MASKED",
    "WINDOW",
    "Fixed",
    "Flexible",
    "Interface",
    "PackageSession",
    "Signature",
    "Step",
    "bare_passes",
    "fixed_inputs",
    "forward",
    "interface_of",
    "package_inputs",
]
