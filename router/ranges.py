"""Numbers within bounds, as regular languages over their decimal spelling.

Integers are exact. Numbers are compared in decimal with the bounds' shortest spelling, which agrees with comparing the
floats they are read as, because rounding is monotonic; an exclusive bound is the neighbouring float, included.
"""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from functools import lru_cache
from typing import Final

from router.regular import DIGIT, EMPTY, NOTHING, Node, alt, cat, literal, optional, repeat, span

MAX_DIGITS: Final = 20
"""Digits before the point, and after what a bound fixes behind it: enough for any 64-bit integer and any float as
Python writes it. A loop of digits must end."""
_EXACT: Final = Context(prec=800)
_SMALL: Final = (-307, -5)
_LARGE: Final = (16, 307)
"""Exponents of ten at which Python writes a float with an exponent and can still read it back."""


@lru_cache(maxsize=256)
def integers(low: int | None, high: int | None) -> Node:
    """Integers from `low` to `high` (None: up to `MAX_DIGITS` digits), without leading zeros, plus sign or ``-0``."""
    negative: Node = NOTHING
    if low is None or low < 0:
        top = None if low is None else -low
        bottom = 1 if high is None or high >= 0 else -high
        negative = cat(literal("-"), _whole(bottom, top))
    positive: Node = NOTHING
    if high is None or high >= 0:
        positive = _whole(max(low or 0, 0), high)
    return alt(negative, positive)


@lru_cache(maxsize=256)
def numbers(low: float | None, high: float | None) -> Node:
    """Decimal numbers from `low` to `high`, both included, with or without a fraction or a two-digit exponent."""
    floor = None if low is None else Decimal(repr(low))
    ceiling = None if high is None else Decimal(repr(high))
    negative: Node = NOTHING
    if floor is None or floor < 0:
        bottom = Decimal(0) if ceiling is None or ceiling >= 0 else -ceiling
        negative = cat(literal("-"), _magnitude(bottom, None if floor is None else -floor))
    positive: Node = NOTHING
    if ceiling is None or ceiling >= 0:
        positive = _magnitude(max(floor or Decimal(0), Decimal(0)), ceiling)
    return alt(negative, positive)


def integer_bounds(
    minimum: float | None, maximum: float | None, above: float | None, below: float | None
) -> tuple[int | None, int | None]:
    """The tightest inclusive integer bounds; `above` and `below` are exclusive."""
    lows = [math.ceil(minimum)] if minimum is not None else []
    lows += [math.floor(above) + 1] if above is not None else []
    highs = [math.floor(maximum)] if maximum is not None else []
    highs += [math.ceil(below) - 1] if below is not None else []
    return max(lows, default=None), min(highs, default=None)


def number_bounds(
    minimum: float | None, maximum: float | None, above: float | None, below: float | None
) -> tuple[float | None, float | None]:
    """The tightest inclusive float bounds; `above` and `below` are exclusive."""
    lows = [_float_from(minimum, math.inf)] if minimum is not None else []
    lows += [_beyond(above, math.inf)] if above is not None else []
    highs = [_float_from(maximum, -math.inf)] if maximum is not None else []
    highs += [_beyond(below, -math.inf)] if below is not None else []
    return max(lows, default=None), min(highs, default=None)


def _float_from(bound: float, towards: float) -> float:
    """The nearest float that keeps to an inclusive bound; a large integer may lie between two."""
    value = float(bound)
    outside = value < bound if towards > 0 else value > bound
    return math.nextafter(value, towards) if outside else value


def _beyond(bound: float, towards: float) -> float:
    value = _float_from(bound, towards)
    return math.nextafter(value, towards) if value == bound else value


# Whole numbers from 0 on.


def _whole(low: int, high: int | None) -> Node:
    """Whole numbers from `low` (not below 0) to `high`."""
    if high is None:
        lengths = [_same_length(str(low), "9" * len(str(low)))]
        if len(str(low)) < MAX_DIGITS:
            lengths.append(cat(span("1", "9"), repeat(DIGIT, len(str(low)), MAX_DIGITS - 1)))
        return alt(*lengths)
    if low > high:
        return NOTHING
    first, last = str(low), str(high)
    if len(first) == len(last):
        return _same_length(first, last)
    parts = [_same_length(first, "9" * len(first)), _same_length("1" + "0" * (len(last) - 1), last)]
    if len(last) - len(first) > 1:
        parts.append(cat(span("1", "9"), repeat(DIGIT, len(first), len(last) - 2)))
    return alt(*parts)


