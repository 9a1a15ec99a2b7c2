"""Toolsets from plain Python functions."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, NotRequired, Optional, TypedDict, Union

import pytest

from router.explain import ToolsetError
from router.toolset import Schema, Tool
from router.toolset_functions import function_tool
from router.toolset_load import from_functions


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Point(TypedDict):
    x: float
    label: NotRequired[str]


def everything(
    query: str,
    kind: Literal["a", "b"],
    color: Color,
    point: Point,
    names: list[str],
    rows: Sequence[list[int]],
    limit: int = 10,
    ratio: float = 0.5,
    deep: bool = False,
    level: Level = Level.LOW,
    tint: Color = Color.BLUE,
    mode: Literal["x", "y"] | None = None,
    note: Optional[str] = None,  # noqa: UP045
    extra: dict[str, Any] | None = None,
    tags: Annotated[list[str], "Labels."] = ["a"],  # noqa: B006
    free: Mapping[str, int] = {},
) -> str:
    """Find things
    by their name.

    More that nobody needs to know.

    Args:
        query: What to look for,
            in plain words.
        kind (str): Which kind: a or b.
        limit: How many.
        tags: Not this, the annotation wins.

    Returns:
        note: This is not a parameter.
    """
    return query


def test_everything() -> None:
    [tool] = from_functions([everything], name="t")
    assert tool.name == "everything" and tool.description == "Find things by their name."
    p = tool.parameters.properties
    assert p == {
        "query": Schema("string", "What to look for, in plain words."),
        "kind": Schema("string", "Which kind: a or b.", enum=("a", "b")),
        "color": Schema("string", enum=("red", "blue")),
        "point": Schema("object", properties={"x": Schema("number"), "label": Schema("string")}, required=("x",)),
        "names": Schema("array", items=Schema("string")),
        "rows": Schema("array", items=Schema("array", items=Schema("integer"))),
        "limit": Schema("integer", "How many.", default=10),
        "ratio": Schema("number", default=0.5),
        "deep": Schema("boolean", default=False),
        "level": Schema("integer", enum=(1, 2), default=1),
        "tint": Schema("string", enum=("red", "blue"), default="blue"),
        "mode": Schema("string", enum=("x", "y")),
        "note": Schema("string"),
        "extra": Schema("object", additional=True),
        "tags": Schema("array", "Labels.", items=Schema("string"), default=["a"]),
        "free": Schema("object", additional=True, default={}),
    }
    assert tool.required == ("query", "kind", "color", "point", "names", "rows")


def test_sphinx_fields_and_no_parameters() -> None:
    def load(item: str, source: str = "here") -> None:
        """Load an item.

        :param item: Its name,
            as listed.
        :param str source: From where.
        :returns: nothing
        """

    def stop() -> None:
        """Stop."""

    toolset = from_functions([load, stop], max_calls=2)
    p = toolset.tools[0].parameters.properties
    assert p["item"].description == "Its name, as listed."
    assert p["source"] == Schema("string", "From where.", default="here")
    assert toolset.tools[1] == Tool("stop", "Stop.", Schema("object", properties={}))
    assert (toolset.name, toolset.max_calls) == ("functions", 2)


def undocumented(a: int) -> None: ...


def unhinted(a, b: int = 1) -> None:  # type: ignore[no-untyped-def]
    """Do."""


def choice(a: Union[int, str]) -> None:  # noqa: UP007
    """Do."""


def raw(a: bytes) -> None:
    """Do."""


def anything(a: Any) -> None:
    """Do."""


def many(*a: int) -> None:
    """Do."""


def more(**a: int) -> None:
    """Do."""


def positional(a: int, /) -> None:
    """Do."""


def nothing_to_say(a: int | None) -> None:
    """Do."""


def mixed(a: Literal["a", 1]) -> None:
    """Do."""


def keyed(a: dict[int, str]) -> None:
    """Do."""


def holes(a: list[int | None]) -> None:
    """Do."""


def unknown(a: "Nowhere") -> None:  # type: ignore[name-defined]  # noqa: F821, UP037
    """Do."""


def wrong(a: int = "x") -> None:  # type: ignore[assignment]
    """Do."""


HINTS = "str, int, float, bool, list[...], dict, Literal[...], Enum, TypedDict, Annotated and Optional of these"


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (undocumented, "has no docstring; the model chooses a tool by its description"),
        (unhinted, f"parameter a: has no type hint; allowed are {HINTS}"),
        (choice, "parameter a: Union[int, str] is a choice of types; give it one, or make one tool for each"),
        (raw, f"parameter a: bytes cannot be declared; allowed are {HINTS}"),
        (anything, f"parameter a: Any cannot be declared; allowed are {HINTS}"),
        (many, "parameter a: takes any number of arguments; a tool's parameters must be named"),
        (more, "parameter a: takes any number of arguments; a tool's parameters must be named"),
        (positional, "parameter a: is positional-only; a call names its arguments"),
        (nothing_to_say, "parameter a: may be None but has no default; give it one (= None) or drop None"),
        (mixed, "parameter a: the values of Literal['a', 1] must be all strings or all numbers"),
        (keyed, "parameter a: dict[int, str] has keys that are not strings"),
        (holes, "parameter a: int | None stands inside a list or TypedDict and may be None; drop None"),
        (unknown, "its signature cannot be read: name 'Nowhere' is not defined"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_functions_that_cannot_be_tools(function: Callable[..., Any], message: str) -> None:
    with pytest.raises(ToolsetError) as caught:
        function_tool(function)
    assert str(caught.value) == f"function {function.__module__}.{function.__name__}: {message}"


def test_what_the_signature_allows_and_the_schema_does_not() -> None:
    with pytest.raises(ToolsetError) as caught:
        from_functions([wrong])
    assert str(caught.value) == "functions: [0].parameters.properties.a.default: 'x' is string, not an integer"
    with pytest.raises(ToolsetError, match="int is not a function"):
        from_functions([int])
