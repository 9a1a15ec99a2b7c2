"""Core ML: an ``.mlpackage`` with the KV cache as its state, any number of new tokens a pass, for macOS 15 and iOS 18.

The network is `export.coreml_model`, traced and converted; its interface for an app is described in docs/coreml.md.
What was saved is read back and compared with the checkpoint: weights bit by bit, and a few passes through
the reference interpreter (`runtimes.mil`), since Core ML itself predicts on macOS only.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import nlargest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from export.base import Checkpoint, Quant, Written
from runtimes.base import Availability
from runtimes.coreml_package import CONTEXT
from runtimes.errors import UnavailableError, UserError

if TYPE_CHECKING:
    import torch

    from export.coreml_mil import Package
    from export.coreml_model import Gemma3Stateful
    from router.cases import Case
    from router.toolset import Toolset
    from runtimes.mil import Watch

FORMAT = "coreml"
RUNTIME = "coreml"

QUANTS: dict[str, Quant] = {
    "fp32": Quant(32, "fp32", 2e-3),
    "fp16": Quant(16, "fp16", 0.25),
    "ane": Quant(16, "fp16 throughout, Neural Engine layout", 0.5),
    "int8": Quant(8, "8-bit weights, float16 activations", 1.5),
    "pal8": Quant(8, "8-bit palettes, float16 activations", 1.5),
    "pal6": Quant(4, "6-bit palettes, float16 activations", 3.0),
    "int4": Quant(4, "4-bit weights (embedding 8), float16 activations", 8.0),
}
"""``ane`` has fixed shapes and another layout (`export.coreml_functions`). The last four are compressed by
`export.coreml_quant`; six bits are compared with four, as other formats' are."""
NEURAL = "ane"
DEFAULT_QUANTS = ("fp32", "fp16")
MEASURED = tuple(name for name in QUANTS if name != "fp32")
BENCH_QUANTS = tuple(QUANTS)
NO_OUTPUT_TRIM = "apps read the package's logits by token id"

PACKAGE = "model.mlpackage"
CONTEXT_LENGTH = 2048
"""Positions that the cache holds unless more are asked for; every one costs state memory, used or not."""
ROOM = 512
"""Positions left behind the toolset's prompt when that alone makes the cache larger."""


def availability() -> Availability:
    """Whether coremltools and torch are installed; converting needs no Mac."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = f"coremltools {version('coremltools')}"
        version("torch")
    except PackageNotFoundError as error:
        name = error.name or "coremltools"
        return Availability(False, reason=f"{name} is not installed", fix='pip install "edgecall[export]"')
    return Availability(True, found)


def write(
    source: Checkpoint,
    folder: Path,
    quant: str,
    toolset: Toolset,
    *,
    cases: Sequence[Case] = (),
    context_length: int | None = None,
) -> Written:
    """Write ``model.mlpackage`` into `folder`. `cases` are what float16's ranges are measured on (`samples`).

    `context_length` is the cache's capacity: 2,048 unless the toolset's prompt needs more, and never more than the
    checkpoint's own. A compressed variant is the float16 package with its matrices compressed. Raises `UserError` for
    a checkpoint that the network does not cover, a prompt that does not fit, and activations that would overflow
    float16.
    """
    state = availability()
    if not state.available:
        raise UnavailableError(f"coreml export: {state.reason}; {state.fix}")
    if quant not in QUANTS:
        raise UserError(f"coreml: unknown quantization {quant!r}; there are {', '.join(QUANTS)}")
    from export.coreml_mil import Package
    from export.coreml_model import load_checkpoint
    from export.coreml_quant import SCHEMES, compress, take_back

    capacity, sequences = samples(source, toolset, cases, context_length=context_length)
    net = load_checkpoint(source, capacity, exact=quant == "fp32")
    details: dict[str, Any] = {"context_length": capacity}
    if not net.exact:
        details["fp16"], details["fp16_safe"] = _into_float16(net, sequences, source, quant)
        details["fp16"]["cases"] = len(cases)
    net.reset()
    if quant == NEURAL:
        model = _functions(net)
    else:
        model = _convert(net, quant) if net.exact else _half(net)
    if quant in SCHEMES:
        model, called = compress(model, quant, net)
    model.save(str(folder / PACKAGE))
    package = Package(folder / PACKAGE)
    if quant in SCHEMES:
        details["weights"] = take_back(package, called, quant, net)
    details |= _check(package, net, sequences[-1], neural=quant == NEURAL)
    return Written(PACKAGE, _versions(), details)


def samples(
    source: Checkpoint, toolset: Toolset, cases: Sequence[Case] = (), *, context_length: int | None = None
) -> tuple[int, list[list[int]]]:
    """The cache's capacity, and what a float16 package's ranges are measured on: `cases`, or requests in the toolset's
    own words, and as the last random tokens past the sliding window. Raises `UserError` for what does not fit."""
    from export.coreml_record import random_tokens, rendered
    from export.proof_requests import default_requests
    from router.cases import Case
    from router.known import sample_context

    if not cases:
        context = sample_context(toolset)
        cases = [Case(request, request, context) for request in default_requests(toolset)]
    prompts = rendered(source, toolset, cases)
    capacity = _capacity(source, max(map(len, prompts)), context_length)
    return capacity, [*prompts, random_tokens(source, capacity)]


def _into_float16(
    net: Gemma3Stateful, sequences: Sequence[Sequence[int]], source: Checkpoint, quant: str
) -> tuple[dict[str, Any], bool]:
    """Rescale `net` where float16 needs it. What was seen and done, for the manifest, and whether it is safe now.

    Raises `UserError` where float16 does not hold it all the same.
    """
    from export.coreml_record import rounding
    from export.coreml_rescale import mend

    mended = mend(net, sequences)
    rounded = rounding(net, sequences, _narrow_modules(neural=quant == NEURAL))
    if not rounded["finite"]:
        largest = mended.after.largest
        raise UserError(
            f"{source.folder}: coreml {quant}: {largest.name} reaches {largest.max_abs:.3g}, activations overflow "
            "float16 (65,504), and no rescaling of the weights mends it; export fp32"
        )
    return {**mended.facts, **rounded, "tokens": mended.after.tokens}, mended.safe


def _narrow_modules(*, neural: bool) -> tuple[type[torch.nn.Module], ...]:
    """Those that a float16 package computes in float16."""
    from export.coreml_record import HALF, THROUGHOUT

    return THROUGHOUT if neural else HALF


def _capacity(source: Checkpoint, prompt: int, asked: int | None) -> int:
    if asked is not None and not 1 <= asked <= source.context_length:
        raise UserError(f"coreml: context_length {asked} is outside 1..{source.context_length}, the checkpoint's own")
    needed = -(-(prompt + ROOM) // 1024) * 1024
    capacity = asked or min(source.context_length, max(CONTEXT_LENGTH, needed))
    if prompt >= capacity:
        raise UserError(
            f"coreml: the toolset's prompt has {prompt} tokens, the cache holds {capacity}; use fewer tools"
        )
    return capacity


_LAST: dict[tuple[Any, ...], Any] = {}
"""The float16 model that this process made last: of one checkpoint's variants only the first waits for it."""


