"""mlx-lm's Gemma 3 as a network that can rewind: loading it, its pass, its KV cache. The runtime is `runtimes.mlx`."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from runtimes.errors import ArtifactError, UnavailableError
from runtimes.snapshots import Array, check_arrays

_KEPT = "kept_rows"
_PARTS = ("weight", "scales", "biases")
FIX = 'pip install "edgecall[mlx]" (on Linux without a GPU it brings "mlx[cpu]")'


def layers(net: Any, tokens: Any, start: Any, keys: list[Any], values: list[Any]) -> tuple[Any, list[Any], list[Any]]:
    """One pass through mlx-lm's layers, with our cache and masks and the exact embedding scale.

    `tokens` (1, n) stand behind the `start` (a scalar array) first cells of `keys` and `values`, one array (1, heads,
    cells, dim) per layer, with room for n more. Returns states (1, n, width), not normalized, and the new arrays. The
    shapes depend on those of the arguments alone, so that the pass may be compiled once for each.
    """
    count, window = tokens.shape[1], int(net.args.sliding_window)
    cells = [
        _Cells(layer_keys, layer_values, start, count, window if layer.self_attn.is_sliding else None)
        for layer, layer_keys, layer_values in zip(net.layers, keys, values, strict=True)
    ]
    states = _through(net, tokens, cells)
    return states, [own.keys for own in cells], [own.values for own in cells]


def lanes(
    net: Any, tokens: Any, places: Any, cells: Any, masks: dict[bool, Any], keys: list[Any], values: list[Any]
) -> tuple[Any, list[Any], list[Any]]:
    """One pass over `tokens` (n,) of several sequences, at the positions `places` (n,), written into `cells` (n,).

    `masks` (n, used): for global and for local layers (True) which of the first cells each token attends to. `keys` and
    `values` as for `layers`. Returns states (n, width), not normalized, and the new arrays. mlx-lm rotates by one
    offset for each sequence, so to it every token is a sequence of its own.
    """
    own = [
        _Lanes(layer_keys, layer_values, places, cells, masks[layer.self_attn.is_sliding])
        for layer, layer_keys, layer_values in zip(net.layers, keys, values, strict=True)
    ]
    states = _through(net, tokens[:, None], own)
    return states[:, 0], [each.keys for each in own], [each.values for each in own]


def hidden(net: Any, tokens: Any, caches: Sequence[Any], keep: list[int] | None) -> Any:
    """Normalized hidden states (1, n, width), or those of the offsets to `keep`, with caches of any kind that give
    their own masks."""
    import mlx.core as mx

    states = _through(net, tokens, caches)
    return net.model.norm(states if keep is None else states[:, mx.array(keep)])


def buffers(net: Any, cells: int, old: tuple[list[Any], list[Any]] | None = None) -> tuple[list[Any], list[Any]]:
    """Keys and values of `cells` tokens, per layer: those of `old`, and zeros behind them."""
    import mlx.core as mx

    if old is not None:
        more = [(0, 0), (0, 0), (0, cells - old[0][0].shape[2]), (0, 0)]
        return [mx.pad(keys, more) for keys in old[0]], [mx.pad(values, more) for values in old[1]]
    attention, dtype = [layer.self_attn for layer in net.layers], net.model.norm.weight.dtype
    keys, values = (
        [mx.zeros((1, layer.n_kv_heads, cells, layer.head_dim), dtype) for layer in attention] for _ in range(2)
    )
    return keys, values


Buffers = tuple[list[Any], list[Any]]


def arrays(filled: Buffers, tokens: int) -> list[Array]:
    """The first `tokens` of `buffers` as numpy has them, which knows no bfloat16: that comes as 16-bit integers."""
    import mlx.core as mx

    parts = [*filled[0], *filled[1]]
    plain = [part.view(mx.uint16) if part.dtype == mx.bfloat16 else part for part in parts]
    return [np.array(part[:, :, : max(1, tokens)])[:, :, :tokens] for part in plain]


def tokens_of(filled: Buffers, kept: Sequence[Array]) -> int:
    """Of how many tokens what `arrays` gave is. Raises `ValueError` for another model's."""
    own = [*filled[0], *filled[1]]
    return check_arrays(kept, [(part.shape[1], part.shape[3]) for part in own], arrays(filled, 1)[0].dtype)


