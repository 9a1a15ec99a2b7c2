"""The string formats that a schema may name, each as one regular expression that grammar and validation share.

Written without look-around and back-references, which the grammar's automata cannot have. They are shapes, not
calendars: 30 February is a ``date``, so that whatever the grammar lets through is also valid.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Final

_DATE: Final = r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
_TIME: Final = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
_OFFSET: Final = r"(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
_OCTET: Final = r"(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_LABEL: Final = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"

FORMATS: Final[dict[str, str]] = {
    "date": _DATE,
    "time": rf"{_TIME}(\.[0-9]{{1,6}})?{_OFFSET}?",
    "date-time": rf"{_DATE}T{_TIME}(\.[0-9]{{1,6}})?{_OFFSET}?",
    "email": rf"[A-Za-z0-9_%+-]+(\.[A-Za-z0-9_%+-]+)*@{_LABEL}(\.{_LABEL})+",
    "hostname": rf"{_LABEL}(\.{_LABEL})*",
    "ipv4": rf"{_OCTET}(\.{_OCTET}){{3}}",
    "uri": r"[A-Za-z][A-Za-z0-9+.-]*:[!#$%&'()*+,/0-9:;=?@A-Z_a-z~\[\].-]+",
    "uuid": r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
}
"""Format name -> regular expression for the whole string. Times are RFC 3339's with the offset left optional."""


@cache
def format_pattern(name: str) -> re.Pattern[str]:
    """The compiled expression of a known format; use `fullmatch`."""
    return re.compile(FORMATS[name])
