"""`edgecall inspect`: packages of ours, packages that coremltools made, and one with an operation nobody knows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.edgecall.conftest import Ran
from tests.exports import Maker, Neural

ct = pytest.importorskip("coremltools")

from coremltools.converters.mil import Builder as mb  # noqa: E402
from coremltools.converters.mil.mil import types  # noqa: E402

from runtimes.mil import quiet  # noqa: E402

Cli = Callable[..., Ran]
WIDTH = 4


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two operations in float16: 300 x times itself is infinite where |x| passes 0.86."""

    @mb.program(input_specs=[mb.TensorSpec((1, WIDTH), dtype=types.fp16)], opset_version=ct.target.iOS18)
    def program(x: Any) -> Any:
        scaled = mb.mul(x=x, y=np.float16(300), name="scaled")
        return mb.mul(x=scaled, y=scaled, name="square")

    path = tmp_path_factory.mktemp("foreign") / "foreign.mlpackage"
    with quiet():
        model = ct.convert(
            program,
            minimum_deployment_target=ct.target.iOS18,
            pass_pipeline=ct.PassPipeline.EMPTY,
            skip_model_load=True,
        )
        model.save(str(path))
    return path


@pytest.fixture
def unknown(foreign: Path, tmp_path: Path) -> Path:
    """The same, its last operation of a type that does not exist."""
    with quiet():
        model = ct.models.MLModel(str(foreign), skip_model_load=True)
        spec = model.get_spec()
        function = spec.mlProgram.functions["main"]
        function.block_specializations[function.opset].operations[-1].type = "cube_root"
        path = tmp_path / "unknown.mlpackage"
        ct.models.MLModel(spec, weights_dir=model.weights_dir, skip_model_load=True).save(str(path))
    return path


def saved(folder: Path, **arrays: Any) -> str:
    np.savez(folder / "inputs.npz", **arrays)
    return str(folder / "inputs.npz")


def test_a_package_of_coremltools(cli: Cli, foreign: Path) -> None:
    ran = cli("inspect", str(foreign))
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines() == [
        f"{foreign}: main (default)",
        "",
        "main",
        "  inputs      x fp16 [1, 4]",
        "  outputs     square fp16 [1, 4]",
        "  operations      2  mul",
    ]


