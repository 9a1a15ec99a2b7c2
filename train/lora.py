"""LoRA with PEFT: an adapter that makes a base good at one toolset, loss on the completions alone."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from router.cases import Case
from router.render import user_turn
from router.tokenizer import RouterTokenizer
from router.toolset import Toolset
from runtimes.errors import UserError
from train.data.summary import tally
from train.loop import LoopConfig, fit
from train.packing import Row, pack
from train.plot import plot_loss


@dataclass(frozen=True)
class LoraConfig:
    """``configs/train/lora-*.yaml``: the adapter's shape, the data, the loop (`loop.steps` follows from `epochs`)."""

    toolset: str
    recipe: str
    """The data recipe, relative to the configuration file."""
    rank: int
    alpha: int
    targets: Sequence[str]
    epochs: float
    loop: LoopConfig
    dropout: float = 0.0
    rows_per_step: int = 2
    row_tokens: int = 1280
    seed: int = 0


class PackedCases:
    """Cases packed behind their toolset's declarations, shuffled anew in every epoch; row `n` never changes."""

    def __init__(
        self, tokenizer: RouterTokenizer, toolset: Toolset, cases: Sequence[Case], *, limit: int, seed: int
    ) -> None:
        self.prefix = tokenizer.prefix_ids(toolset)
        self.pairs = [
            (tokenizer.request_ids(user_turn(toolset, c.user, c.context)), tokenizer.completion_ids(list(c.calls)))
            for c in cases
        ]
        self.limit, self.seed = limit, seed
        longest = max(len(a) + len(b) for a, b in self.pairs)
        if len(self.prefix) + longest > limit:
            raise UserError(
                f"row_tokens {limit}: declarations take {len(self.prefix)} tokens, the longest request {longest}"
            )
        self._epochs: dict[int, list[list[int]]] = {}
        self.rows_per_epoch = len(self._epoch(0))

    def _epoch(self, epoch: int) -> list[list[int]]:
        if epoch not in self._epochs:
            order = list(range(len(self.pairs)))
            random.Random(f"{self.seed}/{epoch}").shuffle(order)
            groups: list[list[int]] = [[]]
            room = self.limit - len(self.prefix)
            for index in order:
                size = sum(map(len, self.pairs[index]))
                if size > room:
                    groups.append([])
                    room = self.limit - len(self.prefix)
                groups[-1].append(index)
                room -= size
            self._epochs = {epoch: groups}
        return self._epochs[epoch]

    def row(self, number: int) -> Row:
        epoch, index = divmod(number, self.rows_per_epoch)
        groups = self._epoch(epoch)
        group = groups[index % len(groups)]
        return pack(self.prefix, [self.pairs[i] for i in group], limit=self.limit + 1)


def train_lora(
    config: LoraConfig,
    base: Path,
    toolset: Toolset,
    train: Sequence[Case],
    dev: Sequence[Case],
    folder: Path,
    report: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Train and write a PEFT adapter into ``folder/adapter``, with loss curve and what it was made from. Resumable."""
    import torch
    from peft import LoraConfig as PeftConfig
    from peft import get_peft_model
    from transformers import AutoConfig, Gemma3ForCausalLM

    kind = AutoConfig.from_pretrained(base, local_files_only=True).model_type
    if kind != "gemma3_text":
        raise UserError(f"{base}: model_type is {kind!r}, a Gemma 3 text model (gemma3_text) is expected")
    tokenizer = RouterTokenizer.load(base / "tokenizer.json")
    data = PackedCases(tokenizer, toolset, train, limit=config.row_tokens, seed=config.seed)
    held = PackedCases(tokenizer, toolset, dev, limit=config.row_tokens, seed=config.seed)
    steps = max(1, round(config.epochs * data.rows_per_epoch / config.rows_per_step))
    loop = replace(config.loop, steps=steps)
    torch.manual_seed(config.seed)
    model = Gemma3ForCausalLM.from_pretrained(base, dtype=torch.float32, local_files_only=True)
    peft = PeftConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=list(config.targets),
        task_type="CAUSAL_LM",
    )
    adapted: Any = get_peft_model(model, peft)
    report(
        {
            "steps": steps,
            "rows": len(train),
            "trainable": sum(p.numel() for p in adapted.parameters() if p.requires_grad),
        }
    )

    def rows(step: int) -> list[Row]:
        return [data.row(step * config.rows_per_step + i) for i in range(config.rows_per_step)]

    def trainable(m: Any) -> dict[str, Any]:
        return {k: v.detach().clone() for k, v in m.state_dict().items() if "lora_" in k}

    run = folder / "run"
    result = fit(
        adapted,
        rows,
        [[held.row(n)] for n in range(held.rows_per_epoch)],
        run,
        loop,
        trainable=trainable,
        report=report,
    )
    target = folder / "adapter"
    adapted.peft_config["default"].base_model_name_or_path = str(base.name if (base.parent / "base") == base else base)
    adapted.save_pretrained(target, save_embedding_layers=False)
    (target / "README.md").unlink(missing_ok=True)
    plot_loss(run / "log.jsonl", target / "loss.png", title=f"LoRA for {toolset.name}: loss per completion token")
    shutil.copyfile(run / "log.jsonl", target / "log.jsonl")
    record = {
        "toolset": {"name": toolset.name, "sha256": toolset.sha256},
        "data": {"train": len(train), "dev": len(dev), "sha256": tally(train)["sha256"]},
        "config": asdict(replace(config, loop=loop)),
        "best": result,
    }
    (target / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return {**result, "adapter": str(target)}
