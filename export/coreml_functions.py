"""The package of fixed shapes: its functions put together, and run one by one against the network.

The functions are those of `export.coreml_neural`; they share one state, and the weights once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from export.coreml_neural import FUNCTIONS, Weights, make_function, mb
from runtimes.coreml_package import CONTEXT, WINDOW, Fixed, Interface, forward
from runtimes.coreml_reference import program_interface
from runtimes.mil import quiet

if TYPE_CHECKING:
    from export.coreml_mil import Package
    from export.coreml_model import Gemma3Stateful
    from runtimes.coreml_package import Inputs
    from runtimes.mil import Watch

TRIALS: Final = ((24, "last"), (6, "last"), (1, "last"), (24, "all"), (6, "all"))
"""Passes of the check, behind all tokens that come before: how many tokens, none but one as many as a function takes,
and which rows."""

_DESCRIBED: Final = {
    "input_ids": "The new tokens, (1, Q); padding repeats the last",
    "positions": "Where each of them stands, counted from 0, (Q); padding repeats the last",
    "write": "1 where a token's key and value go, 0 elsewhere, (1, Q, 1, capacity); all 0 for padding",
    "past": "0 where a token sees a position, else -30000, (1, capacity, 1, Q); padding repeats the last",
    "near": "As past, and -30000 too where the position is a sliding window back or more",
    "allowed": "0 for an id that may be chosen, -30000 for others, (1, vocabulary)",
    "logits": "(R, vocabulary): of the last token, or in a function called verify of all",
    "id": "The best of the allowed ids behind the token",
    "logit": "Its logit",
}


def convert_functions(net: Gemma3Stateful) -> Any:
    """The Core ML model (`MLModel`) of `net` with all `FUNCTIONS`, not compiled."""
    from coremltools import ComputeUnit, PassPipeline, target
    from coremltools.converters.mil.converter import mil_convert
    from coremltools.converters.mil.mil import Program

    mb.name_count.clear()  # or names would tell what this process has converted before
    weights, program = Weights(net), Program()
    for shape in FUNCTIONS:
        program.add_function(shape.name, make_function(weights, shape))
    program.default_function_name = FUNCTIONS[0].name
    program.export_as_multifunction = True
    program.skip_all_passes = True  # they are for what a converter makes; here every operation is meant
    with quiet():
        # As coremltools.utils.save_multifunction does; its own way is by way of a package for each function.
        model = mil_convert(
            program,
            convert_from="milinternal",
            convert_to="mlprogram",
            specification_version=target.macOS15,
            compute_units=ComputeUnit.CPU_ONLY,
            main_pipeline=PassPipeline.EMPTY,
            skip_model_load=True,
        )
        return _described(model, net)


def _described(model: Any, net: Gemma3Stateful) -> Any:
    """The model with a word on each input and output, and what an app must know of the network."""
    from coremltools.models import MLModel

    spec = model.get_spec()
    for function in spec.description.functions:
        for feature in (*function.input, *function.output):
            feature.shortDescription = _DESCRIBED[feature.name]
    metadata = spec.description.metadata
    metadata.shortDescription = "Tool-call router (Gemma 3) with its KV cache as state, for the Neural Engine"
    metadata.userDefined[CONTEXT] = str(net.capacity)
    metadata.userDefined[WINDOW] = str(net.window)
    return MLModel(spec, weights_dir=model.weights_dir, skip_model_load=True)


def walk_functions(
    package: Package, net: Gemma3Stateful, tokens: Sequence[int], watch: Watch | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Logits of the network and of the package, for the last rows of `tokens`, (rows, vocab) each.

    Every function has its turn, padded and not, with a rewind before the last. Raises `RuntimeError` where the one
    that chooses does not choose as these logits say.
    """
    from export.coreml_record import run

    interface, state = program_interface(package.program, net.vocab_size), package.make_state()
    assert isinstance(interface, Fixed)
    largest = max(interface.last)
    first = replace(interface, last={largest: interface.last[largest]})

    def predict(function: str, inputs: Inputs) -> dict[str, np.ndarray]:
        return package.run(inputs, state, watch, function=function)

    def logits(start: int, count: int, rows: Any, by: Fixed = interface) -> np.ndarray:
        return forward(predict, by.steps(tokens[start : start + count], start, rows), net.vocab_size)

    trials = sum(count for count, _ in TRIALS)
    start = len(tokens) - trials
    own, at = [logits(0, start, "last", first)], [start - 1]
    for count, rows in TRIALS:
        own.append(logits(start, count, rows))
        start += count
        at += range(start - len(own[-1]), start)
    count = TRIALS[-1][0]
    own.append(logits(start - count, count, "all"))
    at += range(start - count, start)
    _check_choice(interface, predict, tokens, own[-1][-1])
    want = run(net, tokens, last=trials + 1).numpy()
    return want[[row - len(tokens) for row in at]], np.concatenate(own)


def _check_choice(interface: Interface, predict: Any, tokens: Sequence[int], logits: np.ndarray) -> None:
    """Hold the choice behind the last token, with and without the best id, against the row's logits."""
    best = int(logits.argmax())
    for allowed in (np.arange(len(logits)), np.delete(np.arange(len(logits)), best)):
        (step,) = interface.choice(tokens[-1:], len(tokens) - 1, allowed)
        out = predict(step.function, step.inputs)
        found = int(out["id"][0])
        if found not in allowed or abs(float(logits[allowed].max()) - float(out["logit"][0])) > 1e-2:
            raise RuntimeError(f"coreml: {step.function} chooses {found}, which is not the best of the allowed ids")
