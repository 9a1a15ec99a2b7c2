"""OpenAPI 3.0 and 3.1 documents: every operation becomes a tool (https://spec.openapis.org/oas/).

A tool's parameters are the operation's path, query and header parameters and the properties of its JSON body, in one
object. Who executes the call knows where each belongs; servers, security and answers are not looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from router.explain import ToolsetError
from router.toolset import Toolset
from train.data.tools.assembling import Listed, Wish, assemble, toolset_name
from train.data.tools.closing import UncallableError
from train.data.tools.documents import Documents, read_document
from train.data.tools.losses import Loss, Lost
from train.data.tools.reading import Reader, Spot

METHODS: Final = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
_FORMS: Final = ("application/x-www-form-urlencoded", "multipart/form-data")
_IGNORED: Final = frozenset(("accept", "content-type", "authorization"))
"""Header parameters that OpenAPI says shall be ignored."""


def from_openapi(uri: str, *, wish: Wish, lost: Lost, data: Any = None) -> Toolset:
    """The operations of the document at a path or an address as tools. Raises `ToolsetError`."""
    data = read_document(uri) if data is None else data
    check_version(data, uri)
    documents = Documents(uri, data)
    info = data.get("info") if isinstance(data.get("info"), dict) else {}
    title = str(info.get("title") or uri)
    return assemble(
        _listed(documents, data["paths"]), documents, name=toolset_name(title), wish=wish, lost=lost, request=True
    )


def check_version(data: Any, uri: str) -> None:
    """Raise `ToolsetError` unless the data is an OpenAPI document of a version that is read here."""
    if not isinstance(data, dict) or ("openapi" not in data and "swagger" not in data):
        raise ToolsetError(f"{uri}: is no OpenAPI document (it has no 'openapi' key); check the file or address")
    version = str(data.get("openapi", data.get("swagger")))
    if not re.match(r"3\.[01](\.|$)", version):
        raise ToolsetError(
            f"{uri}: is written in OpenAPI {version}; 3.0 and 3.1 are read here; convert it (for 2.0: swagger2openapi)"
        )
    if not isinstance(data.get("paths"), dict) or not data["paths"]:
        raise ToolsetError(f"{uri}: has no paths, so there are no operations to take")


@dataclass(frozen=True)
class _Operation:
    """One operation: where it lies, and what it and its path say."""

    path: str
    method: str
    item: dict[Any, Any]
    base: str

    @property
    def place(self) -> str:
        return f"{self.method.upper()} {self.path}"

    @property
    def own(self) -> dict[Any, Any]:
        own: dict[Any, Any] = self.item[self.method]
        return own


def _listed(documents: Documents, paths: dict[Any, Any]) -> Iterator[Listed]:
    """Every operation of the document's paths. Webhooks and callbacks are requests that others make."""
    for path, entry in paths.items():
        if str(path).startswith("x-"):
            continue
        item, base = _resolved(documents, entry, documents.root, str(path))
        for method in METHODS:
            if method not in item:
                continue
            operation = _Operation(str(path), method, item, base)
            if not isinstance(operation.own, dict):
                raise _error(documents, operation.place, "an operation must be an object")
            name = str(operation.own.get("operationId") or path_name(method, str(path)))
            said = operation.own.get("summary") or operation.own.get("description") or item.get("summary")
            yield Listed(name, said, partial(_read, operation), operation.place)


def _read(operation: _Operation, reader: Reader, name: str) -> dict[str, Any]:
    """The schema of all that the operation takes."""
    out: dict[str, Any] = {"type": ["object"], "properties": {}, "required": []}
    for parameter, base in _parameters(operation, reader.documents):
        _parameter(parameter, base, out, reader, name, operation.place)
    if "requestBody" in operation.own:
        body, base = _resolved(reader.documents, operation.own["requestBody"], operation.base, operation.place)
        _body(body, base, out, reader, name, operation.place)
    return out


def _parameters(operation: _Operation, documents: Documents) -> list[tuple[dict[Any, Any], str]]:
    """The parameters of the path and of the operation; the operation's take the place of the path's."""
    found: dict[tuple[object, object], tuple[dict[Any, Any], str]] = {}
    for owner in (operation.item, operation.own):
        entries = owner.get("parameters") or []
        if not isinstance(entries, list):
            raise _error(documents, operation.place, "'parameters' must be a list")
        for entry in entries:
            parameter, base = _resolved(documents, entry, operation.base, operation.place)
            if not isinstance(parameter.get("name"), str):
                raise _error(documents, operation.place, "a parameter has no name")
            found[str(parameter.get("in")), parameter["name"]] = (parameter, base)
    return list(found.values())


