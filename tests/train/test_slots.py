"""A recipe's slots: what is said and what it means, dates by the calendar, nothing shared between the sides."""

from __future__ import annotations

import random
import re
from datetime import date, time, timedelta

import pytest

from train.data.slots import WEEKDAYS, a_clock, a_date, read_slots

DAYS = [date(2026, 3, 9) + timedelta(n) for n in range(7)]  # a Monday to a Sunday


def drawn(today: date, said: str) -> set[str]:
    """Every date that `said` stands for, over many draws."""
    rng = random.Random(said)
    return {value for text, value in (a_date(today, rng) for _ in range(4000)) if text == said}


@pytest.mark.parametrize("today", DAYS)
def test_weekdays_follow_the_conventions(today: date) -> None:
    for number, name in enumerate(WEEKDAYS):
        (plain,) = drawn(today, name)
        assert 1 <= (date.fromisoformat(plain) - today).days <= 7
        assert date.fromisoformat(plain).weekday() == number
        (following,) = drawn(today, f"next {name}")
        monday = today - timedelta(today.weekday()) + timedelta(7)
        assert date.fromisoformat(following) == monday + timedelta(number)


def test_other_days() -> None:
    today = date(2026, 12, 30)
    assert drawn(today, "today") == {"2026-12-30"}
    assert drawn(today, "tomorrow") == {"2026-12-31"}
    assert drawn(today, "in 3 days") == {"2027-01-02"}
    assert drawn(today, "in two weeks") == {"2027-01-13"}
    assert drawn(today, "the 2nd") == {"2027-01-02"}


def test_a_named_day_is_the_next_one_to_come() -> None:
    rng, today = random.Random(3), date(2026, 3, 11)
    for _ in range(2000):
        said, value = a_date(today, rng)
        day = date.fromisoformat(value)
        assert today <= day < today + timedelta(366)
        number = re.search(r"\b(\d{1,2})(st|nd|rd|th)?$|\b(?<!/)(\d{1,2})(st|nd|rd|th)?\b(?!/)", said)
        if number and not said.startswith("in ") and "-" not in said:
            assert int(number[1] or number[3]) == day.day, said


def test_times_mean_what_they_say() -> None:
    rng = random.Random(5)
    for _ in range(2000):
        said, value = a_clock(rng)
        clock = time.fromisoformat(value)
        found = re.fullmatch(r"(\d{1,2})(?::(\d\d))? ?(am|pm)?", said)
        if found:
            hour, minute = int(found[1]), int(found[2] or 0)
            assert minute == clock.minute
            if found[3]:
                assert hour % 12 + (12 if found[3] == "pm" else 0) == clock.hour, said
            elif found[2]:
                assert hour == clock.hour, said
            else:
                assert clock.hour == (hour + 12 if hour <= 6 else hour), said


def test_words_values_nesting_and_what_is_dropped() -> None:
    slots = read_slots(
        {
            "city": {"train": ["oslo"], "test": ["rome"]},
            "unit": {"train": {"celsius": ["in c"]}, "test": {"celsius": ["in degrees c"]}},
            "to": {"drop": ["my"], "train": ["my (friend|friend) in {city}"], "test": ["my aunt"]},
            "phone": {"kind": "digits", "train": ["0##-^^#"], "test": ["+##"]},
            "count": {"kind": "number", "low": 2, "high": 2},
            "mass": {"kind": "number", "low": 1, "high": 3, "places": 2},
            "code": {"kind": "verbatim", "train": ["{city} = (1|2)"], "test": ["x"]},
        }
    )
    rng = random.Random(1)
    assert slots.fill("city", "test", {}, rng) == ("rome", "rome")
    assert slots.fill("unit", "train", {}, rng) == ("in c", "celsius")
    assert slots.fill("to2", "train", {}, rng) == ("my friend in oslo", "friend in oslo")
    said, value = slots.fill("phone", "train", {}, rng)
    assert said == value and re.fullmatch(r"0\d\d-[A-Z]{2}\d", said)
    assert {slots.fill("count", "test", {}, rng) for _ in range(50)} == {("2", 2), ("two", 2)}
    for _ in range(50):
        said, mass = slots.fill("mass", "train", {}, rng)
        assert float({"one": 1, "two": 2, "three": 3}.get(said, said)) == mass and 1 <= mass <= 3
    assert slots.fill("code", "train", {}, rng)[0] == "{city} = (1|2)"
    assert "city3" in slots and "town" not in slots


@pytest.mark.parametrize(
    ("slot", "message"),
    [
        ({"train": ["Oslo"], "test": ["oslo"]}, "slots: x: 'oslo' is in train and in test"),
        ({"train": ["oslo"]}, "slots: x: nothing for 'test'"),
        ({"kind": "colour"}, "slots: x: unknown kind 'colour'"),
    ],
)
def test_what_is_wrong_is_told(slot: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_slots({"x": slot})
