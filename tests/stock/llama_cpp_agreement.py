"""Does stock llama.cpp agree with us? Its converter, tokenizer, server and completion tool, against our artifact.

1. converter: ``convert_hf_to_gguf.py`` accepts the merged checkpoint; its metadata is compared with ours (with a list
   of what differs on purpose), its tensors must be equal, and its file must decode to the same tokens on every case.
2. tokenize: ``llama-tokenize`` gives our ids for the rendered prompt of every case.
3. server: ``llama-server`` (``/completion``, our rendered prompt as text, our GBNF, temperature 0) makes the same
   calls as our runtime on every case. Strings bound to the request (``copy``) are unbound first: GBNF cannot say it.
4. completion: ``llama-completion -no-cnv`` does so on a sample.

Flash attention is off in both (``--stock-args``), as in our runtime: it rounds to half precision, which flips
near-ties of quantized files (2 of 206 requests, once).

Run it from the root of the repository, in its environment::

    python -m tests.stock.llama_cpp_agreement --build BUILD/bin --source LLAMA_CPP --model MERGED --artifact DIR \\
        --cases configs/cases/kiwi/handwritten_dev.jsonl --out agreement.json

BUILD comes from the source that llama-cpp-python was built from (a different llama.cpp computes differently)::

    pip download --no-binary :all: --no-deps llama-cpp-python==VERSION && tar xzf llama_cpp_python-VERSION.tar.gz
    cmake -S llama_cpp_python-VERSION/vendor/llama.cpp -B BUILD -DCMAKE_BUILD_TYPE=Release \\
        -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_BUILD_TESTS=OFF
    cmake --build BUILD -j 2 --target llama-tokenize llama-server llama-completion

Without --source or --model the converter is left out, without --build the rest. Exit code 0: everything agrees.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from export.pipeline import export_one, merge_checkpoint
from router import Router, RouteResult
from router.cases import Case, load_cases, same_calls
from router.gbnf import gbnf
from router.tokenizer import RouterTokenizer
from router.toolset import Toolset
from router.toolset_load import load_json
from router.wire import WIRES, WireFormat, parse_completion, render_prompt, user_turn
from runtimes.artifact import MANIFEST, Artifact, open_artifact, sha256_file, write_manifest
from runtimes.errors import UserError
from tests.unbound import unbound

MAX_NEW_TOKENS = 256
END = " [end of text]"
"""What llama-completion prints at an end token."""
TRIES = 8

ON_PURPOSE = {
    "GGUF.kv_count": "we write more keys",
    "general.name": "guessed from the folder there",
    "general.basename": "guessed from the folder there",
    "general.finetune": "guessed from the folder there",
    "general.size_label": "not written by us",
    "tokenizer.ggml.add_bos_token": "false here: the rendered prompt begins with <bos>",
    "tokenizer.ggml.eot_token_id": "<end_of_turn>, so that stock tools stop there",
    "tokenizer.ggml.eom_token_id": "<start_function_response>, so that stock tools stop there",
    "tokenizer.ggml.token_type": "user-defined here for what calls consist of, or stock tools leave it out",
    "tokenizer.ggml.scores": "of byte tokens, which nothing merges into",
    "gemma3.attention.sliding_window_pattern": "written by us where it is not llama.cpp's default",
    "gemma3.rope.freq_base_swa": "written by us; llama.cpp's default otherwise",
}
"""Metadata that may differ, and why."""


@dataclass
class Tally:
    """How many cases agreed, and what those that did not looked like."""

    name: str
    n: int = 0
    different: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def add(self, same: bool, case: Case, **what: Any) -> None:
        self.n += 1
        if not same:
            self.different.append({"id": case.id, "user": case.user, **what})

    def result(self) -> dict[str, Any]:
        print(f"{self.name}: {self.n - len(self.different)} of {self.n} cases agree", flush=True)
        return {"cases": self.n, "agree": self.n - len(self.different), "different": self.different}


@dataclass(frozen=True)
class Ours:
    """What our runtime makes of every case, and what the stock tools are given."""

    artifact: Artifact
    toolset: Toolset
    wire: WireFormat
    cases: Sequence[Case]
    prompts: list[str]
    prompt_ids: list[list[int]]
    results: list[RouteResult]


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    report: dict[str, Any] = {"artifact": args.artifact.name, "cases": args.cases.name, "stock_args": args.stock_args}
    with tempfile.TemporaryDirectory(prefix="agreement-") as scratch:
        work = Path(scratch)
        artifact = open_artifact(args.artifact)
        cases = load_cases(args.cases)[: args.limit]
        ours = route_all(artifact, cases, args.threads)
        if args.source and args.model:
            report["converter"] = check_converter(args.source, args.model, ours, work, args.threads)
        if args.build:
            report["tokenize"] = check_tokenize(args.build / "llama-tokenize", ours)
            more = shlex.split(args.stock_args)
            report["server"] = check_server(args.build / "llama-server", ours, args.threads, more)
            report["completion"] = check_completion(
                args.build / "llama-completion", ours, args.sample, args.threads, more, work
            )
    report["agrees"] = agrees(report)
    text = json.dumps(report, indent=1, ensure_ascii=False) + "\n"
    if args.out:
        partial = args.out.with_name(args.out.name + ".part")
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, args.out)
    else:
        print(text)
    return 0 if report["agrees"] else 1


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="llama_cpp_agreement"
    )
    parser.add_argument("--artifact", type=Path, required=True, help="a GGUF artifact of ours")
    parser.add_argument("--cases", type=Path, required=True, help="a suite (JSONL)")
    parser.add_argument("--build", type=Path, help="folder with llama-tokenize, llama-server, llama-completion")
    parser.add_argument("--source", type=Path, help="llama.cpp's source, for its converter")
    parser.add_argument("--model", type=Path, help="the checkpoint that the artifact was exported from")
    parser.add_argument("--sample", type=int, default=25, help="cases for llama-completion (default 25)")
    parser.add_argument("--limit", type=int, help="only the first N cases")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--stock-args", default="-fa off", help="for server and completion too (%(default)s)")
    parser.add_argument("--out", type=Path, help="write the report here (JSON)")
    return parser.parse_args(argv)


def agrees(report: dict[str, Any]) -> bool:
    parts = [report[name] for name in ("tokenize", "server", "completion") if name in report]
    if converter := report.get("converter"):
        parts.append(converter["decoding"])
        if converter["unexpected_metadata"] or converter["max_tensor_difference"] != 0:
            return False
    return bool(parts) and all(part["agree"] == part["cases"] for part in parts)


def route_all(artifact: Artifact, cases: Sequence[Case], threads: int) -> Ours:
    toolset = unbound(load_json(artifact.toolset))
    wire = WIRES[artifact.wire]
    tokenizer = RouterTokenizer.load(artifact.tokenizer, wire)
    return Ours(
        artifact,
        toolset,
        wire,
        cases,
        [render_prompt(toolset, user_turn(toolset, case.user, case.context), wire) for case in cases],
        [tokenizer.prompt_ids(toolset, user_turn(toolset, case.user, case.context)) for case in cases],
        routed(artifact, toolset, cases, threads),
    )


def routed(artifact: Artifact, toolset: Toolset, cases: Sequence[Case], threads: int) -> list[RouteResult]:
    """What our own router makes of `cases`, the toolset's context filled with anything."""
    results = []
    with Router.open(artifact.folder, device="cpu", threads=threads, toolset=toolset) as router:
        for case in cases:
            context = dict.fromkeys(toolset.bound_keys, "here") | dict(case.context)
            results.append(router.route(case.user, context, max_new_tokens=MAX_NEW_TOKENS))
    return results


