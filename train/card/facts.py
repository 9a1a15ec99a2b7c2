"""What a card says, read from the files that the runs left and held against each other.

Nothing is made up for what is missing: `read_facts` raises one `UserError` that names everything that is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from export.checkpoint import MODELS, Parts, count_parameters, count_weights, find_base, flat_config, read_json
from export.merge import inputs_sha256
from runtimes.errors import UserError
from train.card.accuracy import Accuracy, read_accuracy
from train.card.files import read_log, read_object
from train.card.measured import LIFT, READERS, REPORT
from train.card.prose import Prose, read_prose
from train.data.importers import NAMES

_HUB: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_SNAPSHOT: Final = re.compile(r"models--([\w.-]+?)--([\w.-]+)/snapshots/")
"""Where huggingface_hub keeps what it downloaded: ``models--<owner>--<name>/snapshots/<commit>``."""

_TRAINING: Final = (
    "toolset.name", "toolset.sha256", "data.train", "data.dev", "data.sha256", "config.recipe", "config.rank",
    "config.alpha", "config.targets", "config.epochs", "config.dropout", "config.rows_per_step", "config.row_tokens",
    "config.seed", "config.loop.steps", "config.loop.learning_rate", "config.loop.warmup",
    "config.loop.weight_decay", "config.loop.device", "best.step", "best.validation",
)  # fmt: skip
_DATA: Final = ("train.rows", "train.by_tool", "train.sha256", "dev.by_tool", "corpora", "against")
_STAGE: Final = ("name", "steps", "learning_rate", "text", "weights", "recipes", "rows_per_step", "row_tokens", "seed")


@dataclass(frozen=True)
class Base:
    """A base: its hub name or folder, and what `train base` left there. `folder` is None where it is not here."""

    name: str
    hub: str | None
    folder: Path | None
    config: dict[str, Any] | None
    parameters: int | None
    stages: dict[str, Any] | None
    """``stages.json``; None for a base that edgecall has not trained."""
    pictures: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Adapter:
    """An adapter's folder with its records and what measured it: a report, an accuracy report or both; and its lift."""

    name: str
    folder: Path
    peft: dict[str, Any]
    weights: int
    training: dict[str, Any]
    log: tuple[dict[str, Any], ...]
    data: dict[str, Any]
    prose: Prose
    report: dict[str, Any] | None
    lift: dict[str, Any] | None
    accuracy: Accuracy | None = None


@dataclass(frozen=True)
class Facts:
    """All that a card is made from. `alone`: the card is that of its only adapter, not of a folder with a base.

    Without adapters it is that of a base.
    """

    name: str
    folder: Path
    base: Base
    adapters: tuple[Adapter, ...]
    prose: Prose
    alone: bool


def read_facts(
    model: Path, reports: Sequence[Path], lifts: Sequence[Path], accuracy: Path | None = None
) -> Facts:  # fmt: skip
    """Read and check everything. Raises `UserError` naming all that is missing or does not fit, in one line."""
    folder = model if model.is_dir() or not (MODELS / str(model)).is_dir() else MODELS / str(model)
    if not folder.is_dir():
        raise UserError(f"{model}: no such folder; give an adapter's, or one with base/ and adapter-<toolset>/")
    problems: list[str] = []
    prose = read_prose(folder)
    alone = (folder / "adapter_config.json").is_file()
    folders = [folder] if alone else sorted(p for p in folder.glob("adapter-*") if p.is_dir())
    bare = not folders and (folder / "stages.json").is_file()
    if not folders and not bare:
        raise UserError(
            f"{folder}: neither adapter_config.json nor adapter-*/ nor stages.json here; give an adapter, a model "
            "folder or a base"
        )
    if bare:
        base = _base(folder, folder.name, problems, trained_here=True)
    else:
        base = _base_beside(folder, problems) if alone else _base_in(folder, problems)
    found = [(path, _checked(path, REPORT, problems)) for path in reports]
    compared = [(path, _checked(path, LIFT, problems)) for path in lifts]
    measured = {p: r for p, r in found if r is not None}
    lifted = {p: r for p, r in compared if r is not None}
    judged = read_accuracy(accuracy, problems) if accuracy else {}
    adapters = [_adapter(f, base, alone, measured, lifted, judged, problems) for f in folders]
    known = {adapter.training["toolset"]["name"] for adapter in adapters if adapter}
    for path, report in (measured | lifted).items():
        if None not in adapters and report["toolset"] not in known:
            problems.append(f"{path} is about toolset {report['toolset']!r}, which no adapter here was trained for")
    if problems:
        raise UserError(f"{folder}: no card without these: {'; '.join(dict.fromkeys(problems))}")
    return Facts(folder.resolve().name, folder, base, tuple(a for a in adapters if a), prose, alone)


