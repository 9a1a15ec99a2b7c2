"""The days and times that a request's words may mean, counted from a day: "next friday at half past two".

Words are often ambiguous ("friday" said on a Friday, "at 7", 3/4), so each gives all its readings; a model chooses
among them. English. Nothing is raised for words that mean no day or time.
"""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Callable, Container, Iterator
from contextlib import suppress
from datetime import date, time, timedelta
from functools import lru_cache
from typing import Final, TypeVar

from router.spoken import MONTHS, WEEKDAYS, plain

Said = TypeVar("Said")
About = TypeVar("About")

MOST: Final = 64
"""Readings of one request; what is said less plainly is left out."""

_HOLIDAYS: Final = {
    "christmas eve": (12, 24), "boxing day": (12, 26), "christmas": (12, 25), "halloween": (10, 31),
    "new year s eve": (12, 31), "new years eve": (12, 31), "new year": (1, 1), "valentine": (2, 14),
}  # fmt: skip
_WEEKDAY: Final = rf"(?P<weekday>{'|'.join(WEEKDAYS)})"
_ON: Final = rf"(?:\b(?:{'|'.join(WEEKDAYS)}) ?,? (?:the )?)?"
"""A weekday beside a day of the month."""
_NOT_MINUTES: Final = r"(?<![:.])(?<!\bat )(?<!\bpast )(?<!\bto )(?<!@ )"
_MONTH: Final = rf"(?P<month>{'|'.join(MONTHS)})"
_NO_CLOCK: Final = r"(?! ?(?:[:.]\d|h\b|[ap] ?\.? ?m\b|oclock|hours))"
_YEAR: Final = r"(?: ?,? (?P<year>20\d\d)\b)?"
_HALF: Final = r"(?P<half>[ap]) ?\.? ?m\b"
_HOUR: Final = r"(?P<hour>\d\d?|noon|midnight)"
_AMOUNT: Final = r"(?P<number>\d+|an?|couple of)"
_UNIT: Final = r"(?P<unit>day|week|fortnight|month)s?"
_OF_MONTH: Final = rf"(?:of|in) (?:(?:the|this) (?P<this>month)|(?P<next>next month)|(?:the )?{_MONTH}{_YEAR})"
_LENGTH: Final = (
    r"(?:(?:half )?an?|\d{1,3}(?:[.:]\d+)?(?: and (?:a )?half)?|(?:a )?couple of) (?:hour|minute|second)s?\b"
)
_BEGIN: Final = r"(?P<hour>\d\d?)(?:[:.](?P<minute>\d\d))?"
_END: Final = rf"(?P<end>\d\d?)(?:[:.]\d\d)?(?: ?{_HALF})?(?![\d/.-])"


def datetimes(text: str, today: date) -> tuple[str, ...]:
    """What `text` may mean as ``YYYY-MM-DDTHH:MM:SS``, at most `MOST`. Without a time it is midnight, without a day
    today or tomorrow; none where it says neither."""
    days, clocks = readings(text, today)
    if not days and not clocks:
        return ()
    some = days or _soon(today)
    return tuple(dict.fromkeys(f"{day}T{clock}" for clock in (*clocks, time(0)) for day in some))[:MOST]


def dates(text: str, today: date) -> tuple[str, ...]:
    """What `text` may mean as ``YYYY-MM-DD``, at most `MOST`; today or tomorrow where it only says a time."""
    days, clocks = readings(text, today)
    some = days or (_soon(today) if clocks else ())
    return tuple(str(day) for day in some)[:MOST]


def times(text: str) -> tuple[str, ...]:
    """What `text` may mean as ``HH:MM:SS``, at most `MOST`."""
    return tuple(str(clock) for clock in readings(text, date(2000, 1, 1))[1])[:MOST]


def _soon(today: date) -> tuple[date, ...]:
    return (today, today + timedelta(1)) if today < date.max else (today,)