def _half(net: Gemma3Stateful) -> Any:
    """The float16 model of `net`; converted anew only for other weights or another capacity."""
    from export.coreml_mil import digest

    key = (net.capacity, *(digest(weight.detach().numpy()) for weight in net.parameters()))
    if key not in _LAST:
        _LAST.clear()
        _LAST[key] = _convert(net, "fp16")
    return _LAST[key]


def _functions(net: Gemma3Stateful) -> Any:
    """The model of fixed shapes. Raises `UserError` for a cache that is longer than the Neural Engine's axes."""
    from export.coreml_functions import convert_functions
    from export.coreml_neural import PART

    if net.capacity > PART:
        raise UserError(
            f"coreml ane: a cache of {net.capacity} positions is longer than the Neural Engine takes ({PART}); "
            "ask for a shorter context, or export fp16"
        )
    return convert_functions(net)


def _convert(net: Gemma3Stateful, quant: str, wide: tuple[type[torch.nn.Module], ...] | None = None) -> Any:
    """The Core ML model of `net` in fp32 or fp16, not compiled. `wide`: what an fp16 package computes in float32 if not
    `WIDE`."""
    import torch

    from export.coreml_mil import quiet
    from export.coreml_model import WIDE

    with quiet():
        import coremltools as ct

    example = (
        torch.zeros(1, 3, dtype=torch.int32),
        torch.arange(7, dtype=torch.int32)[None],
        torch.arange(2, dtype=torch.int32),
    )
    with quiet():
        with torch.no_grad():
            traced = torch.jit.trace(net, example, check_trace=False)

        def axis() -> Any:
            return ct.RangeDim(1, net.capacity, default=1)

        # All inputs have a range: Core ML refuses fixed ones beside them.
        model = ct.convert(
            traced,
            inputs=[
                ct.TensorType("input_ids", (1, axis()), np.int32),
                ct.TensorType("positions", (1, axis()), np.int32),
                ct.TensorType("rows", (axis(),), np.int32),
            ],
            outputs=[ct.TensorType("logits", dtype=np.float32)],
            states=[
                ct.StateType(ct.TensorType(shape=tuple(getattr(net, name).shape), dtype=np.float16), name)
                for name in net.states
            ],
            minimum_deployment_target=ct.target.macOS15,
            compute_precision=ct.transform.FP16ComputePrecision(op_selector=_narrow(quant, wide or WIDE)),
            skip_model_load=True,
        )
    net.reset()  # tracing wrote into it
    model.short_description = "Tool-call router (Gemma 3) with its KV cache as state"
    model.input_description["input_ids"] = "The new tokens, (1, Q)"
    model.input_description["positions"] = "0, 1, … up to the last position in use after this pass, (1, cached + Q)"
    model.input_description["rows"] = "Which of the Q new rows shall have logits, (R)"
    model.output_description["logits"] = "(R, vocabulary)"
    model.user_defined_metadata[CONTEXT] = str(net.capacity)
    return model