def _adapter(
    folder: Path,
    base: Base,
    alone: bool,
    reports: dict[Path, dict[str, Any]],
    lifts: dict[Path, dict[str, Any]],
    accuracies: dict[str, Accuracy],
    problems: list[str],
) -> Adapter | None:
    """One adapter; takes its report, lift and accuracy out of those given. None where something is missing."""
    before = len(problems)
    peft = read_object(folder / "adapter_config.json", (), "it is no PEFT adapter", problems)
    training = read_object(folder / "training.json", _TRAINING, "`edgecall train lora` writes it", problems)
    log = read_log(folder / "log.jsonl", problems)
    hint = "`edgecall train lora` writes it; for an older adapter take report.json of `edgecall data build`"
    data = read_object(folder / "data.json", _DATA, hint, problems)
    weights = folder / "adapter_model.safetensors"
    if not weights.is_file():
        problems.append(f"{weights} is missing")
    if training is not None and data is not None:
        if data["train"]["sha256"] != training["data"]["sha256"]:
            problems.append(f"{folder / 'data.json'} counts other rows than training.json was trained on (sha256)")
        for source in set(data["corpora"]) - set(NAMES):
            problems.append(f"{folder / 'data.json'} names the source {source!r}, of which no licence is known")
    report = lift = accuracy = None
    if training is not None:
        accuracy = accuracies.get(training["toolset"]["name"])
        if accuracy and accuracy.entry["toolset_sha256"] != training["toolset"]["sha256"]:
            problems.append(_another(accuracy.path, training["toolset"], folder))
        report, lift = (_of(offered, training["toolset"], folder, problems) for offered in (reports, lifts))
        if report is None and accuracy is None and len(problems) == before:
            problems.append(
                f"no --report about toolset {training['toolset']['name']!r} (`bench all-runtimes` makes one)"
            )
    models = [report[1]["model"]] if report else []
    models += [accuracy.entry["model"]] if accuracy else []
    if base.folder is not None and base.parameters is not None and len(problems) == before:
        for measured in models:
            _same_model(measured, Parts(folder.name, base.folder, folder), base, problems)
    if report and lift and lift[1]["tuned"]["model"]["sha256"] != report[1]["model"]["sha256"]:
        problems.append(f"{lift[0]} compares another model than {report[0]} measured; run `bench lift` again")
    if len(problems) > before or not (peft and training and log and data and (report or accuracy)):
        return None
    prose = Prose() if alone else read_prose(folder)
    content, pair = (found[1] if found else None for found in (report, lift))
    return Adapter(
        folder.name, folder, peft, count_weights(weights), training, log, data, prose, content, pair, accuracy
    )  # fmt: skip


def _of(
    offered: dict[Path, dict[str, Any]], toolset: dict[str, Any], folder: Path, problems: list[str]
) -> tuple[Path, dict[str, Any]] | None:
    """The one report (or lift) among those offered that is about a toolset; None where none is."""
    named = [(p, r) for p, r in offered.items() if r["toolset"] == toolset["name"]]
    if len(named) > 1:
        problems.append(f"{named[0][0]} and {named[1][0]} are both about {toolset['name']}: give one")
    elif named and named[0][1]["toolset_sha256"] != toolset["sha256"]:
        problems.append(_another(named[0][0], toolset, folder))
    elif named:
        return named[0]
    return None


def _another(path: Path, toolset: dict[str, Any], folder: Path) -> str:
    return f"{path} is about another {toolset['name']} than {folder} was trained on (toolset_sha256)"


