"""A bench's worker over Core ML on every compute unit, with the reference interpreter in `MLModel`'s place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.folder import write_cases
from bench.worker import Worker
from router.cases import Case
from runtimes import coreml
from tests.coreml_fake import fake_mlmodel, on_a_mac
from tests.exports import Neural

CASES = [Case(name, request) for name, request in (("hall", "light in the hall"), ("bath", "what is on in the bath?"))]


def test_each_unit_answers_and_is_named(neural: Neural, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake: Any = fake_mlmodel(neural.package)
    on_a_mac(monkeypatch, fake)
    cases = str(write_cases(tmp_path / "cases.jsonl", CASES))
    guesses = {"grammar": str(tmp_path / "none.json"), "unconstrained": str(tmp_path / "none.json")}
    (tmp_path / "none.json").write_text("{}")
    answers: dict[str, Any] = {}
    for unit in coreml.compared_devices():
        worker, events = Worker(), list[dict[str, Any]]()
        fake.opened.clear()
        opened = worker.open(
            events.append, folder=str(neural.artifact.folder), runtime="coreml", device=unit, threads=1, cases=cases,
            plugins=[],
        )  # fmt: skip
        assert events == [{"answered": True}]
        assert {units.name for _, units, _ in fake.opened} == {coreml._UNITS[unit][0]}
        events.clear()
        worker.answer(
            events.append, guesses=guesses, always_route=True, reference=None, seconds=600, cut=600, modes=["grammar"]
        )
        answers[opened["device"]] = {event["case"]: event["token_ids"] for event in events}
    assert list(answers) == ["cpu", "cpu+gpu", "cpu+ane", "cpu+gpu+ane"]
    assert all(found == answers["cpu"] and set(found) == {"hall", "bath"} for found in answers.values())