def _parameter(
    parameter: dict[Any, Any], base: str, out: dict[str, Any], reader: Reader, name: str, place: str
) -> None:
    key, kind = parameter["name"], parameter.get("in")
    if kind == "header" and key.lower() in _IGNORED:
        return
    if kind == "cookie":
        reader.lost(Loss("parameter", f"{name}.{key}", "a cookie is not for a call to give"))
        return
    if kind not in ("path", "query", "header"):
        raise _error(reader.documents, place, f"{key!r} is in {kind!r}; OpenAPI 3 has path, query, header and cookie")
    node: Any = parameter.get("schema")
    if node is None and isinstance(parameter.get("content"), dict):
        media = next(iter(parameter["content"].values()), None)
        node = media.get("schema") if isinstance(media, dict) else None
    schema = reader.read({} if node is None else node, Spot(base, name, f"{name}.{key}"))
    if parameter.get("description"):
        schema["description"] = parameter["description"]
    _put(out, key, schema, kind == "path" or parameter.get("required") is True, reader, name, str(kind))


def _body(body: dict[Any, Any], base: str, out: dict[str, Any], reader: Reader, name: str, place: str) -> None:
    content = body.get("content")
    if not isinstance(content, dict) or not content:
        raise _error(reader.documents, place, "a requestBody must have 'content'")
    required = body.get("required") is True
    media = _media(content, reader, name)
    if media is None:
        kinds = ", ".join(map(str, content))
        if required:
            raise UncallableError(f"its body ({kinds}) has no named values")
        reader.lost(Loss("body", name, f"a body of {kinds} is dropped: it has no named values"))
        return
    schema = reader.read(media.get("schema", {}), Spot(base, name, name))
    if "object" not in schema.get("type", ["object"]) or not schema.get("properties"):
        if body.get("description"):
            schema.setdefault("description", body["description"])
        _put(out, "body", schema, required, reader, name, "body")
        return
    wanted = schema.get("required", [])
    if wanted and not required:
        reader.lost(Loss("body", name, "the body may be left out as a whole; its required keys are required here"))
    for key, value in schema["properties"].items():
        _put(out, key, value, key in wanted, reader, name, "body")


def _media(content: dict[Any, Any], reader: Reader, name: str) -> dict[Any, Any] | None:
    """The JSON body, or else that of a form, which has named values as well."""
    kinds = {str(kind).partition(";")[0].strip().lower(): media for kind, media in content.items()}
    json = [k for k in kinds if k == "application/json" or k.endswith("+json")] or [k for k in kinds if k == "*/*"]
    chosen = next(iter(json), None) or next((k for k in kinds if k in _FORMS), None)
    if chosen is None or not isinstance(kinds[chosen], dict):
        return None
    if not json:
        reader.lost(Loss("body", name, f"a body of {chosen} is taken as named values"))
    media: dict[Any, Any] = kinds[chosen]
    return media


def _put(
    out: dict[str, Any], key: str, schema: dict[str, Any], required: bool, reader: Reader, name: str, kind: str
) -> None:
    """Add a property; where its name is taken, it is called after where it belongs."""
    new = key
    while new in out["properties"]:
        new = f"{kind}_{new}"
    if new != key:
        message = f"there is another {key!r}; the one in the {kind} is called {new!r}"
        reader.lost(Loss("name", f"{name}.{key}", message))
    out["properties"][new] = schema
    if required:
        out["required"].append(new)


def _resolved(documents: Documents, entry: Any, base: str, place: str) -> tuple[dict[Any, Any], str]:
    """An object of the document, its references followed, and the document it lies in."""
    seen: set[str] = set()
    while isinstance(entry, dict) and "$ref" in entry:
        found = documents.find(entry["$ref"], base, place)
        if found.name in seen:
            raise _error(documents, place, f"{entry['$ref']!r} leads back to itself")
        seen.add(found.name)
        entry, base = found.value, found.base
    if not isinstance(entry, dict):
        raise _error(documents, place, f"must be an object, not {entry!r}")
    return entry, base


def path_name(method: str, path: str) -> str:
    """The name of an operation that has none: ``get /users/{id}`` is ``get_users_id``."""
    return "_".join([method, *re.findall(r"[A-Za-z0-9]+", path)])


def _error(documents: Documents, place: str, message: str) -> ToolsetError:
    return ToolsetError(f"{documents.root}: {place}: {message}")
