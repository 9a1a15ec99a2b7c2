"""A Core ML package's state beside its network's, after the same passes."""

from __future__ import annotations

from typing import Any

import numpy as np

from runtimes import mil
from runtimes.coreml_package import package_inputs


def check_states(net: Any, plan: mil.Plan, tokens: list[int], *, atol: float, logits: float) -> None:
    """Random appends and rewinds through both, with a rewind to any place behind.

    After every pass the mean difference of the last row's logits is below `logits`; at the end the state holds what
    the network's does within `atol`, and nothing behind the last token.
    """
    import torch

    state, rng, position = mil.new_state(plan), np.random.default_rng(0), 0
    while position < len(tokens):
        if position and rng.random() < 0.4:
            position = int(rng.integers(0, position))
        inputs = package_inputs(tokens[position : position + int(rng.integers(1, 50))], position, "last")
        with torch.inference_mode():
            want = net(*(torch.from_numpy(value) for value in inputs.values())).numpy()
        assert np.abs(mil.execute(plan, inputs, state)["logits"] - want).mean() < logits, position
        position = inputs["positions"].shape[1]
    assert set(state) == set(net.states)
    for name in ("keys", "values"):
        parts = [part for part in (name, f"{name}_rest") if part in state]
        got = sum(state[part] for part in parts)
        np.testing.assert_allclose(got, sum(getattr(net, part).float().numpy() for part in parts), atol=atol)
        assert np.any(got, axis=(0, 1, 3)).tolist() == [True] * position + [False] * (net.capacity - position)


__all__ = ["check_states"]
