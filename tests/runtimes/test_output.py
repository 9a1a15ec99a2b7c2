"""An output matrix with fewer rows than the vocabulary: the logits of what is kept, on every runtime that can."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export import EXPORTERS, exporter
from export.base import Checkpoint
from export.trim import trim_checkpoint
from export.trim_record import Trim, recorded_trim
from router.toolset import Toolset
from runtimes import runtime
from runtimes.artifact import OUTPUT_IDS, Artifact
from runtimes.base import DROPPED, Logits, Model, Spread
from runtimes.errors import ArtifactError
from runtimes.output import read_output_ids
from runtimes.shortlist import Shortlists
from tests.exports import Maker, write_artifact
from tests.passes import consecutive
from tests.tiny import LIGHTS

TOKENS = 600
ABLE = [fmt for fmt in EXPORTERS if exporter(fmt).NO_OUTPUT_TRIM == ""]
LENGTH = 150
"""Longer than the window."""


@pytest.fixture(scope="module")
def trimmed(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return trim_checkpoint(tiny, Trim((), TOKENS, "output"), LIGHTS, tmp_path_factory.mktemp("work"))


def made(trimmed: Checkpoint, fmt: str, quant: str, folder: Path, toolset: Toolset) -> Artifact:
    """As `export.pipeline` makes it."""
    artifact = write_artifact(trimmed, fmt, quant, folder, toolset)
    shutil.copyfile(trimmed.folder / OUTPUT_IDS, folder / OUTPUT_IDS)
    return Artifact(folder, artifact.manifest | {"trim": recorded_trim(trimmed.folder)})


@dataclass(frozen=True)
class Pair:
    """The same variant with all output rows and with some."""

    whole: Model
    cut: Model
    ids: list[int]
    module: Any
    artifact: Artifact


@pytest.fixture(scope="module", params=[(f, q) for f in ABLE for q in exporter(f).QUANTS], ids="-".join)
def pair(
    request: pytest.FixtureRequest,
    exported: Maker,
    trimmed: Checkpoint,
    kiwi: Toolset,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Pair]:
    fmt, quant = request.param
    whole = exported(fmt, quant)
    artifact = made(trimmed, fmt, quant, tmp_path_factory.mktemp("cut") / f"{fmt}-{quant}", kiwi)
    module = runtime(exporter(fmt).RUNTIME)
    models = [module.open_model(one, device="cpu", threads=1) for one in (whole, artifact)]
    yield Pair(models[0], models[1], json.loads((trimmed.folder / OUTPUT_IDS).read_text()), module, artifact)
    for model in models:
        model.close()


def check(pair: Pair, got: Logits, want: Logits) -> None:
    """The same logits for the ids that are kept, and the lowest number for the others."""
    assert got.dtype == np.float32 and got.shape == want.shape
    rest = np.setdiff1d(np.arange(pair.cut.vocab_size), pair.ids)
    assert (got[..., rest] == DROPPED).all() and len(rest) == pair.cut.vocab_size - TOKENS
    assert np.abs(got[..., pair.ids] - want[..., pair.ids]).max() < 1e-4
    assert (got.argmax(axis=-1) == np.array(pair.ids)[want[..., pair.ids].argmax(axis=-1)]).all()


def test_logits_of_what_is_kept(pair: Pair, tiny: Checkpoint) -> None:
    """In any splits, behind any tokens (dropped ones too), after rewinds, for one row and for many."""
    assert pair.cut.vocab_size == pair.whole.vocab_size == tiny.vocab_size
    chance = random.Random(1)
    tokens = chance.choices(range(tiny.vocab_size), k=LENGTH)
    assert set(tokens) - set(pair.ids)
    one, other = pair.whole.session(), pair.cut.session()
    while one.position < LENGTH:
        end = min(LENGTH, one.position + chance.choice([1, 2, 30, 70]))
        rows: Any = chance.choice(["last", "all"])
        part = tokens[one.position : end]
        check(pair, other.append(part, rows=rows), one.append(part, rows=rows))
    for session in (one, other):
        session.rewind(40)
    check(pair, other.append(tokens[50:80], rows="all"), one.append(tokens[50:80], rows="all"))
    check(pair, other.append(tokens[:1]), one.append(tokens[:1]))


def test_ids_that_have_no_row(pair: Pair, tiny: Checkpoint) -> None:
    """Of some ids alone, kept or not: as of all."""
    session = pair.cut.session()
    if not isinstance(session, Shortlists):
        pytest.skip("this runtime computes whole rows")
    dropped = np.setdiff1d(np.arange(tiny.vocab_size), pair.ids)
    for ids in (np.array(pair.ids[3:40:5]), dropped[[0, -1]], np.sort(np.append(dropped[:4], pair.ids[-3:]))):
        want = session.append([5, 6, 7], rows="all").copy()
        session.rewind(0)
        got = session.append_shortlist([5, 6, 7], ids, rows="all")
        session.rewind(0)
        assert got.shape == (3, len(ids))
        assert ((got == DROPPED) == np.isin(ids, dropped)).all()
        assert np.abs(got - want[:, ids]).max() < (1e-4 if "32" in pair.cut.dtype else 0.15)


def test_two_sessions_have_rows_of_their_own(pair: Pair) -> None:
    one, other = pair.cut.session(), pair.cut.session()
    first = one.append([5, 6])
    kept = first.copy()
    other.append([9])
    assert (first == kept).all()


def test_the_bare_loop_runs(pair: Pair) -> None:
    passes = consecutive(3, [[8, 9], [10]])
    loop = pair.module.bare_loop(pair.artifact, device="cpu", threads=1, prefix=[5, 6, 7], passes=passes)
    loop()
    loop()


def test_every_exporter_says_whether_it_can() -> None:
    assert ABLE == ["safetensors", "onnx", "mlx"]
    for fmt in EXPORTERS.keys() - ABLE:
        assert exporter(fmt).NO_OUTPUT_TRIM.isprintable()


def test_rows_are_put_into_one_buffer() -> None:
    """Nothing as wide as the vocabulary is made again, and nobody can leave a number at an id that is dropped."""
    spread = Spread(np.array([1, 3]), 5)
    first = spread(np.array([7, 8], np.float32))
    assert first.tolist() == [DROPPED, 7, DROPPED, 8, DROPPED]
    again = spread(np.array([9, 10], np.float32))
    assert np.shares_memory(first, again) and again[1] == 9
    with pytest.raises(ValueError, match="read-only"):
        again[0] = 1
    many = spread(np.arange(6, dtype=np.float32).reshape(3, 2))
    assert many.shape == (3, 5) and np.shares_memory(many, spread(np.zeros((2, 2), np.float32)))
    large = spread(np.zeros((Spread.MOST + 1, 2), np.float32))
    assert not np.shares_memory(large, spread(np.zeros((2, 2), np.float32))), "a long prompt's rows are not kept"
    assert np.isfinite(DROPPED) and DROPPED - DROPPED == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a list of token ids"), ('"x"', "not a list"), ("[[1]]", "not token ids"), ("[]", "not token ids"),
        ("[-1, 2]", "not token ids"), ("[1, 10]", "not token ids of a vocabulary of 10"), ("[1, 2, 3]", "3 ids"),
        ("[2, 1]", "rising"), ("[1, 1]", "rising"), (None, "not a list of token ids"), ("[1, null]", "not a list"),
    ],
)  # fmt: skip
def test_files_that_are_no_ids(tmp_path: Path, content: str | None, message: str) -> None:
    artifact = Artifact(tmp_path, {"vocab_size": 10, "trim": {"form": "output", "tokens": 2}})
    if content is not None:
        (tmp_path / OUTPUT_IDS).write_text(content)
    with pytest.raises(ArtifactError, match=message) as raised:
        read_output_ids(artifact)
    assert "\n" not in str(raised.value) and OUTPUT_IDS in str(raised.value)


def test_artifacts_with_all_rows_have_no_such_file(tmp_path: Path) -> None:
    for trim in ({}, {"trim": {"form": "full", "tokens": 2}}):
        artifact = Artifact(tmp_path, {"vocab_size": 10, **trim})
        assert read_output_ids(artifact) is None and artifact.output_rows == 10