@lru_cache(maxsize=64)
def readings(text: str, today: date) -> tuple[tuple[date, ...], tuple[time, ...]]:
    """The days and the times of day that `text` may mean, what is said most plainly first.

    A day without its month or year is the next one to come, or today. A weekday is the next one to come and not today,
    "next friday" the one of the week after (weeks begin on Monday), and a weekday beside a day of the month says
    nothing. 3/4 is the fourth of March and the third of April. An hour without "am" or "pm" is before and after noon,
    unless the request speaks of one time only and of a part of the day, or a meal, that has but one of them.
    """
    said = plain(text)
    if not re.search(_CALENDAR, said):
        return (), ()
    days, rest = _read(said, _DAYS, today)
    clocks, _ = _read(rest, _TIMES, None)
    if len({(clock.hour % 12, clock.minute) for clock in clocks}) == 1:
        parts = [_PARTS[part] for part in re.findall(_PART, said)]
        clocks = tuple(clock for clock in clocks if all(clock.hour in hours for hours in parts)) or clocks
    return days, clocks


_CALENDAR: Final = "|".join(
    (r"\d|noon|night|today|morr?ow|yesterday|week|month|morning|afternoon|evening", *WEEKDAYS, *_HOLIDAYS)
)
"""What every day and time has something of."""
_PARTS: Final[dict[str, Container[int]]] = {
    "morning": range(12), "breakfast": range(12), "afternoon": range(12, 19), "lunch": range(11, 16),
    "dinner": range(12, 24), "supper": range(12, 24), "evening": range(12, 24), "tonight": {0, *range(17, 24)},
    "night": {*range(5), *range(17, 24)},
}  # fmt: skip
"""The hours of what parts a day."""
_PART: Final = rf"\b(?:{'|'.join(_PARTS)})\b"


def _read(
    said: str, readers: dict[str, Callable[[re.Match[str], About], Iterator[Said]]], about: About
) -> tuple[tuple[Said, ...], str]:
    """What `readers` find, each in what those before it left over, and what they all leave."""
    found: dict[Said, None] = {}
    for pattern, read in readers.items():
        left, at = "", 0
        for match in re.finditer(pattern, said):
            with suppress(ValueError, OverflowError):  # no such day or time
                found.update(dict.fromkeys(read(match, about)))
                left, at = f"{left}{said[at : match.start()]}|", match.end()
        said = left + said[at:]
    return tuple(found), said


def _iso(match: re.Match[str], today: date) -> Iterator[date]:
    yield date(int(match["year"]), int(match["month"]), int(match["day"]))


def _of_month(match: re.Match[str], today: date) -> Iterator[date]:
    yield from _coming(MONTHS.index(match["month"]) + 1, int(match["day"]), match["year"], today)


def _slashed(match: re.Match[str], today: date) -> Iterator[date]:
    for month, day in ((match["a"], match["b"]), (match["b"], match["a"])):
        with suppress(ValueError):
            yield from _coming(int(month), int(day), match["year"], today)


def _holiday(match: re.Match[str], today: date) -> Iterator[date]:
    yield from _coming(*_HOLIDAYS[match[0]], None, today)


def _coming(month: int, day: int, year: str | None, today: date) -> Iterator[date]:
    """A day of the year that is said, else the next to come, on a 29 February in the next leap year."""
    if year:
        yield date(int(year) % 100 + 2000, month, day)
        return
    if not 1 <= day <= monthrange(2000, month)[1]:
        raise ValueError
    years = (y for y in range(today.year, today.year + 9) if day <= monthrange(y, month)[1])
    yield next(found for found in (date(y, month, day) for y in years) if found >= today)


def _nth(match: re.Match[str], today: date) -> Iterator[date]:
    """The "10th": of this month or of the next that has it; and of the next to that, for "of next month"."""
    day, found, first = int(match["day"]), 0, today.replace(day=1)
    if not 1 <= day <= 31:
        raise ValueError
    while found < 2:
        if day <= monthrange(first.year, first.month)[1] and first.replace(day=day) >= today:
            yield first.replace(day=day)
            found += 1
        first = (first + timedelta(31)).replace(day=1)


def _later(match: re.Match[str], today: date) -> Iterator[date]:
    """So many days, weeks or months after today, or after another day that is said."""
    said = match.groupdict()
    begin = 1 if said.get("from") == "tomorrow" else 0
    start = next(_weekday(match, today)) if said.get("weekday") else today + timedelta(begin)
    yield _away(start, _number(match["number"]), match["unit"])


