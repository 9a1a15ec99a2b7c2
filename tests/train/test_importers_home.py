"""Sentence templates: the syntax, the values, and Home Assistant's files, with templates of our own."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from router.toolset import Call
from runtimes.errors import UserError
from train.data.importers import find
from train.data.importers.base import Options, Row, Skipped, rows
from train.data.importers.hassil import Node, TemplateError, parse, references, sample
from train.data.importers.home_assistant import DEVELOPMENT_SHARE, held_out
from train.data.importers.home_values import DEV, TRAIN, Book, load_book, spoken
from train.data.importers.store import write_import
from train.data.leakage import normalised

RULES = {"turn": parse("(turn|switch)"), "the": parse("[the]")}
VALUES = {"area": [("kitchen", "kitchen"), ("hall", "hall")], "level": [("max", 100)]}


def said(template: str, draws: int = 300) -> set[str]:
    node = parse(template)
    return {" ".join("".join(s.text for s in pieces(node, n)).split()) for n in range(draws)}


def pieces(node: Node, seed: int) -> list[Any]:
    values: Callable[[str, random.Random], tuple[str, Any]] = lambda name, rng: rng.choice(VALUES[name])  # noqa: E731
    return sample(node, lambda name: RULES[name], values, random.Random(seed))


@pytest.mark.parametrize(
    ("template", "sentences"),
    [
        ("this is it", {"this is it"}),
        ("turn on [the] light[s]", {"turn on light", "turn on lights", "turn on the light", "turn on the lights"}),
        ("[a|the] cat", {"cat", "a cat", "the cat"}),
        ("( red | green )", {"red", "green"}),
        ("a|b c", {"a", "b c"}),
        ("{level}[([ ]%)| percent]", {"max", "max%", "max %", "max percent"}),
        ("five( |-)minute[s]", {"five minute", "five minutes", "five-minute", "five-minutes"}),
        ("put (it;[down] here)", {"put it here", "put it down here", "put here it", "put down here it"}),
        ("(a;b;c)", {"a b c", "a c b", "b a c", "b c a", "c a b", "c b a"}),
        ("[a;b] c", {"c", "a b c", "b a c"}),
        (
            "<turn> <the> {area}",
            {f"{t} {a}" for t in ("turn", "switch", "turn the", "switch the") for a in ("kitchen", "hall")},
        ),
        (r"\[really\] (a\|b|c)", {"[really] a|b", "[really] c"}),
        ("a [b [c]] d", {"a d", "a b d", "a b c d"}),
        ("", {""}),
    ],
)
def test_a_template_says_exactly_this(template: str, sentences: set[str]) -> None:
    assert said(template) == sentences


def test_slots_are_filled_under_their_own_names() -> None:
    filled = {s.slot: (s.text, s.value) for s in pieces(parse("{ level : brightness } in {area}"), 3) if s.slot}
    assert filled["brightness"] == ("max", 100)
    assert filled.keys() == {"brightness", "area"}
    assert references(parse("[<turn> ({area};{level:x})]|<the>")) == ({"area", "level"}, {"turn", "the"})


@pytest.mark.parametrize("template", ["(a", "[a)", "a]", "{a", "{}", "<>", "(a|b;c)", "a (b [c)", "<turn"])
def test_a_malformed_template_is_refused(template: str) -> None:
    with pytest.raises(TemplateError):
        parse(template)


@pytest.fixture(scope="module")
def book() -> Book:
    import train.data.importers.home_assistant as module

    return load_book(Path(module.__file__).with_name("home_assistant.yaml"))


def test_values_of_the_two_splits_are_disjoint(book: Book) -> None:
    for name, entry in (*book.lists.items(), *book.names.items()):
        if TRAIN in entry:
            train, dev = (set(map(str, entry[side])) for side in (TRAIN, DEV))
            assert len(train) > len(dev) > 1, name
            assert not {normalised(t) for t in train} & {normalised(d) for d in dev}, name
            assert len(train) == len(entry[TRAIN]) and len(dev) == len(entry[DEV]), name
            assert all(isinstance(value, str) for value in (*entry[TRAIN], *entry[DEV])), name


def test_every_list_can_be_drawn_from_and_every_rule_said(book: Book) -> None:
    rng = random.Random(1)
    for side in (TRAIN, DEV):
        draw = book.values(side, ())
        for name in book.lists:
            text, value = draw(name, rng)
            assert text.strip() and value is not None, name
        for domain in book.names:
            text, value = book.values(side, (domain,))("name", rng)
            assert text == value in book.names[domain][side]
    for name in book.rules:
        assert "".join(s.text for s in sample(book.rule(name), book.rule, book.values(TRAIN, ()), rng)).strip(), name
    with pytest.raises(TemplateError, match="did you mean 'area'"):
        book.values(TRAIN, ())("areas", rng)


def test_ranges_count_and_numbers_are_spoken(book: Book) -> None:
    rng = random.Random(2)
    drawn = [book.values(TRAIN, ())("timer_minutes", rng) for _ in range(2000)]
    assert all(text in (str(value), spoken(value)) for text, value in drawn)
    assert {text.isdigit() for text, _ in drawn} == {True, False}
    assert {value for _, value in drawn} == set(range(1, 61))
    text, value = book.values(TRAIN, ())("volume_step_down", rng)
    assert value == f"-{text}"
    assert [spoken(n) for n in (0, 13, 20, 47, 99)] == ["zero", "thirteen", "twenty", "forty seven", "ninety nine"]


INTENTS = """
HassTurnOn:
  supported: true
  description: "Turns on"
  slots:
    name: {description: "Name", required: false}
    area: {description: "Area", required: false}
    domain: {description: "Domain", required: false}
  slot_combinations:
    name_only: {slots: [name], name_domain_groups: {default: [light]}}
    area_domain: {slots: [area, domain]}
