"""Floor 0: the processes that train one thing together, as `accelerate launch` starts them; mostly there is one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from accelerate import Accelerator


def accelerated(accelerator: Accelerator | None) -> Accelerator | None:
    """The accelerator given, or accelerate's own where this process was launched as one of many."""
    if accelerator is None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import Accelerator

        return Accelerator()
    return accelerator


class Processes:
    """All processes of a training: each takes its share, and what they find is put together.

    Attributes:
        rank: which of them this one is.
        count: how many there are.

    accelerator: accelerate's; None for a process that works alone.
    """

    def __init__(self, accelerator: Accelerator | None = None) -> None:
        self.accelerator = accelerator
        self.rank = 0 if accelerator is None else accelerator.process_index
        self.count = 1 if accelerator is None else accelerator.num_processes

    def share(self, n: int) -> slice:
        """Which of n things are this process's: as many for each. Raises `ValueError` where that cannot be."""
        each, rest = divmod(n, self.count)
        if rest:
            raise ValueError(f"{n:,} tokens of a step cannot be shared by {self.count} processes: take a multiple.")
        return slice(self.rank * each, (self.rank + 1) * each)

    def summed(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, of one shape in each."""
        if self.accelerator is None or self.count == 1:
            return tensor
        total: Any = self.accelerator.reduce(tensor.to(self.accelerator.device), "sum")
        return total.to(tensor.device)

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over all processes, of one shape in each."""
        return self.summed(tensor) / self.count if self.count > 1 else tensor

    def joined(self, rows: Tensor) -> Tensor:
        """(row, ...): the rows of all processes, which may have different numbers of them, in the processes' order."""
        if self.count == 1:
            return rows
        counts = self.summed(torch.eye(self.count, dtype=torch.int64)[self.rank] * len(rows)).tolist()
        whole = rows.new_zeros(sum(counts), *rows.shape[1:])
        begin = sum(counts[: self.rank])
        whole[begin : begin + len(rows)] = rows
        return self.summed(whole)

    def wait(self) -> None:
        """Until all processes have come so far."""
        if self.accelerator is not None:
            self.accelerator.wait_for_everyone()
