"""Compressed weights for the Core ML package: linear quantization and palettes (`coremltools.optimize.coreml`).

Linear: ``w = scale * q`` with q symmetric around zero; ``int8`` has one scale for each row of a matrix, ``int4`` one
for each block of 32 numbers along a row. Palettes: ``pal8`` and ``pal6`` have 256 or 64 numbers for each matrix, and an
index into them for each weight. ``int4`` keeps the embedding as ``int8`` has it, as the other formats' four bits keep a
finer one (docs/quantization.md). In the package they are ``constexpr_blockwise_shift_scale`` and
``constexpr_lut_to_dense`` of the MIL reference (iOS 18), which any operation may read in place of a constant.

Every matrix of the network is compressed, and nothing else: the norms' weights are few, and the
tables of angles are no weights (coremltools, left alone, compresses them as well). The embedding is one constant that
the look-up and the output layer share, and stays one: its rows are what is looked up and the output's channels, so a
scale for each row, blocks along a row and one palette all serve both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt

from export.coreml_mil import digest
from export.coreml_palette import palettize
from export.mixed import CLASSES, by_class, place_of

if TYPE_CHECKING:
    import torch

    from export.coreml_mil import Package
    from export.coreml_model import Gemma3Stateful

Array = npt.NDArray[Any]

SHORTEST: Final = 8
"""The least numbers that share a scale: with fewer the scales cost more than the bits that they save."""


@dataclass(frozen=True)
class Scheme:
    """How the numbers of a matrix are stored: `bits` each, times a scale or as an index into a palette."""

    kind: Literal["linear", "palette"]
    bits: int
    block: int | None = None
    """Numbers along a row that share a scale; None: the whole row. Palettes serve a whole matrix."""

    def tile(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the part of a matrix that has a scale or a palette of its own.

        Core ML wants blocks that divide the row: where `block` does not, the longest shorter one that does, or else
        the whole row.
        """
        rows, columns = shape
        if self.kind == "palette":
            return rows, columns
        lengths = range(self.block or 0, SHORTEST - 1, -1)
        return 1, next((length for length in lengths if columns % length == 0), columns)

    def stored_bits(self, shape: tuple[int, int]) -> int:
        """Bits that a matrix takes, with its float16 scales or palette."""
        rows, columns = self.tile(shape)
        beside = 16 * (2**self.bits if self.kind == "palette" else 1)
        weights = shape[0] * shape[1]
        return self.bits * weights + beside * (weights // (rows * columns))


ROWS: Final = Scheme("linear", 8)

SCHEMES: Final[Mapping[str, Mapping[str, Scheme]]] = {
    "int8": dict.fromkeys(CLASSES, ROWS),
    "pal8": dict.fromkeys(CLASSES, Scheme("palette", 8)),
    "pal6": dict.fromkeys(CLASSES, Scheme("palette", 6)),
    "int4": dict.fromkeys(CLASSES, Scheme("linear", 4, block=32)) | {"embedding": ROWS},
}
"""Variant -> class of matrices (`export.mixed`) -> scheme; a variant's schemes are of one kind.

Apple's guide: 8 and 6 bits with one palette, and 8 bits with a scale a row, lose little for most models; 4 bits want
blocks of 16 to 64, which suit the GPU of a Mac; further palettes for a matrix may cost speed (opt-overview,
opt-workflow, opt-palettization-perf and opt-quantization-perf in https://apple.github.io/coremltools/docs-guides)."""

ROUNDING: Final = 0.6
"""Steps by which numbers may be off: half a one, and what float16 scales and coremltools' division in float16 add."""

_FUNCTIONS: Final = {"linear": "linear_quantize_weights", "palette": "palettize_weights"}
_SUFFIXES: Final = {"linear": "_quantized", "palette": "_palettized"}
"""What coremltools adds to the name of a constant that it has compressed."""


def compress(model: Any, name: str, net: Gemma3Stateful) -> tuple[Any, dict[str, str]]:
    """A copy of the float16 `model` (an `MLModel`), the matrices of `net` in it stored as the variant `name` says.

    Also returns parameter -> what its constant is called in the copy. Raises `RuntimeError` where `model` lacks one.
    """
    from runtimes import mil

    plans = dict(_plans(name, net))
    constants = _constants(mil.load(Path(model.package_path)).main.constants, plans)
    with mil.quiet(), np.errstate(all="ignore"):  # a row of zeros has the scale 0; its 0 / 0 becomes 0
        import coremltools.optimize.coreml as cto

        settings = {constants[key]: _settings(cto, plan) for key, plan in plans.items()}
        config = cto.OptimizationConfig(op_name_configs=settings)
        (kind,) = {plan.scheme.kind for plan in plans.values()}
        made = getattr(cto, _FUNCTIONS[kind])(model, config)
    return made, {key: one + _SUFFIXES[kind] for key, one in constants.items()}


def take_back(package: Package, called: Mapping[str, str], name: str, net: Gemma3Stateful) -> dict[str, Any]:
    """Put the matrices as `package` holds them into `net`, in place of the checkpoint's; facts for the manifest.

    `called`: as `compress` returned it. Raises `RuntimeError` for a matrix that is not there, and for one whose numbers
    are further from the checkpoint's than if they had been rounded to evenly spaced ones.
    """
    import torch

    there = package.compressed()
    bits = weights = 0
    largest = 0.0
    for key, plan in _plans(name, net):
        value = there.get(called[key])
        if value is None or value.shape != plan.shape:
            raise RuntimeError(f"coreml {name}: {key} is not compressed in the package")
        error = error_in_steps(plan.weight.detach().numpy(), value, plan.scheme)
        if not error <= ROUNDING:
            raise RuntimeError(
                f"coreml {name}: {key} is {error:.3g} steps off in the package, which rounding does not do"
            )
        largest = max(largest, error)
        bits += plan.scheme.stored_bits(plan.shape)
        weights += plan.weight.numel()
        with torch.no_grad():
            plan.weight.copy_(torch.from_numpy(value))
    stored = {plan.checkpoint: _type(plan.scheme) for _, plan in _plans(name, net)}
    return {"classes": by_class(stored), "bits_per_weight": round(bits / weights, 3), "rms_steps": round(largest, 3)}


def error_in_steps(weight: Array, stored: Array, scheme: Scheme) -> float:
    """Root mean square of what storing changed, in steps of as many evenly spaced numbers; the worst tile's.

    A tile's step is ``2 max|w| / (2**bits - 2)``, that of a symmetric scale; 0.29 is what rounding to it gives.
    """
    rows, columns = scheme.tile(weight.shape)

    def tiles(matrix: Array) -> Array:
        split = matrix.reshape(weight.shape[0] // rows, rows, weight.shape[1] // columns, columns)
        return split.swapaxes(1, 2).reshape(-1, rows * columns).astype(np.float32)

    step = 2 * np.abs(tiles(weight)).max(axis=1) / (2**scheme.bits - 2)
    error = np.sqrt(np.square(tiles(stored - weight)).mean(axis=1))
    # Of tiny numbers the scale is a subnormal float16, which is no better than 2**-25.
    return float((error / np.maximum(step, 2.0**-14)).max())


@dataclass(frozen=True)
class _Plan:
    """A matrix of the network, its name in a checkpoint, and how it is to be stored."""

    weight: torch.nn.Parameter
    checkpoint: str
    scheme: Scheme

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.weight.shape
        return rows, columns


def matrices_of(net: Gemma3Stateful) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """The parameters that are compressed, (out, in) each: the embedding alone where the output layer shares it."""
    yield from ((name, weight) for name, weight in net.named_parameters() if weight.dim() == 2)


def _plans(name: str, net: Gemma3Stateful) -> Iterator[tuple[str, _Plan]]:
    """Every matrix by its parameter's name."""
    from export.coreml_model import checkpoint_name

    for key, weight in matrices_of(net):
        checkpoint = checkpoint_name(key)[0]
        yield key, _Plan(weight, checkpoint, SCHEMES[name][place_of(checkpoint)[0]])


def _constants(constants: Mapping[str, Any], plans: Mapping[str, _Plan]) -> dict[str, str]:
    """Parameter -> name of the constant that has its numbers, rounded to float16."""
    names = {digest(value): one for one, value in constants.items() if isinstance(value, np.ndarray)}
    found = {key: names.get(digest(plan.weight.detach().numpy().astype(np.float16))) for key, plan in plans.items()}
    missing = [key for key, one in found.items() if one is None]
    if missing:
        raise RuntimeError(f"coreml: weights that are not in the package as in the checkpoint: {', '.join(missing)}")
    return {key: one for key, one in found.items() if one is not None}


def _settings(cto: Any, plan: _Plan) -> Any:
    """What coremltools is told of one matrix. Its threshold, below which it leaves matrices alone, is off."""
    scheme = plan.scheme
    if scheme.kind == "palette":
        function = partial(palettize, bits=scheme.bits)
        return cto.OpPalettizerConfig(
            mode="custom", lut_function=function, granularity="per_tensor", weight_threshold=0
        )
    columns = scheme.tile(plan.shape)[1]
    blocks = {"granularity": "per_channel"}
    if columns < plan.shape[1]:
        blocks = {"granularity": "per_block", "block_size": columns}
    return cto.OpLinearQuantizerConfig(mode="linear_symmetric", dtype=f"int{scheme.bits}", weight_threshold=0, **blocks)


def _type(scheme: Scheme) -> str:
    return f"{'pal' if scheme.kind == 'palette' else 'int'}{scheme.bits}"