def _narrow(quant: str, kinds: tuple[type[torch.nn.Module], ...]) -> Any:
    """Which operations are float16: none of modules of `kinds`. In the fp32 package those on the state alone, which
    Core ML has in float16 only: otherwise the whole cache would be converted there and back for every layer."""
    from coremltools.converters.mil.mil.scope import ScopeSource

    from export.coreml_model import Store

    wide = {kind.__name__ for kind in kinds}

    def select(op: Any) -> bool:
        modules = set(op.scopes.get(ScopeSource.TORCHSCRIPT_MODULE_TYPE, ()))
        if quant == "fp32":
            return Store.__name__ in modules
        return op.op_type != "softmax" and not modules & wide

    return select


def _check(package: Package, net: Gemma3Stateful, tokens: Sequence[int], *, neural: bool = False) -> dict[str, Any]:
    """Hold what was saved against the network. A difference is a bug here or in coremltools: `RuntimeError`."""
    from export.coreml_record import operations, passes, short, simulate

    missing = _missing(package, net, neural=neural)
    if missing:
        raise RuntimeError(f"coreml: weights that are not in the package as in the checkpoint: {', '.join(missing)}")
    largest: dict[str, float] = {}
    watch = operations(largest)
    if neural:
        from export.coreml_functions import walk_functions

        want, got = walk_functions(package, net, tokens, watch)
    else:
        want, got = walk(net, tokens), walk(package, tokens, watch)
    error = float(np.abs(got - want).max())
    if net.exact:
        limit = 1e-3
    else:
        exact, rounded = next(passes(net, [tokens])), next(simulate(net, [tokens], _narrow_modules(neural=neural)))
        limit = 1e-2 + 4 * float((rounded - exact)[-len(want) :].abs().max())
    net.reset()
    if not error <= limit:
        raise RuntimeError(
            f"coreml: the package's logits differ by {error:.3g} from the network's (at most {limit:.3g})"
        )
    return {
        "operations": dict(sorted(package.operations.items())),
        "states": {name: list(shape) for name, shape in package.states.items()},
        "interpreted": {
            "tokens": len(tokens),
            "rows": len(want),
            "max_abs_logit": short(error),
            "largest": {name: short(largest[name]) for name in nlargest(3, largest, key=largest.__getitem__)},
        },
    }


def _missing(package: Package, net: Gemma3Stateful, *, neural: bool) -> list[str]:
    """As `missing_weights`; the states must be the layout's."""
    wanted = {name: tuple(getattr(net, name).shape) for name in net.states}
    part = None
    if neural:
        from export.coreml_neural import PART, states_of

        wanted, part = states_of(net), PART
    if package.states != wanted:
        raise RuntimeError(f"coreml: the package's states are {package.states}, not {wanted}")
    return missing_weights(package, net, part)


def missing_weights(package: Package, net: Gemma3Stateful, part: int | None = None) -> list[str]:
    """Names of `net`'s parameters that the package holds neither as they are nor rounded to float16, nor compressed.

    Axes of one element do not count. `part`: into how many rows a package cuts the embedding and the output matrix.
    """
    from export.coreml_mil import digest

    constants = [*package.constants(), *(value.astype(np.float16) for value in package.compressed().values())]
    stored = {digest(value.squeeze()) for value in constants if value.dtype in (np.float16, np.float32)}

    def found(value: np.ndarray) -> bool:
        return any(digest(one.squeeze()) in stored for one in (value, value.astype(np.float16)))

    missing = []
    for name, weight in net.named_parameters():
        value = weight.detach().numpy()
        rows = len(value) if part is None or name.startswith("layers.") else part
        if not all(found(value[at : at + rows]) for at in range(0, len(value), rows)):
            missing.append(name)
    return missing


def walk(net: Gemma3Stateful | Package, tokens: Sequence[int], watch: Watch | None = None) -> np.ndarray:
    """Logits of the last eight of `tokens`, fed in uneven passes with one rewind; from an empty cache.

    `watch` is told what a package computes.
    """
    state = None if hasattr(net, "reset") else net.make_state()
    size = len(tokens)
    cuts = sorted({0, size // 3, size // 3 + 1, max(0, size - 8), size})
    out: Any = None
    for start, end in [*zip(cuts, cuts[1:], strict=False), (max(0, size - 8), size)]:
        inputs = {
            "input_ids": np.array([tokens[start:end]], np.int32),
            "positions": np.arange(end, dtype=np.int32)[None],
            "rows": np.arange(end - start, dtype=np.int32),
        }
        if state is None:
            out = _infer(net, inputs)
        else:
            out = net.run(inputs, state, watch)["logits"]
    return np.asarray(out)


def _infer(net: Any, inputs: dict[str, np.ndarray]) -> np.ndarray:
    import torch

    with torch.inference_mode():
        logits: torch.Tensor = net(*(torch.from_numpy(value) for value in inputs.values()))
    return logits.numpy()


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("coremltools", "torch")}
