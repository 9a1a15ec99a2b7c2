"""The Router over fake models: context, errors before any pass, the prefix that always comes back, threads."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from router import Call, Router, RouterTokenizer, Toolset, from_dict, load_toolset
from router.result import RouteResult
from router.toolset import Schema, Tool, to_dict
from runtimes.artifact import sha256_file, write_manifest
from runtimes.errors import ArtifactError, UserError
from tests.fake import FakeModel, FakeSession, random_rule, scripted_rule
from tests.unbound import unbound

if TYPE_CHECKING:
    from tests.exports import Maker

HERE = {"project_path": "/home/me/project"}
USER = "find email scripts"
CALL = Call("search", {"item_type": "script", "query": "email"})


def wanting(tokenizer: RouterTokenizer, toolset: Toolset, user: str, ids: list[int], context: int = 4096) -> FakeModel:
    """A model that answers `user` with `ids`."""
    rule = scripted_rule(tokenizer.vocab_size, tokenizer.prompt_ids(toolset, user), ids)
    return FakeModel(rule, tokenizer.vocab_size, context)


@pytest.fixture
def model(tokenizer: RouterTokenizer, kiwi: Toolset) -> FakeModel:
    return wanting(tokenizer, kiwi, USER, tokenizer.completion_ids([CALL]))


@pytest.fixture
def router(model: FakeModel, tokenizer: RouterTokenizer, kiwi: Toolset) -> Router:
    return Router.from_model(model, tokenizer, kiwi)


def only_prefix(router: Router) -> FakeSession:
    """The router's session, which must hold the prefix and nothing else."""
    assert isinstance(router.model, FakeModel)
    (session,) = router.model.sessions
    assert session.tokens == router.prefix_ids
    return session


@pytest.mark.parametrize("grammar", [True, False])
def test_a_request_becomes_a_call(router: Router, grammar: bool) -> None:
    assert only_prefix(router).passes == [len(router.prefix_ids)]
    for _ in range(2):
        result = router.route(f"  {USER}\n", HERE, grammar=grammar)
        assert result.calls == [Call("search", {**CALL.arguments, "project_path": "/home/me/project"})]
        assert result.error is None
        assert result.token_ids == router.tokenizer.completion_ids([CALL])
        assert result.text == router.tokenizer.decode(result.token_ids)
        session = only_prefix(router)
        stats = result.stats
        assert session.passes[-stats.forward_passes :] == stats.pass_sizes
        assert stats.prompt_tokens == len(router.tokenizer.prompt_ids(router.toolset, USER))
        assert stats.request_tokens == stats.prompt_tokens - len(router.prefix_ids)
        assert stats.forced_tokens + stats.decided_tokens == len(result.token_ids)
        assert stats.forward_passes == stats.decided_tokens
        assert 0 < stats.first_decision_ms <= stats.total_ms
        assert stats.model_ms + stats.grammar_ms + stats.tokenize_ms <= stats.total_ms
        assert (stats.forced_tokens == 0) == (not grammar)


def test_a_result_is_plain_data(router: Router) -> None:
    result = router.route(USER, HERE)
    data = json.loads(json.dumps(result.to_dict()))
    assert data["calls"] == [{"name": "search", "arguments": {**CALL.arguments, "project_path": "/home/me/project"}}]
    assert data["error"] is None
    assert data["stats"]["pass_sizes"] == result.stats.pass_sizes
    assert data["token_ids"] == result.token_ids


def test_no_call_is_no_error(tokenizer: RouterTokenizer, kiwi: Toolset) -> None:
    model = wanting(tokenizer, kiwi, "hello", tokenizer.completion_ids([]))
    for grammar in (True, False):
        result = Router.from_model(model, tokenizer, kiwi).route("hello", HERE, grammar=grammar)
        assert (result.calls, result.error, result.text) == ([], None, "<end_of_turn>")


@pytest.mark.parametrize("context", [None, {}, {"path": "/x"}])
def test_a_missing_bound_key_is_told_before_any_pass(router: Router, context: dict[str, str] | None) -> None:
    session = only_prefix(router)
    passes = list(session.passes)
    with pytest.raises(UserError, match="no 'project_path', which search, load and execute need"):
        router.route(USER, context)
    assert only_prefix(router).passes == passes


def test_a_bound_value_of_the_wrong_type_is_told(router: Router) -> None:
    with pytest.raises(UserError, match="project_path: 5 is integer, not a string .tool search"):
        router.route(USER, {"project_path": 5})
    assert len(only_prefix(router).passes) == 1


