"""Dictionary: the features of a transcoder, as a graph is made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lenskit.circuits.attributing.basis import Active, Read
from lenskit.circuits.attributing.replacement import Past, Replacement
from lenskit.models.sites import Site
from lenskit.transcoders.activations import Gated
from lenskit.transcoders.codes import Codes
from lenskit.transcoders.transcoder import Transcoder


@dataclass(frozen=True, eq=False)
class Dictionary:
    """The features of a transcoder, of one layer or writing several."""

    transcoder: Transcoder
    kind: Literal["transcoder"] = "transcoder"

    def __post_init__(self) -> None:
        each = self.transcoder
        if each.is_sae:
            raise ValueError(f"{each!r} reads and writes one site: a graph is made of transcoders, or of neurons.")
        if any(site.name != "mlp_out" for site in each.writes) or each.reads.layer is None:
            raise ValueError(f"{each!r} does not stand for an MLP: a graph is made of those that write mlp_out.")

    @property
    def layer(self) -> int:
        assert self.transcoder.reads.layer is not None
        return self.transcoder.reads.layer

    @property
    def reads(self) -> Site:
        return self.transcoder.reads

    @property
    def writes(self) -> tuple[Site, ...]:
        return self.transcoder.writes

    def past(self) -> list[Past]:
        each = self.transcoder
        if each.W_skip is None:
            return []
        return [Past(each.reads, site, self._skip(write)) for write, site in enumerate(each.writes)]

    def _skip(self, write: int) -> Callable[[Tensor, Tensor], Tensor]:
        def skip(x: Tensor, own: Tensor) -> Tensor:
            each = self.transcoder
            assert each.W_skip is not None
            given, x = each.normalised(own), x.to(each.W_enc.dtype)
            if given.mean is not None:
                x = x - x.mean(-1, keepdim=True)
            if given.scale is not None:
                x = x / (given.scale if given.mean is None else given.scale + 1e-5)
            made = x @ each.W_skip[write].T
            return made if given.scale is None or not each.restores else made * given.scale

        return skip

    def active(self, replacement: Replacement) -> Active:
        codes = self._codes(replacement)
        return Active(codes.features, codes.tokens, codes.values)

    @torch.no_grad()
    def _codes(self, replacement: Replacement) -> Codes:
        return self.transcoder.encode(replacement.read[self.reads].detach()[0])

    def written(self, replacement: Replacement, active: Active, site: Site) -> Tensor:
        each = self.transcoder
        length = replacement.tokens.shape[1]
        offsets = torch.bincount(active.pos, minlength=length).cumsum(0)
        offsets = torch.cat([offsets.new_zeros(1), offsets])
        codes = Codes(active.features, active.activations, offsets, (length,), each.n_features)
        made = each.decode(codes, self.writes.index(site)) - each.b_dec[self.writes.index(site)]
        scale = self._restored(replacement)
        return made if scale is None else made * scale

    def constant(self, replacement: Replacement, site: Site) -> Tensor | None:
        bias, scale = self.transcoder.b_dec[self.writes.index(site)], self._restored(replacement)
        return bias if scale is None else bias * scale

    def reached(self, replacement: Replacement, active: Active, gradients: Mapping[Site, Tensor]) -> Tensor:
        found: Tensor | None = None
        for write, site in enumerate(self.writes):
            if site in gradients:
                part = self._products(active, gradients[site], self.transcoder.W_dec[write])
                found = part if found is None else found.add_(part)
        assert found is not None
        scale = self._restored(replacement)
        activations = active.activations if scale is None else active.activations * scale[active.pos, 0]
        return found.mul_(activations)

    def _products(self, active: Active, gradients: Tensor, decoder: Tensor) -> Tensor:
        """(target, active): the gradients at each active feature's position, times its decoder."""
        targets, length, _ = gradients.shape
        counts = torch.bincount(active.pos, minlength=length)
        most = int(counts.max()) if len(counts) else 0
        gradients = gradients.to(decoder.dtype)
        if 4 * most >= len(decoder):  # nearly all of them are active somewhere: one product for all is quicker
            return (gradients @ decoder.T)[:, active.pos, active.features]
        found, rows, each = gradients.new_empty(targets, len(active.pos)), decoder[active.features], counts.tolist()
        for here, given, out in zip(gradients.unbind(1), rows.split(each), found.split(each, 1), strict=True):
            torch.mm(here, given.T, out=out)
        return found

    def _restored(self, replacement: Replacement) -> Tensor | None:
        """(pos, 1): by what the output is scaled back, where it is."""
        each = self.transcoder
        if not each.restores or each.normalise == "none":
            return None
        scale = each.normalised(replacement.read[self.reads].detach()[0]).scale
        assert scale is not None
        return scale

    def read(self, replacement: Replacement, features: Tensor, pos: Tensor) -> Read:
        each = self.transcoder
        vectors, constants = each.W_enc[features], each.b_enc[features]
        if each.centre is not None:
            constants = constants - vectors @ each.centre
        given = each.normalised(replacement.read[self.reads].detach()[0])
        if given.scale is not None:
            if given.mean is not None:
                vectors = vectors - vectors.mean(-1, keepdim=True)
            vectors = vectors / (given.scale[pos] if given.mean is None else given.scale[pos] + 1e-5)
        if isinstance(each.activation, Gated):  # what a feature measures, once its gate is open
            size = each.activation.log_scale.to(vectors.device)[features].exp()
            bias = each.activation.bias.to(vectors.device)[features]
            return Read(vectors * size[:, None], constants * size + bias)
        return Read(vectors, constants)
