"""From a model to artifacts: merge, write, prove, put in place.

An artifact appears under its name only when it is complete: everything is written to a temporary sibling, the
manifest last, and one rename makes it real. The same source, options and exporter code give the artifact that is
there already, after its hashes were checked.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from export import EXPORTERS, exporter, own_name, quant_of, scheme_of
from export.atomic import disk_errors, recover, remove_stale, staged
from export.base import Checkpoint, Quant, Written
from export.checkpoint import count_parameters
from export.merge import merge_checkpoint
from export.proof import make_proof
from export.proof_file import read_header
from export.trim_record import recorded_trim
from router.cases import Case
from router.toolset import Toolset, to_dict
from router.vocabulary_file import keep_vocabulary
from router.wire import WIRES
from runtimes import prover, runtime
from runtimes.artifact import (
    MANIFEST,
    OUTPUT_IDS,
    SCHEMA,
    TOKENIZER,
    TOOLSET,
    Artifact,
    open_artifact,
    sha256_file,
    write_manifest,
)
from runtimes.errors import ArtifactError, UnavailableError, UserError


def export_one(
    source: Checkpoint,
    fmt: str,
    quant: str,
    out: str | Path,
    toolset: Toolset,
    command: str = "",
    *,
    requests: Sequence[str] | None = None,
    cases: Sequence[Case] = (),
    threads: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Artifact:
    """Export `source` as ``out/<fmt>-<quant>`` and prove it; return what is there if it is the same export.

    A mix (`export.mixed`) goes by its one name, however it is spelled. `requests` are proved instead of the ones
    derived from the toolset; of none only that the artifact opens (weights
    that nobody trained make no calls). `cases` are what a format that measures ranges (``MEASURED``) runs instead of
    requests derived from the toolset. Whatever was under that name stays until the
    new artifact is complete. Raises `UserError` (also for a full disk, and where the export misses its tolerance),
    `UnavailableError` where the exporter's packages are missing.
    """
    quant = own_name(fmt, quant)
    module, spec = exporter(fmt), quant_of(fmt, quant)
    state = module.availability()
    if not state.available:
        raise UnavailableError(f"cannot export {fmt}: {state.reason}; {state.fix}")
    why = getattr(module, "NO_OUTPUT_TRIM", "its exporter does not know how")
    if why and source.output_ids is not None:
        raise UnavailableError(f"cannot export {fmt} with fewer output rows alone: {why}; use --trim-form full")
    target = Path(out) / f"{fmt}-{quant}"
    say = progress or (lambda line: None)
    measured = list(cases) if quant in getattr(module, "MEASURED", ()) else []
    key = _key(source, fmt, quant, toolset, requests, measured)
    with disk_errors(target):
        if target.parent.is_dir():
            recover(target)
            remove_stale(target.parent)
        found = _cached(target, key, module.RUNTIME)
        if found is not None:
            say(f"{target} is up to date")
            return found
        _refuse_foreign(target)
        _check_space(source, spec, target)
        with staged(target) as staging:
            say(f"writing {target}")
            extra = {"cases": measured} if measured else {}
            written: Written = module.write(source, staging, quant, toolset, **extra)
            shutil.copyfile(source.folder / TOKENIZER, staging / TOKENIZER)
            keep_vocabulary(staging / TOKENIZER)
            if source.output_ids is not None:
                shutil.copyfile(source.folder / OUTPUT_IDS, staging / OUTPUT_IDS)
            _write_json(staging / TOOLSET, to_dict(toolset))
            manifest = _manifest(source, fmt, quant, spec, toolset, written, key, command)
            say(f"proving {target}")
            make_proof(source, Artifact(staging, manifest), spec, module.RUNTIME, toolset, requests, threads=threads)
            manifest["files"] = _files(staging)
            write_manifest(staging, manifest)
    return open_artifact(target, check="sizes")


def wire_name(tokenizer: Path) -> str:
    """The wire format whose control tokens `tokenizer.json` has. Raises `UserError` if it has none's."""
    from tokenizers import Tokenizer

    try:
        loaded = Tokenizer.from_file(str(tokenizer))
    except Exception as error:  # tokenizers raises bare Exception
        raise UserError(f"{tokenizer}: not a tokenizer.json ({error})") from None
    for name, wire in WIRES.items():
        if all(loaded.token_to_id(token) is not None for token in wire.control_tokens):
            return name
    first = next(iter(WIRES.values()))
    missing = next(token for token in first.control_tokens if loaded.token_to_id(token) is None)
    raise UserError(f"{tokenizer}: no token {missing!r}; use a base whose tokenizer has FunctionGemma's control tokens")


