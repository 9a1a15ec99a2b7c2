"""All or nothing: what a staged folder replaces, what a failure leaves, what the next run cleans up."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from export import atomic
from export.atomic import disk_errors, put_in_place, recover, remove_stale, staged
from runtimes.errors import UserError


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_appears_only_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "target"
    with staged(target) as folder:
        (folder / "a").write_text("1")
        assert not target.exists()
    assert (target / "a").read_text() == "1"
    assert names(target.parent) == ["target"]


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), UserError("y")])
def test_a_failure_leaves_what_was_there(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises(type(error)), staged(target) as folder:
        (folder / "new").write_text("new")
        raise error
    assert names(tmp_path) == ["target"]
    assert names(target) == ["old"]


@pytest.mark.parametrize("exchange", [True, False])
def test_replaces_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool) -> None:
    if not exchange:
        monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
    target = tmp_path / "target"
    for content in ("old", "new"):
        with staged(target) as folder:
            (folder / content).write_text(content)
    assert names(target) == ["new"]
    assert names(tmp_path) == ["target"]


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="other systems swap with two renames")
def test_exchange_swaps_two_names(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if not atomic._exchange(tmp_path / "one", tmp_path / "other"):
        pytest.skip("this file system cannot exchange names")
    assert (names(tmp_path / "one"), names(tmp_path / "other")) == (["other"], ["one"])


def test_a_kill_between_the_two_renames_is_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
    target, fresh = tmp_path / "target", tmp_path / "fresh"
    for folder in (target, fresh):
        folder.mkdir()
        (folder / folder.name).touch()

    def killed(self: Path, to: Path) -> Path:
        if self == fresh:
            raise KeyboardInterrupt
        return real(self, to)

    real = Path.rename
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            put_in_place(fresh, target)
    assert not target.exists()
    recover(target)
    assert names(target) == ["target"]


def test_leftovers_of_the_dead_are_removed(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = atomic._host()
    alive = [f".tmp-{host}-{os.getpid()}-bb", f".tmp-elsewhere-{dead.pid}-cc", ".tmp-odd", "kept"]
    for name in (f".tmp-{host}-{dead.pid}-aa", *alive):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    remove_stale(tmp_path)
    assert names(tmp_path) == sorted(alive)
    long_ago = time.time() - 2 * 24 * 3600
    for path in tmp_path.iterdir():
        os.utime(path, (long_ago, long_ago))
    remove_stale(tmp_path)
    assert names(tmp_path) == ["kept"]


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "disk full"),
        (OSError(errno.EFBIG, "File too large"), "disk full"),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), "/x/y"),
        (OSError(errno.EROFS, "Read-only file system"), "cannot be written"),
        (OSError(errno.EIO, "Input/output error", "/x/y"), "Input/output error"),
        (shutil.Error([("/a", "/b", "[Errno 28] No space left on device: '/b'")]), "disk full"),
        (OSError("two\nlines"), "two lines"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "disk full"),
    ],
)
def test_failures_of_the_system_are_one_line(tmp_path: Path, error: Exception, word: str) -> None:
    with pytest.raises(UserError, match=word) as raised, disk_errors(tmp_path):
        raise error
    assert "\n" not in str(raised.value)


def test_an_error_names_the_target_not_the_temporary_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised, staged(tmp_path / "target") as folder:
        raise UserError(f"{folder / 'weights'}: broken")
    assert str(raised.value) == f"{tmp_path / 'target' / 'weights'}: broken"


def test_bugs_stay_bugs(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), disk_errors(tmp_path):
        raise RuntimeError("a bug")
