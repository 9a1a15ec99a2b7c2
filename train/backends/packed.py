"""Backend `packed`: PEFT in the project's own loop, many requests behind one declaration block (`train.packing`)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from router.render import user_turn
from router.tokenizer import RouterTokenizer
from runtimes.errors import UserError
from train.backends import Report
from train.backends.common import (
    check_base,
    count_trainable,
    pairs,
    peft_config,
    save_peft,
    trainable,
    write_adapter,
)
from train.copying import Copies, copied_places
from train.loop import fit
from train.packing import Row, pack
from train.workers import is_first

if TYPE_CHECKING:
    from router.cases import Case
    from router.toolset import Toolset
    from train.lora import LoraConfig


class PackedCases:
    """Cases packed behind their toolset's declarations, shuffled anew in every epoch; row `n` never changes."""

    def __init__(
        self, tokenizer: RouterTokenizer, toolset: Toolset, cases: Sequence[Case], *, limit: int, seed: int
    ) -> None:
        self.prefix = tokenizer.prefix_ids(toolset)
        self.pairs = pairs(tokenizer, toolset, cases)
        self._tokenizer, self._toolset, self._cases = tokenizer, toolset, cases
        self.limit, self.seed = limit, seed
        longest = max(len(a) + len(b) for a, b in self.pairs)
        if len(self.prefix) + longest > limit:
            raise UserError(
                f"row_tokens {limit}: declarations take {len(self.prefix)} tokens, the longest request {longest}; "
                f"raise row_tokens to at least {len(self.prefix) + longest}"
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
        return pack(
            self.prefix, [self.pairs[i] for i in group], limit=self.limit + 1, copies=[self._copies(i) for i in group]
        )

    def _copies(self, index: int) -> Copies:
        case = self._cases[index]
        text = user_turn(self._toolset, case.user, case.context)
        return copied_places(self._tokenizer, text, *self.pairs[index])


def packed_sets(
    config: LoraConfig, base: Path, toolset: Toolset, train: Sequence[Case], dev: Sequence[Case]
) -> tuple[PackedCases, PackedCases]:
    """What is trained on and what validates, in the ids of the base's tokenizer."""
    tokenizer = RouterTokenizer.load(base / "tokenizer.json")
    data, held = (
        PackedCases(tokenizer, toolset, cases, limit=config.row_tokens, seed=config.seed) for cases in (train, dev)
    )
    return data, held


def with_steps(config: LoraConfig, data: PackedCases) -> LoraConfig:
    """The configuration with the number of steps that its epochs over `data` come to."""
    steps = max(1, round(config.epochs * data.rows_per_epoch / config.rows_per_step))
    return replace(config, loop=replace(config.loop, steps=steps))


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
    from transformers import Gemma3ForCausalLM

    check_base(base)
    data, held = packed_sets(config, base, toolset, train, dev)
    config = with_steps(config, data)
    torch.manual_seed(config.seed)
    model = Gemma3ForCausalLM.from_pretrained(base, dtype=torch.float32, local_files_only=True)
    adapted: Any = get_peft_model(model, peft_config(config))
    if config.quantize != "none":
        from train.backends.quantized import train_under

        train_under(adapted, config.quantize)
    report({"steps": config.loop.steps, "rows": len(train), "trainable": count_trainable(adapted)})

    def rows(step: int) -> list[Row]:
        return [data.row(step * config.rows_per_step + i) for i in range(config.rows_per_step)]

    best = fit(
        adapted,
        rows,
        [[held.row(n)] for n in range(held.rows_per_epoch)],
        folder / "run",
        config.loop,
        trainable=trainable,
        report=report,
    )
    if not is_first():
        return {**best, "adapter": str(folder / "adapter")}
    return write_adapter(lambda target: save_peft(adapted, base, target), config, toolset, train, dev, folder, best)
