"""MLX: a folder that `mlx_lm.load` opens as it stands, in fp32, bf16, or with 8 or 4 bits a weight.

Weights are cast and quantized by mlx-lm itself. In the quantized variants scales, norms and activations stay float32:
bfloat16 activations cost a small network more than 8-bit weights do, and half a bit a weight buys them. With 4 bits
the embedding, which is the head too, gets 6, as in llama.cpp's q4_k_m.
"""

from __future__ import annotations

import contextlib
import io
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.base import Checkpoint, Quant, Written
from runtimes.base import Availability
from runtimes.errors import UnavailableError, UserError

if TYPE_CHECKING:
    from router.toolset import Toolset

FORMAT = "mlx"
RUNTIME = "mlx"

QUANTS: dict[str, Quant] = {
    "fp32": Quant(32, "float32", 2e-3),
    "bf16": Quant(16, "bfloat16", 0.5),
    "8bit": Quant(8, "8-bit weights, float32 activations", 1.0),
    "4bit": Quant(4, "4-bit weights (embedding 6), float32 activations", 6.0),
}
DEFAULT_QUANTS = ("fp32", "8bit", "4bit")
NO_OUTPUT_TRIM = ""  # the weights stay whole, for mlx-lm; our runtime takes the rows that are kept

_BITS = {"8bit": 8, "4bit": 4}
_EMBEDDING_BITS = {"8bit": 8, "4bit": 6}
_COMPANIONS = ("tokenizer.model", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


def availability() -> Availability:
    """Whether mlx-lm can be imported here; it also needs transformers, which the export extra brings."""
    from importlib.metadata import PackageNotFoundError, version

    from runtimes.mlx import availability as runtime_availability

    state = runtime_availability()
    if not state.available:
        return state
    try:
        version("transformers")
    except PackageNotFoundError:
        return Availability(False, state.version, "transformers is not installed", 'pip install "edgecall[mlx,export]"')
    return state


def write(source: Checkpoint, folder: Path, quant: str, toolset: Toolset) -> Written:
    """Write weights, config and tokenizer of `source` into `folder`. `toolset` leaves no trace in this format."""
    state = availability()
    if not state.available:
        raise UnavailableError(f"mlx export: {state.reason}; {state.fix}")
    if quant not in QUANTS:
        raise UserError(f"mlx: unknown quantization {quant!r}; there are {', '.join(QUANTS)}")
    import mlx.core as mx

    # Everything runs on the CPU, so that the same source gives the same bytes with and without a GPU.
    with mx.stream(mx.cpu):
        net, config = _load(source)
        details: dict[str, Any] = {"activations": "bfloat16" if quant == "bf16" else "float32"}
        if quant == "bf16":
            net.set_dtype(mx.bfloat16)
        if quant in _BITS:
            config, group, kept = _quantize(net, config, quant)
            details |= {"group_size": group, "embedding_bits": _EMBEDDING_BITS[quant], "not_quantized": kept}
        _save(net, config, source, folder)
        details["bits_per_weight"] = _bits_per_weight(net)
    details["sliding_window_pattern"] = int(config["sliding_window_pattern"])
    single = folder / "model.safetensors"
    return Written(single.name if single.is_file() else ".", _versions(), details)


def sliding_window_pattern(config: dict[str, Any]) -> int:
    """Every how many layers one is global, as mlx-lm wants it said. Raises `UserError` where layers are not so."""
    kinds = config.get("layer_types")
    count = int(config["num_hidden_layers"])
    if kinds is None:
        return int(config.get("sliding_window_pattern") or config.get("_sliding_window_pattern") or 6)
    pattern = next((i + 1 for i, kind in enumerate(kinds) if kind == "full_attention"), count + 1)
    regular = ["full_attention" if (i + 1) % pattern == 0 else "sliding_attention" for i in range(count)]
    if list(kinds) != regular:
        raise UserError(f"mlx: mlx-lm needs a global layer every {pattern} layers, this checkpoint has {list(kinds)}")
    return pattern


def _load(source: Checkpoint) -> tuple[Any, dict[str, Any]]:
    """mlx-lm's network with the checkpoint's weights, and the config that goes with it."""
    from mlx_lm.utils import load_model

    kind = source.config.get("model_type")
    if kind != "gemma3_text":
        raise UserError(f"{source.folder}: model_type is {kind!r}; the mlx export takes 'gemma3_text'")
    config = dict(source.config)
    config["sliding_window_pattern"] = sliding_window_pattern(config)
    try:
        return load_model(source.folder, lazy=True, model_config=config)
    except (OSError, ValueError) as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{source.folder}: mlx-lm cannot read this checkpoint ({line})") from error


def _quantize(net: Any, config: dict[str, Any], quant: str) -> tuple[dict[str, Any], int, list[str]]:
    """Quantize in place. Returns the config with its quantization block, the group size, and what kept its width."""
    from mlx.utils import tree_flatten
    from mlx_lm.utils import quantize_model

    def leaves() -> dict[str, Any]:
        return dict(tree_flatten(net.leaf_modules(), is_leaf=lambda m: hasattr(m, "parameters")))

    able = {path: int(m.weight.shape[-1]) for path, m in leaves().items() if hasattr(m, "to_quantized")}
    group = 64 if all(width % 64 == 0 for width in able.values()) else 32
    bits, wider = _BITS[quant], _EMBEDDING_BITS[quant]

    def settings(path: str, module: Any) -> bool | dict[str, Any]:
        if bits == wider or path not in ("model.embed_tokens", "lm_head"):
            return True
        return {"group_size": group, "bits": wider, "mode": "affine"}

    with contextlib.redirect_stdout(io.StringIO()):  # it prints
        _, config = quantize_model(net, config, group, bits, quant_predicate=settings)
    kept = sorted(path for path in able if not hasattr(leaves()[path], "bits"))
    return config, group, kept


def _save(net: Any, config: dict[str, Any], source: Checkpoint, folder: Path) -> None:
    from mlx_lm.utils import save_config, save_model

    save_model(folder, net)
    config = {**config, "dtype": str(net.model.norm.weight.dtype).removeprefix("mlx.core.")}
    config.pop("torch_dtype", None)
    save_config(config, folder / "config.json")
    for name in ("tokenizer.json", *_COMPANIONS):
        if (source.folder / name).is_file():
            shutil.copyfile(source.folder / name, folder / name)


def _bits_per_weight(net: Any) -> float:
    """Stored bits, scales and biases included, over the number of weights of the unquantized network."""
    from mlx_lm.utils import compute_bits_per_weight

    return round(float(compute_bits_per_weight(net)), 4)


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {"mlx": version("mlx"), "mlx-lm": version("mlx-lm")}
