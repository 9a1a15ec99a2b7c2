"""Asking with patience, a memory and a purse: what was answered once is kept on disk and never asked again."""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import json
import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from runtimes.errors import UserError
from train.data.vary.clients import (
    Client,
    Endpoint,
    EndpointError,
    Question,
    RefusedError,
    Reply,
    TransientError,
    address,
)
from train.data.vary.spending import Purse

FORM: Final = 1
"""Of the files in the cache."""


@dataclass(frozen=True)
class Patience:
    """How failures are met. Waits double from `first_s` to `longest_s`, half of each drawn at random."""

    attempts: int = 7
    first_s: float = 1.0
    longest_s: float = 60.0
    told_s: float = 600.0
    """The longest wait that an endpoint may ask for (``Retry-After``)."""


class StoppedError(Exception):
    """The run was stopped while a question waited."""


@dataclass
class Counts:
    """What asking took."""

    asked: int = 0
    """Answers that were bought."""
    remembered: int = 0
    """Answers out of the cache."""
    retries: int = 0
    refused: int = 0


class Answers:
    """Answers on disk, one file each, named by the question and who was asked."""

    def __init__(self, folder: Path, endpoint: Endpoint) -> None:
        self.folder = folder
        self._asked = {"provider": endpoint.provider, "address": address(endpoint), "model": endpoint.model}

    def get(self, question: Question) -> Reply | None:
        """The answer that was kept, or None. A file that cannot be read counts as none."""
        try:
            data = json.loads(self._path(question).read_text(encoding="utf-8"))
            reply = data["reply"]
            return Reply(str(reply["text"]), reply["input_tokens"], reply["output_tokens"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, question: Question, reply: Reply) -> None:
        """Keep an answer; the file is there whole or not at all."""
        path = self._path(question)
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = {"text": reply.text, "input_tokens": reply.input_tokens, "output_tokens": reply.output_tokens}
        text = json.dumps({**self._key(question), "reply": kept}, ensure_ascii=False, indent=1) + "\n"
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
        try:
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _key(self, question: Question) -> dict[str, Any]:
        return {"form": FORM, "asked": self._asked, "question": question.to_dict()}

    def _path(self, question: Question) -> Path:
        text = json.dumps(self._key(question), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        name = hashlib.sha256(text.encode()).hexdigest()
        return self.folder / name[:2] / f"{name}.json"


class Asker:
    """Asks a client, by way of the cache. Threads may share it.

    `sleep`, `now` (seconds since 1970) and `rng` are for tests; by default a wait ends when `stop` is called.
    """

    def __init__(
        self,
        client: Client,
        answers: Answers,
        purse: Purse,
        *,
        patience: Patience | None = None,
        sleep: Callable[[float], None] | None = None,
        now: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        self.purse = purse
        self.counts = Counts()
        self._client = client
        self._answers = answers
        self._patience = patience or Patience()
        self._stopped = threading.Event()
        self._sleep = sleep or self._pause
        self._now = now
        self._rng = rng or random.Random()
        self._lock = threading.Lock()

    def stop(self) -> None:
        """Send nothing more, and end waits."""
        self._stopped.set()

    def ask(self, question: Question) -> str:
        """The answer's text.

        Raises `BudgetError` (the purse is empty), `RefusedError` (this question is not answered), `StoppedError`, and
        `UserError` where the endpoint answers no question, or not for long.
        """
        known = self._answers.get(question)
        if known is not None:
            self._count("remembered")
            return known.text
        reply = self._bought(question)
        self._answers.put(question, reply)
        self._count("asked")
        return reply.text

    def _bought(self, question: Question) -> Reply:
        for attempt in range(self._patience.attempts):
            most = self.purse.reserve(question)
            reply, lost = None, False
            try:
                if self._stopped.is_set():
                    raise StoppedError
                reply = self._client(question)
                return reply
            except TransientError as error:
                lost, failure = error.lost, error
            except RefusedError as error:
                if not self.counts.asked + self.counts.remembered:  # none was ever answered: it is not the question
                    raise self._given_up(f"the endpoint refuses: {error}; check --model and --base-url") from None
                self._count("refused")
                raise
            except EndpointError as error:
                raise self._given_up(f"the endpoint does not answer: {error}; what was bought is kept") from None
            finally:
                self.purse.settle(most, reply, lost=lost)
            if attempt + 1 < self._patience.attempts:
                self._count("retries")
                self._sleep(self._wait(attempt, failure))
        raise self._given_up(
            f"the endpoint failed {self._patience.attempts} times in a row, last: {failure}; run it again later, what "
            "was bought is kept"
        )

    def _wait(self, attempt: int, failure: TransientError) -> float:
        """Seconds until the next attempt: what the endpoint asks for at least, else twice as long each time."""
        with self._lock:
            drawn = self._rng.random()
        longest = min(self._patience.first_s * 2.0**attempt, self._patience.longest_s)
        told = self._told(failure.wait)
        if told is None:
            return longest * (0.5 + 0.5 * drawn)
        if told > self._patience.told_s:
            raise self._given_up(
                f"the endpoint asks to wait {told:.0f} s ({failure}); run it again later, what was bought is kept"
            )
        return told + drawn * min(longest, 1.0)  # not all at once when it opens again

    def _told(self, header: str | None) -> float | None:
        """``Retry-After`` in seconds: a number, or a date (RFC 9110, 10.2.3)."""
        if not header:
            return None
        with contextlib.suppress(ValueError):
            seconds = float(header)
            return max(seconds, 0.0) if seconds == seconds else None
        with contextlib.suppress(ValueError, TypeError):
            return max(email.utils.parsedate_to_datetime(header).timestamp() - self._now(), 0.0)
        return None

    def _given_up(self, message: str) -> UserError:
        """The error that ends the run; other threads send nothing more."""
        self.stop()
        return UserError(message)

    def _pause(self, seconds: float) -> None:
        self._stopped.wait(seconds)

    def _count(self, name: str) -> None:
        with self._lock:
            setattr(self.counts, name, getattr(self.counts, name) + 1)
