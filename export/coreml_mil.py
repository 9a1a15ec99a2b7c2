"""Reads a Core ML package back and runs its program, operation by operation, in PyTorch.

Core ML predicts on macOS only. This interpreter knows the few operations that our packages consist of, so that what
was saved (not what was meant to be) can be compared with the checkpoint on any machine. It follows the MIL operation
reference; it says nothing about speed, nor about how Core ML's GPU or Neural Engine rounds.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

_DTYPES = {"fp16": torch.float16, "fp32": torch.float32, "int32": torch.int32, "bool": torch.bool}
_SMALL = {"int16": (-(2**15), 2**15 - 1), "uint16": (0, 2**16 - 1)}


class Package:
    """A saved ``.mlpackage``: its interface, its operations, its constants, and `run`."""

    def __init__(self, path: Path) -> None:
        with quiet():
            import coremltools as ct
            from coremltools.converters.mil.frontend.milproto import load as milproto

            model = ct.models.MLModel(str(path), skip_model_load=True)
            self.spec = model.get_spec()
            program = milproto.load(self.spec, self.spec.specificationVersion, file_weights_dir=model.weights_dir)
        self._main = program.functions["main"]
        self.operations = Counter(op.op_type for op in self._main.operations)
        """How often each kind of operation occurs, constants apart."""
        self.operations.pop("const", None)
        self.states: dict[str, tuple[int, ...]] = {
            one.name: tuple(one.type.stateType.arrayType.shape) for one in self.spec.description.state
        }
        self._constants: dict[str, torch.Tensor] = {}

    @property
    def inputs(self) -> dict[str, list[tuple[int, int]]]:
        """Input name -> smallest and largest size of each axis."""
        return {
            one.name: [(r.lowerBound, r.upperBound) for r in one.type.multiArrayType.shapeRange.sizeRanges]
            for one in self.spec.description.input
        }

    def constants(self) -> Iterator[np.ndarray]:
        """The constants with two or more elements, weights among them."""
        for op in self._main.operations:
            if op.op_type == "const" and isinstance(op.outputs[0].val, np.ndarray) and op.outputs[0].val.size > 1:
                yield op.outputs[0].val

    def make_state(self) -> dict[str, torch.Tensor]:
        """A fresh state: zeros, as Core ML hands it out."""
        return {name: torch.zeros(shape, dtype=torch.float16) for name, shape in self.states.items()}

    def run(self, inputs: dict[str, np.ndarray], state: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
        """One prediction; changes `state`. Raises `NotImplementedError` for an operation that it does not know."""
        values: dict[str, Any] = {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in inputs.items()}

        def look(var: Any) -> Any:
            if isinstance(var, list | tuple):
                return [look(one) for one in var]
            if var is None or isinstance(var.val, str):
                return None if var is None else var.val
            if var.name in values:
                return values[var.name]
            if var.val is not None:
                if var.name not in self._constants:
                    self._constants[var.name] = torch.from_numpy(np.array(var.val))
                return self._constants[var.name]
            return state[var.name] if var.name in state else None

        with torch.inference_mode():
            for op in self._main.operations:
                if op.op_type == "const":
                    continue
                if op.op_type not in _OPERATIONS:
                    raise NotImplementedError(f"MIL operation {op.op_type!r} is not known here")
                if op.op_type == "coreml_update_state":
                    state[op.inputs["state"].name] = look(op.inputs["value"])
                arguments = {key: look(value) for key, value in op.inputs.items()}
                values[op.outputs[0].name] = _OPERATIONS[op.op_type](**arguments)
        return {var.name: values[var.name].numpy() for var in self._main.outputs}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """coremltools and the tracer without progress bars and without warnings (no Mac; a newer torch than was tested)."""
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _cast(x: torch.Tensor, dtype: str) -> torch.Tensor:
    if dtype in _SMALL:  # torch computes little on 16-bit integers: keep 32, but refuse what would not fit
        low, high = _SMALL[dtype]
        if x.numel() and not low <= int(x.min()) <= int(x.max()) <= high:
            raise OverflowError(f"cast to {dtype}: a value lies outside {low}..{high}")
        return x.to(torch.int32)
    return x.to(_DTYPES[dtype])


def _index(
    shape: torch.Size, begin: Any, end: Any, stride: Any, begin_mask: Any, end_mask: Any, squeeze_mask: Any
) -> tuple[Any, ...]:
    """Python's index for MIL's begin, end, stride and masks."""
    out: list[Any] = []
    for axis in range(len(shape)):
        if squeeze_mask is not None and bool(squeeze_mask[axis]):
            out.append(int(begin[axis]))
            continue
        step = 1 if stride is None else int(stride[axis])
        if step < 1:
            raise NotImplementedError("slices that run backwards are not known here")
        first = None if begin_mask is not None and bool(begin_mask[axis]) else int(begin[axis])
        last = None if end_mask is not None and bool(end_mask[axis]) else int(end[axis])
        out.append(slice(first, last, step))
    return tuple(out)


def _slice(
    x: torch.Tensor,
    begin: Any,
    end: Any,
    stride: Any = None,
    begin_mask: Any = None,
    end_mask: Any = None,
    squeeze_mask: Any = None,
) -> torch.Tensor:
    return x[_index(x.shape, begin, end, stride, begin_mask, end_mask, squeeze_mask)]


def _slice_update(
    x: torch.Tensor,
    update: torch.Tensor,
    begin: Any,
    end: Any,
    stride: Any = None,
    begin_mask: Any = None,
    end_mask: Any = None,
    squeeze_mask: Any = None,
) -> torch.Tensor:
    out = x.clone()
    target = out[_index(x.shape, begin, end, stride, begin_mask, end_mask, squeeze_mask)]
    if target.shape != update.shape or target.dtype != update.dtype:
        raise ValueError(f"slice_update: {update.dtype} {tuple(update.shape)} does not fit {tuple(target.shape)}")
    target.copy_(update)
    return out


def _gather(x: torch.Tensor, indices: torch.Tensor, axis: Any, batch_dims: Any, validate_indices: Any) -> torch.Tensor:
    if int(batch_dims) != 0:
        raise NotImplementedError("gather with batch_dims is not known here")
    index = indices.to(torch.int64)
    out = torch.index_select(x, int(axis), index.reshape(-1))
    axis = int(axis) % x.dim()
    return out.reshape((*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]))


def _matmul(x: torch.Tensor, y: torch.Tensor, transpose_x: Any, transpose_y: Any) -> torch.Tensor:
    return (x.mT if bool(transpose_x) else x) @ (y.mT if bool(transpose_y) else y)


def _binary(f: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Callable[..., torch.Tensor]:
    def run(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if x.dtype != y.dtype:
            raise TypeError(f"MIL wants equal types, got {x.dtype} and {y.dtype}")
        return f(x, y)

    return run


def _gelu(x: torch.Tensor, mode: str) -> torch.Tensor:
    return F.gelu(x, approximate={"TANH_APPROXIMATION": "tanh", "EXACT": "none"}[mode])


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "add": _binary(torch.add),
    "sub": _binary(torch.sub),
    "mul": _binary(torch.mul),
    "less": _binary(torch.lt),
    "greater_equal": _binary(torch.ge),
    "logical_and": _binary(torch.logical_and),
    "select": lambda cond, a, b: torch.where(cond, a, b),
    "cast": _cast,
    "shape": lambda x: torch.tensor(x.shape, dtype=torch.int32),
    "reshape": lambda x, shape: x.reshape([int(n) for n in shape]),
    "transpose": lambda x, perm: x.permute([int(n) for n in perm]),
    "expand_dims": lambda x, axes: _expand(x, [int(n) for n in axes]),
    "concat": lambda values, axis, interleave: torch.cat(
        [v.reshape(-1) if v.dim() == 0 else v for v in values], int(axis)
    ),
    "slice_by_index": _slice,
    "slice_update": _slice_update,
    "gather": _gather,
    "linear": lambda x, weight, bias=None: F.linear(x, weight, bias),
    "matmul": _matmul,
    "softmax": lambda x, axis: torch.softmax(x, int(axis)),
    "reduce_mean": lambda x, axes, keep_dims: x.mean([int(n) for n in axes], keepdim=bool(keep_dims)),
    "rsqrt": lambda x, epsilon: torch.rsqrt(x + epsilon),
    "gelu": _gelu,
    "read_state": lambda input: input,
    "coreml_update_state": lambda state, value: value,
}
KNOWN_OPERATIONS = frozenset(_OPERATIONS)


def _expand(x: torch.Tensor, axes: list[int]) -> torch.Tensor:
    for axis in axes:
        x = x.unsqueeze(axis)
    return x
