"""Which artifacts a bench runs on which runtimes, and getting those that are missing."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from bench.machine import describe
from bench.plugins import load_plugins
from bench.process import LOADING_S, Crew, WorkerFailure, WorkerProcess
from bench.records import Settings, Variant
from export.atomic import remove_stale
from export.base import Checkpoint, Quant
from export.merge import recorded_inputs
from export.pipeline import exporter, own_name, quant_of, scheme_of
from export.trim_record import recorded_trim
from runtimes import RUNTIMES, is_emulated, runtime
from runtimes.artifact import Artifact, open_artifact
from runtimes.errors import UserError

REFERENCE = Variant("torch", "safetensors", "fp32", 32)
"""What parity is measured against, on the CPU."""

WORKER = "bench.export_worker"
"""The module of the process that merges and exports."""

Line = Callable[[str, str], None]
"""Told what is being made (a variant's name) and how far it is."""


@dataclass(frozen=True)
class Missing:
    """Why there is no artifact. `unavailable`: this machine cannot make it, rather than making it went wrong."""

    reason: str
    unavailable: bool


Finished = Callable[[str, Artifact | Missing], None]
"""Told what a variant's export came to."""


def choose(settings: Settings, emulated: Literal["always", "named", "never"] = "named") -> list[Variant]:
    """The variants to run, by runtime. Raises `UserError` for an unknown runtime, variant or plugin.

    `--variants` names them, where wanted with a device (``coreml-fp16@ane``); otherwise what each format has for a full
    bench, or with `--quick` one of 32 bits and one of 8 of its defaults.
    `emulated`: whether runtimes that stand in for others are among them, or only if named, or not even then, since
    nothing is told of their times.
    """
    load_plugins(settings.plugins)
    names = settings.runtimes or tuple(RUNTIMES)
    if emulated == "never":
        refused = [name for name in settings.runtimes if is_emulated(name)]
        if refused:
            raise UserError(f"--runtimes {refused[0]}: is emulated, its times mean nothing; leave it out here")
        names = tuple(name for name in names if not is_emulated(name))
    offered: dict[str, Variant] = {}
    for name in dict.fromkeys(names):
        fmt = runtime(name).FORMAT
        quants: dict[str, Quant] = exporter(fmt).QUANTS
        for quant, spec in quants.items():
            variant = Variant(name, fmt, quant, spec.precision)
            offered[variant.name] = variant
    for variant in list(offered.values()):
        offered.setdefault(variant.artifact, variant)
    if settings.variants:
        return list(dict.fromkeys(_named(name, offered, names) for name in settings.variants))
    chosen: list[Variant] = []
    for name in dict.fromkeys(names):
        if not settings.runtimes and emulated == "named" and is_emulated(name):
            continue
        own = list(dict.fromkeys(variant for variant in offered.values() if variant.runtime == name))
        module = exporter(own[0].format)
        if settings.quick:
            usual = [variant for variant in own if variant.quant in module.DEFAULT_QUANTS]
            firsts = [next((v for v in usual if v.precision == bits), None) for bits in (32, 8)]
            chosen += [variant for variant in firsts if variant is not None] or own[:1]
        else:
            full = getattr(module, "BENCH_QUANTS", module.DEFAULT_QUANTS)
            chosen += [variant for variant in own if variant.quant in full]
    return chosen


def on_devices(variants: Iterable[Variant], settings: Settings) -> list[Variant]:
    """The variants of 16 bits and more of runtimes that compare devices once for each device that is here.

    Where a device was asked for, with the variant or for all, it stays at that.
    """
    found: list[Variant] = []
    for variant in variants:
        compared = getattr(runtime(variant.runtime), "compared_devices", None)
        devices: Iterable[str] = ()
        if compared is not None and settings.device == "auto" and not variant.device and variant.precision >= 16:
            devices = compared()
        found += [replace(variant, device=device) for device in devices] or [variant]
    return found


def merge(settings: Settings, log: Path, say: Line) -> tuple[Checkpoint, int | None]:
    """The merged checkpoint of the model and its number of parameters, made in a process of its own."""
    work = settings.cache / "merged"
    with _ended_at_once(work) as crew:
        worker = crew.start("merge", log, module=WORKER, threads=settings.threads)
        try:
            found = worker.call(
                "merge",
                silence=LOADING_S,
                on_event=lambda event: say("merge", event["line"]),
                model=settings.model,
                work=str(work),
                toolset=settings.toolset,
                trim=asdict(settings.trim) if settings.trim else None,
            )
        except WorkerFailure as failure:
            raise UserError(str(failure)) from None
        worker.close()
    checkpoint = Checkpoint(Path(found["folder"]), found["name"], found["sha256"], found["config"])
    return checkpoint, found["parameters"]


def made_from(checkpoint: Checkpoint) -> dict[str, Any]:
    """What a report's entry on a model says of how it was made, as far as it is recorded."""
    known = {"inputs_sha256": recorded_inputs(checkpoint.folder), "trim": recorded_trim(checkpoint.folder)}
    return {key: value for key, value in known.items() if value}


def export(
    checkpoint: Checkpoint,
    variants: Iterable[Variant],
    out: Path,
    settings: Settings,
    logs: Path,
    say: Line,
    finished: Finished,
) -> dict[str, Artifact | Missing]:
    """Every variant's artifact, by name, or why there is none. One process per format, as many at once as cores.

    `say` and `finished` are called from several threads. What interrupts the wait ends the processes at once and
    leaves neither threads nor half-made artifacts behind.
    """
    by_format: dict[str, list[Variant]] = {}
    for variant in {variant.artifact: variant for variant in variants}.values():
        by_format.setdefault(variant.format, []).append(variant)
    cores = int(describe()["cores"])
    results: dict[str, Artifact | Missing] = {}
    pool = ThreadPoolExecutor(max_workers=max(1, min(cores, len(by_format))))
    try:
        with _ended_at_once(out) as crew:
            jobs = [
                pool.submit(
                    _export_format, checkpoint, members, out, settings, logs / f"export-{fmt}.log", say, finished, crew
                )
                # The registry's last formats take longest: begun first, they do not make the others wait at the end.
                for fmt, members in reversed(by_format.items())
            ]
            for job in jobs:
                results.update(job.result())
    finally:
        pool.shutdown(cancel_futures=True)
    return results


@contextmanager
def _ended_at_once(where: Path) -> Iterator[Crew]:
    """A crew that any exception ends, Ctrl-C and SIGTERM too, with what its workers had begun to write in `where`."""
    crew = Crew()
    try:
        yield crew
    except BaseException:
        crew.end()
        remove_stale(where)
        raise


def _export_format(
    checkpoint: Checkpoint,
    variants: list[Variant],
    out: Path,
    settings: Settings,
    log: Path,
    say: Line,
    finished: Finished,
    crew: Crew,
) -> dict[str, Artifact | Missing]:
    """The variants of one format, one after another; a process that dies is started again for the next."""
    results: dict[str, Artifact | Missing] = {}
    worker: WorkerProcess | None = None
    try:
        for variant in variants:
            name = variant.artifact
            state = exporter(variant.format).availability()
            if not state.available and not _is_there(out / name):
                results[name] = Missing(f"cannot be exported here: {state.reason}; {state.fix}", True)
            else:
                if worker is None or not worker.alive:
                    worker = crew.start(f"export-{variant.format}", log, module=WORKER, threads=1)
                results[name] = _export(worker, checkpoint, variant, out, settings, say)
            crew.check()
            finished(name, results[name])
    finally:
        if worker is not None:
            worker.close()
    return results


def _export(
    worker: WorkerProcess, checkpoint: Checkpoint, variant: Variant, out: Path, settings: Settings, say: Line
) -> Artifact | Missing:
    def tell(event: dict[str, Any]) -> None:
        say(variant.artifact, event["line"])

    try:
        found = worker.call(
            "export",
            silence=LOADING_S,
            on_event=tell,
            source={"folder": str(checkpoint.folder), "name": checkpoint.name, "sha256": checkpoint.sha256},
            config=checkpoint.config,
            fmt=variant.format,
            quant=variant.quant,
            out=str(out),
            toolset=settings.toolset,
            created_by=settings.command,
            requests=None if settings.proved is None else list(settings.proved),
            plugins=list(settings.plugins),
        )
        return open_artifact(found["folder"], check="sizes")
    except WorkerFailure as failure:
        return Missing(f"export failed: {failure}", failure.unavailable)


def _is_there(folder: Path) -> bool:
    try:
        open_artifact(folder, check="sizes")
    except UserError:
        return False
    return True


def mixed(runtime_name: str, name: str) -> Variant | None:
    """The variant that a mix is on a runtime, under its one name (`export.mixed`); None where its format lacks it.

    Raises `UserError` for a mistake in a mix that begins as one of this format.
    """
    fmt = runtime(runtime_name).FORMAT
    scheme = scheme_of(fmt)
    quant = name.removeprefix(f"{fmt}-")
    if scheme is None or quant == name or quant.partition("+")[0] not in scheme.bases:
        return None
    quant = own_name(fmt, quant)
    return Variant(runtime_name, fmt, quant, quant_of(fmt, quant).precision)


def _named(name: str, offered: dict[str, Variant], runtimes: Iterable[str]) -> Variant:
    name, _, device = name.partition("@")
    if device:
        return replace(_named(name, offered, runtimes), device=device)
    if name not in offered:
        found = next((made for one in runtimes if (made := mixed(one, name)) is not None), None)
        if found is not None:
            return found
        near = difflib.get_close_matches(name, offered, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"unknown variant {name!r}; there are {', '.join(offered)}{hint}")
    return offered[name]