def _earlier(match: re.Match[str], today: date) -> Iterator[date]:
    yield _away(today, -_number(match["number"]), match["unit"])


def _number(said: str | None) -> int:
    return 2 if said == "couple of" else int(said) if said and said.isdigit() else 1


def _away(start: date, number: int, unit: str) -> date:
    if unit != "month":
        return start + timedelta(number * {"day": 1, "week": 7, "fortnight": 14}[unit])
    months = start.month - 1 + number
    year, month = start.year + months // 12, months % 12 + 1
    return date(year, month, min(start.day, monthrange(year, month)[1]))


def _weekday_in_weeks(match: re.Match[str], today: date) -> Iterator[date]:
    """As "Tuesday in two weeks": of the week two weeks ahead, or two weeks after the coming one."""
    weeks = timedelta(7 * _number(match["number"]))
    yield today + weeks + timedelta(WEEKDAYS.index(match["weekday"]) - today.weekday())
    yield next(_weekday(match, today)) + weeks


def _nth_weekday(match: re.Match[str], today: date) -> Iterator[date]:
    """As "the first monday of april" or "the last friday of the month": the next such day to come, or today."""
    said, weekday = match.groupdict(), WEEKDAYS.index(match["weekday"])
    year, month = int(said["year"] or today.year), today.month
    if said["next"]:
        year, month = year + month // 12, month % 12 + 1
    elif said["month"]:
        month = MONTHS.index(said["month"]) + 1
    found = _weekday_of(year, month, weekday, said["nth"])
    past = found < today and not said["year"] and not said["this"]
    yield _weekday_of(year + 1, month, weekday, said["nth"]) if past else found


def _weekday_of(year: int, month: int, weekday: int, nth: str) -> date:
    if nth == "last":
        end = date(year, month, monthrange(year, month)[1])
        return end - timedelta((end.weekday() - weekday) % 7)
    first = date(year, month, 1)
    return date(year, month, 1 + (weekday - first.weekday()) % 7 + 7 * (int(nth[0]) - 1))


def _last_weekday(match: re.Match[str], today: date) -> Iterator[date]:
    yield today - timedelta((today.weekday() - WEEKDAYS.index(match["weekday"]) - 1) % 7 + 1)


def _unread(match: re.Match[str], today: date) -> Iterator[date]:
    """What no day or time can be told of, and whose words are not to be read as one: "in 20 minutes"."""
    yield from ()


def _dotted(match: re.Match[str], today: date) -> Iterator[date]:
    yield from _coming(int(match["month"]), int(match["day"]), None, today)


def _weekday(match: re.Match[str], today: date) -> Iterator[date]:
    yield today + timedelta((WEEKDAYS.index(match["weekday"]) - today.weekday() - 1) % 7 + 1)


def _next_weekday(match: re.Match[str], today: date) -> Iterator[date]:
    yield today + timedelta(7 - today.weekday() + WEEKDAYS.index(match["weekday"]))


def _week_after_weekday(match: re.Match[str], today: date) -> Iterator[date]:
    yield from (day + timedelta(7) for day in _weekday(match, today))


def _month_end(match: re.Match[str], today: date) -> Iterator[date]:
    yield today.replace(day=monthrange(today.year, today.month)[1])


def _ahead(*days: int) -> Callable[[re.Match[str], date], Iterator[date]]:
    return lambda match, today: (today + timedelta(number) for number in days)


def _weekend(match: re.Match[str], today: date) -> Iterator[date]:
    saturday = today + timedelta((5 - today.weekday()) % 7)
    yield from (saturday + timedelta(days) for days in (0, 1, 7, 8))