def _same_model(model: dict[str, Any], parts: Parts, base: Base, problems: list[str]) -> None:
    """A report about a `model` made from other weights than these is none of theirs."""
    if "inputs_sha256" in model and model["inputs_sha256"] != inputs_sha256(parts):
        problems.append(f"the report measured other weights than {parts.base} with {parts.adapter}; bench them again")
    elif "trim" in model:
        problems.append("the report measured the model with a trimmed vocabulary; bench it without --trim-vocab")
    elif model["parameters"] not in (None, base.parameters):
        problems.append(
            f"the report measured {model['parameters']:,} weights, {parts.base} has {base.parameters:,}; bench it again"
        )


def _base_in(folder: Path, problems: list[str]) -> Base:
    """The base of a model folder: a folder in it with all its records, or a hub name in ``model.json``."""
    described = read_json(folder / "model.json") if (folder / "model.json").is_file() else {}
    named = str(described.get("base", "base"))
    if not (folder / named).is_dir() and _HUB.fullmatch(named):
        return Base(named, named, None, None, None, None)
    path = folder / named
    if not path.is_dir():
        problems.append(f"{path}/ is missing")
        return Base(named, None, None, None, None, None)
    return _base(path, named, problems, trained_here=True)


def _base_beside(adapter: Path, problems: list[str]) -> Base:
    """The base that an adapter names: here, or on the hub."""
    named = str(read_json(adapter / "adapter_config.json").get("base_model_name_or_path") or "")
    found = _SNAPSHOT.search(f"{Path(named).as_posix()}/")
    hub = f"{found[1]}/{found[2]}" if found else None
    path = find_base(adapter, named)
    if path is not None:
        return _base(path, hub or path.name, problems, hub=hub)
    if hub is None and _HUB.fullmatch(named):
        hub = named
    if hub is None:
        problems.append(f"the base {named!r} of {adapter / 'adapter_config.json'} is not here, and no hub name")
    return Base(hub or named, hub, None, None, None, None)


def _base(
    path: Path, name: str, problems: list[str], *, hub: str | None = None, trained_here: bool = False
) -> Base:  # fmt: skip
    config = read_object(path / "config.json", (), "it is no checkpoint", problems)
    if config is not None:
        try:
            config = {**flat_config(config, path), "dtype": config.get("dtype") or config.get("torch_dtype")}
        except UserError as error:
            problems.append(str(error))
    stages = None
    if trained_here or (path / "stages.json").is_file():
        hint = "give `edgecall train base` its configuration and folder again: it writes it and trains nothing anew"
        stages = read_object(path / "stages.json", ("sources", "stages"), hint, problems)
        for number, stage in enumerate(stages["stages"] if stages else ()):
            problems += [f"{path / 'stages.json'} lacks {k!r} in stage {number}" for k in _STAGE if k not in stage]
        for source in set(stages["sources"] if stages else ()) - set(NAMES):
            problems.append(f"{path / 'stages.json'} names the source {source!r}, of which no licence is known")
    parameters = None
    if any(path.glob("model*.safetensors")):
        parameters = count_parameters(path)
    else:
        problems.append(f"{path}/model*.safetensors is missing")
    return Base(name, hub, path, config, parameters, stages, _pictures(path, stages))


def _pictures(path: Path, stages: dict[str, Any] | None) -> tuple[Path, ...]:
    """Loss curves in the order of the stages (``loss-<stage>.png``); those of no stage first."""
    order = [f"loss-{stage['name']}.png" for stage in (stages or {"stages": ()})["stages"] if "name" in stage]
    found = sorted(path.glob("loss*.png"), key=lambda p: (len(p.name), p.name))
    return tuple(sorted(found, key=lambda p: order.index(p.name) if p.name in order else -1))


def _checked(path: Path, schema: str, problems: list[str]) -> dict[str, Any] | None:
    """A report that holds to its schema."""
    report = read_object(path, ("schema", "toolset", "toolset_sha256"), f"a report ({schema}) is expected", problems)
    if report is None:
        return None
    if report["schema"] != schema:
        problems.append(f"{path} is {report['schema']!r}, expected {schema!r}")
        return None
    try:
        READERS[schema](report)
    except ValueError as error:
        problems.append(f"{path}: {' '.join(str(error).split())}")
        return None
    if schema == REPORT and not any(run["accuracy"] for run in report["runs"]):
        problems.append(f"{path} has no run with an accuracy; run `bench all-runtimes` again")
        return None
    return report