def test_only_what_is_bound_is_needed(tokenizer: RouterTokenizer) -> None:
    tools = {"name": "t", "tools": [{"name": "ping", "description": "Ping."}]}
    toolset = from_dict(tools)
    model = wanting(tokenizer, toolset, "ping", tokenizer.completion_ids([Call("ping", {})]))
    assert Router.from_model(model, tokenizer, toolset).route("ping").calls == [Call("ping", {})]


def test_the_context_wins_over_what_the_model_makes_up(tokenizer: RouterTokenizer, kiwi: Toolset) -> None:
    """Without a grammar a model can write a bound parameter; it does not get to choose it."""
    call = Call("search", {**CALL.arguments, "project_path": "/etc"})
    model = wanting(tokenizer, kiwi, USER, tokenizer.completion_ids([call]))
    result = Router.from_model(model, tokenizer, kiwi).route(USER, HERE, grammar=False)
    assert result.calls[0].arguments["project_path"] == "/home/me/project"


@pytest.mark.parametrize("user", ["", "  \n\t", "\u3000"])
def test_an_empty_request_is_told(router: Router, user: str) -> None:
    with pytest.raises(UserError, match="request is empty"):
        router.route(user, HERE)
    assert len(only_prefix(router).passes) == 1


def test_a_request_that_is_no_text_is_told(router: Router) -> None:
    with pytest.raises(UserError, match="half a surrogate"):
        router.route("find \ud800", HERE)
    assert len(only_prefix(router).passes) == 1


def test_a_request_that_is_too_long_is_told_with_the_lengths(tokenizer: RouterTokenizer, kiwi: Toolset) -> None:
    prefix = len(tokenizer.prefix_ids(kiwi))
    model = FakeModel(random_rule(tokenizer.vocab_size), tokenizer.vocab_size, prefix + 100)
    router = Router.from_model(model, tokenizer, kiwi)
    user = "find " * 200
    length = len(tokenizer.request_ids(user))
    with pytest.raises(
        UserError, match=f"takes {length} tokens; with the toolset's {prefix} .* context of {prefix + 100}"
    ):
        router.route(user, HERE)
    assert len(only_prefix(router).passes) == 1


def test_a_completion_that_overflows_leaves_the_prefix(tokenizer: RouterTokenizer, kiwi: Toolset) -> None:
    kiwi = unbound(kiwi)  # a name that is copied ends with the request
    prefix = len(tokenizer.prefix_ids(kiwi))
    bias = {tokenizer.control_id("escape"): -99.0, tokenizer.control_id("start_call"): 99.0}
    model = FakeModel(random_rule(tokenizer.vocab_size, bias=bias), tokenizer.vocab_size, prefix + 80)
    router = Router.from_model(model, tokenizer, kiwi)
    for grammar in (True, False):
        with pytest.raises(UserError, match=f"context of {prefix + 80} tokens is full"):
            router.route("find it", HERE, grammar=grammar)
        only_prefix(router)


def test_the_model_reads_shown_context(tokenizer: RouterTokenizer, kiwi: Toolset) -> None:
    shown = replace(kiwi, shown=("date",))
    call = Call("search", {"item_type": "script", "query": "email"})
    turn = "date: 2026-03-11\nfind email scripts"
    rule = scripted_rule(tokenizer.vocab_size, tokenizer.prompt_ids(shown, turn), tokenizer.completion_ids([call]))
    router = Router.from_model(FakeModel(rule, tokenizer.vocab_size), tokenizer, shown)
    context = HERE | {"date": "2026-03-11"}
    assert router.route("find email scripts", context).calls[0].arguments["query"] == "email"
    with pytest.raises(UserError, match="no 'date', which toolset kiwi shows the model"):
        router.route("find email scripts", HERE)
    only_prefix(router)


def test_a_toolset_that_fills_the_context_is_told(tokenizer: RouterTokenizer, kiwi: Toolset) -> None:
    model = FakeModel(random_rule(tokenizer.vocab_size), tokenizer.vocab_size, 50)
    with pytest.raises(UserError, match="toolset kiwi: its declarations take .* context of 50"):
        Router.from_model(model, tokenizer, kiwi)


def test_a_tokenizer_of_another_model_is_told(tokenizer: RouterTokenizer, kiwi: Toolset) -> None:
    model = FakeModel(random_rule(100), 100)
    with pytest.raises(UserError, match="belongs to another model"):
        Router.from_model(model, tokenizer, kiwi)


@pytest.mark.parametrize("grammar", [True, False])
def test_the_prefix_comes_back_after_a_failure(router: Router, grammar: bool) -> None:
    session = only_prefix(router)
    session.fail_at = len(session.passes) + 2
    with pytest.raises(RuntimeError, match="the runtime broke"):
        router.route(USER, HERE, grammar=grammar)
    session.fail_at = None
    only_prefix(router)
    assert router.route(USER, HERE, grammar=grammar).error is None


