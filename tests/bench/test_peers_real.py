"""Each real peer once, on a tiny random router: greedily it writes what the router writes, on the same artifact.

The random weights are those of `tests.tiny`, changed in a few rows (`mute`). Requests whose decisions
are near-ties are left out, for rounding may decide those either way.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.peer import PEERS, Completion, Opening, Peer, kind_of, module_of
from bench.peer_asking import Asked, Prompts
from configs import path
from export.base import Checkpoint
from export.pipeline import merge_checkpoint
from router.cases import Case, load_cases, same_calls
from router.core import Router
from router.gbnf import gbnf
from router.result import RouteResult
from router.tokenizer import RouterTokenizer
from router.toolset import Call, Toolset, to_dict
from router.toolset_load import load_json
from router.wire_format import FUNCTIONGEMMA as WIRE
from runtimes import open_model
from runtimes.artifact import PROOF, TOOLSET, Artifact, open_artifact, sha256_file, write_manifest
from runtimes.base import DeviceStatus
from runtimes.errors import UnavailableError
from tests.exports import write_artifact
from tests.tiny import LIGHTS
from tests.unbound import unbound

WORDS = (
    "light the hall", "kitchen on please", "what is on in the bath", "dim it to 40", "bath off", "all dark now",
    "is the hall lit", "publish the invoice", "more light", "send the report to the kitchen",
)  # fmt: skip
CASES = [Case(f"w{i}", words) for i, words in enumerate(WORDS)]
LIMIT = 20
CLEAR = 0.05
"""Logits between the best and the next that no rounding here makes up for."""
LEAST = 3
"""Requests that must be clear for a test to say something."""

Exported = Callable[[str, str], Artifact]


Weights = dict[str, Any]


def mute(state: Weights, vocabulary: dict[str, int]) -> None:
    """Nothing is written that a text does not tell apart: bytes, and control tokens that calls are not made of."""
    written = {*WIRE.stops, WIRE.start_call, WIRE.end_call, WIRE.escape}
    rows = state["model.embed_tokens.weight"]
    quiet = [i for token, i in vocabulary.items() if token.startswith("<0x") or not token.isascii()]
    rows[quiet + [vocabulary[token] for token in WIRE.reserved if token not in written]] = 0


@pytest.fixture(scope="module")
def exported(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """`exported(fmt, quant)`: an artifact of the muted checkpoint, written once; skips where it cannot run here."""
    from safetensors.torch import load_file, save_file

    from export.checkpoint import open_checkpoint

    muted = tmp_path_factory.mktemp("muted") / "checkpoint"
    shutil.copytree(tiny.folder, muted)
    state = load_file(muted / "model.safetensors")
    mute(state, json.loads((muted / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"])
    save_file(state, muted / "model.safetensors", metadata={"format": "pt"})
    source, done = open_checkpoint(muted, name="muted"), dict[tuple[str, str], Artifact]()

    def make(fmt: str, quant: str) -> Artifact:
        if (fmt, quant) not in done:
            done[fmt, quant] = whole(source, fmt, quant, tmp_path_factory.mktemp("exported") / fmt, LIGHTS)
        return done[fmt, quant]

    return make


def whole(source: Checkpoint, fmt: str, quant: str, folder: Path, toolset: Toolset) -> Artifact:
    """An artifact that can be opened from its folder; its proof is empty."""
    made = write_artifact(source, fmt, quant, folder, toolset)
    (folder / TOOLSET).write_text(json.dumps(to_dict(toolset)))
    (folder / PROOF).write_text("")
    files = [
        {"path": p.relative_to(folder).as_posix(), "bytes": p.stat().st_size, "sha256": sha256_file(p)}
        for p in sorted(p for p in folder.rglob("*") if p.is_file())
    ]
    write_manifest(folder, made.manifest | {"files": files})
    return open_artifact(folder)


def needed(name: str) -> None:
    """Skip by name where the peer's packages are not here."""
    state = module_of(kind_of(name)).availability(None)
    if not state.available:
        pytest.skip(f"{name}: {state.reason}; {state.fix}")


def open_one(
    name: str,
    artifact: Artifact,
    folder: Path,
    *,
    cases: Sequence[Case] = CASES,
    limit: int = LIMIT,
    device: str = "cpu",
) -> tuple[Peer, Asked, Prompts]:
    kind = kind_of(name)
    module = module_of(kind)
    toolset = load_json(artifact.toolset)
    context_length = min(1024, artifact.context_length)
    prompts = Prompts(RouterTokenizer.load(artifact.tokenizer), toolset, cases, context_length=context_length)
    prepared = None
    if hasattr(module, "prepare"):
        prepared = folder / "prepared"
        module.prepare(artifact, prepared, lambda line: None)
    opening = Opening(
        kind=kind, artifact=artifact, prefix=prompts.prefix, stops=WIRE.stops,
        grammar=gbnf(toolset) if kind.grammar else "", threads=1, limit=limit,
        context_length=context_length, log=folder / "program.log", prepared=prepared, device=device,
    )  # fmt: skip
    peer: Peer = module.open_peer(opening)
    return peer, Asked(peer, prompts, limit), prompts


