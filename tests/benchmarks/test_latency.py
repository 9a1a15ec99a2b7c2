"""The bench's latency cases through pytest-benchmark, one test per runtime that is available here.

    pytest tests/benchmarks --benchmark-json=out.json

Not collected by a plain `pytest`. All runtimes share this process, so take memory, cold start and comparisons under
equal conditions from `bench all-runtimes`; this one is for watching a runtime over time with pytest-benchmark's tools.
``EDGECALL_MODEL`` names another model than ``seed``, ``EDGECALL_VARIANTS`` other artifacts than the 32-bit ones
(``gguf-q8_0,onnx-int8``), ``EDGECALL_REQUESTS`` another number of timed requests than 100.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from bench.metrics import judge, summarize
from bench.records import Settings, Variant, calls_from
from bench.routing import Routed, open_routed
from bench.suites import Suite, load_suite, order, subset
from bench.variants import choose
from export.base import Checkpoint
from router.toolset import Toolset
from runtimes import runtime
from runtimes.artifact import Artifact
from runtimes.errors import UserError

MODEL = os.environ.get("EDGECALL_MODEL", "seed")
REQUESTS = int(os.environ.get("EDGECALL_REQUESTS", "100"))
WARM_UP = 10
CACHE = Path("out/artifacts")


def variants() -> list[Variant]:
    named = tuple(part for part in os.environ.get("EDGECALL_VARIANTS", "").split(",") if part)
    chosen = choose(Settings(variants=named, quick=True))
    return chosen if named else [variant for variant in chosen if variant.precision == 32]


@pytest.fixture(scope="module")
def suite() -> Suite:
    return subset(load_suite("default", "kiwi"))


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    from export.pipeline import merge_checkpoint

    try:
        return merge_checkpoint(MODEL, CACHE / "merged", toolset="kiwi")
    except UserError as error:
        pytest.skip(f"no model to measure: {error}")


@pytest.fixture(params=variants(), ids=lambda variant: f"{variant.runtime}-{variant.artifact}")
def routed(request: pytest.FixtureRequest, checkpoint: Checkpoint, kiwi: Toolset) -> Iterator[tuple[Routed, Artifact]]:
    """A router on one runtime; its artifact is exported if the cache has none."""
    from export.pipeline import export_one

    variant: Variant = request.param
    state = runtime(variant.runtime).availability()
    if not state.available:
        pytest.skip(f"{variant.runtime}: {state.reason}; {state.fix}")
    parts = (checkpoint.name, checkpoint.sha256[:8], kiwi.name, kiwi.sha256[:8])
    try:
        artifact = export_one(checkpoint, variant.format, variant.quant, CACHE / "-".join(parts), kiwi, threads=1)
    except UserError as error:
        pytest.skip(f"{variant.artifact} cannot be exported here: {error}")
    opened, load_ms = open_routed(artifact.folder, runtime=variant.runtime, device="auto", threads=1)
    assert load_ms > 0
    yield opened, artifact
    opened.router.close()
    opened.model.close()


def test_latency(benchmark: Any, routed: tuple[Routed, Artifact], suite: Suite, kiwi: Toolset) -> None:
    """One timed call is one request: from its text to the parsed calls, the toolset's prefix in the cache."""
    opened, artifact = routed
    opened.limit_to(suite.cases)
    cases = order(suite.cases)
    answers = {case.id: opened.route(case) for case in cases}
    verdicts = {
        case.id: judge(case, None if (rows := answers[case.id]["calls"]) is None else calls_from(rows), kiwi)
        for case in cases
    }
    figures = summarize(cases, verdicts, suite.templates)
    requests = cycle(cases)
    router, limit = opened.router, opened.limit
    context = dict.fromkeys(kiwi.bound_keys, ".")

    def next_request() -> tuple[tuple[Any, ...], dict[str, Any]]:
        case = next(requests)
        return (case.user, context | case.context), {"max_new_tokens": limit}

    benchmark.extra_info.update(
        artifact=artifact.name,
        artifact_sha256=artifact.sha256,
        device=opened.model.device,
        dtype=opened.model.dtype,
        threads=opened.model.threads,
        cases=len(cases),
        suite_sha256=suite.sha256,
        exact=figures["exact"],
        exact_ci95=figures["exact_ci95"],
        tool=figures["tool"],
    )
    benchmark.group = f"{artifact.precision}-bit on {opened.model.device}"
    benchmark.pedantic(
        lambda user, given, **options: router.route(user, given, **options),
        setup=next_request, rounds=REQUESTS, iterations=1, warmup_rounds=WARM_UP,
    )  # fmt: skip
