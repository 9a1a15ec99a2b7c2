"""Backend `trl`: PEFT under TRL's SFTTrainer, one row per request; on the CPU, CUDA or a Mac's MPS."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train.backends import Report
from train.backends.common import check_base, peft_config

if TYPE_CHECKING:
    from router.cases import Case
    from router.toolset import Toolset
    from train.lora import LoraConfig


def train(
    config: LoraConfig,
    base: Path,
    toolset: Toolset,
    train: Sequence[Case],
    dev: Sequence[Case],
    folder: Path,
    report: Report,
) -> dict[str, Any]:
    """See `train.backends`."""
    import torch
    from peft import get_peft_model

    from train.backends import sft

    check_base(base)
    torch.manual_seed(config.seed)
    adapted: Any = get_peft_model(_load(config, base), peft_config(config))
    return sft.run(adapted, sft.processing_class(base), config, base, toolset, train, dev, folder, report)


def _load(config: LoraConfig, base: Path) -> Any:
    """The base on its device: fp32 weights, or 4 bits (NF4, as QLoRA has them)."""
    import torch
    from transformers import BitsAndBytesConfig, Gemma3ForCausalLM

    if not config.load_in_4bit:
        model = Gemma3ForCausalLM.from_pretrained(base, dtype=torch.float32, local_files_only=True)
        return model.to(config.loop.device)
    compute = torch.bfloat16 if config.loop.precision == "bf16" else torch.float32
    return Gemma3ForCausalLM.from_pretrained(
        base,
        dtype=compute,
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute,
        ),
        device_map={"": 0},
        local_files_only=True,
    )
