"""Reading, planning and executing programs: states, flexible shapes, rounding, shared memory, what is refused."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtimes.errors import ArtifactError, UserError
from runtimes.mil.rounding import to_half

ct = pytest.importorskip("coremltools")

from coremltools.converters.mil import Builder as mb  # noqa: E402
from coremltools.converters.mil.mil import Function, Program, types  # noqa: E402

from runtimes import mil  # noqa: E402

Body = Callable[[dict[str, Any]], list[Any]]
WIDTH = 6


def saved(folder: Path, inputs: dict[str, Any], body: Body, target: Any = ct.target.iOS18) -> Path:
    """A package of one function, saved as it is built."""
    path = folder / "model.mlpackage"
    with mil.quiet():
        with Function(inputs, opset_version=target) as function:
            function.set_outputs(body(dict(function.inputs)))
        program = Program()
        program.add_function("main", function)
        model = ct.convert(
            program, convert_to="mlprogram", minimum_deployment_target=target, skip_model_load=True,
            pass_pipeline=ct.PassPipeline.EMPTY, compute_precision=ct.precision.FLOAT32,
        )  # fmt: skip
        model.save(str(path))
    return path


def planned(path: Path, precision: mil.Precision = "declared") -> mil.Plan:
    program = mil.load(path)
    return mil.make_plan(program.main, program.path, precision)


def tensor(*shape: Any, dtype: Any = types.fp32) -> Any:
    return mb.placeholder(shape, dtype=dtype)


def state(*shape: int) -> Any:
    return mb.state_tensor_placeholder(shape, dtype=types.fp16)


class TestStates:
    """A cache of four rows: a row is written, all are read."""

    @staticmethod
    def body(given: dict[str, Any]) -> list[Any]:
        cache, row, at = given["cache"], given["row"], given["at"]
        begin = mb.concat(values=[at, np.array([0], np.int32)], axis=0)
        end = mb.concat(values=[mb.add(x=at, y=np.int32(1)), np.array([WIDTH], np.int32)], axis=0)
        before = mb.read_state(input=cache)
        after = mb.slice_update(x=before, update=mb.cast(x=row, dtype="fp16"), begin=begin, end=end)
        stored = mb.coreml_update_state(state=cache, value=after)
        total = mb.reduce_sum(x=mb.cast(x=stored, dtype="fp32"), axes=[0], keep_dims=False)
        return [mb.identity(x=total, name="total"), mb.cast(x=stored, dtype="fp32", name="rows")]

    @pytest.fixture
    def plan(self, tmp_path: Path) -> mil.Plan:
        inputs = {"row": tensor(1, WIDTH), "at": tensor(1, dtype=types.int32), "cache": state(4, WIDTH)}
        return planned(saved(tmp_path, inputs, self.body))

    def test_what_is_written_stays(self, plan: mil.Plan) -> None:
        first, second = mil.new_state(plan), mil.new_state(plan)
        want = np.zeros((4, WIDTH), np.float32)
        for place in (2, 0, 2):
            row = np.random.default_rng(place).integers(-9, 9, (1, WIDTH)).astype(np.float32)
            want[place] = row
            out = mil.execute(plan, {"row": row, "at": np.array([place], np.int32)}, first)
            np.testing.assert_array_equal(out["rows"], want)
            np.testing.assert_array_equal(out["total"], want.sum(0))
        assert not second["cache"].any()

    def test_in_place_and_no_output_is_the_state(self, plan: mil.Plan) -> None:
        own = mil.new_state(plan)
        cache = own["cache"]
        out = mil.execute(plan, {"row": np.ones((1, WIDTH), np.float32), "at": np.array([1], np.int32)}, own)
        assert own["cache"] is cache and cache[1].all()
        kept = out["rows"].copy()
        mil.execute(plan, {"row": -np.ones((1, WIDTH), np.float32), "at": np.array([1], np.int32)}, own)
        np.testing.assert_array_equal(out["rows"], kept)


def test_a_state_that_is_read_again_is_not_changed_in_place(tmp_path: Path) -> None:
    """The old content is still wanted after the update, and an update that is never stored changes nothing."""

    def body(given: dict[str, Any]) -> list[Any]:
        before = mb.read_state(input=given["cache"])
        row = mb.cast(x=given["row"], dtype="fp16")
        after = mb.slice_update(x=before, update=row, begin=[0, 0], end=[1, WIDTH])
        mb.coreml_update_state(state=given["cache"], value=after)
        lost = mb.slice_update(x=mb.read_state(input=given["other"]), update=row, begin=[0, 0], end=[1, WIDTH])
        return [mb.cast(x=before, dtype="fp32", name="before"), mb.cast(x=lost, dtype="fp32", name="lost")]

    inputs = {"row": tensor(1, WIDTH), "cache": state(2, WIDTH), "other": state(2, WIDTH)}
    plan = planned(saved(tmp_path, inputs, body))
    own = mil.new_state(plan)
    ones = np.ones((1, WIDTH), np.float32)
    out = mil.execute(plan, {"row": ones}, own)
    assert not out["before"].any() and out["lost"][0].all()
    assert own["cache"][0].all() and not own["cache"][1].any() and not own["other"].any()
    assert mil.execute(plan, {"row": ones}, own)["before"][0].all()


def test_a_state_does_not_keep_the_callers_memory(tmp_path: Path) -> None:
    def body(given: dict[str, Any]) -> list[Any]:
        new = mb.expand_dims(x=given["row"], axes=[0])
        mb.coreml_update_state(state=given["one"], value=new)
        mb.coreml_update_state(state=given["two"], value=new)
        return [mb.cast(x=new, dtype="fp32", name="out")]

    inputs = {"row": tensor(WIDTH, dtype=types.fp16), "one": state(1, WIDTH), "two": state(1, WIDTH)}
    plan = planned(saved(tmp_path, inputs, body))
    own, row = mil.new_state(plan), np.ones(WIDTH, np.float32)
    out = mil.execute(plan, {"row": row}, own)["out"]
    row[:] = 7
    own["two"][:] = 5
    assert (own["one"] == 1).all() and (out == 1).all()


class TestPrecision:
    """x + 1/2048 - x in float16: what is added is less than half of the last place, and lost."""

    @staticmethod
    def body(given: dict[str, Any]) -> list[Any]:
        x = mb.cast(x=given["x"], dtype="fp16")
        more = mb.add(x=x, y=np.float16(2**-12))
        return [mb.cast(x=mb.sub(x=more, y=x), dtype="fp32", name="rest")]

    @pytest.mark.parametrize(("precision", "want"), [("declared", 0.0), ("float32", 2**-12)])
    def test_is_what_is_declared_or_float32(self, tmp_path: Path, precision: Any, want: float) -> None:
        plan = planned(saved(tmp_path, {"x": tensor(3)}, self.body), precision)
        got = mil.execute(plan, {"x": np.full(3, 1.0, np.float32)}, {})["rest"]
        assert got.dtype == np.float32 and (got == want).all()

    def test_whole_numbers_are_rounded_too(self, tmp_path: Path) -> None:
        def body(given: dict[str, Any]) -> list[Any]:
            half = mb.cast(x=mb.cast(x=given["x"], dtype="int32"), dtype="fp16")
            return [mb.cast(x=half, dtype="fp32", name="out")]

        plan = planned(saved(tmp_path, {"x": tensor(3)}, body))
        out = mil.execute(plan, {"x": np.array([2049.0, 70000.0, 3.0], np.float32)}, {})["out"]
        assert out.tolist() == [2048.0, np.inf, 3.0]

    def test_overflow_is_infinite(self, tmp_path: Path) -> None:
        def body(given: dict[str, Any]) -> list[Any]:
            half = mb.cast(x=given["x"], dtype="fp16")
            return [mb.cast(x=mb.mul(x=half, y=half), dtype="fp32", name="out")]

        plan = planned(saved(tmp_path, {"x": tensor(2)}, body))
        seen: list[tuple[str, float]] = []

        def watch(op: Any, values: tuple[np.ndarray, ...]) -> None:
            seen.append((op.type, float(np.abs(values[0]).max())))

        out = mil.execute(plan, {"x": np.array([300.0, 2.0], np.float32)}, {}, watch)["out"]
        assert out.tolist() == [np.inf, 4.0]
        assert seen == [("cast", 300.0), ("mul", np.inf), ("cast", np.inf)]


def test_rounding_to_half_is_ieee() -> None:
    """All float16 numbers, what lies half-way between neighbours and a hair beside that, and random bits."""
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = np.sort(halves[np.isfinite(halves)].astype(np.float32))
    middles = ((finite[1:].astype(np.float64) + finite[:-1]) / 2).astype(np.float32)
    bits = np.random.default_rng(0).integers(0, 2**32, 10**6, dtype=np.uint64).astype(np.uint32).view(np.float32)
    near = [np.nextafter(middles, np.float32(sign)) for sign in (np.inf, -np.inf)]
    with np.errstate(all="ignore"):
        for values in (finite, middles, *near, bits[np.abs(bits) <= 65504], bits, finite[:7]):
            want = values.astype(np.float16).astype(np.float32)
            got = to_half(values)
            np.testing.assert_array_equal(got, want)
            np.testing.assert_array_equal(np.signbit(got), np.signbit(want))


class TestShapes:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        from coremltools.converters.mil.mil import get_new_symbol

        def body(given: dict[str, Any]) -> list[Any]:
            return [mb.reduce_sum(x=given["x"], axes=[1], keep_dims=False, name="out")]

        path = tmp_path / "model.mlpackage"
        with mil.quiet():
            with Function({"x": mb.placeholder((2, get_new_symbol()))}, opset_version=ct.target.iOS18) as function:
                function.set_outputs(body(dict(function.inputs)))
            program = Program()
            program.add_function("main", function)
            model = ct.convert(
                program, convert_to="mlprogram", minimum_deployment_target=ct.target.iOS18, skip_model_load=True,
                inputs=[ct.TensorType("x", ct.Shape((2, ct.RangeDim(1, 8, default=1))))],
            )  # fmt: skip
            model.save(str(path))
        return path

    def test_flexible_ones(self, path: Path) -> None:
        plan = planned(path)
        for size in (1, 5, 8):
            (out,) = mil.execute(plan, {"x": np.ones((2, size), np.float32)}, {}).values()
            assert out.tolist() == [size, size]

    @pytest.mark.parametrize("shape", [(2, 9), (3, 4), (2, 4, 1)])
    def test_others_are_refused(self, path: Path, shape: tuple[int, ...]) -> None:
        told = re.escape(f"input 'x' may not have shape {list(shape)}; it takes [2, 1..8]")
        with pytest.raises(UserError, match=told):
            mil.execute(planned(path), {"x": np.ones(shape, np.float32)}, {})

    def test_other_inputs_too(self, path: Path) -> None:
        with pytest.raises(UserError, match="takes x, not y"):
            mil.execute(planned(path), {"y": np.ones((2, 2), np.float32)}, {})


class TestInputs:
    """Numbers come as they are or not at all."""

    @pytest.fixture
    def plan(self, tmp_path: Path) -> mil.Plan:
        def body(given: dict[str, Any]) -> list[Any]:
            half = mb.cast(x=given["half"], dtype="fp32")
            return [mb.add(x=mb.cast(x=given["whole"], dtype="fp32"), y=half, name="out")]

        inputs = {"whole": tensor(2, dtype=types.int32), "half": tensor(2, dtype=types.fp16)}
        return planned(saved(tmp_path, inputs, body))

    @pytest.mark.parametrize(
        ("name", "value", "told"),
        [
            ("whole", 5.7, "5.7 is no int32"),
            ("whole", 2**32 + 5, "4294967301 is no int32"),
            ("whole", 2.0**31, "2147483648.0 is no int32"),
            ("whole", np.nan, "nan is no int32"),
            ("whole", np.inf, "inf is no int32"),
            ("half", 1e5, "100000.0 is no fp16"),
            ("half", 70_000, "70000 is no fp16"),
        ],
    )
    def test_what_the_type_cannot_hold(self, plan: mil.Plan, name: str, value: Any, told: str) -> None:
        inputs = {"whole": np.zeros(2), "half": np.zeros(2)}
        inputs[name] = np.array([0, value])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(UserError, match=f"model.mlpackage: input '{name}': {re.escape(told)}$"):
                mil.execute(plan, inputs, {})

    def test_what_it_can_hold(self, plan: mil.Plan) -> None:
        for whole in ([-3, 2**20], [-3.0, 2.0**20], np.array([-3, 2**20], np.int64)):
            out = mil.execute(plan, {"whole": np.array(whole), "half": np.array([0.1, np.inf])}, {})["out"]
            assert out.tolist() == [np.float32(np.float16(0.1)) - 3, np.inf]


def test_operations_are_those_of_the_functions_opset(tmp_path: Path) -> None:
    """An index from the end is one in iOS 16, and outside in iOS 18."""

    def body(given: dict[str, Any]) -> list[Any]:
        return [mb.gather(x=given["x"], indices=mb.cast(x=given["at"], dtype="int32"), axis=0, name="out")]

    inputs = {"x": np.float32([1, 2, 3]), "at": np.float32([-1, 0])}
    for target in (ct.target.iOS16, ct.target.iOS18):
        folder = tmp_path / target.name
        folder.mkdir()
        plan = planned(saved(folder, {"x": tensor(3), "at": tensor(2)}, body, target))
        if target is ct.target.iOS16:
            assert mil.execute(plan, inputs, {})["out"].tolist() == [3, 1]
        else:
            with pytest.raises(
                ArtifactError, match=r"operation 'gather' \(output 'out'\) .* an index lies outside 0..2"
            ):
                mil.execute(plan, inputs, {})


def test_constants_are_computed_as_in_a_run(tmp_path: Path) -> None:
    """Of constants that overflow, infinity, and no warning."""

    def body(given: dict[str, Any]) -> list[Any]:
        large = mb.const(val=np.float32([3e38, -1]))
        return [mb.add(x=given["x"], y=mb.sqrt(x=mb.mul(x=large, y=large)), name="out")]

    path = saved(tmp_path, {"x": tensor(2)}, body)
    assert mil.load(path).main.counts.keys() == {"mul", "sqrt", "add"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = mil.execute(planned(path), {"x": np.zeros(2, np.float32)}, {})["out"]
    assert out.tolist() == [np.inf, 1]


class TestRefused:
    @staticmethod
    def spec(folder: Path) -> tuple[Any, Path]:
        def body(given: dict[str, Any]) -> list[Any]:
            half = mb.mul(x=given["x"], y=np.float32(0.5), name="half")
            return [mb.reshape(x=half, shape=[3, 2], name="out")]

        path = saved(folder, {"x": tensor(WIDTH)}, body)
        return ct.utils.load_spec(str(path)), path

    @staticmethod
    def operations(spec: Any) -> dict[str, Any]:
        block = next(iter(spec.mlProgram.functions["main"].block_specializations.values()))
        return {op.type: op for op in block.operations if op.type != "const"}

    def plan(self, spec: Any, path: Path) -> mil.Plan:
        program = mil.from_spec(spec, path)
        return mil.make_plan(program.main, program.path)

    def test_an_unknown_operation(self, tmp_path: Path) -> None:
        spec, path = self.spec(tmp_path)
        self.operations(spec)["mul"].type = "frobnicate"
        with pytest.raises(ArtifactError) as caught:
            self.plan(spec, path)
        said = str(caught.value)
        assert "\n" not in said and str(path) in said
        assert "operation 'frobnicate' (output 'half') of function 'main' is not one that" in said

    def test_parameters_that_lack_or_are_none(self, tmp_path: Path) -> None:
        spec, path = self.spec(tmp_path)
        argument = self.operations(spec)["mul"].inputs["y"]
        self.operations(spec)["mul"].inputs["z"].CopyFrom(argument)
        with pytest.raises(ArtifactError, match=r"'mul' \(output 'half'\) does not have z"):
            self.plan(spec, path)
        del self.operations(spec)["mul"].inputs["z"], self.operations(spec)["mul"].inputs["y"]
        with pytest.raises(ArtifactError, match=r"'mul' \(output 'half'\) lacks y"):
            self.plan(spec, path)

    def test_a_constant_of_another_kind(self, tmp_path: Path) -> None:
        """Lists and types that numpy lacks: whose they are is said."""
        spec, path = self.spec(tmp_path)
        argument = self.operations(spec)["mul"].inputs["y"].arguments[0]
        argument.value.type.tensorType.dataType = ct.proto.MIL_pb2.DataType.Value("BFLOAT16")
        with pytest.raises(ArtifactError, match=r"'mul' \(output 'half'\) has a value of type bfloat16, which the"):
            self.plan(spec, path)
        argument.value.type.listType.SetInParent()
        argument.value.immediateValue.list.SetInParent()
        with pytest.raises(ArtifactError, match=r"'mul' \(output 'half'\) has a constant of listType, which the"):
            self.plan(spec, path)

    def test_a_constant_without_its_elements(self, tmp_path: Path) -> None:
        spec, path = self.spec(tmp_path)
        value = self.operations(spec)["mul"].inputs["y"].arguments[0].value
        value.type.tensorType.dataType = ct.proto.MIL_pb2.DataType.Value("FLOAT32")
        value.type.tensorType.dimensions.add().constant.size = 3
        value.type.tensorType.rank = 1
        value.immediateValue.tensor.floats.values.extend([1, 2])
        with pytest.raises(ArtifactError, match=r"'mul' \(output 'half'\) has a constant that is none"):
            self.plan(spec, path)

    def test_a_value_that_nothing_gives(self, tmp_path: Path) -> None:
        spec, path = self.spec(tmp_path)
        self.operations(spec)["mul"].inputs["y"].arguments[0].name = "nobody"
        with pytest.raises(ArtifactError, match="reads 'nobody', which nothing before it gives"):
            self.plan(spec, path)

    def test_a_result_of_another_shape_than_declared(self, tmp_path: Path) -> None:
        spec, path = self.spec(tmp_path)
        self.operations(spec)["mul"].outputs[0].type.tensorType.dimensions[0].constant.size = 5
        with pytest.raises(ArtifactError, match=r"'mul' .* result has shape \[6\], the program declares \[5\]"):
            mil.execute(self.plan(spec, path), {"x": np.ones(WIDTH, np.float32)}, {})

    def test_what_has_no_result(self, tmp_path: Path) -> None:
        def body(given: dict[str, Any]) -> list[Any]:
            return [mb.cast(x=mb.cast(x=given["x"], dtype="int8"), dtype="int32", name="out")]

        plan = planned(saved(tmp_path, {"x": tensor(2)}, body))
        assert mil.execute(plan, {"x": np.array([1.9, -1.9], np.float32)}, {})["out"].tolist() == [1, -1]
        with pytest.raises(ArtifactError, match="operation 'cast' .* lies outside -128..127") as caught:
            mil.execute(plan, {"x": np.array([200.0, 0], np.float32)}, {})
        assert "\n" not in str(caught.value)

    def test_what_is_no_package(self, tmp_path: Path) -> None:
        with pytest.raises(ArtifactError, match="none.mlpackage: no such file"):
            mil.load(tmp_path / "none.mlpackage")
        with pytest.raises(ArtifactError, match="not a readable Core ML package"):
            mil.load(tmp_path)
        spec = ct.proto.Model_pb2.Model()
        spec.neuralNetwork.SetInParent()
        with pytest.raises(ArtifactError, match="holds a neuralNetwork, not an ML program"):
            mil.from_spec(spec, tmp_path)
