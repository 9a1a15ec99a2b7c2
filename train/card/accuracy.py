"""What an accuracy report (`bench accuracy`) says of the adapters of a card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.card.files import read_object
from train.card.measured import ACCURACY, READERS


@dataclass(frozen=True)
class Accuracy:
    """One toolset's entry of an accuracy report."""

    path: Path
    report: dict[str, Any]
    entry: dict[str, Any]


def read_accuracy(path: Path, problems: list[str]) -> dict[str, Accuracy]:
    """Toolset -> what was measured of its adapter; toolsets without figures, and bases alone, are left out."""
    report = read_object(path, ("schema", "toolsets"), f"a report ({ACCURACY}) is expected", problems)
    if report is None:
        return {}
    if report["schema"] != ACCURACY:
        problems.append(f"{path} is {report['schema']!r}, expected {ACCURACY!r}")
        return {}
    try:
        READERS[ACCURACY](report)
    except ValueError as error:
        problems.append(f"{path}: {' '.join(str(error).split())}")
        return {}
    measured = [entry for entry in report["toolsets"] if entry["status"] == "measured" and entry["adapter"]]
    return {entry["toolset"]: Accuracy(path, report, entry) for entry in measured}
