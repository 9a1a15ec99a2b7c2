"""Several processes that train one model together, as `accelerate launch` and `torchrun` start them.

Meeting, waiting and sums are accelerate's (`PartialState`, `reduce`), gradients are torch's (`DistributedDataParallel`,
in `train.loop`). accelerate's `Accelerator` is not used: its one state of a process also settles the precision, by what
`accelerate config` or transformers' trainer has left in the environment, where a run here goes on in the precision that
it began with. The first process writes all files and tells what happens, the others compute.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from runtimes.errors import UserError

if TYPE_CHECKING:
    from accelerate import PartialState

T = TypeVar("T")


def is_first() -> bool:
    """Whether this process is the one that writes, by the environment alone (RANK: docs.pytorch.org, "torchrun")."""
    return int(os.environ.get("RANK", "0")) == 0


def process_count() -> int:
    """How many processes were started together, by the environment alone (WORLD_SIZE)."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join(device: str) -> PartialState:
    """Meet the processes that were started together with this one, if any. `device`: cpu, cuda or mps."""
    from accelerate import PartialState

    return PartialState(cpu=device == "cpu")


def own_device(workers: PartialState, device: str) -> str:
    """Where this process computes; of several on CUDA each has a GPU of its own."""
    return str(workers.device) if workers.num_processes > 1 else device


def share(workers: PartialState, rows: Sequence[T]) -> Sequence[T]:
    """This process's rows of a step. Raises `UserError` where not everyone gets as many."""
    count = int(workers.num_processes)
    if len(rows) % count:
        raise UserError(f"rows_per_step {len(rows)}: {count} processes cannot share them; use a multiple")
    return rows[workers.process_index :: count]


def total(workers: PartialState, values: Sequence[float]) -> list[float]:
    """The sums of everyone's `values`, one by one."""
    if workers.num_processes == 1:
        return list(values)
    import torch
    from accelerate.utils import reduce

    told = torch.tensor(values, dtype=torch.float64, device=workers.device)
    return [float(value) for value in reduce(told, "sum")]
