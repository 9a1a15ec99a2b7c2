"""Regular languages against Python's `re`, strings of numbers against Python's comparisons."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.formats import FORMATS
from router.language import Language, regex
from router.patterns import PatternError, search, whole
from router.ranges import MAX_DIGITS, integer_bounds, integers, number_bounds, numbers
from router.regular import (
    ANY,
    NOTHING,
    UNWRITABLE,
    Node,
    alt,
    cat,
    chars,
    literal,
    never,
    nonempty,
    nullable,
    optional,
    other_than,
    repeat,
    without,
)
from router.wire_format import WIRES

quick = settings(deadline=None, max_examples=150)
PATTERNS = [
    "^[a-z]{2,4}$", "abc", "^a|b$", "(^x$)", r"^\d+-\w*$", r"^[^\d\s]+$", "(?:foo|ba[rz])+?", r"\S+@\S+", "^$", "",
    "^(a|b)*c?$", r"^[A-Z]{3}-\d{2,}$", "^a.c$", "^(?P<x>ab){2}$", r"^[\w.-]+$", "^x{0}$", "[]^-]",
]  # fmt: skip


def python(node: Node) -> re.Pattern[str]:
    """The same language for Python's `re`, which is faster than derivatives."""
    return re.compile(re.sub(r"\\x\{([0-9a-f]+)\}", lambda m: f"\\U{int(m[1], 16):08x}", regex(node)))


def matches(node: Node, text: str) -> bool:
    """Whether `text` belongs, by derivatives and by `re` alike."""
    found = Language((node,)).matches(text)
    assert found == bool(python(node).fullmatch(text)), (regex(node), text)
    return found


@quick
@given(pattern=st.sampled_from(PATTERNS), text=st.text("abcxyz fooABC012-@._\n\u00e9^]", max_size=7))
def test_a_pattern_means_what_re_means(pattern: str, text: str) -> None:
    expected = bool(re.search(pattern, text, re.ASCII))
    found = Language((search(pattern),)).matches(text)
    if text.endswith("\n") and "$" in pattern and expected and not found:
        return  # Python's $ also matches before a last newline; ours is the end
    assert found == expected


@quick
@given(data=st.data(), name=st.sampled_from(sorted(FORMATS)))
def test_a_format_means_what_re_means(data: st.DataObject, name: str) -> None:
    text = data.draw(st.from_regex(FORMATS[name], fullmatch=True))
    assert Language((whole(FORMATS[name]),)).matches(text)
    mutated = text[:-1] + data.draw(st.sampled_from(["", "-", ".", " ", "9", "\u00e9"]))
    assert Language((whole(FORMATS[name]),)).matches(mutated) == bool(re.fullmatch(FORMATS[name], mutated))


@pytest.mark.parametrize("pattern", [r"a\b", "(?i)a", r"(a)\1", "(?=a)b", "(?<!a)b", "a^b", "(?>a)", "a++", "(?-i:a)"])
def test_a_pattern_that_cannot_be_decoded_is_refused(pattern: str) -> None:
    with pytest.raises(PatternError, match="pattern"):
        search(pattern)


@pytest.mark.parametrize("node", [ANY, search("[^a]"), search(r"\W"), without(["<a>"]), other_than(["a"])])
def test_what_cannot_be_written_is_in_no_language(node: Node) -> None:
    for character in UNWRITABLE:
        assert not Language((node,)).matches(character)
        assert never(node, character)


@pytest.mark.parametrize("wire", WIRES.values(), ids=WIRES)
def test_text_without_control_tokens(wire: object) -> None:
    words = list(WIRES["functiongemma"].reserved if wire is WIRES["functiongemma"] else WIRES["gemma4"].reserved)
    node = without(words)
    for word in words:
        for text in (word, f"a{word}b", f"<{word}", word[:-1] + word, f"<<{word}>"):
            assert not matches(node, text)
        for text in (word[:-1], word[1:], f"a {word[:-1]}", word[:3] + " " + word[3:], word[:-1] * 2):
            assert matches(node, text) == (not any(w in text for w in words))


@quick
@given(text=st.text("<abcd>x", max_size=9))
def test_without_and_other_than(text: str) -> None:
    words = ["<ab>", "<ac>", "<abcd", "<b>"]
    assert matches(without(words), text) == (not any(word in text for word in words))
    for some in (["ab", "abc", "b"], ["x"], ["a", "aa", "aaa"], []):
        assert matches(other_than(some), text) == (text not in some)


_nodes = st.recursive(
    st.sampled_from([chars("a"), chars("ab"), literal("ba"), literal(""), NOTHING]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda n: cat(*n)),
        st.lists(inner, max_size=3).map(lambda n: alt(*n)),
        inner.map(optional),
        st.tuples(inner, st.integers(0, 2), st.integers(0, 2)).map(lambda t: repeat(t[0], t[1], t[1] + t[2])),
        inner.map(repeat),
    ),
    max_leaves=6,
)