_DAYS: Final[dict[str, Callable[[re.Match[str], date], Iterator[date]]]] = {
    r"\b(?P<year>20\d\d)-(?P<month>\d\d?)-(?P<day>\d\d?)\b": _iso,
    rf"{_ON}\b(?P<day>\d\d?)(?:st|nd|rd|th)(?: day)?(?: of)? {_MONTH}\b{_YEAR}": _of_month,
    rf"{_ON}\b{_MONTH}(?: \.)? (?:the )?(?P<day>\d\d?)(?:st|nd|rd|th)\b{_YEAR}": _of_month,
    rf"{_ON}{_NOT_MINUTES}\b(?P<day>\d\d?)(?: of)? {_MONTH}\b{_YEAR}": _of_month,
    rf"{_ON}\b{_MONTH}(?: \.)? (?:the )?(?P<day>\d\d?)\b{_NO_CLOCK}{_YEAR}": _of_month,
    r"\bon (?P<day>\d\d?)\.(?P<month>\d\d?)(?: \.|$)": _dotted,
    rf"{_NOT_MINUTES}\b(?P<day>\d\d?)\.(?P<month>\d\d?) \.(?= \w)": _dotted,
    r"\b(?P<a>\d\d?)/(?P<b>\d\d?)(?:/(?P<year>(?:20)?\d\d))?\b": _slashed,
    r"\b(?P<a>\d\d?)[.-](?P<b>\d\d?)[.-](?P<year>(?:20)?\d\d)\b": _slashed,
    rf"\b(?:{'|'.join(_HOLIDAYS)})\b": _holiday,
    rf"\b(?:(?:in|after|for) )?{_LENGTH}": _unread,
    rf"\b{_WEEKDAY} in (?:a )?{_AMOUNT} weeks?\b": _weekday_in_weeks,
    rf"\bin (?:a )?{_AMOUNT} {_UNIT}\b": _later,
    rf"\b(?:a )?{_AMOUNT} {_UNIT} (?:from now|hence)\b": _later,
    rf"\b(?:(?:a )?{_AMOUNT} )?{_UNIT} (?:from|after) (?:(?P<from>today|tomorrow)|{_WEEKDAY})\b": _later,
    rf"\b{_AMOUNT} (?P<unit>week) (?P<from>today|tomorrow)\b": _later,
    r"\b(?P<from>tomorrow|today) (?P<number>)(?P<unit>week)\b": _later,
    rf"\b(?:a )?{_AMOUNT} {_UNIT} ago\b": _earlier,
    r"\bday before yesterday\b": _ahead(-2),
    rf"\b(?P<nth>[1-5](?:st|nd|rd|th)|last) {_WEEKDAY} {_OF_MONTH}": _nth_weekday,
    r"\b(?:tomorrow|2 mor?row?)\b": _ahead(1),
    r"\b(?:today|tonight|this (?:morning|afternoon|evening))\b": _ahead(0),
    r"\byesterday\b": _ahead(-1),
    rf"{_ON}\b(?P<day>\d\d?)(?:st|nd|rd|th)\b": _nth,
    rf"\blast {_WEEKDAY}\b": _last_weekday,
    rf"\bnext (?:week )?{_WEEKDAY}\b": _next_weekday,
    rf"\b{_WEEKDAY} (?:of )?next week\b": _next_weekday,
    rf"\b{_WEEKDAY} (?:week|after next)\b": _week_after_weekday,
    rf"\bweek on {_WEEKDAY}\b": _week_after_weekday,
    rf"\b{_WEEKDAY}s?\b": _weekday,
    r"\bend of (?:the |this )?month\b": _month_end,
    r"\bweekend\b": _weekend,
    rf"\b(?:the|on) (?P<day>\d\d?)\b{_NO_CLOCK}": _nth,
    r"\bnext week\b": _ahead(7),
}
"""What says a day, the longer before what they contain."""


def _clock(match: re.Match[str], _: None) -> Iterator[time]:
    """Hours and perhaps minutes, with their half of the day or without."""
    said = match.groupdict()
    hour, minute = int(match["hour"]), int(said.get("minute") or 0)
    if half := said.get("half"):
        if not 1 <= hour <= 12:
            raise ValueError
        yield time(hour % 12 + (12 if half == "p" else 0), minute)
    else:
        yield from _both(hour, minute)


