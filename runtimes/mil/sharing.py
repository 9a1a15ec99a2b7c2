"""Who shares memory with whom: so that a cache is updated in place, and nobody's memory is changed behind his back.

In MIL every value is new. Here some are views of others, and a state is an array that lives on from run to run. Values
that may share memory form a group; ``slice_update`` writes into its input's own memory where no other value of the
group is read any more and the state that the memory belongs to, if any, becomes the result.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from runtimes.mil.operations import OPERATIONS, VIEWS
from runtimes.mil.ops_indexing import slice_assign
from runtimes.mil.step import Step, Write

_ALWAYS = 1 << 60


def arrange(
    steps: Sequence[Step], *, given: set[int], states: set[int], outputs: set[int]
) -> tuple[list[Step], set[int]]:
    """The steps, in place where that is safe, with what they free; and the outputs that must be copied.

    `given`: slots of inputs and constants, whose memory is not ours.
    """
    last = dict.fromkeys(outputs, _ALWAYS)
    for number, step in enumerate(steps):
        for slot in _reads(step):
            last[slot] = max(last.get(slot, 0), number)
    group = {slot: slot for slot in given | states}
    protected = set(given)
    out = []
    for number, step in enumerate(steps):
        made = {one.slot for one in step.outputs}
        if step.operation.type == "slice_update" and _is_free(number, steps, group, protected, last, states):
            step = replace(step, call=_in_place(step.call))
            group |= dict.fromkeys(made, group[dict(step.single)["x"]])
        elif step.operation.type in VIEWS:
            source = dict(step.single).get(_source(step.operation.type))
            for slot in made:
                group[slot] = slot if source is None else group[source]
                if source is None:  # of a constant
                    protected.add(slot)
        else:
            group |= {slot: slot for slot in made}
        if step.write is not None:
            state = step.write.state
            step, group[state] = _written(step, step.write, group, protected, states)
        done = {slot for slot in _reads(step) | made if last.get(slot, -1) <= number}
        out.append(replace(step, free=tuple(sorted(done - given - states))))
    held = {group[slot] for slot in states} | protected
    return out, {slot for slot in outputs if group[slot] in held}


def _is_free(
    number: int,
    steps: Sequence[Step],
    group: dict[int, int],
    protected: set[int],
    last: dict[int, int],
    states: set[int],
) -> bool:
    """Whether nobody reads what `slice_update`, step `number`, would change in its input."""
    step = steps[number]
    x = dict(step.single).get("x")
    if x is None or group[x] in protected:
        return False
    sharers = {slot for slot, one in group.items() if one == group[x]}
    if any(last.get(slot, -1) > number for slot in sharers - states):
        return False
    return all(_next_is_write(steps[number + 1 :], state, step.outputs[0].slot) for state in sharers & states)


def _next_is_write(steps: Sequence[Step], state: int, value: int) -> bool:
    """Whether the next thing that happens to a state is that it becomes `value`."""
    for step in steps:
        if step.write is not None and step.write.state == state:
            return step.write.value == value
        if state in _reads(step):
            return False
    return False


def _written(
    step: Step, write: Write, group: dict[int, int], protected: set[int], states: set[int]
) -> tuple[Step, int]:
    """The step, and the group of the state that it writes: of a copy where the memory is another's already."""
    found = group[write.value]
    others = {group[state] for state in states - {write.state}}
    if found in protected or found in others:
        # A new number for the memory of the copy: negative ones are no slot's.
        return replace(step, write=replace(write, copy=True)), min(0, *group.values()) - 1
    return step, found


def _in_place(call: Any) -> Any:
    """`slice_assign` with the constants that were bound to `slice_update`."""
    return partial(slice_assign, **call.keywords) if isinstance(call, partial) else slice_assign


def _reads(step: Step) -> set[int]:
    return {slot for _, slot in step.single} | {slot for _, slots in step.several for slot in slots}


def _source(kind: str) -> str:
    """The parameter whose memory a view shows: the value that a state becomes, otherwise the first."""
    return "value" if kind == "coreml_update_state" else next(iter(inspect.signature(OPERATIONS[kind]).parameters))