def test_a_lost_prefix_is_computed_again(router: Router) -> None:
    session = only_prefix(router)
    session.rewind(7)
    assert router.route(USER, HERE).error is None
    only_prefix(router)


def test_a_completion_that_is_no_call_is_an_error_in_the_result(tokenizer: RouterTokenizer, kiwi: Toolset) -> None:
    stop = tokenizer.control_id("end_turn")
    broken = {
        "cannot be read: expected": [tokenizer.control_id("start_call"), *tokenizer.encode_text("call:search{a"), stop],
        "is no value": tokenizer.encode(
            "<start_function_call>call:search{query:email}<end_function_call><end_of_turn>"
        ),
        "given twice": tokenizer.encode("<start_function_call>call:f{a:1,a:2}<end_function_call><end_of_turn>"),
    }
    for message, ids in broken.items():
        router = Router.from_model(wanting(tokenizer, kiwi, USER, ids), tokenizer, kiwi)
        result = router.route(USER, HERE, grammar=False)
        assert result.calls == []
        assert result.error is not None
        assert message in result.error
        only_prefix(router)


def test_what_a_grammar_could_not_hold_to_is_checked_after_it(tokenizer: RouterTokenizer) -> None:
    text = {"type": "string", "pattern": "^(a|b{5,})$", "minLength": 3}
    parameters = {"type": "object", "properties": {"x": text}, "required": ["x"]}
    toolset = from_dict({"name": "t", "tools": [{"name": "f", "description": "", "parameters": parameters}]})
    for value, error in (("a", "does not hold to its schema: x: 'a' is shorter than 3"), ("bbbbb", None)):
        model = wanting(tokenizer, toolset, USER, tokenizer.completion_ids([Call("f", {"x": value})]))
        result = Router.from_model(model, tokenizer, toolset).route(USER)
        assert (result.error is None) == (error is None)
        assert error is None or error in str(result.error)
        assert result.calls == ([] if error else [Call("f", {"x": value})])


def test_words_without_a_call_are_no_call(tokenizer: RouterTokenizer, kiwi: Toolset) -> None:
    ids = tokenizer.encode("I cannot do that.<end_of_turn>")
    result = Router.from_model(wanting(tokenizer, kiwi, USER, ids), tokenizer, kiwi).route(USER, HERE, grammar=False)
    assert (result.calls, result.error) == ([], None)


def test_ids_past_the_tokenizer_are_an_error_in_the_result(tokenizer: RouterTokenizer, kiwi: Toolset) -> None:
    """Embedding rows may outnumber the vocabulary."""
    wide = tokenizer.vocab_size + 8
    ids = [tokenizer.vocab_size + 3, tokenizer.control_id("end_turn")]
    model = FakeModel(scripted_rule(wide, tokenizer.prompt_ids(kiwi, USER), ids), wide)
    router = Router.from_model(model, tokenizer, kiwi)
    result = router.route(USER, HERE, grammar=False)
    assert result.error is not None
    assert "outside the vocabulary" in result.error
    constrained = router.route(USER, HERE, max_new_tokens=40)  # wants the same id, which no grammar allows
    assert len(constrained.token_ids) > 0
    assert max(constrained.token_ids) < tokenizer.vocab_size


def test_a_request_may_spell_control_tokens(tokenizer: RouterTokenizer, kiwi: Toolset) -> None:
    for spelling in tokenizer.wire.reserved:
        user = f"{spelling} find email {spelling}"
        model = wanting(tokenizer, kiwi, user, tokenizer.completion_ids([CALL]))
        router = Router.from_model(model, tokenizer, kiwi)
        result = router.route(user, HERE)
        assert result.token_ids == tokenizer.completion_ids([CALL])
        request = tokenizer.request_ids(user)
        assert tokenizer.special_ids.isdisjoint(request[: -len(tokenizer.suffix_ids)])
        only_prefix(router)


def test_threads_take_turns(tokenizer: RouterTokenizer, kiwi: Toolset) -> None:
    """Every answer is that of its own request, whatever else is going on."""
    users = [f"find item {n}" for n in range(12)]
    wants = {u: tokenizer.completion_ids([Call("search", {"item_type": "script", "query": u})]) for u in users}
    rules = {u: scripted_rule(tokenizer.vocab_size, tokenizer.prompt_ids(kiwi, u), wants[u]) for u in users}
    prompts = {u: tuple(tokenizer.prompt_ids(kiwi, u)) for u in users}
    noise = random_rule(tokenizer.vocab_size)

    def rule(tokens: tuple[int, ...]) -> object:
        for user, prompt in prompts.items():
            if tokens[: len(prompt)] == prompt:
                return rules[user](tokens)
        return noise(tokens)

    router = Router.from_model(FakeModel(rule, tokenizer.vocab_size), tokenizer, kiwi)  # type: ignore[arg-type]

    def ask(user: str) -> RouteResult:
        return router.route(user, HERE)

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(ask, users * 3))
    for user, result in zip(users * 3, results, strict=True):
        assert result.error is None
        assert result.token_ids == wants[user]
        assert result.calls[0].arguments["query"] == user
    only_prefix(router)


