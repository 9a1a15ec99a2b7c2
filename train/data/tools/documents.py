"""Documents in JSON or YAML, from files and addresses, and what the references in them lead to."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from router.explain import ToolsetError

MAX_BYTES: Final = 64 * 1024 * 1024
"""Of one document; the largest public OpenAPI documents have a quarter of it."""
TIMEOUT_S: Final = 60.0
_KINDS: Final = ("http", "https")


@dataclass(frozen=True)
class Found:
    """What a reference leads to, the document it lies in, and its full name (document and pointer)."""

    value: Any
    base: str
    name: str


class Documents:
    """One document and those it refers to, each read once. `root` names the first: a path, an address or a label."""

    def __init__(self, root: str, data: Any) -> None:
        self.root = root
        self._read: dict[str, Any] = {root: data}

    def add(self, uri: str, data: Any) -> None:
        """Another document, already read: references that begin in it are those with `uri` as base."""
        self._read[uri] = data

    def find(self, reference: object, base: str, place: str) -> Found:
        """Follow ``$ref`` from the document `base`. Raises `ToolsetError` where it leads nowhere."""
        if not isinstance(reference, str):
            raise ToolsetError(f"{base}: {place}: $ref must be text, not {reference!r}")
        address, _, fragment = reference.partition("#")
        uri = self._target(address, base, reference, place) if address else base
        if uri not in self._read:
            self._read[uri] = read_document(uri)
        value: Any = self._read[uri]
        pointer = urllib.parse.unquote(fragment)
        for part in pointer.split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(value, dict) and (key in value or _int(key) in value):
                value = value[key] if key in value else value[_int(key)]
            elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
                value = value[int(key)]
            else:
                raise ToolsetError(f"{base}: {place}: {reference!r} leads nowhere: there is no {key!r}")
        if pointer and not pointer.startswith("/"):
            raise ToolsetError(f"{base}: {place}: {reference!r} is an anchor; only JSON pointers (#/...) are followed")
        return Found(value, uri, f"{uri}#{pointer}")

    def _target(self, address: str, base: str, reference: str, place: str) -> str:
        """Files may lead to files, and addresses to the same server."""
        if _is_address(base):
            uri = urllib.parse.urljoin(base, address)
            if _origin(uri) != _origin(base):
                raise ToolsetError(
                    f"{base}: {place}: {reference!r} lies on another server; download both and refer to files"
                )
            return uri
        if _is_address(address) or not Path(base).is_file():
            raise ToolsetError(f"{base}: {place}: {reference!r} leads out of this document; put the schema into it")
        return str(Path(base).parent / urllib.parse.unquote(address))


def read_document(uri: str) -> Any:
    """The data of a JSON or YAML document at a path or an address."""
    text = _fetch(uri) if _is_address(uri) else _file(uri)
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        if text.lstrip()[:1] in ("{", "[") and not uri.endswith((".yaml", ".yml")):
            return _json_error(text, uri)
    return _yaml(text, uri)


def _is_address(uri: str) -> bool:
    return urllib.parse.urlsplit(uri).scheme in _KINDS


def _origin(uri: str) -> tuple[str, str]:
    parts = urllib.parse.urlsplit(uri)
    return parts.scheme, parts.netloc.lower()


def _int(key: str) -> int | str:
    """YAML reads the key of a response, 200, as a number."""
    return int(key) if key.isdecimal() else key


def _file(path: str) -> str:
    try:
        if Path(path).stat().st_size > MAX_BYTES:
            raise ToolsetError(f"{path}: larger than {MAX_BYTES >> 20} MiB; no document of tools is")
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ToolsetError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ToolsetError(f"{path}: cannot be read ({error})") from None


def _fetch(address: str) -> str:
    headers = {"Accept": "application/json, application/yaml;q=0.9, */*;q=0.5", "User-Agent": "edgecall"}
    try:
        request = urllib.request.Request(address, headers=headers)
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            data = answer.read(MAX_BYTES + 1)
    except urllib.error.HTTPError as error:
        raise ToolsetError(f"{address}: the server answers {error.code} {error.reason}; check the address") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise ToolsetError(f"{address}: cannot be fetched ({reason}); check the address and the network") from None
    if len(data) > MAX_BYTES:
        raise ToolsetError(f"{address}: larger than {MAX_BYTES >> 20} MiB; no document of tools is")
    try:
        return str(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise ToolsetError(f"{address}: is not text in UTF-8; check the address") from None


def _json_error(text: str, uri: str) -> Any:
    """YAML in flow style begins as JSON does; what is neither is told as JSON."""
    try:
        return _yaml(text, uri)
    except ToolsetError:
        try:
            json.loads(text)
        except json.JSONDecodeError as error:
            raise ToolsetError(f"{uri}:{error.lineno}: not JSON: {error.msg} (column {error.colno})") from None
        except RecursionError:
            raise ToolsetError(f"{uri}: nested too deep") from None
        raise


def _yaml(text: str, uri: str) -> Any:
    import yaml

    try:
        return yaml.load(text, Loader=_loader())  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise ToolsetError(f"{uri}{line}: not YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, RecursionError, ValueError, TypeError) as error:
        raise ToolsetError(f"{uri}: not YAML: {' '.join(str(error).split())}") from None


@cache
def _loader() -> Any:
    """YAML 1.2's core schema, as OpenAPI wants it: dates, ``yes`` and ``0123`` stay text."""
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        yaml_implicit_resolvers: dict[str, Any] = {}

    forms = {
        "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
        "null": (r"~|null|Null|NULL|", "~nN\0"),
        "int": (r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
        "float": (r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
        "merge": (r"<<", "<"),
    }
    for kind, (form, first) in forms.items():
        known = [c if c != "\0" else "" for c in first]
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", re.compile(rf"(?:{form})$"), known)
    return Loader
