"""What a request's words may mean by the calendar, and that decoding holds to it."""

from __future__ import annotations

import random
from datetime import date, datetime, time, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.dates import MOST, dates, datetimes, readings, times
from router.grammar import Grammar
from router.tokenizer import RouterTokenizer
from router.toolset import Toolset
from router.toolset_load import from_dict
from runtimes.errors import UserError
from train.data.slots import a_clock, a_date

TODAY = date(2026, 3, 11)
"""A Wednesday."""


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("today", ["2026-03-11"]),
        ("tonight", ["2026-03-11"]),
        ("tomorow", ["2026-03-12"]),
        ("the day after tomorrow", ["2026-03-13"]),
        ("on friday", ["2026-03-13"]),
        ("fri", ["2026-03-13"]),
        ("wednesday", ["2026-03-18"]),
        ("this wendesday", ["2026-03-18"]),
        ("next friday", ["2026-03-20"]),
        ("monday next week", ["2026-03-16"]),
        ("a week from friday", ["2026-03-20"]),
        ("in ten days", ["2026-03-21"]),
        ("in a couple of weeks", ["2026-03-25"]),
        ("two weeks from today", ["2026-03-25"]),
        ("in a month", ["2026-04-11"]),
        ("march twentieth", ["2026-03-20"]),
        ("twenty-third of February", ["2027-02-23"]),
        ("Sat, Mar. 14th", ["2026-03-14"]),
        ("5 june 2028", ["2028-06-05"]),
        ("feb 29", ["2028-02-29"]),
        ("2027-01-02", ["2027-01-02"]),
        ("3/4", ["2027-03-04", "2026-04-03"]),
        ("12/25", ["2026-12-25"]),
        ("1.2.2027", ["2027-01-02", "2027-02-01"]),
        ("the 10th", ["2026-04-10", "2026-05-10"]),
        ("the 31st", ["2026-03-31", "2026-05-31"]),
        ("end of the month", ["2026-03-31"]),
        ("christmas eve", ["2026-12-24"]),
        ("new year\u2019s eve", ["2026-12-31"]),
        ("xmas", ["2026-12-25"]),
        ("first monday of april", ["2026-04-06"]),
        ("the last friday of the month", ["2026-03-27"]),
        ("3rd thursday in february", ["2027-02-18"]),
        ("second tuesday of next month", ["2026-04-14"]),
        ("tuesday in two weeks", ["2026-03-24", "2026-03-31"]),
        ("2 weeks from friday", ["2026-03-27"]),
        ("a month from friday", ["2026-04-13"]),
        ("a week today", ["2026-03-18"]),
        ("tomorrow week", ["2026-03-19"]),
        ("3 days from tomorrow", ["2026-03-15"]),
        ("two days after tomorrow", ["2026-03-14"]),
        ("the day before yesterday", ["2026-03-09"]),
        ("two days ago", ["2026-03-09"]),
        ("last friday", ["2026-03-06"]),
        ("lunch on 14.03.", ["2026-03-14"]),
        ("the 5.1. then", ["2027-01-05"]),
        ("in 20 minutes", []),
        ("a timer of 30 second", []),
        ("give me a second", []),
        ("the second of may", ["2026-05-02"]),
        ("the new yearly budget", []),
        ("in half an hour", []),
        ("i watched a match", []),
        ("on 45 march", []),
        ("in 3000000000 days", []),
    ],
)
def test_days(text: str, days: list[str]) -> None:
    assert list(dates(text, TODAY)) == days


@pytest.mark.parametrize(
    ("text", "clocks"),
    [
        ("3pm", ["15:00"]),
        ("12 a.m.", ["00:00"]),
        ("noon", ["12:00"]),
        ("midnight", ["00:00"]),
        ("14:05", ["14:05"]),
        ("16h30", ["16:30"]),
        ("at 0930", ["09:30", "21:30"]),
        ("three thirty pm", ["15:30"]),
        ("half past two", ["14:30", "02:30"]),
        ("quarter to four this afternoon", ["15:45"]),
        ("ten to 12", ["11:50", "23:50"]),
        ("half seven", ["07:30", "19:30"]),
        ("quarter past 7 pm", ["19:15"]),
        ("half past 9pm", ["21:30"]),
        ("half 9pm", ["21:30"]),
        ("ten to 4pm", ["15:50"]),
        ("five to eight pm", ["19:55"]),
        ("quarter to 12 am", ["23:45"]),
        ("quarter to 1 pm", ["12:45"]),
        ("quarter past noon", ["12:15"]),
        ("nine oh five", ["09:05", "21:05"]),
        ("2-4pm", ["14:00"]),
        ("11 \u2013 1 pm", ["11:00"]),
        ("from 9 to 11 am", ["09:00"]),
        ("between 2 and 4", ["14:00", "02:00"]),
        ("a call of 20 minutes in 2 hours", []),
        ("nine o'clock", ["09:00", "21:00"]),
        ("at 7", ["07:00", "19:00"]),
        ("dinner at 7", ["19:00"]),
        ("breakfast at 7", ["07:00"]),
        ("11 at night", ["23:00"]),
        ("7ish", ["07:00", "19:00"]),
        ("25:99", []),
        ("13 pm", ["13:00"]),
        ("no clock here", []),
    ],
)
def test_times(text: str, clocks: list[str]) -> None:
    assert list(times(text)) == [f"{clock}:00" for clock in clocks]