HassVacuumCleanArea:
  supported: true
  description: "Cleans an area"
  slots:
    area: {description: "Area", required: true}
  slot_combinations:
    context_area: {slots: [], context_area: true}
HassLightSet:
  supported: true
  description: "Sets"
  slots:
    area: {description: "Area"}
    brightness: {description: "Percent"}
    domain: {description: "Domain"}
  slot_combinations: {area_brightness: {slots: [area, brightness]}}
HassOld: {supported: false, description: "Gone", slots: {}}
"""


def sentences(folder: Path, name: str, *templates: str, **keys: str) -> Path:
    path = folder / "sentences" / "en" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["---", "language: en", "data:", "  - sentences:", *(f'      - "{t}"' for t in templates)]
    path.write_text("\n".join([*lines, *(f"    {key}: {value}" for key, value in keys.items())]) + "\n")
    return path


@pytest.fixture()
def home(tmp_path: Path) -> Path:
    (tmp_path / "intents.yaml").write_text(INTENTS)
    sentences(tmp_path, "HassTurnOn/name_only", "<turn> on [<the>] {name}", name_domains='"default"')
    sentences(tmp_path, "HassTurnOn/area_domain", "lights on in {area}", "light up {area}", inferred_domain="light")
    sentences(tmp_path, "HassLightSet/area_brightness", "{area} to {brightness}[%| percent]", inferred_domain="light")
    sentences(tmp_path, "HassVacuumCleanArea/context_area", "<clean> <here>")
    return tmp_path


def test_templates_become_calls(home: Path) -> None:
    found = list(rows(find("home_assistant"), home, Options(samples=5)))
    made = [r for r in found if isinstance(r, Row)]
    assert {r.case.template.split(" ")[0] for r in made if r.case.template} == {
        "HassTurnOn/name_only/0.0", "HassTurnOn/area_domain/0.0", "HassTurnOn/area_domain/0.1",
        "HassLightSet/area_brightness/0.0",
    }  # fmt: skip
    assert [t.name for t in made[0].toolset] == ["HassTurnOn", "HassVacuumCleanArea", "HassLightSet"]
    for row in made:
        (call,) = row.case.calls
        if row.case.id.startswith("home_assistant/HassTurnOn/name_only"):
            assert call.arguments.keys() == {"name"}
            assert row.case.user.endswith(call.arguments["name"])
        elif call.name == "HassLightSet":
            assert call.arguments["domain"] == "light"
            assert f"{call.arguments['area']} to {call.arguments['brightness']}" in row.case.user
            assert isinstance(call.arguments["brightness"], int)
        else:
            area = row.case.user.removeprefix("lights on in ").removeprefix("light up ")
            assert call == Call("HassTurnOn", {"domain": "light", "area": area})
    assert [s.reason for s in found if isinstance(s, Skipped)] == [
        "a required slot comes from the room that the request is spoken in"
    ]
    assert len({r.case.user for r in made}) == len(made)


def test_sentences_are_a_function_of_the_seed(home: Path) -> None:
    importer = find("home_assistant")

    def users(seed: int) -> list[str]:
        return [r.case.user for r in rows(importer, home, Options(seed, 6)) if isinstance(r, Row)]

    assert users(3) == users(3)
    assert users(3) != users(4)


def test_names_follow_the_domains_of_the_block(home: Path, book: Book) -> None:
    found = [r for r in rows(find("home_assistant"), home, Options(samples=8)) if isinstance(r, Row)]
    names = {c.arguments["name"] for r in found for c in r.case.calls if "name" in c.arguments}
    assert names and names <= {*book.names["light"][TRAIN], *book.names["light"][DEV]}


def test_held_out_templates_are_development(home: Path, tmp_path: Path, book: Book) -> None:
    many = [f"variant {n} of {{area}}" for n in range(400)]
    share = sum(map(held_out, many)) / len(many)
    assert DEVELOPMENT_SHARE / 2 < share < DEVELOPMENT_SHARE * 2
    chosen = [next(t for t in many if held_out(t)), next(t for t in many if not held_out(t))]
    sentences(home, "HassTurnOn/area_domain", *chosen, inferred_domain="light")
    report = write_import(find("home_assistant"), home, tmp_path / "out", Options(samples=4), any_version=True)
    assert report["splits"]["dev"]["rows"] and report["splits"]["train"]["rows"]
    for row in rows(find("home_assistant"), home):
        if isinstance(row, Row) and "area" in row.case.calls[0].arguments:
            side = DEV if row.split == "dev" else TRAIN
            assert row.case.calls[0].arguments["area"] in book.lists["area"][side]


def test_the_same_words_never_ask_for_two_calls(home: Path) -> None:
    sentences(home, "HassLightSet/area_brightness", "light up {area}", inferred_domain="light")
    found = list(rows(find("home_assistant"), home, Options(samples=8)))
    clashes = [s for s in found if isinstance(s, Skipped) and s.reason == "the same words ask for another call"]
    assert clashes
    texts: dict[str, Any] = {}
    for row in found:
        if isinstance(row, Row):
            assert texts.setdefault(normalised(row.case.user), row.case.calls) == row.case.calls


def test_faults_of_templates_name_file_and_line(home: Path) -> None:
    importer = find("home_assistant")
    path = sentences(home, "HassTurnOn/name_only", "fine {name}", "<turm> on {name}")
    with pytest.raises(UserError, match=r"<turm> is not among the rules.*did you mean 'turn'") as error:
        list(rows(importer, home))
    assert str(error.value).startswith(f"{path}:6: ")
    sentences(home, "HassTurnOn/name_only", "fine {nam}")
    with pytest.raises(UserError, match=r"\{nam\} is not among the lists"):
        list(rows(importer, home))
    sentences(home, "HassTurnOn/name_only", "fine (x")
    with pytest.raises(UserError, match="'\\)' is missing"):
        list(rows(importer, home))
    sentences(home, "HassTurnOn/name_only", "fine {color}")
    with pytest.raises(UserError, match="a call breaks its schema: HassTurnOn: color: unknown parameter"):
        list(rows(importer, home))
    sentences(home, "HassTurnOn/name_only", "fine {name}", name_domains='"others"')
    with pytest.raises(UserError, match="not a file of sentences"):
        list(rows(importer, home))
    sentences(home, "HassDance/default", "dance")
    with pytest.raises(UserError, match="HassDance is not an intent"):
        list(rows(importer, home))
    (home / "intents.yaml").write_text("HassTurnOn: [1]\n")
    with pytest.raises(UserError, match="intents.yaml:1: HassTurnOn: not an intent"):
        list(rows(importer, home))
