"""A recipe's own slots: lists of what can be said, and values that depend on the day.

    slots:
      city: {train: [paris, "new york"], test: [oslo]}              # the value is what is said
      unit: {train: {celsius: [in celsius, "°C"]}, test: {...}}     # value: ways to say it
      phone: {kind: digits, train: ["0### ######"], test: ["+44 #### ####"]}
      day: {kind: date}                                             # "next friday" -> 2026-03-20
      clock: {kind: clock}                                          # "half past two" -> 14:30:00
      count: {kind: number, low: 1, high: 50}                       # "three" or "3" -> 3
      mass: {kind: number, low: 1, high: 90, places: 2}             # "4.25" -> 4.25
      order: {kind: digits, train: ["^^-####"], test: ["#-^^"]}      # each # a digit, each ^ a capital letter
      code: {kind: verbatim, train: ["print({1: 2})"], test: [...]} # as it stands, braces and all
      to: {drop: [my, the], train: ["my {relation}"], test: [...]}  # "my boss" is said, "boss" meant
      todo: {open: 0.3, train: [buy milk], test: [...]}             # three in ten with other words (`openwords.py`)

Strings may hold choices ``(a|b)`` and other slots ``{first}``. A slot `city2` is a second draw from `city`. What both
sides list is an error, so that the fillers of training and of held-out requests differ, unless the recipe's ``shared``
names the slot; dates (counted from the context's), times and numbers are worked out and shared.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Final, Literal

from train.data.leakage import bare
from train.data.openwords import OpenWords
from train.data.recipe_file import Fault, expect, mapping, nearest, number
from train.data.templates import INNER

Side = Literal["train", "test"]
SIDES: Final[tuple[Side, ...]] = ("train", "test")
Filled = tuple[str, Any]
"""What is said, and what is meant."""

WEEKDAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS: Final = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
_LISTED: Final = ("words", "digits", "verbatim")
_KINDS: Final = (*_LISTED, "date", "clock", "number")
_KEYS: Final = ("kind", "train", "test", "low", "high", "places", "drop", "open")
_BOUNDS: Final = {"low": 1, "high": 20, "places": 0}
_CAPITALS: Final = string.ascii_uppercase
_NUMBERS: Final = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
)  # fmt: skip


@dataclass(frozen=True)
class Slot:
    """One slot: a kind, and what each side may say (value -> ways; for plain lists, each way is its own value)."""

    kind: str
    ways: Mapping[str, Sequence[tuple[Any, tuple[str, ...]]]]
    low: int = 0
    high: int = 0
    places: int = 0
    """Decimal places that a number has at most."""
    drop: tuple[str, ...] = ()
    """Leading words that are said but not meant, such as articles."""
    open: float = 0.0
    """Share of the training fillers that have words exchanged."""


class Slots:
    """A recipe's slots by name."""

    def __init__(self, slots: Mapping[str, Slot], words: OpenWords | None = None) -> None:
        self._slots, self._words = slots, words

    def opened(self, words: OpenWords) -> Slots:
        """The same with words for the slots that are open."""
        return Slots(self._slots, words)

    def said_on(self, side: Side) -> list[str]:
        """All that the slots list for a side."""
        return [way for slot in self._slots.values() for _, said in slot.ways.get(side, ()) for way in said]

    def names(self) -> list[str]:
        """The slots' names."""
        return list(self._slots)

    def kind(self, name: str) -> str:
        """A slot's kind. Raises `KeyError` for an unknown one."""
        return self._slots[name.rstrip("0123456789")].kind

    def ways(self, name: str, side: Side) -> list[str]:
        """All that a side may say for a slot, choices and inner slots as they stand; none where it is worked out."""
        slot = self._slots[name]
        if slot.kind == "verbatim":  # as it stands, braces and all: no slots
            return [""]
        return [way for _, said in slot.ways.get(side, ()) for way in said]

    def __contains__(self, name: str) -> bool:
        return name.rstrip("0123456789") in self._slots

    def fill(self, name: str, side: Side, context: Mapping[str, Any], rng: random.Random) -> Filled:
        """What is said for slot `name`, and the value that it stands for. Raises `KeyError` for an unknown slot."""
        slot = self._slots[name.rstrip("0123456789")]
        if slot.kind == "date":
            said, value = a_date(date.fromisoformat(context["date"]), rng)
            return (said.lower() if rng.random() < 0.5 else said), value
        if slot.kind == "clock":
            return a_clock(rng)
        if slot.kind == "number" and slot.places and rng.random() < 0.6:
            real = round(rng.uniform(slot.low, slot.high), rng.randint(1, slot.places))
            return (str(int(real)), int(real)) if real.is_integer() else (str(real), real)
        if slot.kind == "number":
            value = rng.randint(slot.low, slot.high)
            return (_NUMBERS[value] if 0 <= value < len(_NUMBERS) and rng.random() < 0.3 else str(value)), value
        value, ways = rng.choice(slot.ways[side])
        said = rng.choice(ways)
        if slot.kind != "verbatim":
            said = self._say(said, side, context, rng)
        if slot.open and side == "train" and self._words is not None and rng.random() < slot.open:
            said = self._words.exchange(said, rng)
        if slot.kind == "digits":
            said = re.sub("[#^]", lambda m: str(rng.randrange(10)) if m[0] == "#" else rng.choice(_CAPITALS), said)
        if value is None:
            first, _, rest = said.partition(" ")
            value = rest if rest and first.lower() in slot.drop else said
        return said, value

    def _say(self, text: str, side: Side, context: Mapping[str, Any], rng: random.Random) -> str:
        while inner := re.search(r"\(([^()]*\|[^()]*)\)", text):
            text = text[: inner.start()] + rng.choice(inner.group(1).split("|")) + text[inner.end() :]
        return INNER.sub(lambda m: self.fill(m[1], side, context, rng)[0], text)


