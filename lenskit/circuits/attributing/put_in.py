"""Put in: what a replacement model is a function of, told apart: embeddings, features, what these miss, and biases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lenskit.circuits.attributing.basis import Active, Basis
from lenskit.circuits.attributing.replacement import EMBEDDINGS, Replacement
from lenskit.models.sites import Site
from lenskit.models.weighing.norms import wide

if TYPE_CHECKING:
    from lenskit.models.model import Model


@dataclass(frozen=True, eq=False)
class PutIn:
    """A prompt's replacement model, and what is put into it.

    Attributes:
        model: the model.
        replacement: the prompt's forward as an affine function.
        bases: the features of the layers that have some, by layer.
        active: of each of these, which features are active.
    """

    model: Model
    replacement: Replacement
    bases: Sequence[Basis]
    active: Sequence[Active]

    @classmethod
    def of(cls, model: Model, tokens: Tensor, bases: Sequence[Basis], reads: Iterable[Site]) -> PutIn:
        """Run a prompt (1, pos) so that what is read at `reads` can be traced back to what is put in.

        Where a layer's MLP has no features, what it writes is put in as a whole. Raises `SiteUnavailable` for a layer
        whose attention pattern cannot be held.
        """
        writes = list(dict.fromkeys(site for basis in bases for site in basis.writes))
        covered = {site.layer for site in writes}
        writes += [Site("mlp_out", layer) for layer in range(model.n_layers) if layer not in covered]
        past = [way for basis in bases for way in basis.past()]
        replacement = Replacement.of(model, tokens, writes, reads, past)
        return cls(model, replacement, bases, [basis.active(replacement) for basis in bases])

    @property
    def layers(self) -> tuple[str, ...]:
        """Of each layer what its features are: "transcoder", "neurons", or "none"."""
        kinds = {site.layer: basis.kind for basis in self.bases for site in (basis.reads, *basis.writes)}
        return tuple(kinds.get(layer, "none") for layer in range(self.model.n_layers))

    @cached_property
    def embeddings(self) -> Tensor:
        """(pos, d_model): those of the tokens, without what position embeddings add."""
        return wide(self.replacement.put_in[EMBEDDINGS].detach()[0]) - self.positions

    @cached_property
    def positions(self) -> Tensor:
        """(pos, d_model): what position embeddings give, which is no token's doing; zeros where there are none."""
        if "pos_embed" not in self.model.sites:
            return torch.zeros_like(wide(self.replacement.put_in[EMBEDDINGS].detach()[0]))
        run = self.model.run(self.replacement.tokens, keep="pos_embed", stop_at=EMBEDDINGS)
        return wide(run["pos_embed"][0])

    @cached_property
    def missed(self) -> dict[int, Tensor]:
        """By layer, (pos, d_model): what dictionaries miss of what its MLP writes; all of it where there is none.

        A layer that is taken apart into its neurons is not there: nothing is missed.
        """
        found = dict[int, Tensor]()
        for site, value in self.replacement.put_in.items():
            if site.name != "mlp_out" or site.layer is None:
                continue
            left = wide(value.detach()[0])
            for basis, active in zip(self.bases, self.active, strict=True):
                if site in basis.writes:
                    left = left - basis.written(self.replacement, active, site)
                    constant = basis.constant(self.replacement, site)
                    left = left if constant is None else left - constant
            found[site.layer] = left
        return dict(sorted(found.items()))

    @cached_property
    def constants(self) -> dict[Site, Tensor]:
        """By site, (1, pos, d): what is put in whatever the tokens are: dictionaries' biases, position embeddings."""
        found = {site: torch.zeros_like(value.detach()) for site, value in self.replacement.put_in.items()}
        found[EMBEDDINGS] += self.positions.to(found[EMBEDDINGS].dtype)
        for basis in self.bases:
            for site in basis.writes:
                constant = basis.constant(self.replacement, site)
                if constant is not None:
                    found[site] += constant.to(found[site].dtype)
        return found
