"""The study of `tests.stress.coreml_mutations`, on a package so small that a few mutations take seconds."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from export.base import Checkpoint
from export.pipeline import export_one
from export.proof import verify
from router.cases import Case
from runtimes.artifact import Artifact, open_artifact
from tests.exports import Neural
from tests.stress.coreml_mutations import Outcome, Study, seal, summary
from tests.stress.mutate import KINDS, WORDS, Package, _equation, words_of
from tests.tiny import LIGHTS

pytest.importorskip("coremltools")


@pytest.fixture(scope="module")
def artifact(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    out = tmp_path_factory.mktemp("out")
    return export_one(tiny, "coreml", "fp32", out, LIGHTS, requests=("please on", "hello"), threads=1)


@pytest.mark.slow
def test_what_moves_a_logit_is_noticed(artifact: Artifact, tmp_path: Path) -> None:
    study = Study(artifact, [Case("1", "lights off in the hall")], tmp_path, seed=1)
    outcomes = [study.outcome(index) for index in range(12)]
    assert {one.kind for one in outcomes} == set(KINDS)
    moving = [one for one in outcomes if one.moved is not None and one.moved > study.tolerance]
    assert len(moving) >= 3
    assert all(one.noticed for one in moving)


@pytest.mark.parametrize("share", [0.98, 0.5])
def test_the_last_positions_are_proven_too(share: float, artifact: Artifact, tmp_path: Path) -> None:
    """Requests do not reach them: what is wrong there would show in the first long one."""
    broken = tmp_path / artifact.folder.name
    shutil.copytree(artifact.folder, broken)
    package = Package(broken / artifact.weights.name)
    (angles,) = [blob for blob in package.blobs if blob.outputs[0].name == "cos_global"]
    capacity = int(artifact.manifest["details"]["context_length"])
    table = package.elements(angles).reshape(capacity, -1)
    table[int(share * capacity) :] *= -1
    package.save()
    seal(open_artifact(broken, check="sizes"))
    assert all(check.ok for check in verify(artifact, threads=1).checks)
    assert [check.name for check in verify(broken, threads=1).checks if not check.ok] == ["probe"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_mutation_changes_the_package_and_repeats(kind: str, artifact: Artifact) -> None:
    def made() -> tuple[bytes, bytes, str]:
        package = Package(artifact.weights)
        what = KINDS[kind](package, random.Random(3))
        return package.spec.SerializeToString(deterministic=True), bytes(package.weights), what

    plain = Package(artifact.weights)
    spec, weights, what = made()
    assert (spec, weights) != (plain.spec.SerializeToString(deterministic=True), bytes(plain.weights))
    assert (spec, weights, what) == made()


def test_every_word_has_others(artifact: Artifact, neural: Neural) -> None:
    """Of both kinds of package: modes, types and equations; and every one of them can become another."""
    seen = set()
    for package in (Package(artifact.weights), Package(neural.artifact.weights)):
        for _, op, name, words in words_of(package):
            seen.add((op.type, name))
            assert name == "equation" or words[0] in WORDS[op.type, name]
    assert seen == {*WORDS, ("einsum", "equation")}


def test_every_function_is_mutated(neural: Neural) -> None:
    package, chance = Package(neural.artifact.weights), random.Random(0)
    assert {block.function for block in package.blocks} == neural.package.program.functions.keys()
    for kind in ("number", "word", "swap weights", "swap inputs"):
        before = package.spec.SerializeToString(deterministic=True)
        hit = {KINDS[kind](package, chance).partition(":")[0] for _ in range(20)}
        assert hit <= neural.package.program.functions.keys() and len(hit) >= 5, kind
        assert package.spec.SerializeToString(deterministic=True) != before


def test_an_equation_becomes_another_one() -> None:
    found = {_equation("bchq,bkhc->bkhq", random.Random(seed)) for seed in range(30)}
    assert "bchq,bkhc->bkhq" not in found and len(found) > 5
    for equation in found:
        left, right = equation.split("->")
        assert sorted(right) == sorted("bkhq") and [sorted(term) for term in left.split(",")] == [
            sorted("bchq"), sorted("bkhc")
        ]  # fmt: skip


def test_weights_are_found_in_the_file(artifact: Artifact, tiny: Checkpoint) -> None:
    from safetensors.numpy import load_file

    table = load_file(next(tiny.folder.glob("*.safetensors")))["model.embed_tokens.weight"].astype(np.float32)
    package = Package(artifact.weights)
    sizes = [package.elements(blob) for blob in package.blobs]
    assert any(one.size == table.size and np.array_equal(one, table.ravel()) for one in sizes)


def test_the_summary_counts_what_moves() -> None:
    made = [
        Outcome(0, "scale", "a", 1.0, True, "logits"),
        Outcome(1, "scale", "b", 1.0, False, ""),
        Outcome(2, "scale", "c", 1e-6, False, ""),
        Outcome(3, "number", "d", None, True, "logits"),
    ]
    share, lines = summary(made, 1e-3)
    assert share == 0.5
    assert any("survivor 1: b" in line for line in lines)
    assert "4 mutations: 2 move" in lines[0] and "1 leave a program" in lines[0]