@quick
@given(node=_nodes, other=_nodes, text=st.text("ab", max_size=6))
def test_nodes_mean_what_they_print(node: Node, other: Node, text: str) -> None:
    if NOTHING not in (node, other):
        assert matches(node, text) == bool(python(node).fullmatch(text))
        assert nullable(node) == bool(python(node).fullmatch(""))
    slim = nonempty(node)
    assert Language((slim,)).matches(text) == (text != "" and Language((node,)).matches(text))
    both = Language((node, other))
    assert both.matches(text) == (Language((node,)).matches(text) and Language((other,)).matches(text))
    assert both.possible() or not both.matches(text)
    automaton = both.automaton(500)
    assert automaton is not None
    state: int | None = 0
    for character in text:
        edges = automaton.edges[state] if state is not None else ()
        state = next((t for ranges, t in edges if any(a <= ord(character) <= b for a, b in ranges)), None)
    assert (state is not None and automaton.accepting[state]) == both.matches(text)
    assert bool(automaton.edges[0]) == both.possible(empty=False)


_whole = st.one_of(st.integers(-30, 30), st.integers(-12345, 12345), st.integers(-(10**18), 10**18))


@quick
@given(a=st.none() | _whole, b=st.none() | _whole, probes=st.lists(_whole, max_size=8))
def test_integers_within_bounds(a: int | None, b: int | None, probes: list[int]) -> None:
    low, high = (a, b) if a is None or b is None or a <= b else (b, a)
    node = integers(low, high)
    pattern = python(node)
    near = [x + d for x in (low, high) if x is not None for d in (-1, 0, 1)]
    for value in (*probes, *near, 0, 9, 10, -1):
        inside = (low is None or value >= low) and (high is None or value <= high)
        assert bool(pattern.fullmatch(str(value))) == inside
    for text in ("-0", "00", "01", "+1", "1.0", "", "-", "1e3", "9" * (MAX_DIGITS + 1)):
        assert not pattern.fullmatch(text)


_bounds = st.none() | st.one_of(
    st.integers(-20, 20), st.floats(-3, 3).map(lambda x: round(x, 3)), st.floats(-1e20, 1e20), st.floats(-1e-4, 1e-4)
).filter(lambda x: x == 0 or 1e-300 < abs(x))
_floats = st.one_of(
    st.floats(-3, 3), st.floats(-3, 3).map(lambda x: round(x, 2)), st.floats(-1e20, 1e20), st.floats(-1e-3, 1e-3),
    st.integers(-30, 30), st.floats(allow_nan=False, allow_infinity=False),
)  # fmt: skip


@quick
@given(bounds=st.tuples(_bounds, _bounds, _bounds, _bounds), probes=st.lists(_floats, max_size=10))
def test_numbers_within_bounds(
    bounds: tuple[float | None, float | None, float | None, float | None], probes: list[float]
) -> None:
    minimum, maximum, above, below = bounds
    low, high = number_bounds(*bounds)
    if low is not None and high is not None and low > high:
        return

    def inside(value: float) -> bool:
        return (
            (minimum is None or value >= minimum) and (maximum is None or value <= maximum)
            and (above is None or value > above) and (below is None or value < below)
        )  # fmt: skip

    pattern = python(numbers(low, high))
    given_bounds = [float(b) for b in bounds if b is not None]
    near = [math.nextafter(b, d) for b in given_bounds for d in (math.inf, -math.inf)] + given_bounds
    for value in (*probes, *near):
        if value != 0 and not 1e-300 < abs(value) < 1e300:
            continue
        if math.copysign(1, value) < 0 and value == 0:
            continue
        assert bool(pattern.fullmatch(repr(value))) == inside(value), (repr(value), low, high)


@quick
@given(bounds=st.tuples(_bounds, _bounds, _bounds, _bounds), data=st.data())
def test_whatever_is_spelled_is_within_the_bounds(
    bounds: tuple[float | None, float | None, float | None, float | None], data: st.DataObject
) -> None:
    low, high = number_bounds(*bounds)
    minimum, maximum, above, below = bounds
    node = numbers(low, high)
    if not Language((node,)).possible():
        return
    text = data.draw(st.from_regex(python(node), fullmatch=True))
    value = float(text)
    assert minimum is None or value >= minimum
    assert maximum is None or value <= maximum
    assert above is None or value > above
    assert below is None or value < below


@quick
@given(bounds=st.tuples(_bounds, _bounds, _bounds, _bounds), value=st.integers(-40, 40))
def test_integer_bounds_are_exact(
    bounds: tuple[float | None, float | None, float | None, float | None], value: int
) -> None:
    low, high = integer_bounds(*bounds)
    minimum, maximum, above, below = bounds
    inside = (
        (minimum is None or value >= minimum) and (maximum is None or value <= maximum)
        and (above is None or value > above) and (below is None or value < below)
    )  # fmt: skip
    assert ((low is None or value >= low) and (high is None or value <= high)) == inside


def test_languages_of_nothing() -> None:
    assert not Language((search("^ab$"), repeat(ANY, 3))).possible()
    assert not Language((integers(3, 2),)).possible()
    assert Language((search("^a*$"), repeat(ANY, 3, 3))).possible()
    assert Language((search("^a*$"), repeat(ANY, 3, 900))).automaton(50) is None


@pytest.mark.parametrize("pattern", ["(a{1,100}){1,100}", "(a|bc){2000}", "x{1,50}(y{40}z?){60}"])
def test_repeats_that_take_minutes_to_decode_are_refused(pattern: str) -> None:
    with pytest.raises(PatternError, match="its repeats stand for [0-9,]+ characters, 2,000 at most"):
        search(pattern)
    for fine in ("[a-z]{1,200}", "(ab{2,10}){1,50}", "(a+b*){3}", "^.{0,2000}$"):
        search(fine)