# 1. The converter


def check_converter(source: Path, model: Path, ours: Ours, work: Path, threads: int) -> dict[str, Any]:
    checkpoint = merge_checkpoint(model, work)
    plain = export_one(checkpoint, "gguf", "f32", work / "ours", ours.toolset, threads=threads)
    stock = work / "stock.gguf"
    script = source / "convert_hf_to_gguf.py"
    run(
        [sys.executable, str(script), str(checkpoint.folder), "--outfile", str(stock), "--outtype", "f32"],
        env={**os.environ, "PYTHONPATH": str(source / "gguf-py")},
    )
    metadata, difference = compare_files(plain.weights, stock)
    unexpected = {key: values for key, values in metadata.items() if key not in ON_PURPOSE}
    print(f"converter: metadata differs in {sorted(metadata)}; unexpected: {sorted(unexpected)}", flush=True)
    tally = Tally("converter, decoding")
    swapped = with_weights(plain, stock, work / "stock")
    one, other = (routed(a, ours.toolset, ours.cases, threads) for a in (plain, swapped))
    for case, mine, theirs in zip(ours.cases, one, other, strict=True):
        tally.add(mine.token_ids == theirs.token_ids, case, ours=mine.text, stock=theirs.text)
    return {
        "metadata": {key: {"ours": a, "stock": b, "why": ON_PURPOSE.get(key)} for key, (a, b) in metadata.items()},
        "unexpected_metadata": sorted(unexpected),
        "max_tensor_difference": difference,
        "decoding": tally.result(),
    }


