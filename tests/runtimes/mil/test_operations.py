"""Every operation of the reference interpreter against PyTorch, coremltools' own inference, and through a package."""

from __future__ import annotations

import inspect
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
ct = pytest.importorskip("coremltools")

from runtimes import mil  # noqa: E402
from runtimes.mil.operations import EARLIER, MOVES, OPERATIONS, VIEWS, find  # noqa: E402
from runtimes.mil.step import as_held  # noqa: E402
from tests.runtimes.mil.cases import EXAMPLES, Example  # noqa: E402

STATE = {"read_state", "write_state", "coreml_update_state"}
NOT_INFERRED = {
    "batch_norm", "conv", "gather_nd", "instance_norm", "one_hot", "reshape_like", "scatter", "scatter_nd", "silu",
    *STATE,
}  # fmt: skip
"""Operations that coremltools does not compute itself."""
WRONG = {
    "concat": "interleave is not looked at",
    "cumsum": "exclusive: concatenates with wrong arguments",
    "scatter_along_axis": "overwrites in every mode",
    "squeeze": "raises for an axis longer than 1",
}
"""Operations that it computes otherwise than its own reference says, where an example shows that."""


def identified(examples: list[Example]) -> list[Any]:
    return [pytest.param(example, id=f"{number}-{example.name}") for number, example in enumerate(examples)]


def shows_it(example: Example) -> bool:
    given = example.inputs
    longer = example.kind == "squeeze" and any(given["x"].shape[axis] > 1 for axis in given.get("axes", ()))
    return bool(longer or given.get("exclusive") or given.get("interleave") or given.get("mode", "update") != "update")


def declared(example: Example) -> dict[str, Any]:
    """The inputs as coremltools takes them: with its own types for elements of less than eight bits."""
    from coremltools.converters.mil.mil import types

    narrow = {name: types.nptype_from_builtin(getattr(types, kind)) for name, kind in example.narrow.items()}
    # Copies: coremltools' own inference of thresholded_relu writes into its input.
    return {n: value.astype(narrow[n]) if n in narrow else deepcopy(value) for n, value in example.inputs.items()}


def held(value: Any) -> Any:
    """An input as the interpreter hands it to an operation."""
    if isinstance(value, list):
        return [held(one) for one in value]
    return value if isinstance(value, str) else as_held(np.asarray(value))


def as_tensor(value: Any) -> Any:
    if isinstance(value, list):
        return [as_tensor(one) for one in value]
    return torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray | np.generic) else value


def computed(example: Example) -> tuple[np.ndarray, ...]:
    with np.errstate(all="ignore"):
        out = OPERATIONS[example.kind](**{name: held(value) for name, value in example.inputs.items()})
    return out if isinstance(out, tuple) else (out,)


def wanted(example: Example) -> tuple[np.ndarray, ...]:
    out = example.wanted(**{name: as_tensor(value) for name, value in example.inputs.items()})
    return tuple(one.numpy() for one in (out if isinstance(out, tuple) else (out,)))


@pytest.mark.parametrize("example", identified(EXAMPLES))
def test_as_pytorch(example: Example) -> None:
    got, want = computed(example), wanted(example)
    assert len(got) == len(want)
    for one, other in zip(got, want, strict=True):
        assert one.shape == other.shape
        if np.issubdtype(other.dtype, np.floating):
            np.testing.assert_allclose(one, other, atol=example.tolerance, rtol=example.tolerance)
        else:
            np.testing.assert_array_equal(one, other)


def inferred(example: Example) -> tuple[np.ndarray, ...] | None:
    """What coremltools itself computes for an operation of constants; None where it does not."""
    from coremltools.converters.mil import Builder as mb

    with mil.quiet():
        out: list[Any] = []

        @mb.program(input_specs=[mb.TensorSpec((1,))], opset_version=ct.target.iOS18)
        def program(x: Any) -> Any:
            found = getattr(mb, example.kind)(**declared(example))
            out.extend(found if isinstance(found, tuple | list) else [found])
            return mb.identity(x=x)

    values = [one.val for one in out]
    if any(value is None for value in values):
        op = out[0].op
        if not hasattr(op, "materialized_val_inference"):
            return None
        found = op.materialized_val_inference()
        values = list(found) if isinstance(found, tuple) else [found]
    return tuple(np.asarray(value) for value in values)


@pytest.mark.parametrize("example", identified([one for one in EXAMPLES if one.kind not in NOT_INFERRED]))
def test_as_coremltools_infers(example: Example) -> None:
    if example.kind in WRONG and shows_it(example):
        pytest.skip(f"coremltools {ct.__version__}: {WRONG[example.kind]}")
    want = inferred(example)
    assert want is not None, "name it in NOT_INFERRED"
    for one, other in zip(computed(example), want, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one.astype(other.dtype), other, atol=1e-5, rtol=1e-5)


def test_what_is_said_not_to_be_inferred_is_not() -> None:
    for kind in sorted(NOT_INFERRED - STATE):
        assert inferred(next(one for one in EXAMPLES if one.kind == kind)) is None, kind