def routed(
    artifact: Artifact, *, grammar: bool, cases: Sequence[Case] = CASES, limit: int = LIMIT
) -> dict[str, RouteResult]:
    """What the router makes of the cases on the same artifact; the clear ones alone."""
    model = open_model(artifact, device="cpu", threads=1)
    router = Router.from_model(model, RouterTokenizer.load(artifact.tokenizer), load_json(artifact.toolset))
    found = {
        case.id: router.route(case.user, case.context, grammar=grammar, max_new_tokens=limit, record=True)
        for case in cases
    }
    model.close()
    clear = {case: result for case, result in found.items() if min(d.margin for d in result.decisions or ()) > CLEAR}
    assert len(clear) >= LEAST, "near-ties everywhere: other requests"
    return clear


def spoken(completion: Completion) -> str:
    """The text without the stop, which some peers leave out."""
    text = completion.text
    for stop in (*WIRE.stops, WIRE.eos):
        text = text.removesuffix(stop)
    return text


@pytest.mark.parametrize(
    ("name", "source", "ours"),
    [
        ("transformers", ("safetensors", "fp32"), ("safetensors", "fp32")),
        ("transformers-cache", ("safetensors", "fp32"), ("safetensors", "fp32")),
        pytest.param("optimum", ("safetensors", "fp32"), ("onnx", "fp32"), marks=pytest.mark.slow),
        ("llama-cpp-python", ("gguf", "f32"), ("gguf", "f32")),
        ("llama-cpp-python-naive", ("gguf", "f32"), ("gguf", "f32")),
        ("llama-server-plain", ("gguf", "f32"), ("gguf", "f32")),
        ("mlx-lm", ("mlx", "fp32"), ("mlx", "fp32")),
    ],
)
def test_writes_what_the_router_writes(
    name: str, source: tuple[str, str], ours: tuple[str, str], exported: Exported, tmp_path: Path
) -> None:
    needed(name)
    expected = routed(exported(*ours), grammar=False)
    peer, asked, prompts = open_one(name, exported(*source), tmp_path)
    assert asked.differently_read(CASES) == 0
    for case in CASES:
        if case.id not in expected:
            continue
        result, completion = expected[case.id], peer.complete(prompts.text(case))
        assert spoken(completion) == spoken(Completion(result.text, True)), case.user
        assert completion.ended == (result.error is None or "no end" not in result.error)
        if completion.token_ids:
            assert list(completion.token_ids) == result.token_ids
        assert completion.passes == len(result.token_ids)
        again = asked.route(case)
        assert again["text"] == completion.text, "what one request leaves behind changes the next"
    assert peer.threads == 1 and all(peer.versions.values())
    peer.close()


GOLD = [
    Case("g0", "light the hall", calls=(Call("set_light", {"room": "hall", "on": True, "level": 40}),)),
    Case("g1", "what is on in the bath", calls=(Call("status", {"room": "bath"}),)),
    Case("g2", "hello", calls=()),
]


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("transformers", ("safetensors", "fp32")),
        ("transformers-cache", ("safetensors", "fp32")),
        pytest.param("optimum", ("safetensors", "fp32"), marks=pytest.mark.slow),
        ("llama-cpp-python", ("gguf", "f32")),
        ("llama-cpp-python-naive", ("gguf", "f32")),
        ("llama-cpp-python-gbnf", ("gguf", "f32")),
        ("mlx-lm", ("mlx", "fp32")),
    ],
)
def test_takes_given_tokens(name: str, source: tuple[str, str], exported: Exported, tmp_path: Path) -> None:
    """Whatever its weights want, one by one, and is itself again afterwards."""
    needed(name)
    artifact = exported(*source)
    tokenizer = RouterTokenizer.load(artifact.tokenizer)
    peer, _, prompts = open_one(name, artifact, tmp_path, cases=GOLD, limit=64)
    for case in [*GOLD, GOLD[0]]:
        gold = tokenizer.completion_ids(case.calls)
        completion = peer.complete(prompts.text(case), gold)
        assert completion.ended and completion.passes == len(gold), case.user
        assert spoken(completion) == spoken(Completion(tokenizer.decode(gold), True))
        if completion.token_ids:
            assert list(completion.token_ids) == gold
    free = peer.complete(prompts.text(GOLD[0]))
    assert spoken(free) != spoken(Completion(tokenizer.decode(tokenizer.completion_ids(GOLD[0].calls)), True))
    peer.close()


