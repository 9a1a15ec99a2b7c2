"""Loading toolsets: YAML files, ``toolset.json``, OpenAI-style tool lists and plain Python functions."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from router.explain import KeyPath, ToolsetError, Where, near
from router.toolset import DEFAULT_INSTRUCTION, Toolset
from router.toolset_openai import function_of
from router.toolset_schema import build, build_tools
from router.validate import type_name

if TYPE_CHECKING:
    import yaml

MAX_NODES: Final = 20_000
"""Values in one file; aliases of aliases multiply."""
Scalars = type | tuple[type, ...]


def load_toolset(name_or_path: str | Path) -> Toolset:
    """A toolset by the name of one that is installed (``"kiwi"``), or from a ``.yaml`` or ``.json`` file.

    Raises `ToolsetError` with file, line or key, what is wrong and what is allowed.
    """
    from configs import path as config

    path = Path(name_or_path)
    if path.suffix == "" and len(path.parts) == 1 and not path.is_file():
        known = sorted(p.stem for p in config("toolsets").glob("*.yaml"))
        if path.name not in known:
            hint = near(path.name, known)
            raise ToolsetError(f"unknown toolset {path.name!r}; there are {', '.join(known)}{hint}; or give a file")
        path = config("toolsets", f"{path.name}.yaml")
    return load_json(path) if path.suffix == ".json" else load_yaml(path)


def load_yaml(path: str | Path) -> Toolset:
    """A toolset from a YAML file."""
    data, lines = read_yaml(_read(Path(path)), str(path))
    return build(data, Where(str(path), lines))


def load_json(path: str | Path) -> Toolset:
    """A toolset from JSON: an artifact's ``toolset.json``, or a list of OpenAI-style tools (named after the file)."""
    path = Path(path)
    try:
        data = json.loads(_read(path), object_pairs_hook=lambda pairs: _distinct(pairs, path))
    except json.JSONDecodeError as error:
        raise ToolsetError(f"{path}:{error.lineno}: not JSON: {error.msg} (column {error.colno})") from None
    except RecursionError:
        raise ToolsetError(f"{path}: nested too deep") from None
    if isinstance(data, list):
        name = "".join(c if c.isalnum() and c.isascii() else "_" for c in path.stem)
        return from_openai(data, name=name if not name[:1].isdigit() else f"_{name}", source=str(path))
    return build(data, Where(str(path)))


def from_dict(data: Any, source: str = "toolset") -> Toolset:
    """A toolset from its own plain form (what `router.toolset.to_dict` gives). `source` names it in errors."""
    return build(data, Where(source))


def from_openai(
    tools: Sequence[Any],
    *,
    name: str = "tools",
    description: str = "",
    instruction: str = DEFAULT_INSTRUCTION,
    max_calls: int = 1,
    source: str = "tools",
) -> Toolset:
    """A toolset from OpenAI-style definitions: ``{"type": "function", "function": {…}}`` or the function alone.

    Types may be upper case; ``title``, ``strict``, ``return`` and the like are passed over. A parameter that has a
    default or may be null is optional, also where ``required`` lists it (as strict mode makes people do).
    """
    where = Where(source)
    if not isinstance(tools, Sequence) or isinstance(tools, str | bytes):
        raise where.error((), f"must be a list of tool definitions, not {type_name(tools)}")
    entries = [function_of(tool, i, where) for i, tool in enumerate(tools)]
    return build_tools(
        entries, where, name=name, description=description, instruction=instruction, max_calls=max_calls
    )  # fmt: skip


def from_functions(
    functions: Sequence[Callable[..., Any]],
    *,
    name: str = "functions",
    description: str = "",
    instruction: str = DEFAULT_INSTRUCTION,
    max_calls: int = 1,
) -> Toolset:
    """A toolset from Python functions: signature, type hints and docstring (see `router.toolset_functions`)."""
    from router.toolset_functions import function_tool

    entries: list[tuple[Any, KeyPath]] = [(function_tool(f), (i,)) for i, f in enumerate(functions)]
    return build_tools(
        entries, Where("functions"), name=name, description=description, instruction=instruction, max_calls=max_calls
    )  # fmt: skip


def read_yaml(
    text: str,
    source: str,
    *,
    needs: str = "a toolset needs a name and tools",
    keys: Scalars = str,
    most: int = MAX_NODES,
) -> tuple[Any, dict[KeyPath, int]]:
    """The data of a YAML document and the line of every key path. Only JSON's types pass; no key may come twice.

    `needs` is said of an empty document; `keys` are the types that keys may have; `most` the values that it may hold.
    Raises `ToolsetError` with `source` and line.
    """
    import yaml

    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            raise ToolsetError(f"{source}: is empty; {needs}")
        lines: dict[KeyPath, int] = {}
        return _Reader(loader, lines, source, keys, most).plain(node, ()), lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise ToolsetError(f"{source}{line}: not YAML: {error.problem or error.context}") from None
    except yaml.reader.ReaderError as error:
        raise ToolsetError(f"{source}: not YAML: {error.reason} at character {error.position}") from None
    except (RecursionError, ValueError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise ToolsetError(f"{source}: not YAML: {reason}") from None


@dataclass(frozen=True)
class _Reader:
    """Makes plain data of nodes, and takes down the line of each."""

    loader: yaml.SafeLoader
    lines: dict[KeyPath, int]
    source: str
    keys: Scalars
    most: int

    def plain(self, node: yaml.Node, path: KeyPath) -> Any:
        import yaml

        line = node.start_mark.line + 1
        self.lines.setdefault(path, line)
        where = Where(self.source, self.lines)
        if len(self.lines) > self.most or len(path) > 64:
            raise where.error((), f"holds more than {self.most} values or is nested too deep (aliases multiply)")
        if isinstance(node, yaml.MappingNode):
            out: dict[Any, Any] = {}
            for key_node, value_node in node.value:
                key: Any = (
                    _scalar(self.loader, key_node, self.source) if isinstance(key_node, yaml.ScalarNode) else None
                )
                at = key_node.start_mark.line + 1
                allowed: bool = isinstance(key, self.keys)
                if not allowed:
                    raise ToolsetError(f"{self.source}:{at}: the key {_source(key_node)} is not a string; quote it")
                if key in out:
                    raise ToolsetError(f"{self.source}:{at}: the key {key!r} is given twice")
                self.lines[(*path, key)] = at
                out[key] = self.plain(value_node, (*path, key))
            return out
        if isinstance(node, yaml.SequenceNode):
            return [self.plain(item, (*path, i)) for i, item in enumerate(node.value)]
        value = _scalar(self.loader, node, self.source)
        if value is not None and not isinstance(value, str | int | float | bool):
            raise where.error(path, f"{_source(node)} is {type_name(value)}, which JSON does not have; quote it")
        return value


def _scalar(loader: yaml.SafeLoader, node: yaml.Node, source: str) -> Any:
    import yaml

    try:
        return loader.construct_object(node)
    except yaml.MarkedYAMLError:
        raise
    except Exception:  # a tag that does not fit its text: PyYAML then fails in many ways
        line = node.start_mark.line + 1
        raise ToolsetError(
            f"{source}:{line}: {_source(node)} is not of the tag {node.tag}; leave the tag out"
        ) from None


def _source(node: yaml.Node) -> str:
    return str(node.value) if isinstance(node.value, str) else "given"


def _distinct(pairs: list[tuple[str, Any]], path: Path) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ToolsetError(f"{path}: the key {twice!r} is given twice")
    return out


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ToolsetError(f"{path}: no such toolset file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ToolsetError(f"{path}: cannot be read ({error})") from None
