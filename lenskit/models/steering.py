"""Steering: edits along the directions that a lens reads for some words: steer, swap and ablate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, InitVar, dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor

from lenskit.models.directions_by_layer import Concept, DirectionsByLayer, DirectionScale, HasDirections
from lenskit.models.edits import SELECTORS, At, Edit
from lenskit.models.running.which import Which


def _after_the_first() -> slice:
    return slice(1, None)


@dataclass(frozen=True, eq=False, repr=False)
class Along(Edit):
    """What `Steer`, `Swap` and `Ablate` have in common: directions of some layers, and how strongly to act along them.

    Attributes:
        along: the directions, `DirectionsByLayer`. A lens may be given in their place: then they are made here.
        strength: how many times.
        pos: which positions. By default all but the first, which is the attention sink in most models.
        layers: by default all for which there are directions.
    """

    site: str = field(default="resid_post", kw_only=True)
    along: DirectionsByLayer | HasDirections
    _: KW_ONLY
    strength: float = 1.0
    pos: Which = field(default_factory=_after_the_first)

    def _settle(self, concepts: Sequence[Concept], scale: DirectionScale, folded: bool, centred: bool) -> None:
        """Make the directions where a lens was given, and see which layers are meant."""
        super().__post_init__()
        if self.site != "resid_post":
            raise ValueError(
                f"directions are of resid_post, so {type(self).__name__} acts there, not at {self.site!r}."
            )
        given = self.along
        if not isinstance(given, DirectionsByLayer):
            if not hasattr(given, "directions"):
                raise TypeError(f"{type(self).__name__} needs a lens or its directions, and {given!r} is neither.")
            given = given.directions(concepts, self.layers, scale=scale, folded=folded, centred=centred)
        elif concepts:
            raise TypeError(f"{given!r} are directions already: name no words, or give the lens.")
        elif self.layers is not None:
            chosen = _indices(self.layers, given)
            given = replace(given, vectors={layer: given[layer] for layer in chosen})
        layers = given.layers
        whole = range(layers[0], layers[-1] + 1)
        object.__setattr__(self, "along", given)
        object.__setattr__(self, "layers", whole if list(whole) == layers else layers)
        if self.pos is None:  # said in the one way that is not taken for the default
            object.__setattr__(self, "pos", slice(0, None))

    @property
    def directions(self) -> DirectionsByLayer:
        """The directions that it acts along."""
        assert isinstance(self.along, DirectionsByLayer)
        return self.along

    def placebo(self, seed: int = 0) -> Self:
        """The same edit along directions turned at random, of the same lengths and angles: what any push does.

        >>> model.run(prompt, edits=[swap.placebo(seed) for seed in range(1)])  # doctest: +SKIP
        """
        return replace(self, along=self.directions.turned(seed))

    def _vectors(self, part: Tensor, at: At) -> Tensor:
        """(concept, d_model) of the layer, in the dtype in which to compute."""
        assert at.site.layer is not None
        vectors = self.directions[at.site.layer]
        if vectors.shape[1] != part.shape[-1]:
            raise ValueError(f"{self!r}: directions of {vectors.shape[1]} numbers for activations of {part.shape[-1]}.")
        return vectors.to(part.device, torch.promote_types(part.dtype, torch.float32))

    def __repr__(self) -> str:
        usual = {"strength": 1.0, "clamped": True, "pos": _after_the_first(), "layers": self.layers}
        said = [repr(self.along)]  # which says the layers
        for name in ("strength", "clamped", *SELECTORS):
            value = getattr(self, name, None)
            if value is not None and value != usual.get(name):
                said.append(f"{name}={value!r}")
        return f"{type(self).__name__}({', '.join(said)})"


@dataclass(frozen=True, eq=False, repr=False)
class Steer(Along):
    """Add what a lens reads as a word to the residual stream: `h + strength * v`, `v = J' W_U[word]`.

    Args:
        along: a lens, or `DirectionsByLayer` of one concept.
        concept: a token; or several, of whose directions the mean is taken.
        strength: how many times the direction is added, in every layer that is chosen. Negative steers away.
        scale: how long the direction is: as the layer's states on `lens.directions`' text are long on average ("mean")
            or in the median ("median"), of length one ("unit"), or as the lens makes it ("raw").
        folded: whether the final norm's gain is in the direction, as it is in what the lens reads.
        centred: whether the mean over the vocabulary is taken off, which the softmax does not see.

    Source: activation addition (Turner et al., 2023) along the vectors of Gurnee et al. (2026), "Verbalizable
    Representations Form a Global Workspace in Language Models".

    >>> model.generate("My favourite city is", edits=[lk.Steer(lens, " Rome", layers=range(12, 24), strength=0.1)])
    ... # doctest: +SKIP
    """

    concept: InitVar[Concept | None] = None
    _: KW_ONLY
    scale: InitVar[DirectionScale] = "mean"
    folded: InitVar[bool] = True
    centred: InitVar[bool] = True

    def __post_init__(self, concept: Concept | None, scale: DirectionScale, folded: bool, centred: bool) -> None:
        self._settle([] if concept is None else [concept], scale, folded, centred)
        _check_count(self, 1, "one concept")

    def new(self, part: Tensor, at: At) -> Tensor:
        return part + self.strength * self._vectors(part, at)[0]


@dataclass(frozen=True, eq=False, repr=False)
class Swap(Along):
    """Exchange how much of two words a state holds, in the coordinates that a lens gives: `h + V (s(c) - c)`.

    `c = pinv(V) h` are the coordinates of a state along the two directions, `s` exchanges them. By default the
    coordinates are **clamped** to those of the clean run (the same text without any edit, one more forward): each layer
    is set to what was there, exchanged. With `clamped=False` they are read from the edited forward itself, where each
    layer undoes what the one before has done.

    While generating, the clean run is one of the whole text so far, new tokens included; so each step does what a run
    of that text does, and costs one more forward. `steps=0` edits the prompt only.

    Args:
        along: a lens, or `DirectionsByLayer` of two concepts.
        source, target: the two, each a token or several, of whose directions the mean is taken. It does not matter
            which is which.
        strength: how far to go from the clean coordinates: 0 not at all, 1 to the exchanged ones, 2 as far again.
        clamped: whether coordinates are those of the clean run.
        scale: how long the directions are: "raw" as the lens makes them, or "unit".
        folded, centred: as in `Steer`.

    Warns of directions that are nearly parallel (cosine above .99) and raises `ValueError` above .999. Source: Gurnee
    et al. (2026); clamping as in TransformerLens's `swap_clamp_hooks`.

    >>> model.run("The capital of France is", edits=[lk.Swap(lens, " France", " Germany", layers=range(12, 24))])
    ... # doctest: +SKIP
    """

    source: InitVar[Concept | None] = None
    target: InitVar[Concept | None] = None
    _: KW_ONLY
    clamped: bool = True
    scale: InitVar[DirectionScale] = "raw"
    folded: InitVar[bool] = True
    centred: InitVar[bool] = True

    def __post_init__(
        self, source: Concept | None, target: Concept | None, scale: DirectionScale, folded: bool, centred: bool
    ) -> None:
        self._settle([each for each in (source, target) if each is not None], scale, folded, centred)
        _check_count(self, 2, "two concepts")
        self.directions.check_apart()
        inverse = {layer: torch.linalg.pinv(v.cpu().double()).float() for layer, v in self.directions.vectors.items()}
        object.__setattr__(self, "_inverse", inverse)

    @property
    def recalls(self) -> bool:
        """Whether it looks back at the clean run."""
        return self.clamped

    def new(self, part: Tensor, at: At) -> Tensor:
        vectors = self._vectors(part, at)
        inverse: Tensor = self._inverse[at.site.layer].to(vectors)  # pyright: ignore[reportAttributeAccessIssue]
        live = part.to(vectors.dtype) @ inverse
        before = live if at.clean is None else at.clean.to(vectors.dtype) @ inverse
        after = before + self.strength * (before.flip(-1) - before)
        return part + (after - live) @ vectors


@dataclass(frozen=True, eq=False, repr=False)
class Ablate(Along):
    """Take out what a state holds along the directions of some words: `h - (h u) u` for one, their span for several.

    Args:
        along: a lens, or `DirectionsByLayer`.
        concepts: a token, or a list of concepts, each a token or several, of whose directions the mean is taken.
        strength: 1 leaves nothing along the directions, 2 turns it round.
        folded, centred: as in `Steer`.

    Source: directional ablation (Arditi et al., 2024) along the vectors of Gurnee et al. (2026).

    >>> model.run("The capital of France is", edits=[lk.Ablate(lens, " France", layers=range(12, 24))])
    ... # doctest: +SKIP
    """

    concepts: InitVar[Concept | Sequence[Concept] | None] = None
    _: KW_ONLY
    folded: InitVar[bool] = True
    centred: InitVar[bool] = True

    def __post_init__(self, concepts: Any, folded: bool, centred: bool) -> None:
        asked = [concepts] if isinstance(concepts, str | int) else list(concepts or [])
        self._settle(asked, "raw", folded, centred)
        if len(self.directions.concepts) > self.directions.d_model:
            raise ValueError(f"{self!r}: so many directions span all there is.")
        bases = dict[int, Tensor]()
        for layer, v in self.directions.vectors.items():
            _, sizes, basis = torch.linalg.svd(v.cpu().double(), full_matrices=False)
            bases[layer] = basis[sizes > 1e-7 * sizes.max()].float()
        object.__setattr__(self, "_bases", bases)

    def new(self, part: Tensor, at: At) -> Tensor:
        vectors = self._vectors(part, at)
        basis: Tensor = self._bases[at.site.layer].to(vectors)  # pyright: ignore[reportAttributeAccessIssue]
        return part - self.strength * (part.to(vectors.dtype) @ basis.T @ basis)


def _check_count(edit: Along, count: int, what: str) -> None:
    if len(edit.directions.concepts) != count:
        there = len(edit.directions.concepts)
        raise ValueError(f"{type(edit).__name__} acts along {what}, and these are {there}: {edit.directions!r}.")


def _indices(layers: Which, given: DirectionsByLayer) -> list[int]:
    """The layers that are meant, of those for which there are directions."""
    if isinstance(layers, slice):
        return [layer for layer in given.layers if layer in range(max(given.layers) + 1)[layers]]
    return [layers] if isinstance(layers, int) else list(layers or ())
