"""From a toolset to the productions of its completions, before they are printed for llguidance or for llama.cpp.

    start  := call{1,max_calls} stop | stop          arguments in the order in which they are rendered
    call   := start_call "call:NAME{" arguments "}" end_call

There is no white space to choose. Required arguments stand, others may be left out (those with a default are never
required), the commas follow. A free-form object holds bare keys and values of any kind; `router.free` says how many,
how long and how deep.

What ends, and by what: numbers by `ranges.MAX_DIGITS`; copied strings by the request; arrays by their ``maxItems`` or
`MAX_ITEMS`; everything within a free-form value by the bounds of `router.free`. A declared string without ``maxLength``
(or with a pattern that may go on) has none: a text that was cut off would be carried out as if it had been meant, so a
model that never ends one is stopped by the decoder's limit, with an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from router.expressions import (
    NONE,
    Control,
    Copy,
    Expression,
    Ref,
    Seq,
    Stop,
    Text,
    Times,
    Word,
    choice,
    maybe,
    seq,
)
from router.formats import FORMATS
from router.free import (
    FREE_DEPTH,
    FREE_ITEMS,
    FREE_KEYS,
    FREE_LENGTH,
    MAX_ITEMS,
    MOST_KEYS,
    free_key,
    free_text,
)
from router.language import Language, LanguageError
from router.members import listed
from router.patterns import search, whole
from router.ranges import integer_bounds, integers, number_bounds, numbers
from router.regular import ANY, Node, but, never, nonempty, other_than, repeat
from router.request import SpanKind
from router.toolset import MISSING, MOMENTS, Schema, Tool, Toolset
from router.wire import WireFormat, render_value
from runtimes.errors import UserError


@dataclass(frozen=True)
class Productions:
    """Rules by name, ``start`` first, and the kinds of span that a request must offer."""

    rules: dict[str, Expression]
    copies: tuple[SpanKind, ...] = ()
    loose: bool = False
    """Whether a length was left out, because llguidance cannot be given it together with a pattern or format."""
    further: bool = False
    """Whether objects may have keys that are not declared. That none comes twice is not in the rules."""


def productions(
    toolset: Toolset,
    wire: WireFormat,
    barred: frozenset[int] = frozenset(),
    *,
    free_length: int | None = FREE_LENGTH,
) -> Productions:
    """The productions of every completion that `toolset` allows. Raises `UserError` for what cannot be decoded.

    `barred` numbers the kinds of span that a request does not offer; arguments that need one are left out, and calls
    that need such an argument. `free_length` bounds the strings within free-form values (characters; None: no bound).
    """
    return _Builder(wire, barred, free_length).build(toolset)


_ANY_COPY: Final = SpanKind(copying="span_or_name")
"""What strings within a free-form object are copied as."""


class Impossible(Exception):
    """No value can be written here."""


class _Builder:
    def __init__(self, wire: WireFormat, barred: frozenset[int], free_length: int | None) -> None:
        self.wire = wire
        self.barred = barred
        text = free_text(wire)
        self.free_string = Language((text,) if free_length is None else (text, repeat(ANY, 0, free_length)), open=True)
        self.rules: dict[str, Expression] = {}
        self.shared: dict[Expression, Ref] = {}
        self.copies: dict[SpanKind, int] = {}
        self.loose = False
        self.further = False

    def build(self, toolset: Toolset) -> Productions:
        w = self.wire
        self.rules["start"] = NONE
        calls = []
        for tool in toolset:
            try:
                calls.append(self.call(tool))
            except Impossible:
                continue
            except UserError as error:
                raise UserError(f"tool {tool.name}: {error}") from None
        ends: list[Expression] = [Stop(w.end_turn)]
        if calls:
            call = self.rule(Seq((Control(w.start_call), Text("call:"), choice(*calls), Control(w.end_call))))
            made = call if toolset.max_calls == 1 else Times(call, 1, toolset.max_calls)
            ends.insert(0, Seq((made, Stop(w.start_response))))
        self.rules["start"] = choice(*ends)
        return Productions(self.rules, tuple(self.copies), self.loose, self.further)

    def rule(self, body: Expression) -> Ref:
        """A rule of its own for `body`; equal bodies share one."""
        if isinstance(body, Ref):
            return body
        if body not in self.shared:
            self.shared[body] = Ref(f"r{len(self.rules)}")
            self.rules[self.shared[body].name] = body
        return self.shared[body]

    def call(self, tool: Tool) -> Expression:
        arguments = self.members_of(tool.visible, tool.required, additional=0)
        return seq(Text(tool.name), arguments)

    def members_of(
        self,
        properties: Mapping[str, Schema],
        required: Sequence[str],
        *,
        additional: int,
        most: int | None = None,
        copied: bool = False,
    ) -> Expression:
        """An object; `additional` is how deep the values of further keys may be nested (0: no further keys), `most`
        how many keys it may have in all (None: all that are declared, and `FREE_KEYS` more); the strings in further
        values are `copied` from the request or free."""
        further = self.pair(properties, additional, copied) if additional else None
        members: list[tuple[Expression, bool]] = []
        for name in sorted(properties, key=str.lower):
            schema = properties[name]
            needed = name in required and schema.default is MISSING
            try:
                members.append((seq(Text(f"{name}:"), self.value(schema)), needed))
            except Impossible:
                if needed:
                    raise
            except UserError as error:
                raise UserError(f"{name}: {error}") from None
        if most is not None and most < sum(needed for _, needed in members):
            raise UserError(f"maxProperties {most} is below the number of its required keys; raise it")
        spare = 0 if further is None else FREE_KEYS if most is None else min(most, MOST_KEYS)
        return seq(Text("{"), listed(members, further, spare, most, self.rule), Text("}"))

    def pair(self, declared: Mapping[str, Schema], depth: int, copied: bool) -> Expression:
        """A key that is not declared, and a value of any kind."""
        self.further = True
        others = (other_than(sorted(declared)),) if declared else ()
        key = Language((free_key(self.wire), *others), open=True)
        return self.rule(seq(Word(key), Text(":"), self.anything(depth - 1, copied)))

    def anything(self, depth: int, copied: bool = False) -> Expression:
        """A value of any kind; `depth` levels of lists and objects. Strings are `copied` from the request, or free."""
        scalars: list[Expression] = [
            Word(Language((numbers(None, None),))),
            *(Text(word) for word in ("true", "false", "null")),
        ]
        with suppress(Impossible):
            text = self.span(_ANY_COPY, self.free_string) if copied else self.string(self.free_string)
            scalars.insert(0, text)
        if depth > 0:
            scalars.append(self.array(self.anything(depth - 1, copied), 0, FREE_ITEMS))
            scalars.append(self.members_of({}, (), additional=depth, copied=copied))
        return self.rule(choice(*scalars))

    def value(self, schema: Schema) -> Expression:
        if schema.enum is not None:
            return self.enum(schema.enum)
        match schema.type:
            case "string":
                return self.copy(schema) if schema.copy else self.string(self.string_language(schema))
            case "integer":
                return Word(_possible(Language((integers(*integer_bounds(*_bounds(schema))),))))
            case "number":
                return Word(_possible(Language((numbers(*number_bounds(*_bounds(schema))),))))
            case "boolean":
                return choice(Text("true"), Text("false"))
            case "array":
                try:
                    item = self.anything(FREE_DEPTH - 1) if schema.items is None else self.value(schema.items)
                except Impossible:
                    if schema.min_items:
                        raise
                    return Text("[]")
                low = schema.min_items or 0
                return self.array(item, low, max(low, MAX_ITEMS) if schema.max_items is None else schema.max_items)
            case "object":
                depth = FREE_DEPTH if schema.additional else 0
                return self.members_of(
                    schema.properties, schema.required, additional=depth, most=schema.max_properties,
                    copied=schema.copy is not None,
                )  # fmt: skip

    def enum(self, values: Sequence[object]) -> Expression:
        """One of `values`, as they are rendered."""
        if all(isinstance(value, str) for value in values):
            escape = Control(self.wire.escape)
            return seq(escape, choice(*(Text(str(value)) if value else NONE for value in values)), escape)
        written = (self.wire.splitter.split(render_value(value, self.wire)) for value in values)
        return choice(
            *(seq(*(Control(p) if i % 2 else Text(p) for i, p in enumerate(parts) if p)) for parts in written)
        )  # fmt: skip

    def string(self, language: Language) -> Expression:
        escape = Control(self.wire.escape)
        if not language.empty:
            return seq(escape, Word(language), escape)
        if not language.possible(empty=False):
            return seq(escape, escape)
        return seq(escape, maybe(Word(language)), escape)

    def string_language(self, schema: Schema) -> Language:
        held: list[Node] = []
        if schema.pattern is not None:
            held.append(search(schema.pattern))
        if schema.format in FORMATS:
            held.append(whole(FORMATS[schema.format]))
        low, high = schema.min_length or 0, schema.max_length
        length = [repeat(ANY, low, high)] if low or high is not None else []
        free = [] if any(never(part, self.wire.escape[0]) for part in held) else [free_text(self.wire)]
        if not held:
            some = low == 1 and high is None
            return Language((nonempty(free[0]),) if some else (*free, *length), open=True)
        exact = _possible(Language((*free, *held, *length)))
        simpler = Language((repeat(but(self.wire.escape[0])), *held, *length))
        for language in (exact, simpler):
            if language.possible() and _printable(language):
                return language
        self.loose = self.loose or bool(length)
        language = Language((*free, *held))
        language.lark("T")  # raises what is wrong with it
        return language

    def copy(self, schema: Schema) -> Expression:
        kind = SpanKind(schema.min_length or 0, schema.max_length, schema.copy or "span", schema.also)
        self.loose = self.loose or schema.pattern is not None or schema.format is not None
        language = self.string_language(schema)
        try:
            return self.span(kind, language)
        except Impossible:
            if kind.copying in MOMENTS:
                return self.string(language)
            raise

    def span(self, kind: SpanKind, language: Language) -> Expression:
        """What is copied, of which all `language` holds. Raises `Impossible` where the request has none of its kind."""
        number = self.copies.setdefault(kind, len(self.copies))
        if number in self.barred:
            raise Impossible
        escape = Control(self.wire.escape)
        return seq(escape, Copy(number, language), escape)

    def array(self, item: Expression, low: int, high: int) -> Expression:
        if high == 0:
            return Text("[]")
        item = self.rule(item)
        rest = Times(seq(Text(","), item), max(low - 1, 0), high - 1)
        some = seq(item, rest) if rest.high != 0 else item
        return seq(Text("["), some if low else maybe(some), Text("]"))


def _bounds(schema: Schema) -> tuple[float | None, float | None, float | None, float | None]:
    return schema.minimum, schema.maximum, schema.exclusive_minimum, schema.exclusive_maximum


def _possible(language: Language) -> Language:
    if not language.possible():
        raise UserError("no value holds to its bounds, pattern and length; widen them")
    return language


def _printable(language: Language) -> bool:
    try:
        return bool(language.lark("T"))
    except LanguageError:
        return False
