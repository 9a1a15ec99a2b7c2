"""A request's words as a calendar reads them: as usually spelled, in lower case, figures for numbers. English."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

WEEKDAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
MONTHS: Final = ("january", "february", "march", "april", "may", "june", "july", "august", "september", "october",
                 "november", "december")  # fmt: skip
_UNITS: Final = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
                 "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")  # fmt: skip
_NTHS: Final = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth",
                "eleventh", "twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth", "seventeenth",
                "eighteenth", "nineteenth")  # fmt: skip
_TENS: Final = {"twenty": 20, "thirty": 30, "forty": 40, "fifty": 50}
_NUMBERS: Final = {word: number for number, word in enumerate(_UNITS, start=1)}
_ORDINALS: Final = {word: number for number, word in enumerate(_NTHS, start=1)} | {"twentieth": 20, "thirtieth": 30}
_SHORT: Final = (
    {day[:3]: day for day in WEEKDAYS}
    | {month[:3]: month for month in MONTHS}
    | {"tues": "tuesday", "thur": "thursday", "thurs": "thursday", "sept": "september"}
    | dict.fromkeys(("tmrw", "tmr", "tmrow", "tomo"), "tomorrow")
    | {"tonite": "tonight", "hrs": "hours", "hr": "hour", "mins": "minutes", "min": "minute", "midday": "noon"}
    | {"lunchtime": "noon", "xmas": "christmas"}
)
_WORDS: Final = (*WEEKDAYS, *MONTHS, "tomorrow", "tonight", "today", "weekend", "morning", "afternoon", "evening",
                 "fortnight", "quarter")  # fmt: skip
"""What a misspelt word may have been."""


def plain(text: str) -> str:
    """`text` in lower case, words as usually spelled, figures for numbers: "on Twenty-third Febuary" gives ``on 23th
    february``."""
    words: list[str] = []
    tens = 0
    for piece in re.findall(r"\d+(?:st|nd|rd|th)\b|\d+|[^\W\d_]+|[^\s']", _straight(text)):
        if tens and piece == "-":
            continue
        word = _spelled(piece)
        number = _NUMBERS.get(word, _ORDINALS.get(word, _TENS.get(word)))
        if word == "second" and words and (words[-1].isdigit() or words[-1] == "a") and not tens:
            number = None  # of a minute
        if tens and number is not None and number < 10:
            words.pop()
            number += tens
        tens = _TENS.get(word, 0)
        words.append(word if number is None else f"{number}{'th' if word in _ORDINALS else ''}")
    return re.sub(r"(?<=\d) ([:./-]) (?=\d)", r"\1", " ".join(words))


def _straight(text: str) -> str:
    """`text` in lower case with the apostrophes and dashes of a keyboard."""
    return text.lower().replace("\u2019", "'").replace("\u2013", "-").replace("o'clock", "oclock")


@lru_cache(maxsize=4096)
def _spelled(word: str) -> str:
    """A word as it is usually spelled: not cut short, and without one mistake (two in a long word; in one of five
    letters only a swap: a match is not in March)."""
    if word in _SHORT:
        return _SHORT[word]
    if len(word) < 5 or word in _NUMBERS or word in _ORDINALS or word in _TENS:
        return word
    near = {known: _mistakes(word, known) for known in _WORDS if len(known) > 5 or sorted(known) == sorted(word)}
    likest = min(near, key=lambda known: near[known])
    return likest if near[likest] <= (2 if len(word) > 7 else 1) else word


def _mistakes(a: str, b: str) -> int:
    """How many letters were changed, left out, put in or swapped with their neighbour (optimal string alignment)."""
    rows = [list(range(len(b) + 1))]
    for i, letter in enumerate(a, start=1):
        row = [i]
        for j, other in enumerate(b, start=1):
            least = min(row[-1] + 1, rows[-1][j] + 1, rows[-1][j - 1] + (letter != other))
            if i > 1 and j > 1 and (letter, a[i - 2]) == (b[j - 2], other):
                least = min(least, rows[-2][j - 2] + 1)
            row.append(least)
        rows.append(row)
    return rows[-1][-1]
