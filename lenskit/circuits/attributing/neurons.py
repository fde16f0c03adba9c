"""Neurons: those of an MLP as they are, as a graph is made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from lenskit.circuits.attributing.basis import Active, Read
from lenskit.circuits.attributing.replacement import Past, Replacement
from lenskit.models.sites import Site, SiteUnavailable
from lenskit.models.weighing.norms import wide

if TYPE_CHECKING:
    from lenskit.models.model import Model


@dataclass(frozen=True, eq=False)
class Neurons:
    """The neurons of an MLP as they are: nothing is missed.

    A neuron of an ungated MLP comes about by its weights, up to the nonlinearity: its value is `mlp_pre`. In a gated
    MLP it is a product, `act(gate) * up`, both linear but for the slope `act(gate) / gate`, which is held as a norm's
    scale is; then half of its activation is put down to what the gate reads and half to what it is multiplied by, so
    that its value is `mlp_post` itself. Source: the half rule of layer-wise relevance propagation, as used by Jafari et
    al., "RelP" (2025), and on neurons by Arora et al. (2025).
    """

    model: Model
    layer: int
    kind: Literal["neurons"] = "neurons"

    @property
    def reads(self) -> Site:
        return Site("mlp_in", self.layer)

    @property
    def writes(self) -> tuple[Site, ...]:
        return (Site("mlp_post", self.layer),)

    @cached_property
    def _weights(self) -> tuple[Tensor, Tensor]:
        """(neuron, d_in) and (neuron,)."""
        weights = self.model.weights
        return wide(weights.W_in[self.layer]).T.contiguous(), wide(weights.b_in[self.layer])

    @cached_property
    def _gate(self) -> tuple[Tensor, Tensor] | None:
        weights = self.model.weights
        try:
            return wide(weights.W_gate[self.layer]).T.contiguous(), wide(weights.b_gate[self.layer])
        except SiteUnavailable:
            return None  # the MLP has no gate

    def past(self) -> list[Past]:
        return []

    def active(self, replacement: Replacement) -> Active:
        value = wide(replacement.put_in[self.writes[0]].detach()[0])
        pos, features = value.nonzero(as_tuple=True)
        return Active(features, pos, value[pos, features])

    def written(self, replacement: Replacement, active: Active, site: Site) -> Tensor:
        return wide(replacement.put_in[site].detach()[0])

    def constant(self, replacement: Replacement, site: Site) -> Tensor | None:
        return None

    def reached(self, replacement: Replacement, active: Active, gradients: Mapping[Site, Tensor]) -> Tensor:
        given = wide(gradients[self.writes[0]])
        if len(active.pos) == given.shape[1] * given.shape[2]:  # every neuron, in order
            return given.flatten(1) * active.activations
        return given[:, active.pos, active.features] * active.activations

    def read(self, replacement: Replacement, features: Tensor, pos: Tensor) -> Read:
        (weight, bias), gate = self._weights, self._gate
        vectors, constants = weight[features], bias[features]
        if gate is None:
            return Read(vectors, constants)
        x = wide(replacement.read[self.reads].detach()[0])[pos]
        post = wide(replacement.put_in[self.writes[0]].detach()[0])[pos, features]
        half, total = vectors.new_zeros(vectors.shape), vectors.new_zeros(len(features))
        for rows, shift in ((gate[0][features], gate[1][features]), (vectors, constants)):
            product = (rows * x).sum(-1) + shift
            slope = torch.where(product.abs() > 1e-12, post / product, 0.0) / 2
            half, total = half + slope[:, None] * rows, total + slope * shift
        return Read(half, total)