def read_slots(data: Mapping[str, Any], shared: Collection[str] = ()) -> Slots:
    """Slots from a recipe's ``slots``; those that `shared` names may say the same on both sides.

    Raises `Fault` (a `ValueError`) for an unknown kind or key, and for fillers that both sides have or one lacks.
    """
    return Slots({name: _slot(name, spec, name in shared) for name, spec in data.items()})


def _slot(name: str, spec: Any, shared: bool) -> Slot:
    keys = ("slots", name)
    if not re.fullmatch(r"[a-z_0-9]*[a-z_]", str(name)):
        raise Fault(f"slots: {name!r}: small letters and underscores name a slot, no digit at the end", *keys)
    mapping(spec, f"slots: {name}", _KEYS, (), *keys)
    kind = spec.get("kind", "words")
    if kind not in _KINDS:
        raise Fault(f"slots: {name}: unknown kind {kind!r}{nearest(kind, _KINDS)}", *keys, "kind")
    ways = {side: _ways(spec[side], f"slots: {name}", *keys, side) for side in SIDES if side in spec}
    if kind in _LISTED:
        said = {side: {w for _, said in found for w in said} for side, found in ways.items()}
        _complete(name, said)
        if not shared:
            _disjoint(name, said)
    elif ways:
        raise Fault(f"slots: {name}: a {kind} is worked out; it lists nothing", *keys)
    drop = tuple(str(word) for word in spec.get("drop", ()))
    low, high, places = (_whole(spec, key, default, name) for key, default in _BOUNDS.items())
    if low > high:
        raise Fault(f"slots: {name}: low {low} is above high {high}", *keys)
    share = number(spec.get("open", 0.0), f"slots: {name}: open", *keys, "open", most=1)
    if share and (kind not in ("words", "verbatim") or not isinstance(spec.get("train"), Sequence)):
        raise Fault(f"slots: {name}: only lists of words (or verbatim ones) can be open", *keys, "open")
    return Slot(kind, ways, low, high, places, drop, share)


def _whole(spec: Mapping[str, Any], key: str, default: int, name: str) -> int:
    expect(spec.get(key, default), int, f"slots: {name}: {key}", "slots", name, key)
    return int(spec.get(key, default))


def _ways(data: Any, what: str, *keys: str) -> list[tuple[Any, tuple[str, ...]]]:
    if isinstance(data, Mapping):
        return [(value, _said(said, f"{what}: {value}", *keys, value)) for value, said in data.items()]
    return [(None, (way,)) for way in _said(data, what, *keys)]


def _said(data: Any, what: str, *keys: Any) -> tuple[str, ...]:
    """A list of ways to say something; numbers are text too, but what YAML takes for true or false is not."""
    expect(data, list, what, *keys)
    if not data:
        raise Fault(f"{what}: nothing is listed", *keys)
    for n, way in enumerate(data):
        if not isinstance(way, str | int | float) or isinstance(way, bool):
            expect(way, str, what, *keys, n)
    return tuple(str(way) for way in data)


def _complete(name: str, said: Mapping[str, set[str]]) -> None:
    for side in SIDES:
        if not said.get(side):
            raise Fault(f"slots: {name}: nothing for {side!r}; both sides need fillers", "slots", name)


def _disjoint(name: str, said: Mapping[str, set[str]]) -> None:
    # A filler of other slots and stop words is as different as those slots' are.
    own = {side: {way for way in said[side] if "{" not in way or bare(INNER.sub(" ", way))} for side in SIDES}
    if both := in_both(own["train"], own["test"]):
        raise Fault(f"slots: {name}: {both!r} is in train and in test; fillers must differ", "slots", name)


