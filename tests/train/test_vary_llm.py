"""Variation by a language model, against a local server that misbehaves. Nothing here sleeps: waits are recorded."""

from __future__ import annotations

import email.utils
import json
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.cases import Case, load_cases
from router.toolset import Call, Schema, Tool, Toolset
from runtimes.errors import UserError
from tests.train.test_vary_rules import command
from train.data.vary.asking import Answers, Asker, Patience, StoppedError
from train.data.vary.clients import Endpoint, Question, Reply, open_client
from train.data.vary.llm import Asking
from train.data.vary.prompts import read_calls, read_requests
from train.data.vary.run import Plan, vary_cases, write_cases
from train.data.vary.spending import BudgetError, Price, Purse, price_of

pytest.importorskip("openai", reason="the openai client is not installed (extra: data)")
pytest.importorskip("anthropic", reason="the anthropic client is not installed (extra: data)")

BOX = Toolset("box", (Tool("find", "Find", Schema("object", properties={"query": Schema("string")})),))
PRICE = Price(1000.0, 2000.0)
"""A tenth of a cent for a token read: budgets in whole dollars."""


def make_cases(count: int) -> list[Case]:
    return [Case(f"c{n}", f"find topic{n}", calls=(Call("find", {"query": f"topic{n}"}),)) for n in range(count)]


@dataclass(frozen=True)
class Say:
    """What the server does with one question: status, body, headers; `cut` closes the connection half way."""

    body: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False


@dataclass
class Model:
    """A stand-in for a model: `answer` gives the text, `first` what happens to the first requests instead."""

    answer: Callable[[str, str], str]
    first: list[Say] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    meet: threading.Barrier | None = None
    """Where two questions wait for each other, which they do only if both are under way."""
    under_way: int = 0
    most_under_way: int = 0
    usage: bool = True
    lock: threading.Lock = field(default_factory=threading.Lock)
    url: str = ""

    def say(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> Say:
        with self.lock:
            self.paths.append(path)
            self.asked.append(body)
            self.headers.append(headers)
            if self.first:
                return self.first.pop(0)
        if path.endswith("/chat/completions"):
            system, user = (message["content"] for message in body["messages"])
            text = self.answer(system, user)
            usage = {"prompt_tokens": 100, "completion_tokens": len(text.split())}
            data: dict[str, Any] = {"choices": [{"message": {"role": "assistant", "content": text}}]}
        else:
            text = self.answer(body["system"], body["messages"][0]["content"])
            usage = {"input_tokens": 60, "cache_read_input_tokens": 40, "output_tokens": len(text.split())}
            data = {"content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": text}]}
        return Say(json.dumps(data | ({"usage": usage} if self.usage else {})))

    def questions(self) -> list[dict[str, Any]]:
        """The bodies of the requests for variations, without those that check one."""
        users = [body["messages"][-1]["content"] for body in self.asked]
        return [json.loads(user) for user in users if user.startswith("{")]


def polite(system: str, user: str) -> str:
    """Writes what it is asked for, and derives the right calls."""
    if not user.startswith("{"):
        topic = next(word for word in user.split() if word.startswith("topic"))
        return json.dumps({"calls": [{"name": "find", "arguments": {"query": topic}}]})
    asked = json.loads(user)
    done = len(asked.get("already written", []))
    keep = " ".join(asked["keep"])
    return json.dumps({"requests": [f"number {done + n} of {keep} please" for n in range(asked["write"])]})


