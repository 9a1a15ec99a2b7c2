"""Many requests at once are answered as one by one, whatever ends first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from router.core import LANES, Router
from router.result import RouteResult
from router.tokenizer import RouterTokenizer
from router.toolset import Call, Toolset
from runtimes.base import Batches, Logits
from runtimes.errors import UserError
from tests.fake import BatchModel, FakeBatch, FakeModel, random_rule, scripted_rule
from tests.tiny import LIGHTS

if TYPE_CHECKING:
    from export.base import Checkpoint
    from tests.exports import Maker

CONTEXT = {"project_path": "."}


def model_of(tokenizer: RouterTokenizer, kiwi: Toolset, kind: type[FakeModel] = BatchModel) -> FakeModel:
    answers = {
        "find email scripts": [Call("search", {"item_type": "script", "query": "email"})],
        "what is the weather": [],
        "load the backup note": [Call("load", {"item_type": "knowledge", "item_id": "backup"})],
        "run deploy": [Call("execute", {"item_type": "script", "action": "run", "item_id": "deploy"})],
    }
    rules = {
        tuple(tokenizer.request_ids(user)): scripted_rule(
            tokenizer.vocab_size, tokenizer.prompt_ids(kiwi, user), tokenizer.completion_ids(calls)
        )
        for user, calls in answers.items()
    }
    prefix = len(tokenizer.prefix_ids(kiwi))
    noise = random_rule(tokenizer.vocab_size, seed=3)

    def rule(tokens: tuple[int, ...]) -> Logits:
        behind = tokens[prefix:]
        for request, wants in rules.items():
            if behind[: len(request)] == request:
                return wants(tokens)
        return noise(tokens)

    return kind(rule, tokenizer.vocab_size, 2048)


USERS = ["find email scripts", "what is the weather", "load the backup note", "run deploy", "find email scripts"] * 3


@pytest.mark.parametrize("grammar", [True, False])
@pytest.mark.parametrize("lanes", [1, 2, 4, 40])
def test_the_same_answers_in_the_same_order(
    tokenizer: RouterTokenizer, kiwi: Toolset, lanes: int, grammar: bool
) -> None:
    model = model_of(tokenizer, kiwi)
    router = Router(model, tokenizer, kiwi)
    one_by_one = [router.route(user, CONTEXT, grammar=grammar) for user in USERS]
    together = router.route_many(USERS, [CONTEXT] * len(USERS), grammar=grammar, lanes=lanes)
    assert [r.calls for r in together] == [r.calls for r in one_by_one]
    assert [r.token_ids for r in together] == [r.token_ids for r in one_by_one]
    assert [r.stats.pass_sizes for r in together] == [r.stats.pass_sizes for r in one_by_one]
    assert isinstance(model, BatchModel)
    if lanes == 1:
        assert model.made is None
        return
    batch = model.made
    assert batch is not None
    assert max(batch.sizes) == min(lanes, len(USERS)) and batch.lanes <= max(lanes, LANES)
    passes = sum(r.stats.forward_passes for r in one_by_one)
    assert sum(batch.sizes) == passes and len(batch.sizes) < passes
    assert router.route(USERS[0], CONTEXT).calls == one_by_one[0].calls  # the router's own sequence is as it was


@pytest.mark.parametrize("grammar", [True, False])
def test_what_the_lanes_rounding_decides_is_decided_alone(
    tokenizer: RouterTokenizer, kiwi: Toolset, grammar: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule, rounding = random_rule(tokenizer.vocab_size, seed=5), random_rule(tokenizer.vocab_size, seed=6)
    model = BatchModel(rule, tokenizer.vocab_size, 2048, dtype="int8")
    router = Router(model, tokenizer, kiwi)
    users = [f"request {n}" for n in range(24)]
    contexts = [CONTEXT] * len(users)
    alone = [router.route(user, CONTEXT, grammar=grammar, max_new_tokens=24).token_ids for user in users]
    monkeypatch.setattr(model, "rule", lambda tokens: rule(tokens) + 0.015 * rounding(tokens))

    def together() -> list[list[int]]:
        found = router.route_many(users, contexts, grammar=grammar, max_new_tokens=24, lanes=6)
        return [result.token_ids for result in found]

    route = router.route

    def unrounded(*args: Any, **options: Any) -> RouteResult:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(model, "rule", rule)
            return route(*args, **options)

    monkeypatch.setattr(router, "route", unrounded)
    assert together() == alone
    router.tie = 0.0
    assert together() != alone, "so the lanes do round otherwise"


def test_the_lanes_are_kept_for_the_next_call(tokenizer: RouterTokenizer, kiwi: Toolset) -> None:
    model = model_of(tokenizer, kiwi)
    assert isinstance(model, BatchModel)
    router = Router(model, tokenizer, kiwi)
    first = router.route_many(USERS, [CONTEXT] * len(USERS))
    batch = model.made
    again = router.route_many(USERS[:2], [CONTEXT] * 2)
    assert model.made is batch and batch is not None and not batch.closed
    assert [r.calls for r in again] == [r.calls for r in first[:2]]
    router.route_many(USERS, [CONTEXT] * len(USERS), lanes=3)
    assert batch.closed and model.made is not None and model.made.lanes == 3
    router.close()
    assert model.made.closed


def test_lanes_in_which_something_broke_are_not_used_again(tokenizer: RouterTokenizer, kiwi: Toolset) -> None:
    model = model_of(tokenizer, kiwi)
    assert isinstance(model, BatchModel)
    router = Router(model, tokenizer, kiwi)
    wanted = [r.calls for r in router.route_many(USERS, [CONTEXT] * len(USERS))]
    batch = model.made
    assert batch is not None
    batch.sessions[3].fail_at = len(batch.sessions[3].passes) + 2
    with pytest.raises(RuntimeError, match="broke"):
        router.route_many(USERS, [CONTEXT] * len(USERS))
    assert batch.closed
    assert [r.calls for r in router.route_many(USERS, [CONTEXT] * len(USERS))] == wanted
    assert model.made is not batch


@pytest.mark.parametrize(("room", "most"), [(150, 3), (60, 1), (8, 0)])
def test_lanes_without_room_become_fewer(
    tokenizer: RouterTokenizer, kiwi: Toolset, monkeypatch: pytest.MonkeyPatch, room: int, most: int
) -> None:
    """Down to one, and where one lane alone has no room, to the router's own sequence; the answers stay the same."""
    model = model_of(tokenizer, kiwi)
    assert isinstance(model, BatchModel)
    router = Router(model, tokenizer, kiwi)
    alone = [router.route(user, CONTEXT) for user in USERS]
    monkeypatch.setattr(FakeBatch, "room", room)
    together = router.route_many(USERS, [CONTEXT] * len(USERS), lanes=6)
    assert [r.calls for r in together] == [r.calls for r in alone]
    assert [r.token_ids for r in together] == [r.token_ids for r in alone]
    batch = model.made
    assert batch is not None and not batch.closed and {batch.position(lane) for lane in range(6)} == {batch.prefix}
    assert (max(batch.sizes) if batch.sizes else 0) <= 6 and (batch.sizes[-1] if batch.sizes else 0) <= most
    monkeypatch.setattr(FakeBatch, "room", None)
    batch.sizes.clear()
    router.route_many(USERS, [CONTEXT] * len(USERS), lanes=6)
    assert max(batch.sizes) == 6, "the next call tries all of them"


