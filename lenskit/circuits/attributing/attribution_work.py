"""Attribution: the work of making an attribution graph, batch by batch, which can be stopped and gone on with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lenskit.circuits.attributing.basis import Active, Basis, Read
from lenskit.circuits.attributing.made import graph_of
from lenskit.circuits.attributing.put_in import PutIn
from lenskit.circuits.attributing.replacement import EMBEDDINGS, Replacement
from lenskit.circuits.attributing.rows import Row, Rows, Sources
from lenskit.circuits.attributing.targets import Targets, reading_site
from lenskit.circuits.graph import Graph
from lenskit.models.memory import free_bytes
from lenskit.models.sites import Site, SiteUnavailable
from lenskit.models.weighing.norms import wide

if TYPE_CHECKING:
    from lenskit.models.model import Model

_ROUND = 4  # batches between two looks at what matters most
_NUMBERS = 1 << 28  # of the gradients of one batch: 1 GB


@dataclass(eq=False)
class Attribution:
    """The work of one prompt: what is put in, what was explained so far, and what is next.

    `go_on` explains more features, those of the most influence first; `graph` is what is known now. Nothing is lost
    when it is interrupted between two batches, and nothing that is not whole is kept of the batch that was.

    Attributes:
        put: what is put into the replacement model; `active`, which features of it are sources here.
        sources: what can give to a target; `features_done` of its features were explained.
        next: features chosen to be explained next; what of them was explained meanwhile is passed over.
        error: by how much, at most, a value differed from the sum of its parts, as a share of their sizes.
    """

    put: PutIn
    active: Sequence[Active]
    targets: Targets
    batch: int
    width: int
    whole_first: bool
    provenance: Mapping[str, Any]

    def __post_init__(self) -> None:
        length = self.replacement.tokens.shape[1]
        self._check_memory(length)
        errors = tuple(self.put.missed)
        counts = tuple(len(each.features) for each in self.active)
        self.sources = Sources(length, errors, tuple(basis.layer for basis in self.bases), counts)
        self.error = 0.0
        self._begins = self.sources.begins
        self.levels = self.sources.levels()
        fixed = {EMBEDDINGS: self.put.embeddings}
        fixed |= {Site("mlp_out", layer): missed for layer, missed in self.put.missed.items()}
        # With what is put in there whatever the tokens are, (pos, 2, d): one product for both.
        constants = self.put.constants
        self._fixed = {site: torch.stack([given, wide(constants[site][0])], 1) for site, given in fixed.items()}
        self._first = self._of_the_first_token()
        self._nothing = self.replacement.with_nothing(reading_site(self.model))
        self.rows = Rows(self.sources.fixed, min(self.width, sum(counts)))
        self.next: list[int] = []
        self._weights = np.array(self.targets.weights)

    @property
    def model(self) -> Model:
        """The model."""
        return self.put.model

    @property
    def replacement(self) -> Replacement:
        """The prompt's forward as an affine function."""
        return self.put.replacement

    @property
    def bases(self) -> Sequence[Basis]:
        """The features of the layers that have some."""
        return self.put.bases

    @property
    def done(self) -> np.ndarray:
        """(source,): which were explained."""
        found = np.zeros(self.sources.total + len(self.targets.labels), dtype=bool)
        found[self.rows.stacked("targets").numpy()] = True
        return found[: self.sources.total]

    @property
    def features_done(self) -> int:
        """How many features were explained."""
        return int(self.done.sum())

    def _of_the_first_token(self) -> dict[Site, Tensor]:
        """By site, (d,): all that is put in at the first position but for biases, where it is one node as a whole."""
        if not self.whole_first:
            return {}
        return {
            site: wide(value.detach()[0, 0]) - wide(self.put.constants[site][0, 0])
            for site, value in self.replacement.put_in.items()
        }

    # The work

    def go_on(self, features: int) -> Iterator[tuple[int, int]]:
        """Explain the logits, then so many features in all, in batches; after each, how many there are of how many."""
        known = set(self.rows.targets)
        logits = [n for n in range(self.sources.total, len(self._weights) + self.sources.total) if n not in known]
        for begin in range(0, len(logits), self.batch):
            self._explain(logits[begin : begin + self.batch])
        wanted = min(features, sum(self.sources.counts))
        while (done := self.features_done) < wanted:
            chosen = self._chosen(wanted - done)
            if not chosen:  # nothing that is left reaches a logit
                if done:
                    yield done, done
                return
            self._explain(chosen[: min(self.batch, wanted - done)])
            yield self.features_done, wanted

    def _chosen(self, count: int) -> list[int]:
        """What is left of the round that was begun, or else a new one: so it does not matter where one stops."""
        done = self.done
        left = [n for n in self.next if not done[n]]
        if not left:
            left = self.next = self._next(min(_ROUND * self.batch, count))
        return left

    @property
    def graph(self) -> Graph:
        """What is known now."""
        return graph_of(self)

    def _next(self, count: int) -> list[int]:
        """The features of the most influence that were not explained yet, the highest layers first.

        In this order a batch goes back through as few layers as it can.
        """
        reached = self.rows.influence(self.sources, self._weights, self.levels)
        reached[: self.sources.fixed] = 0
        reached[self.done] = 0
        chosen = np.argsort(-reached, kind="stable")[:count]
        chosen = chosen[reached[chosen] > 0]
        return chosen[np.argsort(-self.levels[chosen], kind="stable")].tolist()

    def _explain(self, numbers: list[int]) -> None:
        values, biases, made = self._values(numbers)
        row = self._reached(made)
        biases += row.biases
        error = (row.sums + biases - values).abs() / (row.sizes + biases.abs()).clamp_min(1e-6)
        self.error = float(np.maximum(self.error, float(error.max())))  # nan where one is
        self._check_sums()
        self.rows.add(numbers, row, values, biases)

    def _check_sums(self) -> None:
        """Raise `SiteUnavailable` where what reaches a value does not add up to it."""
        if not self.error <= (5e-2 if self.model.dtype.itemsize < 4 else 1e-3):
            raise SiteUnavailable(
                f"no graph of {self.model.anatomy.family} can be made: with attention patterns and norms held, what "
                f"reaches a feature does not add up to its value (off by {self.error:.1e} of the parts' sizes), so "
                "something else in its blocks is not linear, such as a gate behind attention."
            )

    def _values(self, numbers: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Of some targets the value, what the model's biases give of it, and the value less its constant, traced back.

        The first two in float64, and on the CPU.
        """
        by_place = dict[int, tuple[Tensor, Tensor, Tensor]]()
        for place, (basis, features, pos, rows) in enumerate(self._by_basis(numbers)):
            read, site = self._read(basis, features, pos)
            x = wide(self.replacement.read[site])[0]
            made = (x[pos] * read.vectors).sum(-1)
            bias = read.constants
            if self._nothing is not None:
                bias = bias + (wide(self._nothing[site])[0][pos] * read.vectors).sum(-1)
            by_place[place] = (made + read.constants, bias, torch.tensor(rows))
        order = torch.cat([rows for _, _, rows in by_place.values()]).argsort()
        made = torch.cat([made for made, _, _ in by_place.values()])[order]
        biases = torch.cat([bias for _, bias, _ in by_place.values()])[order]
        return made.detach().double().cpu(), biases.detach().double().cpu(), made

    def _by_basis(self, numbers: list[int]) -> Iterator[tuple[Basis | None, Tensor, Tensor, list[int]]]:
        """The targets of each layer, and of the logits (None): features, positions, and their places in the batch."""
        places = np.array(numbers)
        which = np.searchsorted(self._begins, places, side="right") - 1
        for index in np.unique(which).tolist():
            rows = np.flatnonzero(which == index)
            inside = torch.from_numpy(places[rows] - self._begins[index])
            if index == len(self.bases):
                yield None, inside, torch.full_like(inside, self.targets.pos), rows.tolist()
            else:
                active = self.active[index]
                yield self.bases[index], active.features[inside], active.pos[inside], rows.tolist()

    def _read(self, basis: Basis | None, features: Tensor, pos: Tensor) -> tuple[Read, Site]:
        if basis is not None:
            return basis.read(self.replacement, features, pos), basis.reads
        read = self.targets.read
        return Read(read.vectors[features], read.constants[features]), reading_site(self.model)

    def _reached(self, made: Tensor) -> Row:
        """What reaches each target: one backward pass for all of them, and its gradients taken apart."""
        sites = list(self.replacement.put_in)
        found = torch.autograd.grad(
            made,
            [self.replacement.put_in[site] for site in sites],
            grad_outputs=torch.eye(len(made), dtype=made.dtype, device=made.device),
            is_grads_batched=True,
            retain_graph=True,
            allow_unused=True,
        )
        gradients = {site: wide(each[:, 0]) for site, each in zip(sites, found, strict=True) if each is not None}
        return self._apart(gradients, len(made))

    @torch.no_grad()
    def _apart(self, gradients: Mapping[Site, Tensor], targets: int) -> Row:
        """Gradients (target, pos, d) times what is put in: what each source gives."""
        row = Row.empty(targets, self.sources.fixed, self.rows.width)
        for place, (site, given) in enumerate(self._fixed.items()):
            if site in gradients:
                parts, constants = torch.bmm(given, gradients[site].permute(1, 2, 0)).permute(1, 2, 0)
                if self._first:
                    parts[:, 0] = self._whole_first(gradients) if place == 0 else 0.0
                row.put_fixed(place * self.sources.length, parts.cpu())
                row.biases += constants.sum(1, dtype=torch.float64).cpu()
        for index, (basis, active) in enumerate(zip(self.bases, self.active, strict=True)):
            if any(site in gradients for site in basis.writes) and len(active.features):
                given = basis.reached(self.replacement, active, gradients)
                row.put_features(int(self._begins[index]), given.cpu())
        return row

    def _whole_first(self, gradients: Mapping[Site, Tensor]) -> Tensor:
        """(target,): what all of the first position gives: it has seen nothing but its own token."""
        parts = [gradients[site][:, 0] @ given for site, given in self._first.items() if site in gradients]
        return torch.stack(parts).sum(0)

    def _check_memory(self, length: int) -> None:
        """Make batches that fit, and raise `MemoryError` where not even a single target would."""
        width = sum(value[0].numel() for value in self.replacement.put_in.values())
        self.batch = max(1, min(self.batch, _NUMBERS // max(1, width)))
        heads = sum(pattern.numel() for pattern in self.replacement.patterns.values())
        needed = 4 * (3 * self.batch * width + 2 * heads)
        free = free_bytes(self.model.device)
        if free is not None and needed > free:
            raise MemoryError(
                f"a graph of {length} tokens takes about {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free. Give "
                "it a shorter prompt, or a smaller batch=."
            )
