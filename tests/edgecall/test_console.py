"""`runtimes.console`: what reaches a person when a command fails."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable

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