def test_llama_cpps_lanes_are_as_many_as_have_room(tiny: Checkpoint, exported: Maker) -> None:
    """Requests so long that eight of them do not fit into the cells of eight lanes, nor the longest into all."""
    pytest.importorskip("llama_cpp")
    from runtimes import llama_cpp

    users = [f"please {'kitchen hall ' * n}on" for n in (40, 1, 60, 30, 80, 2, 50, 45)]
    tokenizer = RouterTokenizer.load(tiny.folder / "tokenizer.json")
    model = llama_cpp.open_model(exported("gguf", "f32"), device="cpu", threads=1)
    router = Router(model, tokenizer, LIGHTS)
    alone = [router.route(user) for user in users]
    model.context_length = 768  # what llama.cpp allots in multiples of 256
    assert len(router.prefix_ids) + max(r.stats.request_tokens for r in alone) > 768
    batch = model.batch(8, router.prefix_ids)
    model.context_length = tiny.context_length
    router._batch = batch
    assert [r.token_ids for r in router.route_many(users)] == [r.token_ids for r in alone]
    assert router._batch is batch
    model.close()


def test_without_batches_it_is_one_by_one(tokenizer: RouterTokenizer, kiwi: Toolset) -> None:
    model = model_of(tokenizer, kiwi, FakeModel)
    assert not isinstance(model, Batches)
    router = Router(model, tokenizer, kiwi)
    found = router.route_many(USERS[:4], [CONTEXT] * 4)
    assert [r.calls for r in found] == [router.route(user, CONTEXT).calls for user in USERS[:4]]


