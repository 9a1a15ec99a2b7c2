"""MLX: a folder that `mlx_lm.load` opens as it stands, in fp32, bf16, or with few bits a weight, by class if need be.

Weights are cast and quantized by mlx-lm itself. In the quantized variants scales, norms and activations stay float32:
bfloat16 activations cost a small network more than 8-bit weights do, and half a bit a weight buys them. With 4 bits
the embedding, which is the head too, gets 6, as in llama.cpp's q4_k_m. In a mix (`export.mixed`) ``4bitg32`` is 4 bits
in groups of 32 weights; without a size it is 64, or 32 where 64 does not divide every width.
"""

from __future__ import annotations

import contextlib
import io
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.base import Checkpoint, Quant, Written
from export.mixed import CLASSES, Mix, Scheme, by_class, parse, place_of
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
_TOLERANCES = {8: 1.0, 6: 2.0, 5: 4.0, 4: 6.0, 3: 12.0}
_WIDTHS = {f"{bits}bit{group}": bits for bits in _TOLERANCES for group in ("g32", "", "g64", "g128")}
"""Quantized types -> bits of a weight."""
SCHEME = Scheme(
    FORMAT,
    types={
        "fp32": QUANTS["fp32"],
        **{name: Quant(8 if bits == 8 else 4, name, _TOLERANCES[bits]) for name, bits in _WIDTHS.items()},
    },
    presets={
        "fp32": dict.fromkeys(CLASSES, "fp32"),
        "8bit": dict.fromkeys(CLASSES, "8bit"),
        "4bit": {"embedding": "6bit", "attention": "4bit", "mlp": "4bit"},
    },
)
"""bf16 is left out: what is not quantized decides what all is computed in."""
NO_OUTPUT_TRIM = ""  # the weights stay whole, for mlx-lm; our runtime takes the rows that are kept

_COMPANIONS = ("tokenizer.model", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


def availability() -> Availability:
    """Whether mlx-lm can be imported here; it also needs transformers, which the export extra brings."""
    from runtimes.mlx import availability as runtime_availability

    return runtime_availability().with_package("transformers", 'pip install "edgecall[mlx,export]"')


def write(source: Checkpoint, folder: Path, quant: str, toolset: Toolset) -> Written:
    """Write weights, config and tokenizer of `source` into `folder`. `toolset` leaves no trace in this format."""
    state = availability()
    if not state.available:
        raise UnavailableError(f"mlx export: {state.reason}; {state.fix}")
    mix = None if quant == "bf16" else parse(SCHEME, quant)
    if mix is not None:
        mix.check_layers(int(source.config["num_hidden_layers"]), f"mlx: {quant}")
    import mlx.core as mx

    # Everything runs on the CPU, so that the same source gives the same bytes with and without a GPU.
    with mx.stream(mx.cpu):
        net, config = _load(source)
        details: dict[str, Any] = {"activations": "bfloat16" if quant == "bf16" else "float32"}
        if mix is None:
            net.set_dtype(mx.bfloat16)
        elif mix.all_types() != {"fp32"}:
            config, more = _quantize(net, config, mix)
            details |= more
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


def _quantize(net: Any, config: dict[str, Any], mix: Mix) -> tuple[dict[str, Any], dict[str, Any]]:
    """Quantize in place. Returns the config with its quantization block, and what the manifest says of it."""
    from mlx.utils import tree_flatten
    from mlx_lm.utils import quantize_model

    def able() -> dict[str, Any]:
        leaves = dict(tree_flatten(net.leaf_modules(), is_leaf=lambda m: hasattr(m, "parameters")))
        return {path: m for path, m in leaves.items() if hasattr(m, "to_quantized") or hasattr(m, "bits")}

    usual = 64 if all(int(m.weight.shape[-1]) % 64 == 0 for m in able().values()) else 32

    def parameters(name: str) -> dict[str, Any] | None:
        if name not in _WIDTHS:
            return None
        group = name.partition("g")[2]
        return {"group_size": int(group or usual), "bits": _WIDTHS[name], "mode": "affine"}

    # What the config says for all; it has an entry of its own for what differs.
    named = [mix.of("mlp"), mix.of("attention"), mix.of("embedding"), *sorted(mix.all_types())]
    common = next(found for name in named if (found := parameters(name)) is not None)

    def settings(path: str, module: Any) -> bool | dict[str, Any]:
        own = parameters(mix.of(*place_of(path)))
        if own is None or module.weight.shape[-1] % own["group_size"]:
            return False
        return True if own == common else own

    with contextlib.redirect_stdout(io.StringIO()):  # it prints
        _, config = quantize_model(net, config, common["group_size"], common["bits"], quant_predicate=settings)
    types = {path: f"{m.bits}bitg{m.group_size}" if hasattr(m, "bits") else "fp32" for path, m in able().items()}
    return config, {
        "group_size": common["group_size"],
        "embedding_bits": _WIDTHS.get(mix.of("embedding"), 32),
        "not_quantized": sorted(path for path, stored in types.items() if stored == "fp32"),
        "classes": by_class(types),
    }


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
