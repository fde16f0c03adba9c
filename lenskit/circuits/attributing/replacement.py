"""The local replacement model: a prompt's own forward, in which everything between features is linear.

Attention patterns and the norms' scales are held at what they are on this prompt, and what MLPs write no longer depends
on what they read but for the dictionaries' skips. Then each place is an affine function of what is put in: of the
embeddings and of what each MLP writes, and automatic differentiation through the model's own modules gives how.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lenskit.circuits.attributing.held_norms import Scales, norms_in
from lenskit.models.edits import Call, Edit, Zero
from lenskit.models.sites import Site

if TYPE_CHECKING:
    from lenskit.models.model import Model
    from lenskit.models.run import Run

EMBEDDINGS = Site("resid_pre", 0)


@dataclass(frozen=True)
class Past:
    """A linear way past the features of a dictionary: from what it reads to what it writes.

    fn: of what is read (1, pos, d_in), and of what the prompt itself has there, what comes past the features, (1, pos,
        d_out): linear in the first.
    """

    reads: Site
    writes: Site
    fn: Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Replacement:
    """A prompt's forward as an affine function.

    Attributes:
        tokens: (1, pos).
        logits: (1, pos, vocab), what this forward gives: the model's own, but for rounding.
        put_in: by site, what it is a function of, (1, pos, ...): each requires a gradient.
        read: by site, what comes out, (1, pos, ...), with the graph that leads back to what was put in.
    """

    model: Model
    tokens: Tensor
    logits: Tensor
    put_in: Mapping[Site, Tensor]
    read: Mapping[Site, Tensor]
    past: tuple[Past, ...]
    scales: Scales
    patterns: Mapping[int, Tensor]

    @classmethod
    def of(
        cls, model: Model, tokens: Tensor, writes: Sequence[Site], reads: Iterable[Site], past: Iterable[Past] = ()
    ) -> Replacement:
        """Run a prompt (1, pos) so that `writes` and the embeddings are put in, and `reads` can be traced back to them.

        Raises `SiteUnavailable` for a layer whose attention pattern cannot be held, with the reason.
        """
        put_in, read, patterns = dict[Site, Tensor](), dict[Site, Tensor](), dict[int, Tensor]()
        scales, past = Scales(norms_in(model)), tuple(past)

        def hold(layer: int) -> Callable[[Tensor], Tensor]:
            def fn(pattern: Tensor) -> Tensor:
                # One that requires a gradient is what the values are mixed by; no way leads on from it.
                patterns[layer] = pattern.detach().requires_grad_()
                return patterns[layer]

            return fn

        def put(site: Site) -> Callable[[Tensor], Tensor]:
            def fn(value: Tensor) -> Tensor:
                ways = [each.fn(x := read[each.reads], x.detach()) for each in past if each.writes == site]
                around = sum(ways[1:], ways[0]) if ways else None
                put_in[site] = (value if around is None else value - around.to(value.dtype)).detach().requires_grad_()
                return put_in[site] if around is None else put_in[site] + around.to(value.dtype)

            return fn

        asked = dict.fromkeys([*(each.reads for each in past), *reads])
        edits: list[Edit] = [*scales.noting(), _at(EMBEDDINGS, put(EMBEDDINGS))]
        edits += [_at(Site("pattern", layer), hold(layer)) for layer in _attending(model)]
        edits += [_at(site, _noting(read, site)) for site in asked]
        edits += [_at(site, put(site)) for site in writes]
        logits = model.trace(tokens, edits=edits, grads=True).finish().logits.detach()
        return cls(model, tokens, logits, put_in, read, past, scales, patterns)

    @torch.no_grad()
    def with_inputs(self, values: Mapping[Site, Tensor], stop_at: Site | None = None) -> Run:
        """The run up to a site, or to the logits, with all that is read, (1, pos, ...), if something else is put in.

        values: of every site where something is put in, (1, pos, ...).
        """
        read = dict[Site, Tensor]()

        def put(site: Site) -> Callable[[Tensor], Tensor]:
            def fn(value: Tensor) -> Tensor:
                made = values[site].to(value.dtype)
                for each in self.past:
                    if each.writes == site:
                        own = self.read[each.reads].detach()
                        made = made + each.fn(read[each.reads], own).to(value.dtype)
                return made

            return fn

        def hold(pattern: Tensor) -> Callable[[Tensor], Tensor]:
            return lambda _: pattern.detach()

        edits: list[Edit] = [*self.scales.again()]
        edits += [_at(Site("pattern", layer), hold(pattern)) for layer, pattern in self.patterns.items()]
        edits += [_at(site, _noting(read, site)) for site in {each.reads for each in self.past}]
        edits += [_at(site, put(site)) for site in self.put_in]
        return self.model.run(self.tokens, edits=edits, keep=list(self.read), stop_at=stop_at)

    def with_nothing(self, stop_at: Site) -> Run | None:
        """The run, with all that is read up to a site, if nothing is put in: what the model's own biases give.

        None where it has none, as most recent models: then two tokens of zeros stay zeros, whatever is held.
        """
        if not self.model.edits:
            edits = [Zero(site.name, layers=site.layer) for site in self.put_in]
            few = self.model.run(self.tokens[:, :2], edits=edits, keep=list(self.read), stop_at=stop_at)
            if not any(few[site].any() for site in self.read):
                return None
        return self.with_inputs({site: torch.zeros_like(value) for site, value in self.put_in.items()}, stop_at)


def _at(site: Site, fn: Callable[[Tensor], Tensor]) -> Call:
    return Call(site.name, fn, layers=site.layer)


def _noting(read: dict[Site, Tensor], site: Site) -> Callable[[Tensor], Tensor]:
    def fn(value: Tensor) -> Tensor:
        read[site] = value
        return value

    return fn


def _attending(model: Model) -> range:
    """The layers whose patterns are held: all. Raises `SiteUnavailable` where one has none."""
    for layer in range(model.n_layers):
        model.anatomy.spot(Site("pattern", layer))
    return range(model.n_layers)