def test_context_in_the_instruction_is_one_by_one(tokenizer: RouterTokenizer, kiwi: Toolset) -> None:
    toolset = replace(kiwi, instruction="It is {date}.", shown=("date",))
    model = BatchModel(random_rule(tokenizer.vocab_size), tokenizer.vocab_size)
    router = Router(model, tokenizer, toolset)
    contexts = [{**CONTEXT, "date": f"2026-03-1{n}"} for n in range(3)]
    found = router.route_many(["hello"] * 3, contexts, max_new_tokens=5)
    assert model.made is None and len(found) == 3


def test_nothing_is_computed_where_one_request_is_wrong(tokenizer: RouterTokenizer, kiwi: Toolset) -> None:
    model = model_of(tokenizer, kiwi)
    assert isinstance(model, BatchModel)
    router = Router(model, tokenizer, kiwi)
    with pytest.raises(UserError, match="request 2 of 3: the request is empty"):
        router.route_many(["run deploy", "  ", "run deploy"], [CONTEXT] * 3)
    with pytest.raises(UserError, match="request 3 of 3: context: no 'project_path'"):
        router.route_many(["run deploy"] * 3, [CONTEXT, CONTEXT, {}])
    with pytest.raises(UserError, match="2 contexts for 3 requests"):
        router.route_many(["run deploy"] * 3, [CONTEXT] * 2)
    with pytest.raises(UserError, match="lanes"):
        router.route_many(["run deploy"] * 3, [CONTEXT] * 3, lanes=0)
    assert model.made is None
    assert router.route_many([]) == []
    router.close()
    with pytest.raises(UserError, match="closed"):
        router.route_many(["run deploy"] * 3, [CONTEXT] * 3)


def test_a_completion_without_an_end_is_that_requests_error(tokenizer: RouterTokenizer, kiwi: Toolset) -> None:
    router = Router(model_of(tokenizer, kiwi), tokenizer, kiwi)
    users = ["run deploy", "something else entirely", "find email scripts"]
    found = router.route_many(users, [CONTEXT] * 3, grammar=False, max_new_tokens=90)
    alone = [router.route(user, CONTEXT, grammar=False, max_new_tokens=90) for user in users]
    assert [r.error for r in found] == [r.error for r in alone]
    assert found[0].error is None and found[1].error is not None


def test_the_seed_router_answers_alike(tmp_path: Path, kiwi: Toolset) -> None:
    """With real weights, where rows of one pass share kernels."""
    pytest.importorskip("llama_cpp")
    from export.merge import merge_checkpoint
    from export.pipeline import export_one
    from router.cases import load_cases

    source = merge_checkpoint("seed", tmp_path / "merged", toolset="kiwi")
    artifact = export_one(source, "gguf", "q8_0", tmp_path, kiwi)
    path = Path(__file__).parents[2] / "configs" / "cases" / "kiwi" / "handwritten_dev.jsonl"
    users = [case.user for case in load_cases(path)][:40]
    with Router.open(artifact.folder, threads=1) as router:
        alone = [router.route(user, CONTEXT).calls for user in users]
        assert [r.calls for r in router.route_many(users, [CONTEXT] * len(users))] == alone