def test_the_first_operation_that_is_infinite(cli: Cli, foreign: Path, tmp_path: Path) -> None:
    inputs = saved(tmp_path, x=np.array([[0.5, 0.8, 1.0, -3.0]]))
    ran = cli("inspect", str(foreign), "--run", inputs)
    assert ran.code == 1
    told = "  first infinite  mul 'square' (fp16), 2 of 4 elements; reads scaled up to 900"
    assert told in ran.out.splitlines()
    assert "NaN" not in ran.out
    out = tmp_path / "out.npz"
    wide = cli("inspect", str(foreign), "--run", inputs, "--precision", "float32", "--out", str(out))
    assert wide.code == 0 and "every number is finite" in wide.out
    with np.load(out) as file:
        np.testing.assert_allclose(file["square"], 90_000 * np.array([[0.25, 0.64, 1.0, 9.0]]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inputs.npz", "out.npz"]


def test_not_a_number_is_another_finding(cli: Cli, foreign: Path, tmp_path: Path) -> None:
    ran = cli("inspect", str(foreign), "--run", saved(tmp_path, x=[[np.nan, 1.0, 0.0, 0.0]]), "--json")
    assert ran.code == 1
    found = {one["kind"]: one for one in json.loads(ran.out)["run"]["lost"]}
    assert {kind: (one["output"], one["count"]) for kind, one in found.items()} == {
        "NaN": ("scaled", 1),
        "infinite": ("square", 1),
    }


def test_zeros_and_random_numbers(cli: Cli, foreign: Path) -> None:
    assert "square [1, 4] from 0 to 0" in cli("inspect", str(foreign), "--run").out
    drawn = [cli("inspect", str(foreign), "--run", "random", "--precision", "float32").out for _ in range(2)]
    assert drawn[0] == drawn[1] and "from 0 to 0" not in drawn[0]


def test_an_unknown_operation(cli: Cli, unknown: Path) -> None:
    ran = cli("inspect", str(unknown))
    assert ran.code == 0
    assert "      1  cube_root  unknown to the interpreter" in ran.out.replace("operations", " " * 10)
    ran = cli("inspect", str(unknown), "--run")
    assert ran.code == 2 and "operation 'cube_root' (output 'square')" in ran.err and ran.err.count("\n") == 1


def test_our_own_packages(cli: Cli, neural: Neural, exported: Maker) -> None:
    """All functions with their states; a flexible one's ranges; and one prediction of either stays finite."""
    functions = json.loads(cli("inspect", str(neural.artifact.weights), "--json").out)["functions"]
    assert {one["name"] for one in functions} == neural.package.program.functions.keys()
    assert all([state["name"] for state in one["states"]] == ["keys", "values"] for one in functions)
    assert not any(one["unknown"] for one in functions)
    ran = cli("inspect", str(neural.artifact.weights), "--function", "choose_1", "--run")
    assert ran.code == 0 and "\nchoose_1, one prediction\n" in ran.out and "decode_1\n" not in ran.out
    package = exported("coreml", "fp16")
    ran = cli("inspect", str(package.weights), "--run")
    assert ran.code == 0 and "  inputs      input_ids int32 [1, 1..1024]\n" in ran.out
    assert f"logits [1, {package.vocab_size}] from " in ran.out


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--function", "other"], "--function other: the package has main"),
        (["--out", "x.npz"], "--out belongs to --run"),
        (["--run", "none.npz"], "none.npz: no such file; give zeros, random or an .npz file"),
        (["--run", __file__], f"{__file__}: not an .npz file of numbers"),
    ],
)
def test_mistakes_are_one_line(cli: Cli, foreign: Path, options: list[str], line: str) -> None:
    ran = cli("inspect", str(foreign), *options)
    assert ran.code == 2 and ran.err.startswith(f"edgecall: {line}") and ran.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arrays", "line"),
    [
        ({"y": np.zeros((1, WIDTH))}, "takes x, not y"),
        ({"x": np.zeros((2, WIDTH))}, "input 'x' may not have shape [2, 4]; it takes [1, 4]"),
        ({"x": np.full((1, WIDTH), 1e5)}, "input 'x': 100000.0 is no fp16"),
        ({"x": np.array([["a"] * WIDTH])}, "'x' holds no numbers"),
    ],
)
def test_arrays_that_the_function_does_not_take(
    cli: Cli, foreign: Path, tmp_path: Path, arrays: Any, line: str
) -> None:
    ran = cli("inspect", str(foreign), "--run", saved(tmp_path, **arrays))
    assert ran.code == 2 and line in ran.err and ran.err.count("\n") == 1
    assert "export again" not in ran.err


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"input_ids": [[5.7, 6.2]]}, "input 'input_ids': 5.7 is no int32"),
        ({"input_ids": [[2**32 + 5, 0]]}, "input 'input_ids': 4294967301 is no int32"),
        ({"input_ids": [[np.nan, 0]]}, "input 'input_ids': nan is no int32"),
        ({"input_ids": [3, 4]}, "input 'input_ids' may not have shape [2]; it takes [1, 1..1024]"),
        ({"input_ids": [[20_000, 4]]}, "an index lies outside 0..{last}; the inputs are wrong, or the program cannot"),
        ({"positions": [[0]]}, "; the inputs are wrong, or the program cannot take them"),
    ],
)
def test_numbers_that_our_own_package_does_not_take(
    cli: Cli, exported: Maker, tmp_path: Path, given: dict[str, Any], line: str
) -> None:
    package = exported("coreml", "fp16")
    right = {"input_ids": [[3, 4]], "positions": [[0, 1]], "rows": [1]}
    ran = cli("inspect", str(package.weights), "--run", saved(tmp_path, **right | given))
    assert ran.code == 2 and line.format(last=package.vocab_size - 1) in ran.err and ran.err.count("\n") == 1
    assert "export again" not in ran.err


def test_a_folder_with_a_package(cli: Cli, foreign: Path, exported: Maker, tmp_path: Path) -> None:
    """An artifact's folder stands for the package in it."""
    package = exported("coreml", "fp16")
    ran = cli("inspect", str(package.folder))
    assert ran.code == 0 and ran.out.startswith(f"{package.weights}: main (default)\n")
    for name in ("one", "two"):
        (tmp_path / f"{name}.mlpackage").symlink_to(foreign)
    ran = cli("inspect", str(tmp_path))
    assert (ran.code, ran.err) == (2, f"edgecall: {tmp_path}: holds one.mlpackage, two.mlpackage; name one of them\n")


def test_what_is_no_package(cli: Cli, tmp_path: Path) -> None:
    ran = cli("inspect", str(tmp_path / "nope.mlpackage"))
    assert (ran.code, ran.err) == (2, f"edgecall: {tmp_path / 'nope.mlpackage'}: no such file\n")
    ran = cli("inspect", str(tmp_path))
    assert ran.code == 2 and "not a readable Core ML package" in ran.err and ran.err.count("\n") == 1