@pytest.fixture()
def serve() -> Iterator[Callable[[Model], Model]]:
    servers: list[ThreadingHTTPServer] = []

    def start(model: Model) -> Model:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with model.lock:
                    model.under_way += 1
                    model.most_under_way = max(model.most_under_way, model.under_way)
                if model.meet is not None:
                    model.meet.wait(30)
                said = model.say(self.path, body, {k.lower(): v for k, v in self.headers.items()})
                data = said.body.encode()
                with model.lock:
                    model.under_way -= 1
                self.send_response(said.status)
                for name, value in {"Content-Type": "application/json", **said.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data[: len(data) // 2] if said.cut else data)
                self.close_connection = said.cut

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        model.url = f"http://127.0.0.1:{server.server_port}"
        return model

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@dataclass
class Run:
    """Asking set up as a test wants it."""

    asker: Asker
    waits: list[float]


def set_up(
    model: Model, folder: Path, *, provider: str = "openai", cap: float | None = None, now: float = 0.0, **patience: Any
) -> Run:
    base = model.url + ("/v1" if provider == "openai" else "")
    endpoint = Endpoint(provider, "stand-in", base)
    waits: list[float] = []
    asker = Asker(
        open_client(endpoint),
        Answers(folder, endpoint),
        Purse(PRICE, cap),
        patience=Patience(**patience),
        sleep=waits.append,
        now=lambda: now,
        rng=random.Random(0),
    )
    return Run(asker, waits)


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_BASE_URL", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-hidden")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-hidden")


def texts(cases: list[Case]) -> list[str]:
    return [case.user for case in cases]


def plan(per_case: int = 2, *, check: bool = False, threads: int = 1) -> Plan:
    return Plan(per_case=per_case, asking=Asking(check=check, max_tokens=50), threads=threads)


Serve = Callable[[Model], Model]


def test_failures_are_waited_out_and_lost_answers_count_as_spent(serve: Serve, tmp_path: Path) -> None:
    half = Say(json.dumps({"choices": [{"message": {"content": "x" * 500}}]}), cut=True)
    model = serve(Model(polite, [Say(status=429, headers={"Retry-After": "7"}), Say("oops", 500), half, Say('{"choi'),
                                 Say("[]"), Say("{}")]))  # fmt: skip
    work = set_up(model, tmp_path)
    made, report = vary_cases(make_cases(1), BOX, plan(), asker=work.asker)
    assert texts(made) == ["number 0 of topic0 please", "number 1 of topic0 please"]
    assert len(model.asked) == 7 and work.asker.counts.retries == 6
    assert 7 <= work.waits[0] <= 8
    for number, wait in enumerate(work.waits[1:], start=1):
        assert 0.5 * 2**number <= wait <= 2**number, number
    purse = work.asker.purse
    body = model.asked[-1]["messages"]
    most = PRICE.of(len((body[0]["content"] + body[1]["content"]).encode()) + 64, 50)
    assert purse.lost == pytest.approx(4 * most)  # the half, the broken, the list and the empty answer
    written = len(polite("", body[1]["content"]).split())
    assert purse.spent == pytest.approx(purse.lost + PRICE.of(100, written))
    assert report["rejected"] == {}


def test_waits_grow_to_a_limit_and_patience_ends_in_one_line(serve: Serve, tmp_path: Path) -> None:
    model = serve(Model(polite, [Say("{}", 503)] * 20))
    work = set_up(model, tmp_path, attempts=9, longest_s=8.0)
    with pytest.raises(UserError, match="failed 9 times in a row, last: 503") as caught:
        vary_cases(make_cases(1), BOX, plan(), asker=work.asker)
    assert "\n" not in str(caught.value) and len(work.waits) == 8 and max(work.waits) <= 8.0
    assert all(wait >= 4.0 for wait in work.waits[3:]) and len(set(work.waits)) == 8


def test_a_wait_may_be_told_as_a_date_and_too_long_a_one_ends_the_run(serve: Serve, tmp_path: Path) -> None:
    date = email.utils.formatdate(1_000_030, usegmt=True)
    model = serve(Model(polite, [Say("{}", 429, {"Retry-After": date})]))
    work = set_up(model, tmp_path, now=1_000_000.0)
    vary_cases(make_cases(1), BOX, plan(), asker=work.asker)
    assert 30 <= work.waits[0] <= 31
    model.first[:] = [Say("{}", 429, {"Retry-After": "86400"})]
    with pytest.raises(UserError, match="asks to wait 86400 s .*what was bought is kept"):
        vary_cases(make_cases(2), BOX, plan(), asker=work.asker)


def test_a_server_that_is_not_there_is_told(tmp_path: Path, serve: Serve) -> None:
    model = Model(polite, url="http://127.0.0.1:9")
    work = set_up(model, tmp_path, attempts=3)
    with pytest.raises(UserError, match="failed 3 times in a row, last: no answer .*ConnectError"):
        vary_cases(make_cases(1), BOX, plan(), asker=work.asker)
    assert work.asker.purse.spent == 0.0  # what was never sent costs nothing


def test_every_variation_is_held_to_its_case(serve: Serve, tmp_path: Path) -> None:
    answers = iter(
        [
            "Sure! Here you are: nothing",
            "```json\n" + json.dumps({"requests": ["Find TOPIC0!", "look for something", 7, " find  topic1 ",
                                                   "get topic0", "x topic0 " * 60, "GET topic0."]}) + "\n```",
            json.dumps(["show topic0", "play topic0", "fetch topic0", "one topic0 too many"]),
        ]
    )  # fmt: skip

    def answer(system: str, user: str) -> str:
        if user.startswith("{"):
            return next(answers)
        calls = [] if "play" in user else [{"name": "find", "arguments": {"query": "topic0"}}]
        return json.dumps({"calls": calls})

    model = serve(Model(answer))
    made, report = vary_cases(
        make_cases(2)[:1], BOX, plan(3, check=True), asker=set_up(model, tmp_path).asker, against=make_cases(2)[1:]
    )
    assert texts(made) == ["get topic0", "show topic0", "fetch topic0"]
    assert report["rejected"] == {"unreadable": 1, "duplicate": 3, "value": 1, "length": 1, "call": 1}
    first, second, third = model.questions()
    assert (first["write"], second["write"], third["write"]) == (3, 3, 2)
    assert second["not good enough"] == ["the last answer was no JSON of the form that was asked for"]
    assert third["already written"] == ["get topic0"]
    assert "loses a value that must be kept: look for something" in third["not good enough"]
    assert all(case.calls == make_cases(1)[0].calls for case in made)


def test_a_case_that_never_succeeds_ends_after_some_rounds(serve: Serve, tmp_path: Path) -> None:
    for answer in ("no", '{"requests": []}'):
        model = serve(Model(lambda system, user, answer=answer: answer))  # type: ignore[misc]
        made, report = vary_cases(make_cases(1), BOX, plan(), asker=set_up(model, tmp_path / answer[:2]).asker)
        assert (made, report["rejected"], len(model.asked)) == ([], {"unreadable": 3}, 3)


def test_cases_whose_values_are_not_found_are_asked_for_only_where_calls_are_checked(
    serve: Serve, tmp_path: Path
) -> None:
    case = Case("c", "the usual about topic1", calls=(Call("find", {"query": "the norm"}),))
    model = serve(Model(polite))
    made, report = vary_cases([case], BOX, plan(), asker=set_up(model, tmp_path).asker)
    assert (made, model.asked, report["values_not_in_request"]["cases"]) == ([], [], 1)

    def answer(system: str, user: str) -> str:
        if user.startswith("{"):
            return json.dumps({"requests": ["as always with topic1", "topic1, otherwise"]})
        return json.dumps([{"name": "find", "arguments": {"query": "the norm" if "always" in user else "topic1"}}])

    model = serve(Model(answer))
    made, report = vary_cases([case], BOX, plan(1, check=True), asker=set_up(model, tmp_path).asker)
    assert texts(made) == ["as always with topic1"]


def test_a_second_run_asks_nothing_and_a_broken_answer_is_asked_for_again(serve: Serve, tmp_path: Path) -> None:
    model = serve(Model(polite))
    folder = tmp_path / "answers"
    first, _ = vary_cases(make_cases(3), BOX, plan(check=True), asker=set_up(model, folder).asker)
    bought = len(model.asked)
    assert bought == 3 * (1 + 2)
    again = set_up(model, folder, cap=0.0)  # with nothing to spend
    second, _ = vary_cases(make_cases(3), BOX, plan(check=True), asker=again.asker)
    assert second == first and len(model.asked) == bought
    assert (again.asker.counts.remembered, again.asker.purse.spent) == (bought, 0.0)
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    assert len(files) == bought and all(p.suffix == ".json" for p in files)
    assert not any("sk-hidden" in p.read_text() for p in files)
    files[0].write_text(files[0].read_text()[:40])
    third, _ = vary_cases(make_cases(3), BOX, plan(check=True), asker=set_up(model, folder).asker)
    assert third == first and len(model.asked) == bought + 1
    longer = Plan(per_case=2, asking=Asking(check=True, max_tokens=51))
    vary_cases(make_cases(3), BOX, longer, asker=set_up(model, folder).asker)
    assert len(model.asked) == 2 * bought + 1  # other questions have other answers


@pytest.mark.parametrize("threads", [1, 4])
def test_a_budget_is_not_exceeded_and_what_was_bought_is_kept(serve: Serve, tmp_path: Path, threads: int) -> None:
    model = serve(Model(polite))
    whole, _ = vary_cases(make_cases(8), BOX, plan(), asker=set_up(model, tmp_path / "whole").asker)
    written = len(polite("", model.asked[0]["messages"][1]["content"]).split())
    size = len("".join(message["content"] for message in model.asked[0]["messages"]).encode())
    cap = PRICE.of(size + 64, 50) + 3.5 * PRICE.of(100, written)  # three paid, and the most for a fourth
    model.asked.clear()
    folder = tmp_path / "answers"
    work = set_up(model, folder, cap=cap)
    part, report = vary_cases(make_cases(8), BOX, plan(threads=threads), asker=work.asker)
    purse = work.asker.purse
    assert (len(model.asked), report["cut_short"]) == (4, 4)
    assert purse.exhausted and 0 < purse.spent <= cap
    assert purse.spent == pytest.approx(PRICE.of(purse.input_tokens, purse.output_tokens))
    assert purse.input_tokens == 100 * len(model.asked)
    assert part == [case for case in whole if case in part] and len(part) == 2 * len(model.asked)
    rest = set_up(model, folder, cap=100.0)
    full, report = vary_cases(make_cases(8), BOX, plan(threads=threads), asker=rest.asker)
    assert (full, report["cut_short"], len(model.asked)) == (whole, 0, 8)  # nothing was bought twice


def test_a_budget_holds_where_the_endpoint_does_not_count(serve: Serve, tmp_path: Path) -> None:
    model = serve(Model(polite, usage=False))
    work = set_up(model, tmp_path, cap=3.0)
    vary_cases(make_cases(8), BOX, plan(), asker=work.asker)
    sizes = [len("".join(m["content"] for m in body["messages"]).encode()) for body in model.asked]
    assert work.asker.purse.spent == pytest.approx(sum(PRICE.of(size + 64, 50) for size in sizes))
    assert work.asker.purse.spent <= 3.0 and work.asker.purse.exhausted


@settings(deadline=None)
@given(
    st.floats(0, 3), st.lists(st.tuples(st.integers(0, 400), st.integers(1, 60), st.floats(0, 1), st.booleans()))
)  # fmt: skip
def test_a_purse_never_gives_more_than_it_has(cap: float, questions: list[tuple[int, int, float, bool]]) -> None:
    purse = Purse(PRICE, cap)
    open_questions: list[tuple[float, Reply | None]] = []
    for size, limit, share, keep in questions:
        try:
            question = Question("", "x" * size, limit)
            if (
                purse.cap is not None
                and open_questions
                and purse.spent + _aside(open_questions) + purse.most(question) > purse.cap
            ):
                most, reply = open_questions.pop(0)  # it would wait; here, for the oldest
                purse.settle(most, reply, lost=reply is None)
                continue
            most = purse.reserve(question)
        except BudgetError:
            break
        reply = Reply("", int(share * (size + 64)), int(share * limit)) if keep else None
        open_questions.append((most, reply))
        assert purse.spent + _aside(open_questions) <= cap + 1e-9
    for most, reply in open_questions:
        purse.settle(most, reply, lost=reply is None)
    assert purse.spent <= cap + 1e-9 and purse.lost <= purse.spent + 1e-9


def test_what_is_set_aside_for_one_question_is_not_given_to_another() -> None:
    class WaitsError(Exception):
        pass

    class Condition(threading.Condition):
        def wait(self, timeout: float | None = None) -> bool:
            raise WaitsError

    question = Question("", "x", 50)
    purse = Purse(PRICE, 1.0)
    purse.cap = 1.5 * purse.most(question)
    purse._changed = Condition()
    most = purse.reserve(question)
    with pytest.raises(WaitsError):
        purse.reserve(question)
    purse.settle(most, Reply("", 1, 1))
    assert purse.reserve(question) == most and not purse.exhausted


def _aside(held: list[tuple[float, Reply | None]]) -> float:
    return sum(most for most, _ in held)


def test_threads_ask_at_the_same_time_within_their_number_and_change_nothing(serve: Serve, tmp_path: Path) -> None:
    one = serve(Model(polite))
    expected, _ = vary_cases(make_cases(8), BOX, plan(check=True), asker=set_up(one, tmp_path / "1").asker)
    assert one.most_under_way == 1
    two = serve(Model(polite, meet=threading.Barrier(2)))
    found, _ = vary_cases(make_cases(8), BOX, plan(threads=2), asker=set_up(two, tmp_path / "2").asker)
    assert two.most_under_way == 2
    many = serve(Model(polite))
    found, _ = vary_cases(make_cases(8), BOX, plan(check=True, threads=6), asker=set_up(many, tmp_path / "6").asker)
    assert found == expected and many.most_under_way <= 6


def test_of_two_cases_that_get_the_same_words_the_first_has_them(serve: Serve, tmp_path: Path) -> None:
    twins = [Case(f"t{n}", f"find topic0 {w}", calls=make_cases(1)[0].calls) for n, w in enumerate(("now", "soon"))]
    work = set_up(serve(Model(polite)), tmp_path)
    made, report = vary_cases(twins, BOX, plan(threads=2), asker=work.asker)
    assert [case.id for case in made] == ["t0~llm.1", "t0~llm.2"] and report["rejected"] == {"duplicate": 2}


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (401, {"error": {"message": "bad key"}}, "does not answer: 401 bad key"),
        (404, {"error": {"message": "no such model"}}, "does not answer: 404 no such model"),
        (429, {"error": {"message": "pay first", "code": "insufficient_quota"}}, "does not answer: 429 pay first"),
        (400, {"error": {"message": "max_tokens is unknown"}}, "refuses: 400 max_tokens is unknown"),
    ],
)
@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_an_endpoint_that_answers_nothing_is_one_line(
    serve: Serve, tmp_path: Path, status: int, body: dict[str, Any], message: str, provider: str
) -> None:
    model = serve(Model(polite, [Say(json.dumps(body), status)] * 99))
    work = set_up(model, tmp_path, provider=provider)
    with pytest.raises(UserError, match=message) as caught:
        vary_cases(make_cases(9), BOX, plan(threads=2), asker=work.asker)
    assert "\n" not in str(caught.value) and "sk-hidden" not in str(caught.value)
    assert work.waits == [] and len(model.asked) <= 2  # those under way, and none after