def compare_files(ours: Path, stock: Path) -> tuple[dict[str, tuple[str, str]], float]:
    """Metadata keys whose values differ (shortened), and the largest difference of any weight."""
    from gguf import GGUFReader

    a, b = GGUFReader(ours), GGUFReader(stock)
    different = {}
    for key in sorted(a.fields.keys() | b.fields.keys()):
        one, other = (r.fields[key].contents() if key in r.fields else None for r in (a, b))
        if one != other:
            different[key] = shortened(one, other)
    tensors = {t.name: t.data for t in b.tensors}
    if tensors.keys() != {t.name for t in a.tensors}:
        return different, float("inf")
    return different, max(float(np.abs(t.data - tensors[t.name]).max()) for t in a.tensors)


def shortened(one: Any, other: Any) -> tuple[str, str]:
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        places = [i for i, (x, y) in enumerate(zip(one, other, strict=True)) if x != y]
        some = places[:8]
        return f"{len(places)} differ: {[(i, one[i]) for i in some]}", f"{[(i, other[i]) for i in some]}"
    return str(one)[:200], str(other)[:200]


def with_weights(artifact: Artifact, weights: Path, folder: Path) -> Artifact:
    """A copy of `artifact` around other weights."""
    shutil.copytree(artifact.folder, folder)
    shutil.copyfile(weights, folder / artifact.weights.name)
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    for entry in manifest["files"]:
        if entry["path"] == manifest["weights"]:
            entry |= {"bytes": weights.stat().st_size, "sha256": sha256_file(weights)}
    write_manifest(folder, manifest)
    return open_artifact(folder)


# 2. The tokenizer


def check_tokenize(tool: Path, ours: Ours) -> dict[str, Any]:
    tally = Tally("llama-tokenize")
    for case, prompt, ids in zip(ours.cases, ours.prompts, ours.prompt_ids, strict=True):
        # From standard input: read from a file, the prompt would lose its last newline.
        text = run(
            [str(tool), "-m", str(ours.artifact.weights), "--stdin", "--no-escape", "--ids", "--log-disable"],
            given=prompt,
        )
        theirs = json.loads(text[text.rindex("[") :])
        tally.add(theirs == ids, case, ours=ids, stock=theirs)
    return tally.result()


# 3. The server


