"""Whether a test set leaks into training: the same request, or the same once case, marks and spaces are gone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from router.cases import Case

_STOP: Final = frozenset(
    "a an the this that these those my our your his her its their i we you he she it they me us them to of in on at "
    "for from with by about into over and or but so is are was were be been do does did have has had can could will "
    "would shall should may might must please just now then there here some any all".split()
)


_JOINT: Final = " + "
_NAME: Final = re.compile(r"^[\w-]+: ")
"""What a case's template begins with: the name of its pattern."""


@dataclass(frozen=True)
class Leak:
    """A test case (or the pattern that its template is of) and the training case that gives it away."""

    kind: str
    test_id: str
    train_id: str
    text: str


class Sieve:
    """What a split's rows may not repeat: requests (their case aside) and wordings. Grows with what it forbids only."""

    def __init__(self) -> None:
        self._texts: set[str] = set()
        self._wordings: set[str] = set()

    def forbid(self, user: str, wordings: Iterable[str] = ()) -> None:
        """No later row may say `user`, nor have one of `wordings`; an empty wording is nobody's."""
        self._texts.add(user.lower())
        self._wordings.update(wording for wording in wordings if wording)

    def join(self, other: Sieve) -> None:
        """Forbid what `other` forbids too."""
        self._texts |= other._texts
        self._wordings |= other._wordings

    def passes(self, user: str, wordings: Iterable[str]) -> bool:
        """Whether a row with this request (as written) and these wordings (see `phrasing.wording`) repeats nothing."""
        return user.lower() not in self._texts and self._wordings.isdisjoint(wordings)


def normalised(text: str) -> str:
    """Lower case, letters and digits only, single spaces."""
    return " ".join(re.sub(r"[^\w]+|_", " ", text.lower()).split())


def bare(text: str) -> str:
    """Normalised text without its stop words."""
    return " ".join(word for word in normalised(text).split() if word not in _STOP)


def find_leaks(train: Iterable[Case], test: Sequence[Case]) -> list[Leak]:
    """Every exact and normalised repetition of a test request among the training requests."""
    held = HeldOut.of(test)
    return [leak for case in train if (leak := held.leak(case))]


@dataclass
class HeldOut:
    """What training must not show: held-out requests, the test side's templates, and where a recipe is strict what they
    say."""

    exact: dict[str, str] = field(default_factory=dict)
    """Request -> id of the test case."""
    loose: dict[str, str] = field(default_factory=dict)
    """Normalised request -> id."""
    templates: dict[str, str] = field(default_factory=dict)
    """Text of a template -> what has it: a pattern, or the id of a test case."""
    wordings: dict[str, str] = field(default_factory=dict)
    """What a template says, slots and stop words aside -> id."""

    @classmethod
    def of(cls, test: Iterable[Case]) -> HeldOut:
        """The requests of some cases; their templates are not held."""
        held = cls()
        for case in test:
            held.hold(case.id, case.user)
        return held

    def hold(self, test_id: str, user: str) -> None:
        """Training must not show the request `user` of the case `test_id`, nor one that is the same normalised."""
        self.exact[user] = self.loose[normalised(user)] = test_id

    def leak(self, case: Case) -> Leak | None:
        """How a training case gives a test case away, judged by its text and its template."""
        if case.user in self.exact:
            return Leak("exact", self.exact[case.user], case.id, case.user)
        if (text := normalised(case.user)) in self.loose:
            return Leak("normalised", self.loose[text], case.id, case.user)
        for template in _texts(case.template or ""):
            if template in self.templates:
                return Leak("template", self.templates[template], case.id, template)
        return None

    def said(self, train_id: str, wordings: Iterable[str]) -> Leak | None:
        """The same for the wordings of a row, which are known while it is made."""
        for wording in wordings:
            if wording in self.wordings:
                return Leak("wording", self.wordings[wording], train_id, wording)
        return None


def _texts(template: str) -> Iterator[str]:
    """The text of a template, and of every template that it may be joined of, without the names of their patterns.

    `` + `` joins templates, and one's own text may hold it too: so every run of pieces between two of them is tried.
    """
    cuts = [found.start() for found in re.finditer(re.escape(_JOINT), template)]
    for start in (0, *(cut + len(_JOINT) for cut in cuts)):
        for end in (*cuts, len(template)):
            if start < end:
                yield _NAME.sub("", template[start:end])