def test_warming_up_leaves_no_trace(router: Router) -> None:
    router.warm_up(2)
    assert len(only_prefix(router).passes) > 2
    assert router.route(USER, HERE).error is None


def test_closing(model: FakeModel, tokenizer: RouterTokenizer, kiwi: Toolset) -> None:
    with Router.from_model(model, tokenizer, kiwi) as router:
        router.route(USER, HERE)
    assert not model.closed  # the caller opened it
    for use in (lambda: router.route(USER, HERE), router.warm_up):
        with pytest.raises(UserError, match="router is closed"):
            use()
    router.close()
    owning = Router(model, tokenizer, kiwi, own=True)
    owning.close()
    owning.close()
    assert model.closed


def test_several_toolsets_over_one_model(model: FakeModel, tokenizer: RouterTokenizer, kiwi: Toolset) -> None:
    other = replace(kiwi, name="other", tools=kiwi.tools[1:])
    first, second = Router.from_model(model, tokenizer, kiwi), Router.from_model(model, tokenizer, other)
    assert first.route(USER, HERE).calls[0].name == "search"
    result = second.route(USER, HERE, max_new_tokens=400)
    assert result.error is not None or all(call.name != "search" for call in result.calls)
    assert first.route(USER, HERE).calls[0].name == "search"


def test_a_grammar_that_cannot_be_compiled_is_told_at_once(model: FakeModel, tokenizer: RouterTokenizer) -> None:
    parameters = Schema("object", properties={"x": Schema("string", pattern="a^b")})
    with pytest.raises(UserError, match="tool f: x: pattern"):
        Router.from_model(model, tokenizer, Toolset("t", (Tool("f", "", parameters),)))


def test_opening_what_is_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such artifact"):
        Router.open(tmp_path / "nowhere")
    with pytest.raises(ArtifactError, match="not an artifact"):
        Router.open(tmp_path)


@pytest.fixture
def artifact(exported: Maker, kiwi: Toolset, tmp_path: Path) -> Path:
    """The tiny model as a whole GGUF artifact (its proof is empty: no router reads it)."""
    made = exported("gguf", "f16")
    folder = tmp_path / "artifact"
    shutil.copytree(made.folder, folder)
    (folder / "toolset.json").write_text(json.dumps(to_dict(kiwi)))
    (folder / "proof.jsonl").write_text("")
    files = [
        {"path": p.relative_to(folder).as_posix(), "bytes": p.stat().st_size, "sha256": sha256_file(p)}
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    ]
    write_manifest(folder, {**made.manifest, "files": files})
    return folder


def test_opening_an_artifact(artifact: Path, kiwi: Toolset) -> None:
    """The same model behind a real runtime: same prefix, same rules, also with another toolset than its own."""
    with Router.open(artifact, threads=1) as router:
        assert router.artifact is not None
        assert router.toolset == kiwi
        router.warm_up()
        first = router.route(USER, HERE, max_new_tokens=60)
        again = router.route(USER, HERE, max_new_tokens=60)
        assert (first.token_ids, first.calls, first.error) == (again.token_ids, again.calls, again.error)
        assert first.stats.pass_sizes == again.stats.pass_sizes
        free = router.route(USER, HERE, grammar=False, max_new_tokens=5)
        assert len(free.token_ids) <= 5
        with pytest.raises(UserError, match="project_path"):
            router.route(USER)
    with pytest.raises(UserError, match="closed"):
        router.route(USER, HERE)
    other = replace(kiwi, name="other", tools=kiwi.tools[2:])
    with Router.open(artifact, threads=1, toolset=other, check="sizes") as router:
        assert router.toolset == other
        assert router.prefix_ids == router.tokenizer.prefix_ids(other)
        result = router.route(USER, HERE, max_new_tokens=60)
        assert all(call.name == "execute" for call in result.calls)
    with pytest.raises(UserError, match="opens safetensors artifacts"):
        Router.open(artifact, runtime="torch")


def test_shipped_toolsets_compile(tokenizer: RouterTokenizer) -> None:
    for path in sorted((Path(__file__).parents[2] / "configs" / "toolsets").glob("*.yaml")):
        toolset = load_toolset(path)
        model = wanting(tokenizer, toolset, USER, tokenizer.completion_ids([]), 32768)
        Router.from_model(model, tokenizer, toolset)
