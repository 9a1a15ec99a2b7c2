"""What `bench` measured, as far as a card shows it: the one door from `train` to `bench`.

A report is read by its schema, a lift also as the page that `bench lift` makes of it. All else of a card comes from
what training left; nothing in `train` but this module knows `bench`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from bench.accuracy import SCHEMA as ACCURACY
from bench.accuracy import validate as validate_accuracy
from bench.accuracy_cases import ALL
from bench.accuracy_page import where
from bench.lift import SCHEMA as LIFT
from bench.lift import validate as validate_lift
from bench.lift_page import tables as lift_tables
from bench.lift_page import verdict
from bench.report import SCHEMA as REPORT
from bench.report import validate as validate_report
from bench.tables import ms, number, percent, with_interval

__all__ = [
    "ACCURACY",
    "ALL",
    "LIFT",
    "READERS",
    "REPORT",
    "lift_tables",
    "ms",
    "number",
    "percent",
    "verdict",
    "where",
    "with_interval",
]

READERS: Final[dict[str, Callable[[dict[str, Any]], bool]]] = {
    REPORT: validate_report,
    LIFT: validate_lift,
    ACCURACY: validate_accuracy,
}
"""Schema -> what holds a report against it; raises `ValueError`."""
