"""Writing folders all or nothing: a temporary sibling, fsync, then one rename.

A killed process leaves at most a folder named ``.tmp-…`` with its host and process id; the next run beside it
removes those whose process is gone. Nothing ever reads such a folder.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import re
import secrets
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runtimes.artifact import STAGING_PREFIX
from runtimes.errors import UserError

_STALE_AFTER = 24 * 3600
"""Seconds after which a leftover of an unknown process (another host, a reused id) counts as stale."""

_FULL = re.compile(r"No space left on device|Disk quota exceeded|File too large|os error (28|27|122)\b")
"""How libraries that wrap the operating system's error spell it (Rust writes ``os error N``)."""


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """Yield an empty temporary sibling of `target`; on success it takes the place of `target` in one step.

    What was at `target` stays there until then, and stays for good when the block fails. Raises `UserError` for a
    full disk and every other failure of the operating system; other exceptions pass through.
    """
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(target.parent)
        staging = target.parent / f"{STAGING_PREFIX}{_host()}-{os.getpid()}-{secrets.token_hex(4)}"
        try:
            with disk_errors(target):  # looks at the free space before the clean-up
                staging.mkdir()
                yield staging
                fsync_tree(staging)
                put_in_place(staging, target)
        except UserError as error:
            if str(staging) not in str(error):
                raise
            raise type(error)(str(error).replace(str(staging), str(target))) from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def write_json(path: Path, data: Mapping[str, Any], *, indent: int | None = 1) -> None:
    """A JSON document, with `indent` one value a line, so that two can be compared line by line."""
    path.write_text(json.dumps(data, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")


def put_in_place(folder: Path, target: Path) -> None:
    """Rename `folder` to `target`; a folder that is there is exchanged in the same step and then removed."""
    if not target.exists():
        folder.rename(target)
    elif not _exchange(folder, target):
        # No exchange on this system: for an instant `target` is missing; `recover` mends a kill just then.
        old = target.parent / f"{_OLD_PREFIX}{target.name}"
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
        folder.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    _fsync(target.parent)


def recover(target: Path) -> None:
    """Put back what a process killed between the two renames of `put_in_place` had moved aside."""
    old = target.parent / f"{_OLD_PREFIX}{target.name}"
    if old.is_dir():
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(target)


def remove_stale(parent: Path) -> None:
    """Remove the temporary folders that processes now dead have left in `parent`."""
    for path in parent.glob(f"{STAGING_PREFIX}*"):
        host, _, rest = path.name.removeprefix(STAGING_PREFIX).rpartition("-")[0].rpartition("-")
        try:
            old = time.time() - path.stat().st_mtime > _STALE_AFTER
        except OSError:
            continue  # another process removed it just now
        if old or (host == _host() and rest.isdigit() and not _alive(int(rest))):
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Turn a failure of the operating system, also one that a library has wrapped, into one line."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        raise UserError(_explain(error, where)) from error
    except Exception as error:
        if _FULL.search(str(error)) or _free(where) < 2**16:
            raise UserError(_explain(OSError(errno.ENOSPC, "No space left on device"), where)) from error
        raise


def fsync_tree(folder: Path) -> None:
    """Force the files of `folder`, and the folders' own entries, to the disk."""
    for root, _, names in os.walk(folder):
        for name in names:
            _fsync(Path(root) / name)
        _fsync(Path(root))


_OLD_PREFIX = ".old-"


def _explain(error: OSError, where: Path) -> str:
    # `shutil.Error` has no number, only the texts of several errors.
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or (error.errno is None and _FULL.search(str(error))):
        free = _free(where) / 1e6
        return f"{where}: disk full or file too large ({free:.1f} MB free); free some space and run again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        path = error.filename or where
        return f"{path}: cannot be written ({error.strerror}); choose another folder or change its permissions"
    reason = " ".join(str(error.strerror or error).split())[:200]
    return f"{error.filename or where}: {reason}; nothing was changed, run again once that is mended"


def _free(where: Path) -> int:
    """Bytes free on the file system that `where` lies or would lie on."""
    for path in (where, *where.absolute().parents):
        try:
            return shutil.disk_usage(path).free
        except OSError:
            continue
    return sys.maxsize


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9]", "", platform.node())[:32] or "host"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _fsync(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # some file systems cannot sync folders
            raise
    finally:
        os.close(handle)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step: renameat2(RENAME_EXCHANGE) on Linux, renamex_np(RENAME_SWAP) on macOS."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "darwin":
            code = libc.renamex_np(os.fsencode(one), os.fsencode(other), ctypes.c_uint(2))
        else:
            at_cwd = ctypes.c_int(-100)
            code = libc.renameat2(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), ctypes.c_uint(2))
    except (AttributeError, OSError, TypeError):
        return False
    return bool(code == 0)