def _past(match: re.Match[str], _: None) -> Iterator[time]:
    """A time told by another: "ten to 4", "half past 2 pm", "quarter past noon", and "half 7" for 7:30."""
    minutes = {"half": 30, "quarter": 15}.get(match["by"]) or int(match["by"])
    before = (match["way"] or "past") in ("to", "before", "til", "till")
    whole = {"noon": 12, "midnight": 0}.get(match["hour"])
    hour, minute = divmod(60 * (int(match["hour"]) if whole is None else whole) + (-minutes if before else minutes), 60)
    if whole is not None:
        yield time(hour % 24, minute)
    elif half := match.groupdict().get("half"):
        if not 1 <= int(match["hour"]) <= 12:
            raise ValueError
        yield time((hour % 12 + (12 if (half == "p") != (before and match["hour"] == "12") else 0)) % 24, minute)
    else:
        yield from _both(hour % 24, minute)


def _begin(match: re.Match[str], _: None) -> Iterator[time]:
    """The first of two times, in the same half of the day as the other unless that would be later: "11-1 pm"."""
    hour, end, minute = int(match["hour"]), int(match["end"]), int(match["minute"] or 0)
    half = match["half"]
    if end > 24 or (half and not 1 <= max(hour, end) <= 12):
        raise ValueError
    if half is None:
        yield from _both(hour, minute)
        return
    late = (half == "p") == (hour % 12 <= end % 12)
    yield time(hour % 12 + (12 if late else 0), minute)


def _both(hour: int, minute: int) -> Iterator[time]:
    """A time as on a clock with twelve hours, the one of working hours first; one of 24 as it stands."""
    if not 1 <= hour <= 12:
        yield time(hour, minute)
    else:
        late = time(hour % 12 + 12, minute), time(hour % 12, minute)
        yield from late if hour < 7 or hour == 12 else late[::-1]


def _named(hour: int) -> Callable[[re.Match[str], None], Iterator[time]]:
    return lambda match, _: iter((time(hour),))


_TIMES: Final[dict[str, Callable[[re.Match[str], None], Iterator[time]]]] = {
    rf"(?<![\d.:-])\b{_BEGIN} ?- ?{_END}": _begin,
    rf"\bfrom {_BEGIN} (?:to|until|till?) {_END}": _begin,
    rf"\bbetween {_BEGIN} and {_END}": _begin,
    rf"\b(?P<by>half) (?P<way>)(?P<hour>\d\d?) ?{_HALF}": _past,
    rf"\b(?P<by>half|quarter|\d\d?)(?: minutes?)? (?P<way>past|after|to|before|till?) {_HOUR} ?{_HALF}": _past,
    rf"\b(?P<hour>\d\d?) (?:oh|o) (?P<minute>[1-9])(?: ?{_HALF})?\b": _clock,
    rf"\b(?P<hour>\d\d?)(?:[:.]| h? ?)(?P<minute>\d\d) ?{_HALF}": _clock,
    rf"\b(?P<hour>\d\d?)(?P<minute>\d\d) ?{_HALF}": _clock,
    rf"\b(?P<hour>\d\d?) ?{_HALF}": _clock,
    r"\b(?P<hour>\d\d?)(?:[:.]| h )(?P<minute>\d\d)\b": _clock,
    rf"\b(?P<by>half|quarter|\d\d?)(?: minutes?)? (?P<way>past|after|to|before|till?) {_HOUR}\b": _past,
    r"\b(?P<by>half) (?P<way>)(?P<hour>\d\d?)\b": _past,
    r"\b(?P<hour>\d\d?) ?oclock\b": _clock,
    r"\bnoon\b": _named(12),
    r"\bmidnight\b": _named(0),
    r"\b(?P<hour>\d\d?) (?P<minute>[0-5]\d)\b": _clock,
    r"(?:\b(?:at|by|from)|@) (?P<hour>\d)(?P<minute>[0-5]\d)\b": _clock,
    r"\b(?P<hour>[01]\d|2[0-3])(?P<minute>[0-5]\d)\b": _clock,
    r"\b(?P<hour>\d\d?)(?:ish)?\b(?![\d:/.-])": _clock,
}
"""What says a time of day, the longer before what they contain."""
