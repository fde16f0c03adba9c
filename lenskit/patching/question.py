"""Question: what a sweep asks of one pair of prompts, made definite: tokens, grid, metric, and what is put in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor

from lenskit.models.batch import Prompt
from lenskit.models.prefix import common_length
from lenskit.models.run import Run
from lenskit.models.sites import HEADED, axes_of
from lenskit.patching.align import Alignment, Pairs, alignment
from lenskit.patching.cells import Cell
from lenskit.patching.engine import Ends, Engine
from lenskit.patching.grid import NEURONS, Choice, Grid, Region, Sizes, check_over, grid_of, layers_of, windowed
from lenskit.patching.metrics import Function, Metric, as_metric
from lenskit.patching.sources import Here, Noised, Put, Source, Values, as_source, ended
from lenskit.patching.swept import Direction

if TYPE_CHECKING:
    from lenskit.models.model import Model


@dataclass(frozen=True, eq=False)
class Asked:
    """What is asked of every pair of prompts: the arguments of `sweep`, checked.

    Raises `ValueError`, `TypeError` and `SiteUnavailable` as `sweep` says.
    """

    model: Model
    site: str
    metric: Metric
    over: tuple[str, ...]
    direction: Direction
    source: Source | None
    choice: Choice
    align: Pairs | None

    @classmethod
    def of(
        cls,
        model: Model,
        site: str,
        metric: Metric | Callable[[Run], Any],
        over: Sequence[str],
        direction: Direction,
        source: Source | Literal["zero", "mean"] | None,
        choice: Choice,
        align: Pairs | None,
        has_corrupt: bool,
    ) -> Asked:
        """Check what can be checked before a prompt is read."""
        if direction not in ("denoise", "noise"):
            raise ValueError(f"direction={direction!r}: 'denoise' patches the corrupt prompt, 'noise' the clean one.")
        made = as_source(source)
        if made is None and not has_corrupt:
            raise TypeError(
                "a sweep puts one prompt's activations into another: give corrupt=; or what else to put in, "
                "source='zero', 'mean', Means(prompts), Resampled(prompts) or Noised(positions)."
            )
        if made is not None and align is not None:
            raise TypeError(
                "align= pairs the positions of two prompts, and this source takes none from another prompt."
            )
        if isinstance(made, Noised) and has_corrupt:
            raise TypeError("with Noised the corrupt prompt is the clean one with noise: leave corrupt= out.")
        if made is not None:  # an ablation happens in the clean prompt, a restoration in the one with noise
            direction = "denoise" if isinstance(made, Noised) else "noise"
        if choice.window < 1:
            raise ValueError(f"window={choice.window}: a cell patches at least one layer.")
        layers_of(model, site, choice.layers)
        return cls(model, site, as_metric(metric), check_over(site, over), direction, made, choice, align)

    @property
    def needed(self) -> list[int]:
        """The layers whose activations are put in, for all cells and windows."""
        existing, chosen = layers_of(self.model, self.site, self.choice.layers)
        return sorted({each for layer in chosen for each in windowed(layer, self.choice.window, existing)})


@dataclass(frozen=True, eq=False)
class Pair:
    """One pair of prompts as tokens.

    Attributes:
        base: the prompt that is patched, (1, pos).
        other: the other one, which is the source or only the measure; None where there is none.
        base_is_clean: which of the two is which.
        aligned: which positions belong together.
    """

    base: Tensor
    other: Tensor | None
    base_is_clean: bool
    aligned: Alignment

    @classmethod
    def of(cls, asked: Asked, clean: Prompt, corrupt: Prompt | None) -> Pair:
        """Read two prompts. Raises `PromptsDiffer` where they do not line up."""
        rows = [_one_row(asked.model, clean, "clean")]
        if corrupt is not None:
            rows.append(_one_row(asked.model, corrupt, "corrupt"))
        base_is_clean = asked.direction == "noise" or corrupt is None
        base, other = (rows[0], rows[-1]) if base_is_clean else (rows[-1], rows[0])
        ids = base[0].tolist()
        # A second prompt that only measures an ablation need not line up.
        partner = ids if asked.source is not None else other[0].tolist()
        aligned = alignment(ids, partner, asked.align, asked.model.text)
        if axes_of(asked.site).pos == 2 and not (aligned.is_plain and len(partner) == len(ids)):
            raise ValueError(
                f"{asked.site!r} has keys as well as queries, so it can be patched only between prompts of one length, "
                "position by position."
            )
        return cls(base, None if corrupt is None else other, base_is_clean, aligned)

    @property
    def ids(self) -> tuple[list[int], list[int]]:
        """The tokens of the patched prompt, and of the other one (of itself, where there is none)."""
        return self.base[0].tolist(), (self.base if self.other is None else self.other)[0].tolist()

    def read_in_other(self, metric: Metric, is_source: bool) -> list[int]:
        """Where the metric reads the other prompt: at the partner of where it reads the patched one, or at the end."""
        assert self.other is not None
        length = self.other.shape[1]
        if metric.pos < 0 or isinstance(metric, Function) or not is_source:
            return metric.read(length)
        partners = dict(self.aligned.pairs)
        if metric.pos not in partners:
            raise ValueError(f"{metric!r} reads position {metric.pos}, which has no partner in the other prompt.")
        return [partners[metric.pos]]


@dataclass(frozen=True, eq=False)
class Question:
    """A sweep over one pair of prompts, ready to be computed.

    Attributes:
        pair: the prompts.
        metric: bound to them.
        grid: the cells.
        put: what is put in.
        engine: what computes them.
        clean, corrupt: the metric on the two prompts; `corrupt` is None where there is none.
        other_ends: of the other prompt, where the metric reads it; None where there is none.
    """

    asked: Asked
    pair: Pair
    metric: Metric
    grid: Grid
    put: Put
    engine: Engine
    clean: float
    corrupt: float | None
    _differs: dict[int, np.ndarray] = field(repr=False)
    _first: int = 0
    other_ends: Ends | None = field(default=None, repr=False)

    @classmethod
    def of(cls, asked: Asked, pair: Pair) -> Question:
        """Run the prompts, as far as they are needed. Raises as `sweep` does."""
        model, read = asked.model, asked.metric.read(pair.base.shape[1])
        here = Here(model, pair.base, asked.site, asked.needed, read)
        engine = Engine(model, pair.base)
        ends, values, other_ends = engine.base(read), None, None
        if pair.other is not None:
            is_source = asked.source is None
            read_there = pair.read_in_other(asked.metric, is_source)
            run, other_ends = ended(model, pair.other, here.places if is_source else [], read_there)
            values = here.of(run) if is_source else None
        clean_ends = ends if pair.base_is_clean else other_ends
        assert clean_ends is not None
        metric = asked.metric.bound(model, pair.base, clean_ends)
        own = float(metric.of(model, ends)[0])
        other = None
        if pair.other is not None and other_ends is not None:
            other = float(metric.bound(model, pair.other, clean_ends).of(model, other_ends)[0])

        if asked.source is not None:
            put = asked.source.put(here)
        else:
            assert values is not None
            put = Put(({layer: _in_base_order(each, here, pair.aligned) for layer, each in values.items()},))
        if put.noised:
            other = float(np.mean([float(metric.of(model, each)[0]) for each in put.noised]))
        clean, corrupt = (own, other) if pair.base_is_clean else (other, own)
        assert clean is not None
        sizes = _sizes(asked.site, put.sheets[0])
        layers = layers_of(model, asked.site, asked.choice.layers)
        grid = grid_of(asked.site, asked.over, layers, sizes, pair.aligned, pair.ids, model.text, asked.choice)
        differs, first = _differing(here, put), _first(asked, pair, put)
        made = cls(asked, pair, metric, grid, put, engine, clean, corrupt, differs, first, other_ends)
        if put.noise:
            made._check_noise()
        return made

    @property
    def base(self) -> float:
        """The metric where nothing is patched."""
        return self.corrupt if self.corrupt is not None and self.asked.direction == "denoise" else self.clean

    def cell(self, number: int, draw: int = 0) -> Cell | None:
        """One draw of a cell, or None where it would put in what is there already, so that its effect is exactly 0."""
        if self.changes_nothing(number):
            return None
        region = self.grid.region(number)
        pos = {layer: self._changed(layer, region) for layer in region.layers}
        return self.put.cell(self.asked.site, region, pos, number, draw)

    def changes_nothing(self, number: int) -> bool:
        """Whether a cell puts in only what is there already."""
        region = self.grid.region(number)
        return not any(self._changed(layer, region) for layer in region.layers)

    def _changed(self, layer: int, region: Region) -> tuple[int, ...]:
        """The positions of a region at which a patch changes anything."""
        places = [p for p in region.pos if p >= self._first]
        if layer not in self._differs or not places:
            return tuple(places)
        differs: Any = self._differs[layer][places]
        if differs.ndim == 2:
            part = region.heads if region.heads is not None else region.neurons
            differs = (differs if part is None else differs[:, list(part)]).any(1)
        return tuple(p for p, changed in zip(places, differs, strict=True) if changed)

    def _check_noise(self) -> None:
        """Raise where the noise would not reach all that noise in the embedding reaches: not only the first block."""
        (chunk,) = [c for c in self.engine.run([Cell(self.put.noise[:1])], self._read) if c is not None]
        made, meant = (float(self.metric.of(self.asked.model, e)[0]) for e in (chunk.ends, self.put.noised[0]))
        if abs(made - meant) > _TOLERANCE * max(1.0, abs(meant)):
            raise ValueError(
                f"{self.asked.model.anatomy.family} uses its token embeddings in later blocks too, so noise in what "
                f"enters the first block is not noise in the embeddings ({made:.4f} and {meant:.4f}): not traced here."
            )

    @property
    def _read(self) -> list[int]:
        return self.metric.read(self.pair.base.shape[1])


# How far two ways of adding the same noise may be apart.
_TOLERANCE = 1e-3


def _one_row(model: Model, prompt: Prompt, which: str) -> Tensor:
    tokens = model.batch(prompt).tokens
    if len(tokens) != 1:
        raise ValueError(
            f"the {which} prompt holds {len(tokens)} rows: give pairs of prompts as two lists of one length."
        )
    return tokens


def _in_base_order(values: Tensor, here: Here, aligned: Alignment) -> Tensor:
    """The source's activations, each at its partner's position; what has no partner is not used."""
    if here.by_query or aligned.is_plain:
        return values if here.by_query else values[: aligned.length]
    made = values.new_zeros(aligned.length, *values.shape[1:])
    made[aligned.base] = values[aligned.source]
    return made


def _sizes(site: str, values: Values) -> Sizes:
    """How many heads and neurons a site has. Raises `ValueError` where layers differ in that."""

    def of(each: Tensor) -> Sizes:
        heads = 0 if site not in HEADED else each.shape[0 if axes_of(site).pos == 2 else 1]
        return Sizes(heads, each.shape[-1] if site in NEURONS else 0)

    found = {layer: of(each) for layer, each in values.items()}
    first = next(iter(found.values()))
    if differing := [layer for layer, sizes in found.items() if sizes != first]:
        alike = [layer for layer, sizes in found.items() if sizes == first]
        raise ValueError(f"{site!r} has another size in layer {differing[0]}: sweep layers={alike} by themselves.")
    return first


def _differing(here: Here, put: Put) -> dict[int, np.ndarray]:
    """For layers: at which positions (pos,), and of which heads or neurons (pos, part), a patch changes anything."""
    if put.seed is not None or put.noise:
        return {}
    made = dict[int, np.ndarray]()
    for layer, own in _compared(here).items():
        differs = put.sheets[0][layer] != own
        if here.by_query:
            differs = differs.any(-1).T
        elif here.site not in NEURONS:  # of a site with heads (pos, head), of a plain one (pos,)
            differs = differs.any(-1)
        made[layer] = differs.cpu().numpy()
    return made


def _compared(here: Here) -> Values:
    """The patched prompt's own activations where another prompt's may be the same: a forward of it all costs as much
    as many cells, so of most sites only the first layer's, which depend on little but the tokens."""
    known = "own" in vars(here) or here.site in NEURONS or bool(here.model.edits) or not here.model.anatomy.causal
    if known:
        return here.own
    if 0 not in here.layers:
        return {}
    where = (here.site, 0)
    return {0: here.model.run(here.tokens, keep=where, stop_at=where)[where][0]}


def _first(asked: Asked, pair: Pair, put: Put) -> int:
    """The first position at which the two runs can differ: before it nothing looks ahead."""
    if not asked.model.anatomy.causal or asked.model.edits:
        return 0
    if put.noise:
        return min(put.noise[0].pos)
    if asked.source is not None:
        return 0
    straight = next((i for i, (b, s) in enumerate(pair.aligned.pairs) if (b, s) != (i, i)), len(pair.aligned.pairs))
    return min(common_length(*pair.ids), straight)
