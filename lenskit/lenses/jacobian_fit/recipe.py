"""Recipe: what a fit takes derivatives of and by, and over which positions; and which passages it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lenskit.data import Chunks
from lenskit.lenses.jacobian_files.stored import SOURCES, Target
from lenskit.models.corpus import Texts, chunks_of
from lenskit.models.model import Model


class Place(NamedTuple):
    """Where derivatives are taken by: a source, such as `resid_post`, in a layer."""

    source: str
    layer: int

    def __str__(self) -> str:
        return f"{self.source}.{self.layer}"


@dataclass(frozen=True)
class Recipe:
    """All that decides what a passage gives.

    Attributes:
        places: by what derivatives are taken.
        target: of which residual: the last block's output, or that of the block before.
        target_layer: the layer whose output that is.
        skip_first: positions left out at the beginning, as sources and as targets.
        chunk: tokens of a passage.
        probes: random probes instead of every row; None for the exact fit.
        seed: of the probes.
    """

    places: tuple[Place, ...]
    target: Target
    target_layer: int
    skip_first: int
    chunk: int
    probes: int | None = None
    seed: int = 0

    @classmethod
    def of(
        cls,
        model: Model,
        chunks: Chunks,
        target: Target,
        sources: Sequence[str],
        layers: Sequence[int] | None,
        skip_first: int,
        probes: int | None = None,
        seed: int = 0,
    ) -> Recipe:
        """The recipe of what a person asks for. Raises `ValueError` and `SiteUnavailable` for what is not there."""
        last = target_layer_of(model, target)
        places = chosen_places(model, layers, sources, last)
        return cls(places, target, last, skip_first, chunks.ids.shape[1], probes, seed)

    def __post_init__(self) -> None:
        if self.skip_first < 0 or self.skip_first + 2 > self.chunk:
            raise ValueError(
                f"passages of {self.chunk} tokens have no position left after skip_first={self.skip_first} and without "
                f"the last: skip fewer, or take longer passages."
            )
        if self.probes is not None and self.probes < 1:
            raise ValueError(f"probes={self.probes}: draw at least one.")

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        layers = dict[str, list[int]]()
        for source, layer in self.places:
            layers.setdefault(source, []).append(layer)
        return asdict(self) | {"places": layers}

    def differs(self, other: Mapping[str, Any]) -> str:
        """In what `as_dict` of another recipe differs, in words."""
        mine = self.as_dict()
        wrong = [name for name in mine if name not in other or other[name] != mine[name]]
        return ", ".join(f"{name}={other.get(name)!r} and not {mine[name]!r}" for name in wrong)


def target_layer_of(model: Model, target: Target) -> int:
    """The layer whose output is the target. Raises `ValueError` for another word, and where there is none."""
    if target not in ("final", "penultimate"):
        raise ValueError(f"target is 'final' or 'penultimate', not {target!r}.")
    layer = model.n_layers - (1 if target == "final" else 2)
    if layer < 0:
        raise ValueError(f"{model.name} has {model.n_layers} layers, and so no {target} residual.")
    return layer


def chosen_places(
    model: Model, layers: Sequence[int] | None, sources: Sequence[str], target_layer: int
) -> tuple[Place, ...]:
    """The places to fit, source by source in ascending layers.

    Raises `ValueError` for a source that is none and for a layer that has no matrix to fit, `SiteUnavailable` for a
    source that the model does not have.
    """
    if isinstance(sources, str) or not sources or any(source not in SOURCES for source in sources):
        raise ValueError(f"sources={sources!r}: choose some of {', '.join(map(repr, SOURCES))}, as a list.")
    places = list[Place]()
    for source in dict.fromkeys(sources):
        # The target's own residual is the identity; what its block adds goes through what comes after in the block.
        there = range(target_layer + (source not in ("resid_post", "mlp_out")))
        wanted = list(there) if layers is None else sorted(set(layers))
        if not wanted or not all(layer in there for layer in wanted):
            raise ValueError(
                f"layers={wanted}: the matrices of {source} are those of layers {_range(there)}, since the residual "
                f"after layer {target_layer} is the target itself. Choose some of them, or None."
            )
        for layer in wanted:
            model.anatomy.spots(source, (layer,))  # raises where it is not there
            places.append(Place(source, layer))
    return tuple(places)


def _range(layers: range) -> str:
    return f"0 to {layers.stop - 1}" if len(layers) else "(none)"


def passages_of(model: Model, texts: Texts, chunk: int, passages: int | None) -> Chunks:
    """The passages in the order in which they are fitted, no more than so many.

    Of texts that are all there they come from all over them, in an order that is drawn once and for all: asking for
    more passages adds to those there were. Passages given as (chunk, pos) ids, and those of a stream, stay in order.
    """
    as_given = isinstance(texts, Chunks) or (isinstance(texts, Tensor) and texts.dim() == 2)
    there = as_given or isinstance(texts, str | list | tuple | Tensor)
    chunks = chunks_of(model, texts, chunk, None if there or passages is None else passages * chunk)
    ids = chunks.ids
    if there and not as_given:
        ids = ids[torch.randperm(len(ids), generator=torch.Generator().manual_seed(0))]
    return Chunks(ids[:passages], chunks.bytes_per_token)
