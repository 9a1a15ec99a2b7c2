"""transformers' Gemma 3 as `runtimes.torch` uses it: loading it, its pass, and cutting its output layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runtimes.artifact import Artifact
from runtimes.base import Ids, Rows
from runtimes.errors import ArtifactError

if TYPE_CHECKING:
    import torch

DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


def load(artifact: Artifact, device: torch.device) -> Any:
    """The network in the artifact's dtype. transformers fills missing weights with noise and warns; here it fails."""
    import torch
    from safetensors import SafetensorError
    from transformers import Gemma3ForCausalLM
    from transformers.utils import logging

    folder = artifact.weights if artifact.weights.is_dir() else artifact.weights.parent
    if artifact.quant not in DTYPES:
        raise ArtifactError(f"{artifact.folder}: torch reads {', '.join(DTYPES)}, this is {artifact.quant!r}")
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        net, info = Gemma3ForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, DTYPES[artifact.quant]),
            attn_implementation="sdpa",
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ArtifactError(f"{folder}: torch cannot load the weights ({line}); export again") from error
    finally:
        logging.set_verbosity(verbosity)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info.get(kind):
            names = ", ".join(sorted(str(key) for key in info[kind])[:3])
            raise ArtifactError(f"{folder}: the weights do not fit config.json ({kind}: {names}); export again")
    if int(net.config.vocab_size) != artifact.vocab_size:
        raise ArtifactError(f"{folder}: vocabulary of {net.config.vocab_size}, manifest says {artifact.vocab_size}")
    return net.eval().to(device)


def keep_rows(net: Any, ids: Ids) -> None:
    """Give the network an output layer of its own, with the rows `ids` of the one that it has."""
    import torch

    with torch.no_grad():
        rows = net.lm_head.weight[torch.from_numpy(ids).to(net.device)].clone()
        net.lm_head = torch.nn.Linear(rows.shape[1], rows.shape[0], bias=False, device="meta")
        net.lm_head.weight = torch.nn.Parameter(rows, requires_grad=False)


def hidden(net: Any, cache: Any, inputs: dict[str, Any], keep: slice | torch.Tensor) -> torch.Tensor:
    """One pass: the normalized hidden states of the tokens to `keep`, (kept, width)."""
    states: torch.Tensor = net.model(**inputs, past_key_values=cache, use_cache=True).last_hidden_state
    return states[0, keep]


def head(net: Any, states: torch.Tensor, ids: torch.Tensor | None) -> torch.Tensor:
    """Logits (kept, output rows) of hidden states, or those of the output rows `ids`, in the network's dtype.

    One product and no more: `export.checkpoint` refuses models that cap their logits.
    """
    import torch

    weight = net.lm_head.weight
    return torch.nn.functional.linear(states, weight if ids is None else weight.index_select(0, ids))


def keep(rows: Rows, device: torch.device) -> slice | torch.Tensor:
    """Which tokens' hidden states `rows` stands for, as an index."""
    import torch

    if isinstance(rows, str):
        return slice(-1, None) if rows == "last" else slice(None)
    return torch.tensor(rows, device=device)
