"""Several processes that train one model together, as `accelerate launch` and `torchrun` start them.

Every process holds the whole model and takes its share of a step's rows; gradients are summed. Which process one is
stands in the environment (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT: docs.pytorch.org, "torchrun"). The
first writes all files and tells what happens, the others compute.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from runtimes.errors import UserError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


@dataclass(frozen=True)
class Workers:
    """This process among those that train together; alone where nothing started others."""

    rank: int = 0
    count: int = 1
    device: str = "cpu"
    """Where this process computes; of several on CUDA each has a GPU of its own."""

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def share(self, rows: Sequence[T]) -> Sequence[T]:
        """This process's rows of a step. Raises `UserError` where not everyone gets as many."""
        if len(rows) % self.count:
            raise UserError(f"rows_per_step {len(rows)}: {self.count} processes cannot share them; use a multiple")
        return rows[self.rank :: self.count]

    def sum(self, *values: float) -> list[float]:
        """The sums of everyone's `values`."""
        if self.count == 1:
            return list(values)
        import torch

        told = torch.tensor(values, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(told)
        return list(told.tolist())

    def sum_gradients(self, parameters: Sequence[torch.Tensor]) -> None:
        """Give everyone the sum of all gradients, in place, as one message."""
        if self.count == 1:
            return
        import torch

        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in gradients])
        torch.distributed.all_reduce(flat)
        for gradient, whole in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(whole.view_as(gradient))

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            import torch

            torch.distributed.barrier()

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        """What the first process does inside is done before the others begin."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()


def is_first() -> bool:
    """Whether this process is the one that writes, by the environment alone."""
    return int(os.environ.get("RANK", "0")) == 0


def join(device: str) -> Workers:
    """Meet the processes that were started together with this one; alone, nothing happens.

    `device` is what every process was told: cpu, cuda or mps. Sums travel by gloo, on CUDA by NCCL.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Workers(device=device)
    import torch

    cuda = device == "cuda"
    if cuda:
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if cuda else "gloo")
    return Workers(torch.distributed.get_rank(), count, device)