def check_server(tool: Path, ours: Ours, threads: int, more: Sequence[str]) -> dict[str, Any]:
    tally, grammar = Tally("llama-server"), gbnf(ours.toolset, ours.wire)
    with server(tool, ours.artifact.weights, threads, more) as address:
        for case, prompt, result in zip(ours.cases, ours.prompts, ours.results, strict=True):
            body = {
                "prompt": prompt,
                "grammar": grammar,
                "temperature": 0,
                "n_predict": MAX_NEW_TOKENS,
                "cache_prompt": True,
            }
            answer = post(f"{address}/completion", body)
            compare(tally, ours, case, result, str(answer["content"]))
    return tally.result()


def compare(tally: Tally, ours: Ours, case: Case, result: RouteResult, text: str) -> None:
    """Count `text`, a stock completion without its stop. Where ours found no end, theirs must run the same way."""
    if result.error is not None:
        shorter = min(len(result.text), len(text))
        same = shorter > 0 and result.text[:shorter] == text[:shorter]
        tally.add(same, case, ours=result.text, error=result.error, stock=text)
        return
    try:
        theirs = parse_completion(text, ours.wire)
    except UserError as error:
        tally.add(False, case, ours=result.text, stock=text, error=str(error))
        return
    tally.add(same_calls(result.calls, theirs, ours.toolset), case, ours=result.text, stock=text)


@contextmanager
def server(tool: Path, weights: Path, threads: int, more: Sequence[str]) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(tool), "-m", str(weights), "--host", "127.0.0.1", "--port", str(port), "-c", "4096", "-np", "1"]
    command += ["-t", str(threads), "-tb", str(threads), *more]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(address, process)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=30)


def wait_until_ready(address: str, process: subprocess.Popen[bytes], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"llama-server ended with {process.returncode}; run it by hand to see why")
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise SystemExit("llama-server did not become ready")


def post(address: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as answer:
        data: dict[str, Any] = json.load(answer)
    return data


# 4. The completion tool


def check_completion(
    tool: Path, ours: Ours, sample: int, threads: int, more: Sequence[str], work: Path
) -> dict[str, Any]:
    tally = Tally("llama-completion")
    grammar, prompt_file = work / "toolset.gbnf", work / "prompt.txt"
    grammar.write_text(gbnf(ours.toolset, ours.wire), encoding="utf-8")
    step = max(1, len(ours.cases) // max(1, sample))
    for i in range(0, len(ours.cases), step)[:sample]:
        prompt_file.write_text(ours.prompts[i], encoding="utf-8")
        # -bf: -f would drop the prompt's last newline.
        command = [str(tool), "-m", str(ours.artifact.weights), "-no-cnv", "-bf", str(prompt_file), "--no-escape"]
        command += ["--grammar-file", str(grammar), "--temp", "0", "-n", str(MAX_NEW_TOKENS), "-c", "4096"]
        command += ["-t", str(threads), "--no-display-prompt", "--no-warmup", "--simple-io", "-lv", "0", *more]
        text = completed(command)
        if text is None:
            tally.add(False, ours.cases[i], ours=ours.results[i].text, error="no end of the completion")
            continue
        compare(tally, ours, ours.cases[i], ours.results[i], text)
    return tally.result()


def completed(command: list[str]) -> str | None:
    """What llama-completion prints, or None without an end token.

    Tried again, because its output goes through a logger that may lose the end at exit (common/log.cpp says so).
    """
    for _ in range(TRIES):
        text = run(command).rstrip("\n")
        if text.endswith(END):
            return text.removesuffix(END)
    return None


def run(command: list[str], *, given: str = "", env: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, input=given.encode(), capture_output=True, env=env, check=False)
    if done.returncode != 0:
        tail = done.stderr.decode("utf-8", "replace").strip().splitlines()[-5:]
        raise SystemExit(f"{Path(command[0]).name} ended with {done.returncode}:\n" + "\n".join(tail))
    return done.stdout.decode("utf-8", "replace")


if __name__ == "__main__":
    sys.exit(main())
