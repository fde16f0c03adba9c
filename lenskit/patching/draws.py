"""Draws: which parts of a circuit, and which random sets like it, are ablated together to try it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

Part = TypeVar("Part", bound=Hashable)


Without = Callable[[Sequence[Iterable[Part]]], Tensor]
"""Gives (set,): the metric of one prompt with each set of parts ablated."""


class Draws(Generic[Part]):
    """The sets of parts that are ablated together, and which of the results is what.

    circuit, universe: nodes, or edges. kind: which parts of the universe are alike.
    """

    def __init__(
        self,
        circuit: Sequence[Part],
        universe: Sequence[Part],
        kind: Callable[[Part], Hashable],
        placebos: int,
        subsets: int,
        seed: int,
    ) -> None:
        self.circuit, self.universe = list(circuit), list(universe)
        random = torch.Generator().manual_seed(seed)
        self._alike_to = _by_kind(universe, kind)
        self._counts = {of: len(some) for of, some in _by_kind(circuit, kind).items()}
        self.placebos = [self._alike(random) for _ in range(placebos)]
        self.subsets = [self._part(random) for _ in range(subsets if circuit else 0)]

    def _alike(self, random: torch.Generator) -> list[Part]:
        """A random set with as many parts of each kind as the circuit."""
        found = list[Part]()
        for kind, count in self._counts.items():
            alike = self._alike_to[kind]
            found += [alike[i] for i in torch.randperm(len(alike), generator=random)[:count].tolist()]
        return found

    def _part(self, random: torch.Generator) -> list[Part]:
        """A random share of the circuit: each part with probability one half, at least one."""
        chosen = (torch.rand(len(self.circuit), generator=random) < 0.5).tolist()
        some = [part for part, is_in in zip(self.circuit, chosen, strict=True) if is_in]
        return some or [self.circuit[int(torch.randint(len(self.circuit), (1,), generator=random))]]

    def _but(self, kept: Iterable[Part]) -> list[Part]:
        """All that can be taken out but these."""
        stay = set(kept)
        return [part for part in self.universe if part not in stay]

    @property
    def asked(self) -> list[list[Part]]:
        """What is ablated each time, in the order in which `tried` takes it apart."""
        circuit = self.circuit
        return [
            self._but(circuit),
            circuit,
            self.universe,
            *(self._but(placebo) for placebo in self.placebos),
            *self.placebos,
            *(self._but(set(circuit) - {part}) for part in circuit),
            *(self._but(set(circuit) - set(some)) for some in self.subsets),
            *self.subsets,
        ]

    def tried(self, trials: Iterable[tuple[Tensor, Without[Part]]], name: Callable[[Part], str]) -> dict[str, Any]:
        """What comes of it on each prompt, under the names that `CircuitScore` has for it.

        trials: of each prompt its metric as it is, and what it is without sets of parts.
        """
        full, values = list[Tensor](), list[Tensor]()
        for as_it_is, without in trials:
            full.append(as_it_is)
            values.append(without(self.asked))
        single = ("only", "without", "none")
        sizes = {
            **dict.fromkeys(single, 1),
            "placebos_only": len(self.placebos),
            "placebos_without": len(self.placebos),
            "only_but_node": len(self.circuit),
            "only_but_part": len(self.subsets),
            "without_part": len(self.subsets),
        }
        ends = np.cumsum(list(sizes.values()))
        split = np.split(torch.stack(values, 1).double().numpy(), ends[:-1])
        found = {of: each[0] if of in single else each for of, each in zip(sizes, split, strict=True)}
        parts = tuple(tuple(map(name, some)) for some in self.subsets)
        return {"full": torch.stack(full).double().numpy(), **found, "parts": parts}


def _by_kind(parts: Sequence[Part], kind: Callable[[Part], Hashable]) -> dict[Hashable, list[Part]]:
    found = dict[Hashable, list[Part]]()
    for part in parts:
        found.setdefault(kind(part), []).append(part)
    return found