def _key(
    source: Checkpoint,
    fmt: str,
    quant: str,
    toolset: Toolset,
    requests: Sequence[str] | None,
    measured: Sequence[Case] = (),
) -> str:
    """Names an export: the content that goes in, the options, and the code that makes it."""
    here = Path(__file__).resolve().parent
    shared = (here / "base.py", here / "mixed.py", here / "pipeline.py")
    code = sorted([*here.glob(f"{fmt}*.py"), *here.glob("proof*.py"), *shared])
    parts = [
        fmt,
        quant,
        source.sha256,
        source.name,
        toolset.sha256,
        json.dumps(list(requests) if requests is not None else None),
        json.dumps([case.to_dict() for case in measured]),
        json.dumps(recorded_trim(source.folder)),
        *(f"{sha256_file(path)} {path.name}" for path in code),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _cached(target: Path, key: str, runtime_name: str) -> Artifact | None:
    """The artifact at `target` if it is this export, whole, and proved as well as this machine can."""
    try:
        found = open_artifact(target)
        if found.manifest.get("key") != key:
            return None
        met = read_header(found).met
    except (ArtifactError, OSError):
        return None
    names = {runtime_name, prover(found.format)}
    return found if met or not any(runtime(name).availability().available for name in names) else None


def _refuse_foreign(target: Path) -> None:
    if target.exists() and not (target / MANIFEST).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target}: is there and is not an artifact; remove it or choose another folder with --out")


def _check_space(source: Checkpoint, spec: Quant, target: Path) -> None:
    """Fail before the work, not after it, where the weights alone cannot fit."""
    target.parent.mkdir(parents=True, exist_ok=True)
    weights = sum(path.stat().st_size for path in source.folder.glob("*.safetensors"))
    need, free = weights * spec.precision // 32, shutil.disk_usage(target.parent).free
    if free < need:
        raise UserError(
            f"{target}: disk full: needs about {need / 1e6:.1f} MB, {free / 1e6:.1f} MB are free; "
            "free some space and run again"
        )


def _manifest(
    source: Checkpoint, fmt: str, quant: str, spec: Quant, toolset: Toolset, written: Written, key: str, command: str
) -> dict[str, Any]:
    trim = recorded_trim(source.folder)
    return {
        "schema": SCHEMA,
        "format": fmt,
        "quant": quant,
        "precision": spec.precision,
        "dtype": spec.dtype,
        "weights": written.weights,
        "wire": wire_name(source.folder / TOKENIZER),
        "context_length": int(written.details.get("context_length", source.context_length)),
        "vocab_size": source.vocab_size,
        "source": {
            "name": source.name,
            "sha256": source.sha256,
            "parameters": count_parameters(source.folder),
        },
        **({"trim": trim} if trim else {}),
        "toolset": {"name": toolset.name, "sha256": toolset.sha256},
        "key": key,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "versions": {"edgecall": _version(), "python": platform.python_version(), **written.versions},
        "details": written.details,
        "files": [],
    }


def _files(folder: Path) -> list[dict[str, Any]]:
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    return [
        {"path": p.relative_to(folder).as_posix(), "bytes": p.stat().st_size, "sha256": sha256_file(p)} for p in paths
    ]


def _version() -> str:
    try:
        return version("edgecall")
    except PackageNotFoundError:
        return "not installed"


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


__all__ = ["EXPORTERS", "export_one", "exporter", "merge_checkpoint", "own_name", "quant_of", "scheme_of", "wire_name"]
