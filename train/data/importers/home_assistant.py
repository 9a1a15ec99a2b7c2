"""Home Assistant's intents: ``intents.yaml`` declares tools, ``sentences/en`` holds templates that are expanded here.

The rules and lists that the templates name are ours (``home_assistant.yaml`` beside this file). Of every template a
number of sentences is drawn from the seed; a tenth of the templates are held out for development and filled with
values that training does not see. The case's ``template`` names where its wording came from.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from router.cases import Case
from router.explain import KeyPath
from router.toolset import Call, Schema, Toolset
from router.toolset_load import read_yaml
from runtimes.errors import UserError
from train.data.corpus import make_tool
from train.data.importers.base import Importer, Options, Row, RowError, Skipped, Split, each, squeeze
from train.data.importers.files import missing, read_text
from train.data.importers.hassil import ListRef, Node, RuleRef, TemplateError, Text, parse, references, sample
from train.data.importers.home_values import DEV, TRAIN, Book, load_book
from train.data.leakage import normalised

DEVELOPMENT_SHARE: Final = 0.1
"""Share of the templates that are held out, chosen by their text."""
_TRIES: Final = 4
"""Draws per wanted sentence; short templates have few different ones."""
_AGAIN: Final = "sampled again"


@dataclass(frozen=True)
class _Block:
    """Templates that share what they are for."""

    intent: str
    combination: str
    number: int
    domain: str | None
    names: tuple[str, ...]
    sentences: tuple[tuple[str, str], ...]
    """Place and template."""


def files(folder: Path) -> list[Path]:
    """``intents.yaml`` and ``sentences/en/<Intent>/<combination>.yaml``."""
    sentences = sorted(folder.glob("sentences/en/*/*.yaml"))
    if not (folder / "intents.yaml").is_file() or not sentences:
        raise missing(folder, "intents.yaml and sentences/en/<Intent>/*.yaml", IMPORTER)
    common = folder / "sentences" / "en" / "_common.yaml"
    return [folder / "intents.yaml", *([common] if common.is_file() else []), *sentences]


def read(folder: Path, options: Options) -> Iterator[Row | Skipped]:
    path, *others = files(folder)
    intents, lines = read_yaml(read_text(path), str(path))
    book = _book()
    toolset = _toolset(intents, path, lines, book)
    seen: dict[str, tuple[Call, ...]] = {}
    for source in others:
        if source.name == "_common.yaml":
            continue
        for block in _blocks(source, intents):
            for sentence, (place, template) in enumerate(block.sentences):
                yield from _expanded(block, sentence, place, template, toolset, book, options, seen)


def _expanded(
    block: _Block,
    sentence: int,
    place: str,
    template: str,
    toolset: Toolset,
    book: Book,
    options: Options,
    seen: dict[str, tuple[Call, ...]],
) -> Iterator[Row | Skipped]:
    """The rows of one template: different sentences, none of which another call already has."""
    key = f"{block.intent}/{block.combination}/{block.number}.{sentence}"
    try:
        node = parse(template)
        _known(node, book)
    except TemplateError as error:
        yield Skipped(place, "a template cannot be expanded", str(error), fault=True)
        return
    if absent := _absent(block, node, toolset, book):
        yield Skipped(place, "a required slot comes from the room that the request is spoken in", absent)
        return
    split: Split = "dev" if held_out(template) else "train"
    side = DEV if split == "dev" else TRAIN

    def make(place: str, data: tuple[int, random.Random]) -> Row:
        number, rng = data
        user, call = _sentence(block, node, toolset, book, side, rng)
        text = normalised(user)
        if text in seen:
            reason = _AGAIN if seen[text] == (call,) else "the same words ask for another call"
            raise RowError(reason, user, fault=False)
        seen[text] = (call,)
        name = f"home_assistant/{key}/{number}"
        case = Case(name, user, bucket=block.intent, calls=(call,), template=f"{key} {template}")
        return Row(case, split, toolset, place)

    made = 0
    for draw in range(options.samples * _TRIES):
        rng = random.Random(f"{options.seed}/{key}/{draw}")
        for item in each([(place, (made, rng))], make):
            made += isinstance(item, Row)
            if isinstance(item, Row) or item.reason != _AGAIN:
                yield item
        if made == options.samples:
            return


def held_out(template: str) -> bool:
    """Whether a template is kept for development."""
    return int.from_bytes(hashlib.sha256(template.encode()).digest()[:4], "big") < DEVELOPMENT_SHARE * 2**32


def _sentence(
    block: _Block, node: Node, toolset: Toolset, book: Book, side: str, rng: random.Random
) -> tuple[str, Call]:
    tool = toolset.tool(block.intent)
    assert tool is not None
    said = sample(node, book.rule, book.values(side, block.names), rng)
    arguments: dict[str, Any] = {}
    if block.domain and "domain" in tool.parameters.properties:
        arguments["domain"] = block.domain
    for piece in said:
        if piece.slot is not None:
            if arguments.get(piece.slot, piece.value) != piece.value:
                raise RowError("a slot is given twice", piece.slot, fault=False)
            arguments[piece.slot] = piece.value
    return squeeze("".join(piece.text for piece in said)), Call(block.intent, arguments)


def _blocks(path: Path, intents: dict[str, Any]) -> Iterator[_Block]:
    data, lines = read_yaml(read_text(path), str(path))
    intent, combination = path.parent.name, path.stem
    if intent not in intents:
        raise UserError(f"{path}: {intent} is not an intent of intents.yaml; download both again")
    try:
        for number, block in enumerate(data["data"]):
            places = [_place(path, lines, ("data", number, "sentences", i)) for i in range(len(block["sentences"]))]
            names = block.get("name_domains", ())
            if isinstance(names, str):
                names = intents[intent]["slot_combinations"][combination]["name_domain_groups"][names]
            yield _Block(
                intent, combination, number, block.get("inferred_domain"), tuple(names),
                tuple(zip(places, block["sentences"], strict=True)),
            )  # fmt: skip
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: not a file of sentences ({type(error).__name__}: {error}); download it again"
        ) from None


def _toolset(intents: Any, path: Path, lines: dict[KeyPath, int], book: Book) -> Toolset:
    tools = []
    if not isinstance(intents, dict):
        raise UserError(f"{path}: a mapping of intents is expected; download it again")
    for name, intent in intents.items():
        try:
            if not intent.get("supported", True):
                continue
            slots = intent.get("slots") or {}
            schemas = {s: Schema(book.types.get(s, "string"), description=slots[s]["description"]) for s in slots}
            required = tuple(s for s in slots if slots[s].get("required"))
            tools.append(make_tool(name, intent["description"], schemas, required))
        except (KeyError, TypeError, AttributeError) as error:
            place = _place(path, lines, (name,))
            raise UserError(f"{place}: {name}: not an intent ({type(error).__name__}: {error})") from None
    return Toolset("home_assistant", tuple(tools))


def _known(node: Node, book: Book) -> None:
    """Raises `TemplateError` for a list or rule that the book does not have."""
    lists, rules = references(node)
    for rule in rules:
        _known(book.rule(rule), book)
    for name in lists:
        book.check(name)


def _absent(block: _Block, node: Node, toolset: Toolset, book: Book) -> str:
    """A required slot that the template never fills."""
    tool = toolset.tool(block.intent)
    filled = _slots(node, book) | ({"domain"} if block.domain else set())
    return next((slot for slot in (tool.required if tool else ()) if slot not in filled), "")


def _slots(node: Node, book: Book) -> set[str]:
    if isinstance(node, ListRef):
        return {node.slot}
    if isinstance(node, RuleRef):
        return _slots(book.rule(node.name), book)
    return set() if isinstance(node, Text) else set().union(*(_slots(item, book) for item in node.items))


def _place(path: Path, lines: dict[KeyPath, int], key: KeyPath) -> str:
    line = next((lines[key[:n]] for n in range(len(key), -1, -1) if key[:n] in lines), None)
    return f"{path}:{line}" if line else str(path)


@cache
def _book() -> Book:
    return load_book(Path(__file__).with_name("home_assistant.yaml"))


IMPORTER: Final = Importer(
    "home_assistant",
    "Home Assistant intents: sentence templates of 41 intents, expanded",
    "CC-BY-4.0",
    "github.com/OHF-Voice/intents (intents.yaml and sentences/en)",
    files,
    read,
    held_out="a tenth of the sentence templates, chosen by their text",
)