def _same_length(low: str, high: str) -> Node:
    """Digit strings as long as `low` and `high` and between them."""
    length = len(low)
    if low == "0" * length and high == "9" * length:
        return repeat(DIGIT, length, length)
    rests: dict[Node, list[Node]] = {}
    for digit in range(int(low[0]), int(high[0]) + 1):
        on_low = low[1:] if digit == int(low[0]) else "0" * (length - 1)
        on_high = high[1:] if digit == int(high[0]) else "9" * (length - 1)
        rests.setdefault(_same_length(on_low, on_high), []).append(literal(str(digit)))
    return alt(*(cat(alt(*digits), rest) for rest, digits in rests.items()))


# Decimals from 0 on.


def _magnitude(low: Decimal, high: Decimal | None) -> Node:
    return alt(_decimal(low, high), _scientific(low, high))


def _decimal(low: Decimal, high: Decimal | None) -> Node:
    """Decimals without an exponent from `low` to `high`; bounds of more than `MAX_DIGITS` places move inwards."""
    low = _places(low, ROUND_CEILING)
    high = None if high is None else _places(high, ROUND_FLOOR)
    if high is not None and low > high:
        return NOTHING
    low_whole, low_rest = _split(low)
    if high is None:
        return alt(
            cat(_whole(low_whole, low_whole), _fraction(low_rest, None)),
            cat(_whole(low_whole + 1, None), _fraction("", None)),
        )
    high_whole, high_rest = _split(high)
    if low_whole == high_whole:
        return cat(_whole(low_whole, low_whole), _fraction(low_rest, high_rest))
    return alt(
        cat(_whole(low_whole, low_whole), _fraction(low_rest, None)),
        cat(_whole(low_whole + 1, high_whole - 1), _fraction("", None)),
        cat(_whole(high_whole, high_whole), _fraction("", high_rest)),
    )


def _places(value: Decimal, rounding: str) -> Decimal:
    exponent = value.as_tuple().exponent
    if isinstance(exponent, int) and exponent < -MAX_DIGITS:
        return value.quantize(Decimal(1).scaleb(-MAX_DIGITS), rounding=rounding, context=_EXACT)
    return value


def _split(value: Decimal) -> tuple[int, str]:
    """The whole part, and the digits after the point without the zeros that end them."""
    text = f"{value:f}"
    whole, _, rest = text.partition(".")
    return int(whole), rest.rstrip("0")


def _fraction(low: str, high: str | None) -> Node:
    """A point and digits between ``0.low`` and ``0.high`` (None: no limit), or nothing where that is allowed."""
    some = cat(literal("."), _digits(low, high, first=True))
    return some if low else optional(some)


def _digits(low: str, high: str | None, *, first: bool = False) -> Node:
    """Digits after the point, read as ``0.…``, from `low` to `high`; none at all too, unless they are the `first`."""
    more = repeat(DIGIT, 1 if first else 0, MAX_DIGITS)
    if not low and high is None:
        return more
    if not low and high == "":
        return repeat(literal("0"), 1 if first else 0, MAX_DIGITS)
    start, end = low[:1] or "0", (high[:1] or "0") if high is not None else "9"
    rests: dict[Node, list[Node]] = {}
    for digit in range(int(start), int(end) + 1):
        on_low = low[1:] if digit == int(start) and low else ""
        on_high = high[1:] if high is not None and digit == int(end) else None
        rests.setdefault(_digits(on_low, on_high), []).append(literal(str(digit)))
    parts = [cat(alt(*digits), rest) for rest, digits in rests.items()]
    if not low and not first:
        parts.append(EMPTY)
    return alt(*parts)


# Numbers with an exponent.


def _scientific(low: Decimal, high: Decimal | None) -> Node:
    """``d.ddde-07`` and ``d.ddde+21`` from `low` to `high`, at the exponents at which Python writes floats so."""
    one, ten = Decimal(1), Decimal("9." + "9" * MAX_DIGITS)
    parts = []
    for first, last in (_SMALL, _LARGE):
        whole: list[int] = []
        for exponent in range(first, last + 1):
            scale = Decimal(1).scaleb(exponent)
            if high is not None and scale > high or ten * scale < low:
                continue
            if low <= scale and (high is None or ten * scale <= high):
                whole.append(exponent)
                continue
            bottom = max(one, low.scaleb(-exponent))
            top = ten if high is None else min(ten, high.scaleb(-exponent))
            parts.append(cat(_decimal(bottom, top), _exponent(exponent, exponent)))
        if whole:
            parts.append(cat(span("1", "9"), _fraction("", None), _exponent(whole[0], whole[-1])))
    return alt(*parts)


def _exponent(first: int, last: int) -> Node:
    """``e-05`` to ``e-307`` or ``e+16`` to ``e+307``, in two digits or three."""
    sign = "-" if last < 0 else "+"
    low, high = sorted((abs(first), abs(last)))
    parts = []
    if low <= 99:
        parts.append(_same_length(f"{low:02}", f"{min(high, 99):02}"))
    if high >= 100:
        parts.append(_same_length(str(max(low, 100)), str(high)))
    return cat(literal("e" + sign), alt(*parts))
