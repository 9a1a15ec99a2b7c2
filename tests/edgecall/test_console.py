"""`runtimes.console`: what reaches a person when a command fails."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from runtimes.console import EXTRAS, Parser, explain, need, run
from runtimes.errors import ArtifactError, UserError
from tests.edgecall.conftest import ROOT, Ran


def _raise(error: BaseException) -> Callable[[list[str]], int]:
    def main(argv: list[str]) -> int:
        raise error

    return main


def test_the_return_value_is_the_exit_code() -> None:
    assert run(lambda argv: None, []) == 0
    assert run(lambda argv: len(argv), ["a", "b", "c"]) == 3


@pytest.mark.parametrize("kind", [UserError, ArtifactError])
def test_a_user_error_is_one_line_and_exit_code_2(kind: type[UserError], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(_raise(kind("a.yaml:3: unknown key 'tols'\n  did you mean 'tools'?")), []) == 2
    assert capsys.readouterr() == ("", "edgecall: a.yaml:3: unknown key 'tols' did you mean 'tools'?\n")


def test_the_program_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(_raise(UserError("no such suite")), [], prog="bench") == 2
    assert capsys.readouterr().err == "bench: no such suite\n"


def test_bugs_pass_through() -> None:
    for bug in (ValueError("x"), KeyError("x"), FileNotFoundError(errno.ENOENT, "x"), ModuleNotFoundError(name="nope")):
        with pytest.raises(type(bug)):
            run(_raise(bug), [])


def test_an_interrupt_is_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(_raise(KeyboardInterrupt()), []) == 130
    assert capsys.readouterr().err == "edgecall: interrupted\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_a_failure_of_the_machine_names_the_file(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(_raise(OSError(number, os.strerror(number), "out/w.bin")), []) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"edgecall: out/w.bin: {os.strerror(number)}; ") and err.count("\n") == 1


def test_a_full_disk_is_recognised_in_library_exceptions() -> None:
    assert explain(RuntimeError("PytorchStreamWriter failed: No space left on device")) is not None
    assert explain(RuntimeError('Error while serializing: IoError(Os { code: 28 }) "x" (os error 28)')) is not None
    wrapped = RuntimeError("cannot save")
    wrapped.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert explain(wrapped) == f"{os.strerror(errno.ENOSPC)}; free some space, or write elsewhere"


def test_a_missing_package_names_its_extra(capsys: pytest.CaptureFixture[str]) -> None:
    missing = ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn")
    expected = 'edgecall: torch is not installed; it comes with an extra: pip install "edgecall[{}]"\n'
    for extra, named in ((None, "torch"), ("train", "train"), ("serve", "torch")):
        assert run(_raise(missing), [], extra=extra) == 2
        assert capsys.readouterr().err == expected.format(named)


def test_a_missing_package_behind_a_lazy_import_is_found() -> None:
    outer = ImportError("Could not import module 'Gemma3ForCausalLM'")
    outer.__cause__ = ModuleNotFoundError("No module named 'sentencepiece'", name="sentencepiece")
    line = explain(outer, "export")
    assert line is not None and 'edgecall[export]"' in line


def test_need_raises_for_what_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    need("torch", "transformers")
    monkeypatch.setitem(EXTRAS, "no_such_module_here", ("serve",))
    with pytest.raises(UserError, match=r'no_such_module_here is not installed; .* "edgecall\[serve\]"'):
        need("torch", "no_such_module_here")


def test_debug_lets_everything_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECALL_DEBUG", "1")
    with pytest.raises(UserError):
        run(_raise(UserError("x")), [])


def test_a_parsers_mistakes_are_one_line() -> None:
    parser = Parser("edgecall thing", "Does it.", ["edgecall thing 1"])
    parser.add_argument("--number", type=int)
    with pytest.raises(UserError, match="argument --number: invalid int value: 'x'; see `edgecall thing --help`"):
        parser.parse_args(["--number", "x"])
    with pytest.raises(UserError, match="unrecognized arguments: --num"):
        parser.parse_args(["--num", "1"])
    assert parser.format_help().endswith("examples:\n  edgecall thing 1\n")


WRITER = """
import sys
from runtimes.console import run
def main(argv):
    for _ in range(int(argv[0])):
        print("x" * 99)
sys.exit(run(main))
"""


@pytest.mark.parametrize("lines", ["1", "50000"])
def test_a_reader_that_leaves_is_no_error(lines: str) -> None:
    """As in ``edgecall … | head``: nothing on stderr, whether the output fits the pipe's buffer or not."""
    read, write = os.pipe()
    os.close(read)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    try:
        done = subprocess.run(
            [sys.executable, "-c", WRITER, lines],
            stdout=write,
            stderr=subprocess.PIPE,
            env=env,
            timeout=60,
            check=False,
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_workers_broken_pipe_is_a_bug() -> None:
    with pytest.raises(BrokenPipeError):
        run(_raise(BrokenPipeError(errno.EPIPE, "worker gone")), [])


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full (Linux)")
@pytest.mark.parametrize("lines", ["1", "50000"])
def test_a_full_disk_under_stdout_is_one_line(lines: str) -> None:
    with open("/dev/full", "wb") as full:
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", WRITER, lines]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=env, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.decode() == "edgecall: No space left on device; free some space, or write elsewhere\n"


def test_importing_it_is_cheap(python: Callable[..., Ran]) -> None:
    ran = python(
        "-c", "import sys, runtimes.console; print([m for m in ('torch', 'rich', 'yaml') if m in sys.modules])"
    )
    assert (ran.code, ran.out) == (0, "[]\n")


@pytest.mark.parametrize("given", [["--out", ""], ["--out="], ["x", "--out", "", "y"]])
def test_an_empty_value_is_a_mistake(given: list[str]) -> None:
    parser = Parser("tool", "", [])
    parser.add_argument("--out")
    parser.add_argument("rest", nargs="*")
    with pytest.raises(UserError, match="--out: is empty; give a value"):
        parser.parse_args(given)
    assert parser.parse_args(["--out", "a=", "--", ""]).rest == [""]


def python(code: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, **options
    )


def test_streams_that_cannot_take_everything_do_not_end_a_command() -> None:
    code = "from runtimes.console import run; raise SystemExit(run(lambda argv: print('ünï'), []))"
    found = python(code, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (found.returncode, found.stdout) == (0, "\\xfcn\\xef\n")
    closed = python(f"import sys; sys.stdout = None\n{code}")
    assert (closed.returncode, closed.stderr) == (0, "")


def test_a_table_whose_reader_left_ends_as_other_output_does() -> None:
    code = (
        "from runtimes.console import make_console, run\n"
        "raise SystemExit(run(lambda argv: [make_console().print('x' * 80) for _ in range(9999)] and 0, []))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdout is not None and child.stderr is not None
        child.stdout.read(10)
        child.stdout.close()
        assert child.wait() == 141
        assert child.stderr.read() == b""


@pytest.mark.parametrize("command", ["main", "bench"])
def test_an_interrupt_while_modules_are_read_is_told_in_one_line(command: str) -> None:
    code = (
        "import sys\n"
        "class Slow:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('edgecall.cli', 'bench.cli'): raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Slow())\n"
        f"from edgecall.entry import {command}\n"
        f"sys.exit({command}())"
    )
    found = python(code)
    assert found.returncode == 130
    assert found.stderr == f"{'edgecall' if command == 'main' else 'bench'}: interrupted\n"