def test_one_question_that_is_refused_costs_one_case(serve: Serve, tmp_path: Path) -> None:
    model = serve(Model(polite))
    vary_cases(make_cases(1), BOX, plan(), asker=set_up(model, tmp_path).asker)
    model.first[:] = [Say(json.dumps({"error": {"message": "filtered"}}), 400)]
    made, report = vary_cases(make_cases(3), BOX, plan(), asker=set_up(model, tmp_path).asker)
    assert {case.id.partition("~")[0] for case in made} == {"c0", "c2"} and report["rejected"] == {"refused": 1}


def test_an_interrupted_run_keeps_what_was_bought(serve: Serve, tmp_path: Path) -> None:
    model = serve(Model(polite))

    def say(line: str) -> None:
        if line.startswith("2 "):
            raise KeyboardInterrupt

    work = set_up(model, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        vary_cases(make_cases(20), BOX, plan(), asker=work.asker, say=say)
    assert len(model.asked) >= 2
    with pytest.raises(StoppedError):
        work.asker.ask(Question("a", "b", 1))
    made, _ = vary_cases(make_cases(20), BOX, plan(), asker=set_up(model, tmp_path).asker)
    assert len(made) == 40 and len(model.asked) == 20  # nothing was bought twice


def test_anthropic_is_asked_in_its_own_way(serve: Serve, tmp_path: Path) -> None:
    model = serve(Model(polite, [Say("{}", 529, {"Retry-After": "2"})]))
    work = set_up(model, tmp_path, provider="anthropic")
    made, _ = vary_cases(make_cases(1), BOX, plan(check=True), asker=work.asker)
    assert len(made) == 2 and 2 <= work.waits[0] <= 3
    assert set(model.paths) == {"/v1/messages"} and any("sk-hidden" in v for v in model.headers[0].values())
    assert (model.asked[0]["model"], model.asked[0]["max_tokens"]) == ("stand-in", 50)
    assert "temperature" not in model.asked[0]
    assert work.asker.purse.input_tokens == 3 * 100  # those read from the provider's cache count as well


def test_openai_s_protocol_is_spoken_as_servers_of_one_s_own_know_it(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    model = serve(Model(polite))
    asking = Asking(hint="Speakers are sailors.", max_tokens=50, temperature=0.5)
    vary_cases(make_cases(1), BOX, Plan(per_case=1, asking=asking), asker=set_up(model, tmp_path).asker)
    (body,) = model.asked
    assert model.paths == ["/v1/chat/completions"] and "Speakers are sailors." in body["messages"][0]["content"]
    assert (body["max_tokens"], body["temperature"], "max_completion_tokens" in body) == (50, 0.5, False)
    with pytest.raises(UserError, match="the environment has no OPENAI_API_KEY"):
        open_client(Endpoint("openai", "m"))


def test_the_model_sees_no_parameter_that_is_filled_from_the_context(serve: Serve, tmp_path: Path) -> None:
    parameters = {"query": Schema("string"), "folder": Schema("string", bind="folder")}
    box = Toolset("box", (Tool("find", "Find", Schema("object", properties=parameters, required=("folder",))),))
    case = Case(
        "c", "find topic0", {"folder": "/secret"}, calls=(Call("find", {"query": "topic0", "folder": "/secret"}),)
    )
    model = serve(Model(polite))
    made, _ = vary_cases([case], box, plan(check=True), asker=set_up(model, tmp_path).asker)
    assert len(made) == 2 and not any(
        "folder" in json.dumps(body) or "secret" in json.dumps(body) for body in model.asked
    )


def test_prices_come_from_the_command_or_the_table_for_the_provider_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Endpoint("openai", "gpt-4.1-mini")
    row = price_of(known, None, None)
    assert row is not None and row.date and 0 < row.input < row.output
    assert price_of(known, 3.0, 4.0) == Price(3.0, 4.0)
    assert price_of(Endpoint("openai", "gpt-4.1-mini", "http://localhost:1/v1"), None, None) is None
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:1/v1")
    assert price_of(known, None, None) is None
    assert price_of(Endpoint("anthropic", "unheard-of"), None, None) is None
    with pytest.raises(UserError, match="a budget needs prices"):
        Purse(None, 1.0)


@pytest.mark.parametrize("answer", ["", "no", "{", '{"requests": 3}', "[" * 100_000, '{"a": 1}', '"x"'])
def test_what_is_no_answer_is_no_answer(answer: str) -> None:
    for read in (read_requests, read_calls):
        with pytest.raises(ValueError):
            read(answer)


def test_answers_are_read_whatever_stands_around_them() -> None:
    assert read_requests('Here {as asked}:\n```json\n{"requests": [" a\\n b ", 3]}\n```') == ["a b"]
    assert read_calls('[{"name": "f", "arguments": {"a": 1, "b": null}}]') == [Call("f", {"a": 1})]
    for wrong in ('[{"name": 1}]', "[3]", '[{"name": "f", "arguments": []}]'):
        with pytest.raises(ValueError):
            read_calls(wrong)


def test_the_command_from_end_to_end(serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases, out = tmp_path / "cases.jsonl", tmp_path / "out.jsonl"
    call = Call("search", {"item_type": "script", "query": "topic0"})
    write_cases([Case("x", "find scripts on topic0", calls=(call,))], cases)
    model = serve(Model(polite))
    argv = [str(cases), "--toolset", "kiwi", "--out", str(out), "--model", "m", "--base-url", f"{model.url}/v1",
            "--per-case", "2", "--rules", "drop,typos", "--with-originals", "--budget", "1", "--price-in", "1",
            "--price-out", "2"]  # fmt: skip
    assert command(argv) == 0
    told = capsys.readouterr()
    report = json.loads(told.out)
    assert report["answers"] == {"bought": 1, "from_cache": 0, "retries": 0}
    assert (report["made_by"]["llm"], report["budget_reached"], report["tokens"]["read"]) == (2, False, 100)
    assert 0 < report["usd"] < 1 and "edgecall: 1 of 1 cases, $" in told.err
    made = load_cases(out)
    assert made[0].id == "x" and [c.id for c in made][-2:] == ["x~llm.1", "x~llm.2"]
    assert {c.template for c in made} == {"case x"}
    before = out.read_bytes()
    assert command(argv) == 0
    assert out.read_bytes() == before and json.loads(capsys.readouterr().out)["usd"] == 0 and len(model.asked) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cases.jsonl", "out.jsonl", "out.jsonl.answers"]
    more = [*argv[:-6], "--budget", "0", "--price-in", "1", "--price-out", "2", "--per-case", "3"]
    assert command(more) == 0
    assert "the budget of $0 is reached" in capsys.readouterr().err