def source_of(function: Any) -> tuple[str, str]:
    """Opset and class that a function names in the MIL reference, where they are."""
    from coremltools.converters.mil.mil.ops import defs

    found = re.match(r"(iOS\d\d|coreml_dialect)\.(\w+)\.(\w+)", inspect.getdoc(function) or "")
    assert found is not None, function
    folder, module, name = found.groups()
    source = Path(defs.__file__).parent / folder / f"{module}.py"
    assert re.search(rf"^class {name}\(", source.read_text(encoding="utf-8"), re.MULTILINE), function
    return folder, name


def test_every_operation_has_an_example_and_names_its_source() -> None:
    assert {one.kind for one in EXAMPLES} == set(OPERATIONS)
    for kind, function in OPERATIONS.items():
        assert source_of(function)[1] == ("coreml_update_state" if kind == "write_state" else kind)


def arrays(value: Any) -> list[np.ndarray]:
    if isinstance(value, list):
        return [array for one in value for array in arrays(one)]
    return [value] if isinstance(value, np.ndarray) else []


@pytest.mark.parametrize("example", identified(EXAMPLES))
def test_inputs_are_left_alone(example: Example) -> None:
    """No operation writes into an input; only those that say so give an input's own memory back."""
    inputs = {name: held(value) for name, value in example.inputs.items()}
    given = [array for value in inputs.values() for array in arrays(value)]
    before = [array.copy() for array in given]
    with np.errstate(all="ignore"):
        out = OPERATIONS[example.kind](**inputs)
    for array, copy in zip(given, before, strict=True):
        np.testing.assert_array_equal(array, copy)
    results = [one for one in (out if isinstance(out, tuple) else (out,)) if isinstance(one, np.ndarray)]
    sharing = {"constexpr_sparse_blockwise_shift_scale", "constexpr_lut_to_sparse"}  # hand a constant mask on
    if example.kind not in VIEWS | sharing:
        assert not any(np.shares_memory(one, array) for one in results for array in given)
    if example.kind in MOVES - {"cast", "constexpr_cast", "band_part"}:
        known = {float(number) for array in given for number in array.ravel()}
        assert all(float(number) in known for one in results for number in one.ravel())


@pytest.mark.parametrize("kind", ["real_div", "floor_div", "mod"])
def test_an_integer_divided_by_zero(kind: str) -> None:
    with pytest.raises(ZeroDivisionError, match="an integer is divided by zero"):
        OPERATIONS[kind](np.array([7, -7], np.int32), np.array([1, 0], np.int32))
    with np.errstate(all="ignore"):
        assert not np.isfinite(OPERATIONS[kind](np.float32([7]), np.float32([0]))).any()


def test_the_sum_of_exponentials_of_infinite_numbers() -> None:
    x = np.float32([[-np.inf, -np.inf], [np.inf, 0], [np.inf, -np.inf], [np.nan, 0], [1000, 1000], [-np.inf, 3]])
    with np.errstate(all="ignore"):
        got = OPERATIONS["reduce_log_sum_exp"](x, np.array([1]))
    np.testing.assert_allclose(got, torch.logsumexp(torch.from_numpy(x), 1).numpy())


def test_einsum_broadcasts_no_axis_that_it_sums_over() -> None:
    left, right = np.ones((2, 3, 4, 5), np.float32), np.ones((2, 1, 4, 6), np.float32)
    with pytest.raises(ValueError, match="sums over 'w', whose sizes are 5 and 1"):
        OPERATIONS["einsum"]([left, right], "nchw,nwhu->nchu")


def early(function: Any) -> np.ndarray:
    """The constant that coremltools infers for `function`, called in a program for iOS 16."""
    from coremltools.converters.mil import Builder as mb

    found: list[Any] = []

    @mb.program(input_specs=[mb.TensorSpec((1,))], opset_version=ct.target.iOS16)
    def program(x: Any) -> Any:
        found.append(function(mb))
        return mb.identity(x=x)

    value = found[0].val
    return np.asarray(found[0].op.materialized_val_inference() if value is None else value)


TABLE = np.arange(12, dtype=np.float32).reshape(3, 4)
NEGATIVE: dict[str, tuple[dict[str, Any], Any]] = {
    "gather": ({"x": TABLE, "indices": np.int32([-1, 0, -3]), "axis": 0}, TABLE[[-1, 0, -3]]),
    "gather_along_axis": (
        {"x": TABLE, "indices": np.int32([[-1, 0], [1, -4], [3, -2]]), "axis": 1},
        np.float32([[3, 0], [5, 4], [11, 10]]),
    ),
    "gather_nd": ({"x": TABLE, "indices": np.int32([[-1, -2], [0, 3]])}, np.float32([10, 3])),
    "scatter": (
        {"data": TABLE, "indices": np.int32([-1]), "updates": -TABLE[:1], "axis": 0, "mode": "update"},
        np.concatenate([TABLE[:2], -TABLE[:1]]),
    ),
    "scatter_along_axis": (
        {"data": TABLE[0], "indices": np.int32([-1, 1]), "updates": np.float32([9, 8]), "axis": 0, "mode": "update"},
        np.float32([0, 8, 2, 9]),
    ),
    "scatter_nd": (
        {"data": TABLE, "indices": np.int32([[-1, -2], [0, 3]]), "updates": np.float32([5, 6]), "mode": "add"},
        TABLE + np.float32([[0, 0, 0, 6], [0, 0, 0, 0], [0, 0, 5, 0]]),
    ),
}
"""Indices from the end, and what they mean up to iOS 16."""


