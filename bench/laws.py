"""Laws beside measured points: what should be flat, what should grow in proportion, and how well it does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Line:
    """``a + b * x`` by least squares. `r2`: the share of the variance that it explains, None where there is none."""

    a: float
    b: float
    r2: float | None

    def at(self, x: float) -> float:
        return self.a + self.b * x

    def to_dict(self) -> dict[str, Any]:
        return {"a": self.a, "b": self.b, "r2": self.r2}


def fit(xs: Sequence[float], ys: Sequence[float]) -> Line | None:
    """The line through some points, None for fewer than two different `xs`.

    ``b = sum((x - mx)(y - my)) / sum((x - mx)^2)``, ``a = my - b * mx``, ``r2 = 1 - residual / total`` sum of squares.
    """
    if len(set(xs)) < 2:
        return None
    mx, my = math.fsum(xs) / len(xs), math.fsum(ys) / len(ys)
    b = math.fsum((x - mx) * (y - my) for x, y in zip(xs, ys, strict=True)) / math.fsum((x - mx) ** 2 for x in xs)
    a = my - b * mx
    total = math.fsum((y - my) ** 2 for y in ys)
    residual = math.fsum((y - a - b * x) ** 2 for x, y in zip(xs, ys, strict=True))
    return Line(a, b, 1 - residual / total if total > 0 else None)
