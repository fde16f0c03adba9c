"""Between: how far apart two trajectories are, measured on whole distributions, streamed over the vocabulary."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lenskit.lenses.product import NATS, NEVER, TILE_ROWS, Given, Product, Scores, blocks_of, log_mass_in_steps
from lenskit.lenses.reading import carry, numbers_of, one_row, read, rows_of
from lenskit.lenses.statistic import BETWEEN
from lenskit.lenses.trajectory import Trajectory, Which
from lenskit.models.batch import Prompt
from lenskit.models.run import Run
from lenskit.models.sites import Site
from lenskit.models.steps import finish
from lenskit.models.text import Piece

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lenskit.lenses.lens import Lens


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two trajectories, cell by cell: arrays are (layer, pos), divergences in nats.

    Attributes:
        first, second: the trajectories.
        kl: KL(first || second).
        js: the Jensen-Shannon divergence, half of both KLs to the mean of the two; at most log 2.
        total_variation: half the sum of all changes of a probability; from 0 to 1.
        largest_change: the change, second less first, of the token whose probability changes most.
        changed_ids: that token.
        pieces: the text of each of those tokens, by id.
    """

    first: Trajectory
    second: Trajectory
    kl: np.ndarray
    js: np.ndarray
    total_variation: np.ndarray
    largest_change: np.ndarray
    changed_ids: np.ndarray
    pieces: Mapping[int, Piece] = field(repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        """(layers, positions)."""
        return self.first.shape

    @property
    def js_distance(self) -> np.ndarray:
        """(layer, pos) the square root of the Jensen-Shannon divergence, which is a distance."""
        return np.sqrt(self.js)

    def statistic(self, name: str) -> np.ndarray:
        """(layer, pos) values of a statistic by its name. Raises ValueError for a name that is none."""
        if name not in BETWEEN:
            raise ValueError(f"{name!r} is not a statistic between two trajectories: {', '.join(BETWEEN)} are.")
        return getattr(self, name)

    def __getitem__(self, which: Which | tuple[Which, Which]) -> Comparison:
        """The part in these rows, or rows and positions, as of a trajectory."""
        first, second = self.first[which], self.second[which]
        layer = _places(self.first.layers, first.layers)
        pos = _places(self.first.positions, first.positions)
        arrays = {f.name: getattr(self, f.name) for f in fields(self) if isinstance(getattr(self, f.name), np.ndarray)}
        cut = {name: array[np.ix_(layer, pos)] for name, array in arrays.items()}
        return replace(self, first=first, second=second, **cut)

    def to_pandas(self) -> pd.DataFrame:
        """One row for each layer and position, with every statistic and what each of the two says."""
        import pandas as pd

        first, second = self.first.to_pandas(), self.second.to_pandas()
        same = {name: first[name] for name in ("layer", "pos", "token")}
        says = {"first": first["top_token"], "second": second["top_token"]}
        values = {name: self.statistic(name).ravel().astype(np.float64) for name in BETWEEN}
        return pd.DataFrame({**same, **says, **values})

    def figure(self, *statistics: str, clip: tuple[float, float] | None = None) -> go.Figure:
        """A plotly heat map of each statistic, in one figure: Jensen-Shannon by default.

        A cell shows what the second says; over it is shown what both say.
        """
        from lenskit.lenses.picture import drawn
        from lenskit.lenses.picture_between import panel_between

        return drawn([panel_between(self, name, clip) for name in statistics or ("js",)])

    def __repr__(self) -> str:
        layers, positions = self.shape
        a, b = (each.provenance["lens"] for each in (self.first, self.second))
        return f"Comparison({a} and {b} lens, {layers} layers x {positions} tokens, mean JS {self.js.mean():.3f} nats)"


def _places(whole: np.ndarray, part: np.ndarray) -> list[int]:
    there = {number: at for at, number in enumerate(whole.tolist())}
    return [there[number] for number in part.tolist()]


def compare(
    first: Lens,
    prompt: Prompt | Run,
    second: Lens | None = None,
    other: Prompt | Run | None = None,
    *,
    top_k: int = 10,
    site: str | None = None,
    mask_input: bool = False,
) -> Comparison:
    """Compare two lenses on one prompt, or two prompts of one length, position by position.

    Args:
        first, prompt: one side.
        second, other: the other side; by default the same lens, or the same prompt.
        top_k: how many tokens of each side to keep.
        site: what both read in each layer. By default the lenses' own; where these differ, `resid_pre`, so that the
            same states are compared.
        mask_input: leave each prompt's own tokens out of its predictions.

    Memory: both runs' own and two tiles. Raises what `read` raises, and `ValueError` for sides of different shape.
    Source: the comparisons of tuned-lens (`kl_divergence`, `js_divergence`, `total_variation`, `max_prob_diff`).

    >>> lk.compare(logit, "The capital of France is", tuned).figure("js").show()  # doctest: +SKIP
    """
    second = first if second is None else second
    if second is first and other is None:
        raise TypeError("compare two lenses, or two prompts: give second= or other=.")
    site = site or (first.site if first.site == second.site else "resid_pre")
    rows = rows_both_read(first, second, site)
    runs = [
        given if isinstance(given, Run) else lens.model.run(given, keep=site)
        for lens, given in ((first, prompt), (second, prompt if other is None else other))
    ]
    lenses = (first, second)
    sides = [Side.of(lens, run, rows, mask_input) for lens, run in zip(lenses, runs, strict=True)]
    found = finish(measured(*sides))
    wholes = (
        read(lens, run, top_k=top_k, site=site, mask_input=mask_input) for lens, run in zip(lenses, runs, strict=True)
    )
    a, b = (_at(whole, numbers_of(rows, first.model)) for whole in wholes)
    ids = sorted(set(found["changed_ids"].ravel().tolist()))
    pieces = dict(zip(ids, first.model.text.pieces(ids), strict=True))
    for array in found.values():
        array.flags.writeable = False
    return Comparison(a, b, **found, pieces=pieces)


def rows_both_read(first: Lens, second: Lens, site: str) -> list[Site]:
    """Those of `rows_of` that both lenses have at a site; the last, the model's own prediction, is always there."""
    there = set(rows_of(second, site))
    return [row for row in rows_of(first, site) if row in there]


def _at(trajectory: Trajectory, layers: list[int]) -> Trajectory:
    there = _places(trajectory.layers, np.asarray(layers))
    return trajectory if there == list(range(trajectory.shape[0])) else trajectory[there]


@dataclass(frozen=True)
class Side:
    """One side of a comparison: states carried to the final residual, and the model's own logits.

    Attributes:
        lens: the lens that carried them.
        carried: (row, pos, d_model), all rows but the last.
        logits: (pos, vocab), the model's own: the last row.
        exclude: ids of tokens that are left out of every prediction.
    """

    lens: Lens
    carried: Tensor
    logits: Tensor
    exclude: Tensor | None = None

    @classmethod
    def of(cls, lens: Lens, run: Run, rows: Sequence[Site], mask_input: bool = False) -> Side:
        """The side of a run of one prompt that kept the site of these rows, which are some of the lens's own."""
        site = rows[0].name if len(rows) > 1 else None
        states, logits, tokens = one_row(run, lens, None, site)
        every = [each.layer for each in rows_of(lens, site)[:-1]]
        states = states[[every.index(each.layer) for each in rows[:-1]]]
        return cls.at(lens, states, logits, rows, tokens.unique().to(logits.device) if mask_input else None)

    @classmethod
    def at(
        cls, lens: Lens, states: Tensor, logits: Tensor, rows: Sequence[Site], exclude: Tensor | None = None
    ) -> Side:
        """The side of states (row, pos, d_model) that were seen at these rows, of which the last is the model's own."""
        with torch.no_grad():
            return cls(lens, carry(lens, states, rows[:-1]), logits, exclude)

    def scores(self, chunk: slice) -> Iterator[Scores]:
        """Of some positions: first those of all rows but the last, (pos * row), then the model's own."""
        rows = self.carried[:, chunk].transpose(0, 1).flatten(0, 1)
        tail = self.lens.model.anatomy.tail
        if len(rows):
            yield Product(tail, tail.normed(rows), self.exclude)
        yield Given(self.logits[chunk], self.exclude)


def measured(a: Side, b: Side) -> Generator[float, None, dict[str, np.ndarray]]:
    """Every statistic between two sides as (layer, pos), by its name in `Comparison`.

    Yields the share done after each tile. Raises `ValueError` for sides of different shape.
    """
    shapes = [(len(side.carried) + 1, *side.logits.shape) for side in (a, b)]
    if shapes[0] != shapes[1]:
        (rows, tokens, vocab), (d, e, f) = shapes
        raise ValueError(
            f"{rows} rows x {tokens} tokens over a vocabulary of {vocab:,} cannot be compared with {d} x {e} over "
            f"{f:,}: the two sides must have the same shape."
        )
    layers, (length, vocab) = len(a.carried), a.logits.shape
    per_chunk = max(1, TILE_ROWS // max(1, layers))
    parts: list[dict[str, Tensor]] = []
    for start in range(0, length, per_chunk):
        chunk = slice(start, min(start + per_chunk, length))
        steps = _chunk(a, b, chunk, blocks_of(a.lens.model.anatomy.tail.head, vocab, (chunk.stop - start) * layers))
        while True:
            # A generator would leave gradients switched off for whoever runs between two tiles.
            with torch.no_grad():
                try:
                    share = next(steps)
                except StopIteration as done:
                    parts.append(done.value)
                    break
            yield (start + share * (chunk.stop - start)) / length
    whole = {name: torch.cat([part[name] for part in parts]).T for name in parts[0]}
    return {name: np.ascontiguousarray(x.cpu().numpy()) for name, x in whole.items()}


def _chunk(a: Side, b: Side, chunk: slice, blocks: list[slice]) -> Generator[float, None, dict[str, Tensor]]:
    """Every statistic of some positions as (pos, row)."""
    found = []
    # The model's own row is one of very many: the others' share is all that is told.
    for x, y in zip(a.scores(chunk), b.scores(chunk), strict=True):
        share = 0.0 if not found else 1.0
        steps = _between(x, y, blocks)
        while True:
            try:
                share = max(share, next(steps))
            except StopIteration as done:
                found.append(done.value)
                break
            yield share
    count = chunk.stop - chunk.start
    return {name: torch.cat([each[name].view(count, -1) for each in found], 1) for name in found[0]}


def _between(a: Scores, b: Scores, blocks: list[slice]) -> Generator[float, None, dict[str, Tensor]]:
    """The statistics between rows of `a` and of `b`, over two passes of the vocabulary: first the masses, then all."""
    mass_a = yield from _quarter(0, log_mass_in_steps(a, blocks))
    mass_b = yield from _quarter(1, log_mass_in_steps(b, blocks))
    kl, js, variation = (torch.zeros_like(mass_a) for _ in range(3))
    change, changed = torch.zeros_like(mass_a), torch.zeros_like(mass_a, dtype=torch.int64)
    for n, block in enumerate(blocks):
        # Relative to the mass in their own dtype: what is lost by that is lost of large negative numbers only.
        x = _relative(a.block(block), mass_a)
        y = _relative(b.block(block), mass_b)
        p, q = torch.exp2(x), torch.exp2(y)
        kl += (p * (x - y)).sum(-1)
        # Where both have underflowed, nothing times a finite logarithm is nothing.
        middle = torch.log2(((p + q) / 2).clamp_min(torch.finfo(p.dtype).tiny))
        js += (p * (x - middle) + q * (y - middle)).sum(-1) / 2
        q -= p
        variation += q.abs().sum(-1) / 2
        most, at = q.abs().max(-1)
        larger = most > change.abs()
        change = torch.where(larger, q.gather(1, at[:, None])[:, 0].double(), change)
        changed = torch.where(larger, at + block.start, changed)
        yield 0.5 + (n + 1) / len(blocks) / 2
    return {
        # A token that only the second may never say makes it infinite.
        "kl": (kl * NATS).clamp_min(0).masked_fill(kl > -NEVER * 1e-20, torch.inf).float(),
        "js": (js * NATS).clamp_min(0).float(),
        "total_variation": variation.clamp(0, 1).float(),
        "largest_change": change.float(),
        "changed_ids": changed.int(),
    }


def _quarter(which: int, steps: Generator[float, None, Tensor]) -> Generator[float, None, Tensor]:
    while True:
        try:
            share = next(steps)
        except StopIteration as done:
            return done.value
        yield (which + share) / 4


def _relative(tile: Tensor, mass: Tensor) -> Tensor:
    high = mass.to(tile.dtype)
    return tile.sub_(high[:, None]).sub_((mass - high.double()).to(tile.dtype)[:, None])
