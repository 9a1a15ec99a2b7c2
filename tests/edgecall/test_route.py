"""`edgecall route`, on a tiny random router: the calls mean nothing, but they fit the tools."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

import edgecall.route as route
from export.base import Checkpoint
from runtimes.artifact import open_artifact
from runtimes.base import Availability
from runtimes.errors import UnavailableError, UserError
from tests.edgecall.conftest import Ran

Cli = Callable[..., Ran]


@pytest.fixture(scope="module")
def artifact(tiny: Checkpoint, lamps: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF of the tiny router for the lamps."""
    from export.pipeline import export_one
    from router.toolset_load import load_toolset

    pytest.importorskip("llama_cpp")
    out = tmp_path_factory.mktemp("route")
    return export_one(tiny, "gguf", "f32", out, load_toolset(lamps), threads=1).folder


@pytest.fixture
def ask(cli: Cli, artifact: Path) -> Cli:
    """``ask("light the hall", "--stats")`` on the artifact, one thread."""
    return lambda request, *options: cli("route", request, "--model", str(artifact), "--threads", "1", *options)


def test_stdout_is_json_alone(ask: Cli) -> None:
    ran = ask("light the hall")
    answer = json.loads(ran.out)
    assert (ran.code, ran.err, list(answer)) == (0, "", ["calls"])
    assert all(call["name"] == "switch" for call in answer["calls"])


