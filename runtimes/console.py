"""What every command line here shares: mistakes are one line and exit code 2, bugs keep their traceback.

It lies in the lowest room so that `edgecall`, `bench` and `train` can all use it.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import os
import select
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NoReturn

from runtimes.errors import UserError

EXTRAS: Final[dict[str, tuple[str, ...]]] = {
    "llama_cpp": ("llama", "export"),
    "onnxruntime": ("onnx", "export"),
    "mlx": ("mlx", "export"),
    "mlx_lm": ("mlx", "export"),
    "coremltools": ("coreml", "export"),
    "torch": ("torch", "export", "train", "unsloth"),
    "transformers": ("torch", "export", "train", "unsloth", "mlx"),
    "safetensors": ("torch", "export", "train", "unsloth"),
    "huggingface_hub": ("torch", "export", "train", "unsloth"),
    "requests": ("export",),
    "sentencepiece": ("export", "train", "unsloth"),
    "peft": ("export", "train", "unsloth"),
    "gguf": ("export",),
    "onnx": ("export",),
    "optimum": ("export",),
    "trl": ("train", "unsloth"),
    "datasets": ("train", "unsloth"),
    "accelerate": ("train", "unsloth"),
    "unsloth": ("unsloth",),
    "matplotlib": ("bench", "train", "unsloth"),
    "jsonschema": ("bench",),
    "psutil": ("bench",),
    "mcp": ("data",),
    "openai": ("data",),
    "anthropic": ("data",),
    "ray": ("ray",),
    "starlette": ("serve",),
    "uvicorn": ("serve",),
}
"""Optional module -> the extras of the distribution that bring it, the smallest first."""

_ENVIRONMENT: Final = {
    errno.ENOSPC: "free some space, or write elsewhere",
    errno.EDQUOT: "free some space, or write elsewhere",
    errno.EFBIG: "the file system does not take files of this size; write elsewhere",
    errno.EROFS: "the file system is read-only; write elsewhere",
    errno.EACCES: "check the permissions",
    errno.EPERM: "check the permissions",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n)",
    errno.ENFILE: "too many files are open on this machine",
    errno.EIO: "the device reports an error",
}
"""Failures of the machine, not of the program, and what to do about them."""

_PATHS: Final = {
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path; a folder is asked for where a file stands",
    errno.EISDIR: "name a file, not a folder",
    errno.EEXIST: "a file stands where a folder is asked for; write elsewhere",
    errno.ENAMETOOLONG: "choose a shorter name",
}
"""The same of a path that the failure names."""

Main = Callable[[list[str]], int | None]


def run(main: Main, argv: Sequence[str] | None = None, prog: str = "edgecall", extra: str | None = None) -> int:
    """Call `main(argv)` and turn what it raises into an exit code; `argv` defaults to the command line's.

    0: done. 2: a `UserError`, a missing extra, a full disk and the like, told in one line on stderr. 130:
    interrupted. 141: the reader of stdout went away. Any other exception passes through. `extra` is the extra that
    the command is known to need; it is named where a missing module belongs to several. With ``EDGECALL_DEBUG`` set,
    nothing is caught.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    _usable_streams()
    if os.environ.get("EDGECALL_DEBUG"):
        return main(arguments) or 0
    try:
        code = main(arguments) or 0
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Only stdout's reader may leave quietly; a worker's broken pipe is a bug.
        if not _reader_gone():
            raise
        _settle_stdout()
        return 141
    except Exception as error:
        line = explain(error, extra)
        if line is None:
            raise
        _settle_stdout()
        print(f"{prog}: {line}", file=sys.stderr)
        return 2


def make_console(**options: Any) -> Any:
    """A `rich.console.Console` whose reader may go away as any other's may: `run` then ends with 141."""
    from rich.console import Console

    class Plain(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    return Plain(**options)


def explain(error: BaseException, extra: str | None = None) -> str | None:
    """The one line that tells a user about `error`, or None where it is a bug."""
    if isinstance(error, UserError):
        return " ".join(part.strip() for part in str(error).splitlines())
    what_to_do = _ENVIRONMENT if getattr(error, "filename", None) is None else _ENVIRONMENT | _PATHS
    if isinstance(error, OSError) and error.errno in what_to_do:
        place = error.filename if error.filename2 is None else error.filename2  # of a rename, where to
        name = f"{place}: " if place is not None else ""
        return f"{name}{os.strerror(error.errno)}; {what_to_do[error.errno]}"
    for link in _chain(error):
        if isinstance(link, ModuleNotFoundError) and (line := _missing(link, extra)):
            return line
        # Libraries written in C++ and Rust report a full disk in exceptions of their own.
        if "No space left on device" in str(link) or "(os error 28)" in str(link):
            return f"{os.strerror(errno.ENOSPC)}; {_ENVIRONMENT[errno.ENOSPC]}"
    return None


def need(*modules: str, extra: str | None = None) -> None:
    """Raise `UserError` naming the extra if one of `modules` (keys of `EXTRAS`) is not installed. Imports nothing."""
    import importlib.util

    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise UserError(_install_line(module, extra))


class Parser(argparse.ArgumentParser):
    """An argument parser whose mistakes are `UserError`s and whose help ends in examples."""

    def __init__(self, prog: str, description: str, examples: Sequence[str], **options: Any) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog="\n".join(["examples:", *(f"  {line}" for line in examples)]),
            formatter_class=_Formatter,
            allow_abbrev=False,
            **options,
        )

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does, but for empty values, which would otherwise mean the working folder or a default."""
        given = [*(sys.argv[1:] if args is None else args)]
        for before, value in zip(["", *given], given, strict=False):
            if value == "--":
                break
            if value.startswith("--") and value.endswith("=") and value.count("=") == 1:
                self.error(f"{value[:-1]}: is empty; give a value")
            if value == "" and before.startswith("--"):
                self.error(f"{before}: is empty; give a value")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see `{self.prog} --help`")


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str, **options: Any) -> None:
        options.setdefault("max_help_position", 26)
        super().__init__(prog, **options)


def _usable_streams() -> None:
    """Closed streams become the null device; what a stream's encoding lacks is written as an escape."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
        elif isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _missing(error: ModuleNotFoundError, extra: str | None) -> str | None:
    module = (error.name or "").partition(".")[0]
    return _install_line(module, extra) if module in EXTRAS else None


def _install_line(module: str, extra: str | None) -> str:
    extras = EXTRAS[module]
    chosen = extra if extra in extras else extras[0]
    return f'{module} is not installed; it comes with an extra: pip install "edgecall[{chosen}]"'


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__


def _reader_gone() -> bool:
    try:
        sys.stdout.flush()
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return bool(poll.poll(0))
    except BrokenPipeError:
        return True
    except (OSError, ValueError, AttributeError):
        return False


def _settle_stdout() -> None:
    """Where stdout takes no more (full disk, no reader), point it at the null device: the interpreter flushes again."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, sys.stdout.fileno())
            os.close(null)