def test_a_day_and_a_time_go_together_and_either_may_be_missing() -> None:
    assert datetimes("call mum friday at 3pm", TODAY) == ("2026-03-13T15:00:00", "2026-03-13T00:00:00")
    assert datetimes("friday", TODAY) == ("2026-03-13T00:00:00",)
    assert datetimes("at 3pm", TODAY)[:2] == ("2026-03-11T15:00:00", "2026-03-12T15:00:00")
    assert datetimes("hello", TODAY) == ()


def test_a_part_of_the_day_says_nothing_of_two_times() -> None:
    assert len(times("dinner at 7 and the train at 9")) == 4


@settings(deadline=None, max_examples=400)
@given(day=st.dates(date(2020, 1, 1), date(2035, 12, 31)), seed=st.integers(0, 10**6))
def test_what_the_training_data_says_is_among_the_readings(day: date, seed: int) -> None:
    rng = random.Random(seed)
    said, meant = a_date(day, rng)
    clock, hour = a_clock(rng)
    assert meant in dates(f"book it for {said}", day)
    assert hour in times(f"book it for {clock}")
    assert f"{meant}T{hour}" in datetimes(f"book it for {said} at {clock}, please", day)


@settings(deadline=None, max_examples=300)
@given(text=st.text("0123456789:/.-, amptoahlf'next friday of march", max_size=60), day=st.dates())
def test_any_text_has_readings_that_are_dates(text: str, day: date) -> None:
    days, clocks = readings(text, day)
    assert all(isinstance(found, date) for found in days)
    assert all(isinstance(found, time) for found in clocks)
    assert len(datetimes(text, day)) <= MOST
    assert all(datetime.fromisoformat(found) for found in datetimes(text, day))


def test_the_last_day_of_the_calendar_is_no_trouble() -> None:
    assert dates("tomorrow, or in two weeks", date.max) == (str(date.max),)
    assert readings("next friday at 3", date.max - timedelta(1))[1]


PLANNER = {
    "name": "planner",
    "max_calls": 1,
    "show_context": ["date"],
    "tools": [
        {
            "name": "book",
            "description": "Enter something.",
            "parameters": {
                "type": "object",
                "properties": {
                    "when": {"type": "string", "copy": "datetime", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}$"}
                },
                "required": ["when"],
            },
        }
    ],
}


@pytest.fixture(scope="module")
def planner() -> Toolset:
    return from_dict(PLANNER)


def accepts(grammar: Grammar, tokenizer: RouterTokenizer, user: str, when: str, context: dict[str, str]) -> bool:
    matcher = grammar.matcher(user, context)
    text = f"<start_function_call>call:book{{when:<escape>{when}<escape>}}<end_function_call>"
    ids = tokenizer.encode(text)
    at = 0
    while at < len(ids):
        forced = matcher.forced()
        if forced:
            if ids[at : at + len(forced)] != forced[: len(ids) - at]:
                return False
            at += len(forced)
        elif not matcher.take(ids[at]):
            return False
        else:
            at += 1
    return True


def test_decoding_holds_to_what_the_words_may_mean(planner: Toolset, tokenizer: RouterTokenizer) -> None:
    grammar = Grammar.compile(planner, tokenizer)
    here = {"date": "2026-03-11"}
    assert accepts(grammar, tokenizer, "gym on friday at 7", "2026-03-13T07:00:00", here)
    assert accepts(grammar, tokenizer, "gym on friday at 7", "2026-03-13T19:00:00", here)
    assert not accepts(grammar, tokenizer, "gym on friday at 7", "2026-03-14T07:00:00", here)
    assert not accepts(grammar, tokenizer, "gym on friday at 7", "2026-03-13T07:30:00", here)


@pytest.mark.parametrize(
    ("user", "context"),
    [
        ("gym some day", {"date": "2026-03-11"}),
        ("gym on friday at 7", {}),
    ],
)
def test_without_words_or_a_date_the_pattern_holds(
    planner: Toolset, tokenizer: RouterTokenizer, user: str, context: dict[str, str]
) -> None:
    grammar = Grammar.compile(planner, tokenizer)
    assert accepts(grammar, tokenizer, user, "2031-05-06T07:08:09", context)
    assert not accepts(grammar, tokenizer, user, "friday at 7", context)


def test_a_date_that_is_none_is_told(planner: Toolset, tokenizer: RouterTokenizer) -> None:
    grammar = Grammar.compile(planner, tokenizer)
    for said in ("the eleventh of March", "2026-02-30", ""):
        with pytest.raises(UserError, match=r"context date: '.*' is no day; give one as YYYY-MM-DD"):
            grammar.matcher("gym on friday", {"date": said})
