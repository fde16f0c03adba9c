"""Rows: what reaches each target that was explained so far, its largest parts and the sums of all."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from lenskit.circuits.influence import Wires, influence

_AT_ONCE = 4  # times as many features as are kept wait until the largest are chosen: a choice costs a pass over them


@dataclass
class Sources:
    """Everything that can give to a target, numbered: embeddings, errors by layer, then features by layer.

    Attributes:
        length: how many positions there are.
        errors: the layers that have errors.
        layers: of each layer of features its number; `begins`, where each begins among all, and at last their number.
    """

    length: int
    errors: tuple[int, ...]
    layers: tuple[int, ...]
    counts: tuple[int, ...]

    @property
    def fixed(self) -> int:
        """How many there are whatever is active: embeddings and errors."""
        return self.length * (1 + len(self.errors))

    @property
    def begins(self) -> np.ndarray:
        """(layer + 1,): the number of each layer's first feature."""
        return self.fixed + np.cumsum([0, *self.counts], dtype=np.int64)

    @property
    def total(self) -> int:
        """How many there are."""
        return self.fixed + sum(self.counts)

    def levels(self) -> np.ndarray:
        """(source,): the layer of each, -1 for embeddings."""
        errors = np.repeat(np.array(self.errors, dtype=np.int32), self.length)
        features = np.repeat(np.array(self.layers, dtype=np.int32), self.counts)
        return np.concatenate([np.full(self.length, -1, dtype=np.int32), errors, features])


class Batch(NamedTuple):
    """The rows of some targets.

    Attributes:
        targets: (row,) the number of the target among the sources, or `total + n` for logit n.
        fixed: (row, embeddings and errors).
        which, parts: (row, width) the numbers of the features kept, and what they give; -1 where there are fewer.
        sums, sizes: (row,) what all of them give, and the sum of its sizes, in float64.
        values, biases: (row,) the target's value, and what biases give of it.
    """

    targets: Tensor
    fixed: Tensor
    which: Tensor
    parts: Tensor
    sums: Tensor
    sizes: Tensor
    values: Tensor
    biases: Tensor


@dataclass
class Rows:
    """The rows that are there, a target each.

    Attributes:
        fixed: how many embeddings and errors there are, which are all kept.
        width: how many features of a row are kept at most: its largest.
        batches: the rows; at first none.
    """

    fixed: int
    width: int
    batches: list[Batch] = field(default_factory=list)

    def __post_init__(self) -> None:
        none = torch.zeros(0, dtype=torch.float64)
        self.add([], Row.empty(0, self.fixed, self.width), none, none)

    def add(self, targets: list[int], row: Row, values: Tensor, biases: Tensor) -> None:
        """A batch of rows, whole: in one step, so that no interruption leaves a part of it."""
        numbers = torch.tensor(targets, dtype=torch.int64)
        parts = (row.fixed, *row.largest(), row.sums, row.sizes)
        self.batches.append(Batch(numbers, *parts, values, biases))

    def stacked(self, name: str) -> Tensor:
        """One of the fields of `Batch`, for all rows."""
        return torch.cat([getattr(batch, name) for batch in self.batches])

    @property
    def targets(self) -> list[int]:
        """The numbers of the targets that were explained."""
        return self.stacked("targets").tolist()

    def wires(self, sources: Sources, weights: np.ndarray, levels: np.ndarray) -> Wires:
        """All that is kept, as edges among the sources, followed by the logits."""
        targets = self.stacked("targets").numpy()
        fixed, parts = self.stacked("fixed").numpy(), self.stacked("parts").numpy()
        which = self.stacked("which").numpy()
        kept = which >= 0
        rows = np.repeat(targets, kept.sum(1))
        size = np.zeros(sources.total + len(weights))
        size[targets] = self.stacked("sizes").numpy()
        return Wires(
            np.concatenate([np.tile(np.arange(sources.fixed), len(targets)), which[kept]]),
            np.concatenate([np.repeat(targets, sources.fixed), rows]),
            np.concatenate([fixed.ravel(), parts[kept]]),
            np.concatenate([levels, np.full(len(weights), levels.max(initial=0) + 1)]),
            size,
            np.concatenate([np.zeros(sources.total), weights]),
        )

    def influence(self, sources: Sources, weights: np.ndarray, levels: np.ndarray) -> np.ndarray:
        """(source,): what of the logits' weight comes to each, as far as the rows that are there tell."""
        return influence(self.wires(sources, weights, levels))[: sources.total]


@dataclass
class Row:
    """What reaches a batch of targets: filled layer by layer, so that never all of it is there at once.

    Attributes:
        width: how many features are kept of each target.
        biases: (target,) what is put in whatever the tokens are gives, in float64.
        held: features' numbers and what they give, (target, some) each, of which the largest are still to be chosen.
    """

    width: int
    fixed: Tensor
    sums: Tensor
    sizes: Tensor
    biases: Tensor
    held: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    @classmethod
    def empty(cls, targets: int, fixed: int, width: int) -> Row:
        """Nothing yet."""
        zeros = torch.zeros(targets, dtype=torch.float64)
        return cls(width, torch.zeros(targets, fixed), zeros, zeros.clone(), zeros.clone())

    def put_fixed(self, begin: int, given: Tensor) -> None:
        """What embeddings, or the errors of a layer, give: (target, pos)."""
        self.fixed[:, begin : begin + given.shape[1]] = given
        self._count(given)

    def put_features(self, begin: int, given: Tensor) -> None:
        """What features give, (target, active), the first of which has the number `begin`."""
        self._count(given)
        numbers = torch.arange(begin, begin + given.shape[1], dtype=torch.int32)
        self.held.append((numbers.expand(given.shape), given))
        if sum(parts.shape[1] for _, parts in self.held) > _AT_ONCE * self.width:
            self.held = [self.largest()]

    def largest(self) -> tuple[Tensor, Tensor]:
        """(target, width) each: which features give most, by number, -1 where there are fewer, and how much."""
        none = self.fixed.new_zeros(len(self.fixed), 0)
        which = torch.cat([none.to(torch.int32), *(numbers for numbers, _ in self.held)], 1)
        parts = torch.cat([none, *(parts for _, parts in self.held)], 1)
        fewer = self.width - which.shape[1]
        if fewer >= 0:
            return pad(which, (0, fewer), value=-1), pad(parts, (0, fewer))
        order = parts.abs().topk(self.width, sorted=False).indices
        return which.gather(1, order), parts.gather(1, order)

    def _count(self, given: Tensor) -> None:
        self.sums += given.sum(1, dtype=torch.float64)
        self.sizes += given.abs().sum(1, dtype=torch.float64)
