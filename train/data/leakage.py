"""Whether a test set leaks into training: the same request, or the same once case, marks and spaces are gone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from router.cases import Case

_STOP: Final = frozenset(
    "a an the this that these those my our your his her its their i we you he she it they me us them to of in on at "
    "for from with by about into over and or but so is are was were be been do does did have has had can could will "
    "would shall should may might must please just now then there here some any all".split()
)


@dataclass(frozen=True)
class Leak:
    """A test case and the training case that gives it away."""

    kind: str
    test_id: str
    train_id: str
    text: str


def normalised(text: str) -> str:
    """Lower case, letters and digits only, single spaces."""
    return " ".join(re.sub(r"[^\w]+|_", " ", text.lower()).split())


def bare(text: str) -> str:
    """Normalised text without its stop words."""
    return " ".join(word for word in normalised(text).split() if word not in _STOP)


def find_leaks(train: Iterable[Case], test: Sequence[Case]) -> list[Leak]:
    """Every exact and normalised repetition of a test request among the training requests."""
    exact = {c.user: c.id for c in test}
    loose = {normalised(c.user): c.id for c in test}
    leaks = []
    for case in train:
        if case.user in exact:
            leaks.append(Leak("exact", exact[case.user], case.id, case.user))
        elif normalised(case.user) in loose:
            leaks.append(Leak("normalised", loose[normalised(case.user)], case.id, case.user))
    return leaks
