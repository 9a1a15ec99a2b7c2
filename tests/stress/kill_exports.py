"""Kill exports at random moments and look at what they leave: ``python -m tests.stress.kill_exports --n 200``.

Each export runs in a forked process (the libraries are loaded once) and gets SIGKILL after a random part of the time
that it needs. Into an empty folder a killed export must leave nothing that loads; over an older artifact it must
leave that one or the new one, whole. Runs on POSIX systems.
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from export.base import Checkpoint
from export.merge import merge_checkpoint
from export.pipeline import export_one
from router.toolset import Toolset
from runtimes.artifact import open_artifact
from runtimes.errors import ArtifactError, UserError

REQUESTS = ("please on", "hello")


@dataclass
class Tally:
    """What the kills met, for the report; a broken promise raises `AssertionError` at once."""

    kills: int = 0
    finished: int = 0
    leftovers: int = 0
    by_variant: dict[str, int] = field(default_factory=dict)


def kill_many(
    source: Checkpoint,
    toolsets: tuple[Toolset, Toolset],
    variants: Sequence[tuple[str, str]],
    folder: Path,
    *,
    n: int,
    seed: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> Tally:
    """`n` kills over `variants` in turn: a third into an empty folder, a third over an older artifact, a third while
    the model is merged. `toolsets` are two that differ, to make two artifacts of one name."""
    chance, tally = random.Random(seed), Tally()
    needed: dict[str, float] = {}
    number = 0
    while tally.kills < n:
        fmt, quant = variants[number % len(variants)]
        way = ("empty", "over", "merge")[number // len(variants) % 3]
        out = folder / f"{number}"
        number += 1

        def work(way: str = way, out: Path = out, fmt: str = fmt, quant: str = quant) -> None:
            if way == "merge":
                merge_checkpoint(source.folder, out)
            else:
                _export(source, fmt, quant, out, toolsets[0])

        name = "merge" if way == "merge" else f"{fmt}-{quant}"
        if name not in needed:
            needed[name] = _time(work, out)
            shutil.rmtree(out)
        if way == "over":
            assert not _run(lambda out=out, f=fmt, q=quant: _export(source, f, q, out, toolsets[1]), 600)
        start = time.monotonic()
        killed = _run(work, chance.uniform(0, 1.05 * needed[name]))
        if not killed:
            needed[name] = time.monotonic() - start  # a busy machine changes its pace
        tally.finished += not killed
        tally.kills += killed
        tally.by_variant[name] = tally.by_variant.get(name, 0) + killed
        tally.leftovers += len(list(out.glob(".tmp-*"))) if out.exists() else 0
        if way == "merge":
            again = merge_checkpoint(source.folder, out)
            assert again.sha256 == source.sha256, out
            names = [again.folder.name]
        else:
            _look(out, name, older=way == "over")
            assert not _run(work, 600), f"the export after a kill into {out} did not end"
            assert open_artifact(out / name).manifest["toolset"]["sha256"] == toolsets[0].sha256
            names = [name]
        assert sorted(p.name for p in out.iterdir()) == names, f"the next run leaves the leftovers in {out}"
        shutil.rmtree(out)
        say(f"{tally.kills}/{n} kills, {tally.finished} finished first, {tally.leftovers} leftovers removed")
    return tally


def _export(source: Checkpoint, fmt: str, quant: str, out: Path, toolset: Toolset) -> None:
    export_one(source, fmt, quant, out, toolset, requests=REQUESTS, threads=1)


def _look(out: Path, name: str, *, older: bool) -> None:
    """Every folder in `out` is an artifact under its own name and whole, or does not load."""
    for path in [p for p in out.rglob("*") if p.is_dir()] if out.exists() else []:
        try:
            open_artifact(path)
        except ArtifactError as error:
            assert "\n" not in str(error)
            assert path.name != name, f"half-written: {error}"
        else:
            assert path.name == name, f"{path} loads"
    if older:
        assert open_artifact(out / name), "the older artifact is gone"


def _time(work: Callable[[], None], out: Path) -> float:
    start = time.monotonic()
    assert not _run(work, 600), f"the export into {out} did not end"
    return time.monotonic() - start


def _run(work: Callable[[], None], seconds: float) -> bool:
    """Run `work` in a forked process and kill it after `seconds`; whether it was killed before its end."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except UserError as error:
            print(error, file=sys.stderr)
            os._exit(2)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0, "the export failed by itself"
            return False
        time.sleep(min(0.002, seconds))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) != 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=200, help="how many exports to kill (default 200)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variants", default="safetensors-fp32,gguf-q8_0,onnx-int8,mlx-4bit", help="what to export")
    options = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"

    import torch

    torch.set_num_threads(1)
    for library in ("transformers.models.gemma3", "gguf", "llama_cpp", "onnxruntime", "optimum.exporters.onnx"):
        with suppress(ImportError):
            importlib.import_module(library)  # once here, not in every process; mlx starts threads and cannot fork

    from tests.tiny import LIGHTS, ONE_LIGHT, tiny_checkpoint

    variants = [tuple(v.split("-", 1)) for v in options.variants.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        tiny = tiny_checkpoint(Path(folder) / "tiny")
        source = merge_checkpoint(tiny.folder, Path(folder) / "work")
        tally = kill_many(
            source, (LIGHTS, ONE_LIGHT), variants, Path(folder) / "out", n=options.n, seed=options.seed,
            say=lambda line: print(f"\r{line}", end="", flush=True),
        )  # fmt: skip
    print(f"\n{tally.kills} exports killed, nothing half-written loads: {tally.by_variant}")


if __name__ == "__main__":
    main()