@pytest.mark.parametrize("kind", sorted(NEGATIVE))
def test_indices_from_the_end_are_of_ios_16(kind: str) -> None:
    inputs, want = NEGATIVE[kind]
    for opset in ("CoreML5", "CoreML6"):
        np.testing.assert_array_equal(find(kind, opset)(**inputs), want)
    below = {name: value - 9 if name == "indices" else value for name, value in inputs.items()}
    with pytest.raises(IndexError, match="an index lies outside"):
        find(kind, "CoreML6")(**below)
    for opset in ("CoreML7", "CoreML8", ""):
        with pytest.raises(IndexError, match="an index lies outside"):
            find(kind, opset)(**inputs)
    if kind in ("gather", "gather_along_axis", "scatter_along_axis"):
        with mil.quiet():
            np.testing.assert_array_equal(early(lambda mb: getattr(mb, kind)(**inputs)), want)


def test_a_size_that_is_taken_over_needs_the_rank_in_ios_16() -> None:
    old, new = find("reshape", "CoreML6"), find("reshape", "CoreML7")
    with mil.quiet():
        want = early(lambda mb: mb.reshape(x=TABLE, shape=[0, -1]))
    np.testing.assert_array_equal(old(TABLE, np.int32([0, -1])), want)
    assert new(TABLE, np.int32([1, 0, 0])).shape == (1, 3, 4)
    with pytest.raises(ValueError, match="a shape with a 0 has 3 sizes, its input 2"):
        old(TABLE, np.int32([1, 0, 0]))
    assert old(TABLE, np.int32([2, 2, 3])).shape == (2, 2, 3)


def test_earlier_forms_name_their_source_and_have_a_later_one() -> None:
    assert {"reshape", *NEGATIVE} == EARLIER.keys()
    for kind, function in EARLIER.items():
        folder, name = source_of(function)
        assert name == kind and folder in ("iOS15", "iOS16")
        latest, earlier = (list(inspect.signature(one).parameters) for one in (OPERATIONS[kind], function))
        assert latest[: len(earlier)] == earlier


FED = {"x", "y", "data", "query", "key", "value", "update", "updates", "ref_tensor", "input"}
"""Parameters that are values of the program's own; the others are constant in most operations."""


def test_all_of_them_through_a_package(tmp_path: Path) -> None:
    """One program with every example, converted without optimization, saved, read back and executed: what is saved
    has the names and the defaults that the functions expect."""
    from coremltools.converters.mil import Builder as mb
    from coremltools.converters.mil.mil import Function, Program

    mine = [one for one in EXAMPLES if one.kind not in STATE]
    feeds = {
        f"i{number}_{name}": value
        for number, example in enumerate(mine)
        for name, value in example.inputs.items()
        if name in FED and isinstance(value, np.ndarray) and value.dtype == np.float32 and value.ndim
        if "constexpr" not in example.kind
    }
    places: list[tuple[int, int]] = []
    with mil.quiet():
        placeholders = {name: mb.placeholder(value.shape) for name, value in feeds.items()}
        with Function(placeholders, opset_version=ct.target.iOS18) as function:
            results = []
            for number, example in enumerate(mine):
                inputs = {name: function.inputs.get(f"i{number}_{name}", v) for name, v in declared(example).items()}
                found = getattr(mb, example.kind)(**inputs)
                for index, one in enumerate(found if isinstance(found, tuple | list) else [found]):
                    if one.dtype.__name__ in ("fp32", "int32"):  # what a program may give
                        results.append(mb.identity(x=one, name=f"o{len(places)}"))
                        places.append((number, index))
            function.set_outputs(results)
        program = Program()
        program.add_function("main", function)
        model = ct.convert(
            program, convert_to="mlprogram", minimum_deployment_target=ct.target.iOS18, skip_model_load=True,
            pass_pipeline=ct.PassPipeline.EMPTY, compute_precision=ct.precision.FLOAT32,
        )  # fmt: skip
        model.save(str(tmp_path / "all.mlpackage"))
    loaded = mil.load(tmp_path / "all.mlpackage")
    assert set(loaded.main.counts) == {one.kind for one in mine}
    got = mil.execute(mil.make_plan(loaded.main, loaded.path), feeds, {})
    for place, (number, index) in enumerate(places):
        want = wanted(mine[number])[index]
        np.testing.assert_allclose(got[f"o{place}"], want, atol=1e-4, rtol=1e-4, err_msg=mine[number].name)
