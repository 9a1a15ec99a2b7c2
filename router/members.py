"""The members of an object in their order, the further ones between them, and the commas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

from router.expressions import NONE, Expression, Text, Times, choice, maybe, seq


def listed(
    members: Sequence[tuple[Expression, bool]],
    further: Expression | None,
    spare: int,
    most: int | None,
    rule: Callable[[Expression], Expression],
) -> Expression:
    """`members`, each with whether it must stand, and at most `spare` times `further` between and around them.

    `most` is how many may stand in all (None: as many as there are), not below the number of those that must. `rule`
    makes a rule of its own for an expression.
    """
    needs = [sum(needed for _, needed in members[at:]) for at in range(len(members) + 1)]

    @cache
    def rest(at: int, extra: int, left: int, begun: bool) -> Expression:
        """What may follow from member `at` on, where `extra` further ones and `left` in all may still stand; `begun`:
        one stands already."""
        comma = (Text(","),) if begun else ()
        if at == len(members):
            if further is None or extra == 0:
                return NONE
            more = seq(Text(","), further)
            return Times(more, 0, extra) if begun else maybe(seq(further, Times(more, 0, extra - 1)))
        (member, needed), skipped, taken = members[at], counts(at + 1, extra, left), counts(at + 1, extra, left - 1)
        if begun and not needed and extra == 0 and taken == skipped:
            return rule(seq(maybe(seq(*comma, member)), rest(at + 1, *taken, True)))
        ways: list[Expression] = []
        if further is not None and extra and left > needs[at]:
            ways.append(seq(*comma, further, rest(at, *counts(at, extra - 1, left - 1), True)))
        if left > needs[at + 1]:
            ways.append(seq(*comma, member, rest(at + 1, *taken, True)))
        if not needed:
            ways.append(rest(at + 1, *skipped, begun))
        return rule(choice(*ways)) if begun else choice(*ways)

    def counts(at: int, extra: int, left: int) -> tuple[int, int]:
        """What is left of both as seen from `at`: no more than can stand, so that like states are one."""
        extra = min(extra, left)
        return extra, min(left, len(members) - at + extra)

    return rest(0, *counts(0, spare, len(members) + spare if most is None else most), False)
