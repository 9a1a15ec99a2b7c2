"""Backend `unsloth`: Unsloth's kernels under the same SFTTrainer; CUDA only.

Written against the interface of unsloth 2026.10 (``FastLanguageModel`` in ``unsloth/models/loader.py``). The authors
had no GPU to run it on: a test with a stand-in holds its calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train.backends import Report
from train.backends.common import check_base

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
    """See `train.backends`. The base's weights are held in bf16 (or 4 bits), not in fp32 as elsewhere."""
    from unsloth import FastLanguageModel  # isort: skip  (patches trl, transformers and peft: before all of them)
    import torch

    from train.backends import sft

    check_base(base)
    checkpointing = "unsloth" if config.gradient_checkpointing else False
    model, tokenizer = FastLanguageModel.from_pretrained(
        model_name=str(base),
        max_seq_length=config.row_tokens,
        dtype=torch.bfloat16,
        load_in_4bit=config.load_in_4bit,
        load_in_16bit=not config.load_in_4bit,
        use_gradient_checkpointing=checkpointing,
        use_exact_model_name=True,  # or a base that Unsloth hosts quantized would be replaced by that
        random_state=config.seed,
        max_lora_rank=config.rank,
        local_files_only=True,
    )
    adapted = FastLanguageModel.get_peft_model(
        model,
        r=config.rank,
        target_modules=list(config.targets),
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        bias="none",
        use_gradient_checkpointing=checkpointing,
        random_state=config.seed,
        max_seq_length=config.row_tokens,
    )
    return sft.run(adapted, tokenizer, config, base, toolset, train, dev, folder, report)