def test_llama_server_says_that_it_takes_none() -> None:
    from bench.peer_server import Server
    from runtimes.errors import UserError

    server = Server.__new__(Server)
    with pytest.raises(UserError, match="cannot be told within a request which tokens to take"):
        server.complete("x", [1, 2])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama-cpp-python-gbnf", "llama-server", "llama-server-fa-off"])
def test_calls_what_the_router_calls_under_the_grammar(name: str, tmp_path: Path, kiwi: Toolset) -> None:
    """On the seed router: a random model would spell tokens in other ways, which GBNF lets it."""
    needed(name)
    source = merge_checkpoint("seed", tmp_path / "merged", toolset="kiwi")
    # GBNF cannot bind strings to the request.
    artifact = whole(source, "gguf", "f32", tmp_path / "gguf", unbound(kiwi))
    cases = load_cases(path("cases", "kiwi", "handwritten_dev.jsonl"))[:12]
    expected = routed(artifact, grammar=True, cases=cases, limit=96)
    peer, asked, _ = open_one(name, artifact, tmp_path, cases=cases, limit=96)
    try:
        assert asked.differently_read(cases) == 0
        for case in cases:
            if case.id in expected:
                event = asked.route(case)
                assert event["error"] is None
                calls = [Call(call["name"], call["arguments"]) for call in event["calls"]]
                assert same_calls(calls, expected[case.id].calls, kiwi), case.user
                assert event["stats"]["forward_passes"] == len(expected[case.id].token_ids)
    finally:
        peer.close()
    assert any(result.calls for result in expected.values())


def test_a_prompt_that_does_not_fit_is_its_case_s_error(exported: Exported, tmp_path: Path) -> None:
    needed("transformers")
    artifact = exported("safetensors", "fp32")
    tokenizer = RouterTokenizer.load(artifact.tokenizer)
    prompts = Prompts(tokenizer, LIGHTS, CASES, context_length=10)
    peer, _, _ = open_one("transformers", artifact, tmp_path)
    event = Asked(peer, prompts, LIMIT).route(CASES[0])
    assert event["calls"] is None and "more than the context of 10" in event["error"]


@pytest.mark.slow
def test_optimum_exports_once(exported: Exported, tmp_path: Path) -> None:
    needed("optimum")
    from bench.peer_optimum import prepare

    artifact, said = exported("safetensors", "fp32"), list[str]()
    prepare(artifact, tmp_path / "nest", said.append)
    first = (tmp_path / "nest" / "model.onnx").stat().st_mtime_ns
    prepare(artifact, tmp_path / "nest", said.append)
    assert len(said) == 1 and (tmp_path / "nest" / "model.onnx").stat().st_mtime_ns == first
    (tmp_path / "nest" / "exported.json").write_text("{}")
    prepare(artifact, tmp_path / "nest", said.append)
    assert len(said) == 2


def test_sixteen_bits_are_what_it_computes_in(exported: Exported, tmp_path: Path) -> None:
    needed("transformers-bf16")
    peer, asked, _ = open_one("transformers-bf16", exported("safetensors", "bf16"), tmp_path, cases=CASES[:1])
    assert (peer.dtype, peer.device) == ("bf16", "cpu")
    assert asked.route(CASES[0])["text"]


def test_a_device_that_is_not_there_is_no_other(exported: Exported, tmp_path: Path) -> None:
    for name, source in (("transformers", ("safetensors", "fp32")), ("llama-cpp-python", ("gguf", "f32"))):
        needed(name)
        absent = next((kind for kind, state in device_states(name).items() if not state.available), None)
        if absent is not None:
            with pytest.raises(UnavailableError, match=absent):
                open_one(name, exported(*source), tmp_path, device=absent)


def device_states(name: str) -> dict[str, DeviceStatus]:
    found: dict[str, DeviceStatus] = module_of(kind_of(name)).availability(None).devices
    return found


def test_every_peer_is_one_of_those_tested() -> None:
    real = {name for name, kind in PEERS.items() if kind.module.startswith("bench.")}
    assert real == {
        "transformers", "transformers-bf16", "transformers-cache", "optimum", "llama-cpp-python",
        "llama-cpp-python-naive", "llama-cpp-python-gbnf", "llama-server", "llama-server-fa-off", "llama-server-plain",
        "mlx-lm",
    }  # fmt: skip
