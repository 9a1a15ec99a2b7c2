"""Upstream files: whether they are the ones that are known, and reading them row by row with line numbers."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any, Final

from runtimes.errors import UserError
from train.data.importers.base import Importer

_CHECKSUMS: Final = Path(__file__).with_name("checksums.txt")
_DECODER: Final = json.JSONDecoder()


def check(importer: Importer, folder: Path, *, any_version: bool = False) -> dict[str, str]:
    """Path below `folder` -> ``verified`` (its SHA-256 is the known one) or ``unverified`` (none is known).

    Raises `UserError` for a missing file, and for one that differs from what is known; with `any_version` the
    latter counts as unverified, since upstream may have moved on.
    """
    known = checksums().get(importer.name, {})
    status = {}
    for path in importer.files(folder):
        name = path.relative_to(folder).as_posix()
        same = known.get(name) == sha256(path)
        if name in known and not same and not any_version:
            raise UserError(
                f"{path}: not the file that is known under this name (SHA-256 {known[name][:12]}…); download it "
                f"again from {importer.address}, or read it as it is with --any-version"
            )
        status[name] = "verified" if same else "unverified"
    return status


@cache
def checksums() -> dict[str, dict[str, str]]:
    """Source -> path below its folder -> SHA-256, from ``checksums.txt`` (lines as ``sha256sum`` writes them)."""
    out: dict[str, dict[str, str]] = {}
    for line in _CHECKSUMS.read_text(encoding="utf-8").splitlines():
        digest, path = line.split("  ", 1)
        source, name = path.split("/", 1)
        out.setdefault(source, {})[name] = digest
    return out


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def missing(folder: Path, what: str, importer: Importer) -> UserError:
    """The error for a folder that lacks a source's files."""
    return UserError(f"{folder}: no {what} here; get it from {importer.address} ({importer.licence})")


def read_text(path: Path, errors: str = "strict") -> str:
    try:
        return path.read_text(encoding="utf-8", errors=errors)
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise UserError(f"{path}:{line}: not UTF-8 ({error.reason}); download the file again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """Place (``file:line``) and value of every line that is not blank."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    place = f"{path}:{number}"
                    try:
                        yield place, json.loads(line)
                    except (json.JSONDecodeError, RecursionError) as error:
                        raise UserError(f"{place}: not JSON ({_reason(error)}); download the file again") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error.reason}); download the file again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def json_rows(path: Path, *keys: str, errors: str = "strict", optional: bool = False) -> Iterator[tuple[str, Any]]:
    """Place and value of every element of the array that lies under `keys` in a JSON document.

    The array is walked element by element, so that each is known by its line. Raises `UserError` where the document
    is not JSON or has no such array; with `optional` a missing key is an empty array.
    """
    text = read_text(path, errors)
    walk = _Walk(path, text)
    for depth, key in enumerate(keys):
        if not walk.enter(key):
            if optional:
                return
            name = ".".join(keys[: depth + 1])
            raise UserError(f"{path}:{walk.line()}: no key {name!r}; this is not the upstream file")
    yield from walk.elements()


def json_file(path: Path) -> Any:
    """A whole JSON document, for small files."""
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON ({error.msg}); download the file again") from None
    except RecursionError:
        raise UserError(f"{path}: not JSON (nested too deep); download the file again") from None


@contextmanager
def replacing(path: Path) -> Iterator[IO[str]]:
    """A text file that takes the place of `path` when the block ends, and leaves no trace when it fails.

    An `OSError` of writing it names `path`.
    """
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            yield file
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):
            error.filename = str(path)
        raise


class _Walk:
    """A position in a JSON text that moves into objects and over array elements."""

    def __init__(self, path: Path, text: str) -> None:
        self.path, self.text, self.at = path, text, 0
        self.counted, self.lines = 0, 1
        self.space()

    def enter(self, key: str) -> bool:
        """Move to the value of `key` in the object here; False where it has none."""
        self.expect("{")
        while self.text[self.at : self.at + 1] != "}":
            name = self.value()
            self.expect(":")
            if name == key:
                return True
            self.value()
            if self.text[self.at : self.at + 1] != "}":
                self.expect(",")
        return False

    def elements(self) -> Iterator[tuple[str, Any]]:
        self.expect("[")
        while self.text[self.at : self.at + 1] != "]":
            place = f"{self.path}:{self.line()}"
            yield place, self.value()
            if self.text[self.at : self.at + 1] != "]":
                self.expect(",")

    def value(self) -> Any:
        try:
            value, self.at = _DECODER.raw_decode(self.text, self.at)
        except json.JSONDecodeError as error:
            raise UserError(f"{self.path}:{error.lineno}: not JSON ({error.msg}); download the file again") from None
        except RecursionError:
            raise UserError(f"{self.path}:{self.line()}: not JSON (nested too deep)") from None
        self.space()
        return value

    def expect(self, sign: str) -> None:
        if self.text[self.at : self.at + 1] != sign:
            found = repr(self.text[self.at : self.at + 1] or "the end")
            raise UserError(
                f"{self.path}:{self.line()}: {sign!r} expected, {found} found; this is not the upstream file"
            )
        self.at += 1
        self.space()

    def space(self) -> None:
        while self.text[self.at : self.at + 1] in (" ", "\n", "\r", "\t"):
            self.at += 1

    def line(self) -> int:
        self.lines += self.text.count("\n", self.counted, self.at)
        self.counted = self.at
        return self.lines


def _reason(error: Exception) -> str:
    return error.msg if isinstance(error, json.JSONDecodeError) else "nested too deep"