def loaded(filled: Buffers, kept: Sequence[Array], tokens: int) -> Buffers:
    """`filled` with what `arrays` gave in its first cells."""
    import mlx.core as mx

    if tokens == 0:
        return filled
    own = [*filled[0], *filled[1]]
    made = [
        mx.concatenate([mx.array(array).view(part.dtype), part[:, :, tokens:]], axis=2)
        for part, array in zip(own, kept, strict=True)
    ]
    return made[: len(filled[0])], made[len(filled[0]) :]


def _through(net: Any, tokens: Any, caches: Sequence[Any]) -> Any:
    import mlx.core as mx

    inner = net.model
    h = inner.embed_tokens(tokens)
    h = (h.astype(mx.float32) * net.args.hidden_size**0.5).astype(h.dtype)
    masks: dict[bool, Any] = {}
    for layer, layer_cache in zip(inner.layers, caches, strict=True):
        local = layer.self_attn.is_sliding
        if local not in masks:
            masks[local] = layer_cache.make_mask(tokens.shape[1])
        h = layer(h, masks[local], layer_cache)
    return h


class _Cells:
    """One layer's keys and values within a pass; what mlx-lm's attention asks of a cache.

    A local layer gets as many cells as its window can reach, wherever they begin.
    """

    def __init__(self, keys: Any, values: Any, start: Any, count: int, window: int | None) -> None:
        import mlx.core as mx

        self.keys, self.values, self.offset = keys, values, start
        self._window = window
        cells = keys.shape[2]
        self._seen = cells if window is None else min(cells, window + count - 1)
        self._first = None
        if window is not None and self._seen < cells:
            self._first = mx.clip(start - (window - 1), 0, cells - self._seen)

    def update_and_fetch(self, keys: Any, values: Any) -> tuple[Any, Any]:
        import mlx.core as mx

        self.keys = mx.slice_update(self.keys, keys, self.offset, (2,))
        self.values = mx.slice_update(self.values, values, self.offset, (2,))
        if self._first is None:
            return self.keys, self.values
        size = (*keys.shape[:2], self._seen, keys.shape[3])
        return mx.slice(self.keys, self._first, (2,), size), mx.slice(self.values, self._first, (2,), size)

    def make_mask(self, count: int) -> Any:
        """Which of the cells handed on each new token may attend to, (n, cells): none that lies behind it."""
        import mlx.core as mx

        query = (self.offset + mx.arange(count))[:, None]
        key = (mx.arange(self._seen) + (0 if self._first is None else self._first))[None]
        mask = key <= query
        return mask if self._window is None else mask & (key > query - self._window)


class _Lanes:
    """One layer's keys and values within a pass over several sequences; what mlx-lm's attention asks of a cache."""

    def __init__(self, keys: Any, values: Any, places: Any, cells: Any, mask: Any) -> None:
        self.keys, self.values, self.offset = keys, values, places
        self._cells, self._mask = cells, mask

    def update_and_fetch(self, keys: Any, values: Any) -> tuple[Any, Any]:
        """Keys and values of one token a sequence, (n, heads, 1, dim); all used ones, the same for each."""
        self.keys[:, :, self._cells] = keys.transpose(2, 1, 0, 3)
        self.values[:, :, self._cells] = values.transpose(2, 1, 0, 3)
        return self._for_each(self.keys), self._for_each(self.values)

    def make_mask(self, count: int) -> Any:
        return self._mask[:, None, None]

    def _for_each(self, buffer: Any) -> Any:
        import mlx.core as mx

        count, used = self._mask.shape
        return mx.broadcast_to(buffer[:, :, :used], (count, buffer.shape[1], used, buffer.shape[3]))


def head(net: Any, states: Any, rows: Any = None) -> Any:
    """Logits, in the network's dtype, of the hidden states given: of all ids, or of those of `keep_rows`; of these the
    `rows` alone where some are given."""
    matrix = _output(net)
    if rows is not None:
        matrix = _rows_of(matrix, rows)
    return matrix.as_linear(states) if hasattr(matrix, "as_linear") else matrix(states)


def output_bytes(net: Any) -> int:
    """Of the matrix that `head` multiplies with."""
    matrix = _output(net)
    return sum(int(matrix[name].nbytes) for name in _PARTS if matrix.get(name) is not None)


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
    for name in _PARTS:
        if matrix.get(name) is not None:
            some[name] = matrix[name][rows]
    return some


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