def in_both(train: Iterable[str], test: Iterable[str]) -> str | None:
    """The first text, in lower case, that both sides have; None where there is none."""
    return min({text.lower() for text in train} & {text.lower() for text in test}, default=None)


def a_date(today: date, rng: random.Random) -> Filled:
    """A day to come as people say it, and its ISO date.

    A bare weekday is the next one to come (never today), ``next friday`` the one of the week after (weeks begin on
    Monday); a day without its month or year is the next one to come.
    """
    kind = rng.choice(("near", "near", "weekday", "weekday", "weekday", "next", "month", "month", "iso", "in", "day"))
    if kind == "near":
        said, days = rng.choice((("today", 0), ("tomorrow", 1), ("the day after tomorrow", 2), ("tomorrow", 1)))
        return said, (today + timedelta(days)).isoformat()
    if kind == "weekday":
        number = rng.randrange(7)
        ahead = (number - today.weekday() - 1) % 7 + 1
        said = rng.choice(("", "this ", "", "this coming ") if ahead + today.weekday() < 7 else ("",))
        return f"{said}{WEEKDAYS[number]}", (today + timedelta(ahead)).isoformat()
    if kind == "next":
        number = rng.randrange(7)
        ahead = 7 - today.weekday() + number
        return f"next {WEEKDAYS[number]}", (today + timedelta(ahead)).isoformat()
    if kind == "in":
        days = rng.choice((2, 3, 4, 5, 6, 7, 10, 14, 21))
        if days % 7 == 0:
            said = {7: ("a week", "one week", "7 days"), 14: ("two weeks", "2 weeks"), 21: ("three weeks", "3 weeks")}
            return f"in {rng.choice(said[days])}", (today + timedelta(days)).isoformat()
        spelled = _NUMBERS[days] if rng.random() < 0.5 and days < len(_NUMBERS) else str(days)
        return f"in {spelled} days", (today + timedelta(days)).isoformat()
    day = today + timedelta(rng.randrange(1, 330))
    if kind == "iso":
        return day.isoformat(), day.isoformat()
    if kind == "day":
        day = today + timedelta(rng.randrange(1, 27))
        return f"the {_ordinal(day.day)}", day.isoformat()
    month = MONTHS[day.month - 1]
    month = rng.choice((month, month, month[:3]))
    ways = [f"{month} {day.day}", f"{month} {_ordinal(day.day)}", f"{day.day} {month}",
            f"the {_ordinal(day.day)} of {month}", f"{WEEKDAYS[day.weekday()]}, {month} {day.day}"]  # fmt: skip
    if day.day > 12:  # else it could be the other way round
        ways.append(f"{day.month}/{day.day}")
    return rng.choice(ways), day.isoformat()


def a_clock(rng: random.Random) -> Filled:
    """A time of day as people say it, and ``HH:MM:SS``. Bare hours from 1 to 6 are in the afternoon, 7 to 11 in the
    morning."""
    hour, minute = rng.randrange(7, 22), rng.choice((0, 0, 0, 0, 15, 30, 30, 45, 5, 10, 20, 40, 50))
    value = f"{hour:02d}:{minute:02d}:00"
    twelve, half = (hour - 1) % 12 + 1, "am" if hour < 12 else "pm"
    if (hour, minute) == (12, 0) and rng.random() < 0.5:
        return "noon", value
    spelled = _NUMBERS[twelve] if rng.random() < 0.2 else str(twelve)
    clear = 7 <= hour <= 11 or 12 <= hour <= 18  # what a bare hour means
    past = {15: "quarter past", 30: "half past", 10: "ten past", 20: "twenty past"}.get(minute)
    ways = [f"{twelve}:{minute:02d}{half}", f"{twelve}:{minute:02d} {half}", f"{hour}:{minute:02d}"]
    if minute == 0:
        ways += [f"{twelve}{half}", f"{twelve} {half}", f"{twelve}{half}", f"{twelve} {half}"]
        ways += [spelled, f"{spelled} o'clock"] if clear else []
    if hour <= 11:
        ways.append(f"{spelled if minute == 0 else f'{twelve}:{minute:02d}'} in the morning")
    elif hour < 18:
        ways.append(f"{spelled if minute == 0 else f'{twelve}:{minute:02d}'} in the afternoon")
    else:
        ways.append(f"{spelled if minute == 0 else f'{twelve}:{minute:02d}'} in the evening")
    if past and clear:
        ways.append(f"{past} {spelled}")
    return rng.choice(ways), value


def _ordinal(number: int) -> str:
    ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
