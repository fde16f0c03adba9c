"""Basis: of one layer, the features that an attribution graph is made of: a dictionary's, or the MLP's neurons.

Each says which features are active on the prompt, what they write, as their share in what is put into the replacement
model, and by which vector of what it reads each is made:

    value = vector @ x + constant
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, Protocol

from torch import Tensor

from lenskit.circuits.attributing.replacement import Past, Replacement
from lenskit.models.sites import Site


class Active(NamedTuple):
    """The active features of a layer on a prompt, by position: (active,) each."""

    features: Tensor
    pos: Tensor
    activations: Tensor


class Read(NamedTuple):
    """How some features come about: `value = vectors @ x[pos] + constants`, x being what `Basis.reads` holds.

    Attributes:
        vectors: (feature, d_in).
        constants: (feature,), what biases give within the dictionary.
    """

    vectors: Tensor
    constants: Tensor


class Basis(Protocol):
    """The features of one layer."""

    @property
    def layer(self) -> int:
        """Which layer."""
        ...

    @property
    def kind(self) -> Literal["transcoder", "neurons"]:
        """What its features are."""
        ...

    @property
    def reads(self) -> Site:
        """Where it reads."""
        ...

    @property
    def writes(self) -> tuple[Site, ...]:
        """Where what its features give is put in."""
        ...

    def past(self) -> list[Past]:
        """The ways past the features."""
        ...

    def active(self, replacement: Replacement) -> Active:
        """What is active on the prompt."""
        ...

    def written(self, replacement: Replacement, active: Active, site: Site) -> Tensor:
        """(pos, d_out): what the active features give together to a site."""
        ...

    def constant(self, replacement: Replacement, site: Site) -> Tensor | None:
        """(pos, d_out) or (d_out,): what a bias of the dictionary gives to a site."""
        ...

    def reached(self, replacement: Replacement, active: Active, gradients: Mapping[Site, Tensor]) -> Tensor:
        """(target, active): what each active feature gives to each target, of gradients (target, pos, d_out)."""
        ...

    def read(self, replacement: Replacement, features: Tensor, pos: Tensor) -> Read:
        """How features at positions come about."""
        ...
