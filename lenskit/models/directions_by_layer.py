"""DirectionsByLayer: what a lens reads for some tokens, as vectors of each layer's residual stream."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from lenskit.models.running.which import Which

Token = str | int
Concept = Token | Sequence[Token]
"""A token; or several, of whose directions the mean is taken."""

DirectionScale = Literal["raw", "unit", "mean", "median"]
"""As long as the lens makes them; of length one; or as long as the layer's states are on average, or in the median."""

ALIKE, THE_SAME = 0.99, 0.999


@dataclass(frozen=True, eq=False)
class DirectionsByLayer:
    """Directions of some concepts at `resid_post` of some layers: what `Steer`, `Swap` and `Ablate` act along.

    Attributes:
        vectors: by layer (concept, d_model), float32.
        concepts: what each concept is called.
        tokens: the ids that each is the mean of.
        lens: of which lens they are: `"logit lens"`; of a placebo, `"logit lens, turned at random (0)"`.
        scale: how long they are.
        folded: whether the final norm's gain is in them.
        centred: whether the mean over the vocabulary was taken off.
    """

    vectors: Mapping[int, Tensor]
    concepts: tuple[str, ...]
    tokens: tuple[tuple[int, ...], ...]
    lens: str
    scale: DirectionScale
    folded: bool
    centred: bool

    def __post_init__(self) -> None:
        shapes = {tuple(each.shape) for each in self.vectors.values()}
        if len(shapes) != 1 or (len(self.concepts), 2) != (next(iter(shapes))[0], len(next(iter(shapes)))):
            raise ValueError(
                f"directions are (concept, d_model) in every layer, of {len(self.concepts)} concepts and at least one "
                f"layer; these are {sorted(shapes)}."
            )
        bad = [layer for layer, v in self.vectors.items() if not bool(v.isfinite().all() and v.any(-1).all())]
        if bad:
            raise ValueError(f"the directions in layer {bad[0]} are not finite, or one of them is zero.")

    @property
    def layers(self) -> list[int]:
        """The layers, ascending."""
        return sorted(self.vectors)

    @property
    def d_model(self) -> int:
        """How many numbers a direction has."""
        return next(iter(self.vectors.values())).shape[1]

    def __getitem__(self, layer: int) -> Tensor:
        if layer not in self.vectors:
            raise KeyError(f"these are directions of layers {self.layers}, and not of {layer}.")
        return self.vectors[layer]

    def cosine(self, layer: int) -> Tensor:
        """(concept, concept) the cosines of the angles between the directions of a layer."""
        unit = torch.nn.functional.normalize(self[layer].double(), dim=-1)
        return (unit @ unit.T).float()

    def check_apart(self) -> None:
        """Warn of directions that are nearly parallel, and raise `ValueError` for those that cannot be told apart."""
        if len(self.concepts) < 2:
            return
        cosines = {layer: float(self.cosine(layer).fill_diagonal_(-1).max()) for layer in self.layers}
        layer = max(cosines, key=lambda layer: cosines[layer])
        if cosines[layer] < ALIKE:
            return
        names = " and ".join(map(repr, self.concepts))
        said = f"the directions of {names} are nearly one in layer {layer} (cosine {cosines[layer]:.4f})"
        if cosines[layer] > THE_SAME:
            raise ValueError(f"{said}: no coordinates along them can be told apart. Choose other words, or layers.")
        warnings.warn(f"{said}: coordinates along them are mostly noise.", stacklevel=2)

    def turned(self, seed: int = 0) -> DirectionsByLayer:
        """The same directions turned at random: lengths and angles stay, also between layers. A placebo.

        >>> turned = directions.turned()  # doctest: +SKIP
        >>> torch.allclose(turned[12].norm(dim=-1), directions[12].norm(dim=-1))  # doctest: +SKIP
        True
        """
        every = torch.cat([self.vectors[layer].cpu().double() for layer in self.layers])
        _, sizes, basis = torch.linalg.svd(every, full_matrices=False)
        basis = basis[sizes > 1e-9 * sizes.max()]
        noise = torch.randn(basis.T.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        other, _ = torch.linalg.qr(noise)
        made = {layer: (v.cpu().double() @ basis.T @ other.T).to(v) for layer, v in self.vectors.items()}
        return replace(self, vectors=made, lens=f"{self.lens}, turned at random ({seed})")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DirectionsByLayer) or self.vectors.keys() != other.vectors.keys():
            return False
        names = ("concepts", "tokens", "lens", "scale", "folded", "centred")
        return all(getattr(self, name) == getattr(other, name) for name in names) and all(
            torch.equal(v, other.vectors[layer]) for layer, v in self.vectors.items()
        )

    def __hash__(self) -> int:
        return hash((self.concepts, self.lens, *self.layers))

    def __repr__(self) -> str:
        layers = self.layers
        whole = layers == list(range(layers[0], layers[-1] + 1))
        where = f"{layers[0]} to {layers[-1]}" if whole and len(layers) > 1 else ", ".join(map(str, layers))
        where = f"layer{'s' if len(layers) > 1 else ''} {where}"
        return f"<{', '.join(map(repr, self.concepts))} of the {self.lens}, {where}>"


class HasDirections(Protocol):
    """A lens that gives directions: `lens.directions`."""

    def directions(
        self,
        concepts: Sequence[Concept],
        layers: Which = None,
        *,
        scale: DirectionScale = "raw",
        folded: bool = True,
        centred: bool = True,
    ) -> DirectionsByLayer:
        """The directions of some concepts in some layers."""
        ...