def test_project_path_is_the_current_folder(ask: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(route, "_answer", lambda result, artifact, stats: {"seen": True})
    seen: dict[str, str] = {}

    from router.core import Router

    original = Router.route

    def spy(self: Router, user: str, given: dict[str, str], **options: bool) -> object:
        seen.update(given)
        return original(self, user, given, **options)

    monkeypatch.setattr(Router, "route", spy)
    assert ask("x").code == 0
    assert seen["project_path"] == os.getcwd()
    assert ask("x", "--context", "project_path=/a=b", "--context", "user=me").code == 0
    assert (seen["project_path"], seen["user"]) == ("/a=b", "me")


def test_the_date_is_todays_unless_given() -> None:
    now = datetime(2026, 3, 11, 9, 5)
    assert route.context([], now) == {
        "project_path": os.getcwd(),
        "date": "2026-03-11",
        "weekday": "Wednesday",
        "time": "09:05",
    }
    assert route.context(["date=2020-01-01"], now)["date"] == "2020-01-01"


def test_every_call_gets_the_bound_value(ask: Cli) -> None:
    calls = [
        call
        for request in ("light the hall", "kitchen dark", "what time is it", "hello")
        for call in json.loads(ask(request, "--context", "project_path=/p").out)["calls"]
    ]
    assert calls and {call["arguments"]["project_path"] for call in calls} == {"/p"}


def test_the_prompt_can_be_printed_instead(ask: Cli, artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from router.core import Router
    from router.tokenizer import RouterTokenizer
    from router.toolset_load import load_json
    from router.wire import wire_format

    monkeypatch.setattr(Router, "open", None)  # no model is loaded
    ran = ask("  light the hall ", "--print-prompt")
    opened = open_artifact(artifact)
    tokenizer = RouterTokenizer.load(opened.tokenizer, wire_format(opened.wire))
    tools = load_json(opened.toolset)
    assert (ran.code, ran.err) == (0, "")
    assert tokenizer.encode(ran.out) == tokenizer.prompt_ids(tools, "light the hall")
    refused = ask("light <end_of_turn>", "--print-prompt")
    assert refused.code == 2 and "<end_of_turn>" in refused.err and refused.out == ""


def test_stats(ask: Cli, artifact: Path) -> None:
    answer = json.loads(ask("light the hall", "--stats", "--json").out)
    assert answer["artifact"] == str(artifact)
    stats = answer["stats"]
    assert stats["prompt_tokens"] > stats["request_tokens"] > 0 and stats["forward_passes"] == len(stats["pass_sizes"])
    assert stats["decided_tokens"] + stats["forced_tokens"] == answer["tokens"]
    assert 0 < stats["first_decision_ms"] <= stats["total_ms"]


def test_json_is_one_line(ask: Cli) -> None:
    assert ask("light the hall", "--json").out.count("\n") == 1


def test_without_grammar_what_is_no_call_is_said(ask: Cli) -> None:
    """A random model writes noise: the answer says so, and the exit code."""
    ran = ask("light the hall", "--no-grammar")
    answer = json.loads(ran.out)
    assert (ran.code == 1) == ("error" in answer)
    assert ran.code in (0, 1) and ran.err == ""


@pytest.fixture
def by_model(cli: Cli, tiny: Checkpoint, lamps: Path) -> Callable[[], Ran]:
    """The same request, to a model that must be exported first."""
    pytest.importorskip("llama_cpp")
    options = ["--model", str(tiny.folder), "--runtime", "llama_cpp", "--toolset", str(lamps), "--threads", "1"]
    return lambda: cli("route", "light the hall", *options)


def test_first_use_makes_the_artifact_and_says_where(by_model: Callable[[], Ran], cache: Path) -> None:
    first, second = by_model(), by_model()
    assert (first.code, second.code, second.err) == (0, 0, "")
    assert first.out == second.out
    where = re.search(r"edgecall: making gguf-q8_0 of \S+ in (\S+) \(once", first.err)
    assert where is not None and Path(where[1]).is_relative_to(cache)
    assert (Path(where[1]) / "gguf-q8_0" / "manifest.json").is_file()


def test_a_later_use_loads_the_runtime_and_no_exporter(
    by_model: Callable[[], Ran], python: Callable[..., Ran], tiny: Checkpoint, lamps: Path
) -> None:
    """What a cold process takes to its first answer is mostly imports."""
    first = by_model()
    heavy = {
        "torch", "transformers", "sympy", "matplotlib", "pandas", "scipy", "onnx", "onnxruntime", "mlx", "coremltools",
        "safetensors", "gguf", "huggingface_hub", "rich", "jinja2", "export.pipeline",
    }  # fmt: skip
    argv = ["route", "light the hall", "--model", str(tiny.folder), "--runtime", "llama_cpp", "--toolset", str(lamps)]
    code = (
        "import sys\n"
        "from edgecall.cli import main\n"
        "code = main(sys.argv[1:])\n"
        f"print(*sorted({heavy} & set(sys.modules)), file=sys.stderr)\n"
        "sys.exit(code)"
    )
    assert python("-c", code, *argv, "--threads", "1") == Ran(0, first.out, "\n")


def test_a_damaged_artifact_in_the_cache_is_made_again(by_model: Callable[[], Ran], cache: Path) -> None:
    first = by_model()
    weights = next(cache.rglob("*.gguf"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00\x00")
    second = by_model()
    assert (second.code, second.out) == (0, first.out)
    assert f"edgecall: {weights}: " in second.err


class TestMistakes:
    """One line on stderr, nothing on stdout, exit code 2."""

    @pytest.mark.parametrize(
        ("options", "line"),
        [
            (["--context", "project_path"], "--context 'project_path': write KEY=VALUE, as in"),
            (["--context", "=x"], "--context '=x': write KEY=VALUE, as in"),
            (["--quant", "q8_0"], "is an artifact already; leave out --quant"),
            (["--runtime", "llamacpp"], "unknown runtime 'llamacpp'; there are"),
            (["--runtime", "torch"], "torch opens safetensors artifacts, this is gguf"),
            (["--device", "tpu"], "tpu"),
            (["--threads", "0"], "0 is not a number of threads"),
            (["--threads", "1000000"], "threads: 1000000 is more than"),
            (["--toolset", ""], "--toolset: is empty; give a value"),
            (["--toolset", "kiwis"], "unknown toolset 'kiwis'; there are"),
            (["--toolset", "no/such.yaml"], "no/such.yaml: no such toolset file"),
        ],
    )
    def test_options(self, ask: Cli, options: list[str], line: str) -> None:
        ran = ask("light the hall", *options)
        assert (ran.code, ran.out) == (2, "")
        assert line in ran.err and ran.err.startswith("edgecall: ") and ran.err.count("\n") == 1

    @pytest.mark.parametrize("request_", ["", "  \n"])
    def test_an_empty_request(self, ask: Cli, request_: str) -> None:
        told = 'edgecall: the request is empty; give one, as in `edgecall route "find email scripts"`\n'
        assert ask(request_) == Ran(2, "", told)

    def test_no_such_model(self, cli: Cli) -> None:
        ran = cli("route", "x", "--model", "no-such-model")
        assert (ran.code, ran.out) == (2, "") and ran.err.startswith("edgecall: no-such-model: no such model folder")

    def test_an_unknown_quantization(self, cli: Cli, tiny: Checkpoint) -> None:
        pytest.importorskip("llama_cpp")
        ran = cli("route", "x", "--model", str(tiny.folder), "--runtime", "llama_cpp", "--quant", "q9")
        assert (ran.code, ran.out) == (2, "")
        assert ran.err.startswith("edgecall: gguf has no quantization 'q9'; there are f32, f16, q8_0, q4_k_m, q4_0, ")
        assert ran.err.count("\n") == 1

    def test_a_changed_byte(self, cli: Cli, artifact: Path, tmp_path: Path) -> None:
        copy = tmp_path / "copy"
        shutil.copytree(artifact, copy)
        weights = next(copy.glob("*.gguf"))
        data = bytearray(weights.read_bytes())
        data[len(data) // 2] ^= 1
        weights.write_bytes(data)
        ran = cli("route", "x", "--model", str(copy))
        told = f"edgecall: {weights}: content differs from the manifest's sha256; export again\n"
        assert ran == Ran(2, "", told)

    def test_without_torch_it_says_what_an_embedder_can_do(
        self, cli: Cli, tiny: Checkpoint, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("llama_cpp")
        import importlib.util

        original = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else original(name))
        ran = cli("route", "x", "--model", str(tiny.folder), "--runtime", "llama_cpp")
        assert ran == Ran(
            2,
            "",
            f"edgecall: no gguf-q8_0 of {tiny.folder.name} in {cache}, and it cannot be made here: torch is not "
            'installed; it comes with an extra: pip install "edgecall[export]"; or give an artifact folder made '
            "elsewhere with --model\n",
        )


class TestChoiceOfRuntime:
    def test_the_first_available(self, monkeypatch: pytest.MonkeyPatch) -> None:
        there = {"onnxruntime", "torch"}
        self._only(there, monkeypatch)
        assert route.choose_runtime(None) == "onnxruntime"
        there.clear()
        with pytest.raises(UnavailableError, match=r"no runtime is installed; pip install .edgecall\[llama\]"):
            route.choose_runtime(None)

    def test_the_one_asked_for_or_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._only({"torch"}, monkeypatch)
        assert route.choose_runtime("torch") == "torch"
        with pytest.raises(UnavailableError, match="^mlx: not here; buy a Mac$"):
            route.choose_runtime("mlx")
        monkeypatch.undo()
        with pytest.raises(UserError, match="unknown runtime 'tourch'.*did you mean 'torch'"):
            route.choose_runtime("tourch")

    def _only(self, there: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
        import runtimes

        class Stand:
            def __init__(self, name: str) -> None:
                self.name = name

            def availability(self) -> Availability:
                return Availability(self.name in there, reason="not here", fix="buy a Mac")

        monkeypatch.setattr(runtimes, "runtime", Stand)
