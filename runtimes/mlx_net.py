"""mlx-lm's Gemma 3 as a network that can rewind: loading it, its pass, its KV cache. The runtime is `runtimes.mlx`."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from runtimes.errors import ArtifactError, UnavailableError

_KEPT = "kept_rows"
FIX = 'pip install "edgecall[mlx]" (on Linux without a GPU it brings "mlx[cpu]")'


def hidden(net: Any, tokens: Any, caches: list[Any], keep: list[int] | None) -> Any:
    """Normalized hidden states (1, n, width), or those of the offsets to `keep`: mlx-lm's layers with our masks and the
    exact embedding scale."""
    import mlx.core as mx

    inner, count = net.model, tokens.shape[1]
    h = inner.embed_tokens(tokens)
    h = (h.astype(mx.float32) * net.args.hidden_size**0.5).astype(h.dtype)
    masks: dict[bool, Any] = {}
    for layer, layer_cache in zip(inner.layers, caches, strict=True):
        local = layer.self_attn.is_sliding
        if local not in masks:
            masks[local] = layer_cache.make_mask(count)
        h = layer(h, masks[local], layer_cache)
    return inner.norm(h if keep is None else h[:, mx.array(keep)])


def head(net: Any, states: Any, rows: Any = None) -> Any:
    """Logits, in the network's dtype, of the hidden states given: of all ids, or of those of `keep_rows`; of these the
    `rows` alone where some are given."""
    matrix = _output(net)
    if rows is not None:
        matrix = _rows_of(matrix, rows)
    return matrix.as_linear(states) if hasattr(matrix, "as_linear") else matrix(states)


def keep_rows(net: Any, ids: Any) -> None:
    """Let `head` compute the logits of `ids` alone, from a copy of the output matrix's rows, quantized as they are."""
    import mlx.core as mx

    kept = _rows_of(_output(net), mx.array(ids))
    mx.eval(kept.parameters())
    net[_KEPT] = kept


def _output(net: Any) -> Any:
    """The module whose rows are multiplied with the hidden states."""
    if (kept := net.get(_KEPT)) is not None:
        return kept
    return net.model.embed_tokens if net.tie_word_embeddings else net.lm_head


def _rows_of(matrix: Any, rows: Any) -> Any:
    """The same module with some of its rows."""
    some = copy.copy(matrix)
    for name in ("weight", "scales", "biases"):
        if matrix.get(name) is not None:
            some[name] = matrix[name][rows]
    return some


@cache
def cache_class() -> Any:
    """The class of one layer's cache: ``WindowCache(window or None)``; setting its `offset` rewinds it."""
    import mlx.core as mx

    plain = _mlx_lm("models.cache").KVCache

    class WindowCache(plain):  # type: ignore[misc, valid-type]
        """mlx-lm's growing cache, which keeps all; a local layer gets the keys that its window reaches."""

        def __init__(self, window: int | None) -> None:
            super().__init__()
            self._window = window

        def update_and_fetch(self, keys: Any, values: Any) -> tuple[Any, Any]:
            first = self._first()
            all_keys, all_values = super().update_and_fetch(keys, values)
            return all_keys[..., first:, :], all_values[..., first:, :]

        def make_mask(self, count: int, return_array: bool = False, window_size: int | None = None) -> Any:
            """For `count` new tokens, before they are written: None (all given keys), "causal", or booleans."""
            if count == 1:
                return None
            end = self.offset + count
            if not return_array and (self._window is None or end <= self._window):
                return "causal"
            query = mx.arange(self.offset, end)[:, None]
            key = mx.arange(self._first(), end)[None]
            mask = key <= query
            return mask if self._window is None else mask & (key > query - self._window)

        def _first(self) -> int:
            return 0 if self._window is None else max(0, self.offset - self._window + 1)

    return WindowCache


def load(folder: Path) -> tuple[Any, str]:
    """The network, evaluated, and the dtype found in it. `ArtifactError` for weights that do not fit the config."""
    import mlx.core as mx
    import mlx.nn as nn

    module = _mlx_lm("models.gemma3_text")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if config.get("model_type") != "gemma3_text":
            raise ValueError(f"model_type is {config.get('model_type')!r}, not 'gemma3_text'")
        weights: dict[str, Any] = {}
        for path in sorted(folder.glob("model*.safetensors")):
            loaded: Any = mx.load(str(path))
            weights.update(loaded)
        net = module.Model(module.ModelArgs.from_dict(config))
        weights = net.sanitize(weights)
        quantization = config.get("quantization")
        if quantization is not None:
            nn.quantize(
                net,
                group_size=quantization["group_size"],
                bits=quantization["bits"],
                mode=quantization.get("mode", "affine"),
                class_predicate=lambda path, _: quantization.get(path, f"{path}.scales" in weights),
            )
        net.load_weights(list(weights.items()), strict=True)
        mx.eval(net.parameters())
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ArtifactError(f"{folder}: mlx cannot load the weights ({line}); export again") from error
    net.eval()
    return net, _dtype(net, quantization)


def _dtype(net: Any, quantization: dict[str, Any] | None) -> str:
    import mlx.core as mx

    if quantization is not None:
        return f"{quantization['bits']}bit"
    found = net.model.norm.weight.dtype
    return {mx.float32: "fp32", mx.bfloat16: "bf16", mx.float16: "fp16"}[found]


def _mlx_lm(name: str) -> ModuleType:
    """A module of mlx-lm, without running the package's `__init__`: that one imports transformers and, where it is
    installed, torch (four seconds and 300 MB), none of which the model's code needs."""
    import importlib
    import importlib.util
    import sys

    alias = "_edgecall_mlx_lm"
    if alias not in sys.modules:
        spec = importlib.util.find_spec("mlx_lm")
        if spec is None or spec.submodule_search_locations is None:
            raise UnavailableError(f"mlx: mlx-lm is not installed; {FIX}")
        package = ModuleType(alias)
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules[alias] = package
    return importlib.import_module(f"{alias}.{name}")
