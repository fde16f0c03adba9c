"""Readings: the trajectories of several prompts, and their averages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lenskit.lenses.reading import Target, read
from lenskit.lenses.statistic import SIGNED, STATISTICS, Statistic
from lenskit.lenses.trajectory import Trajectory, Which
from lenskit.models.batch import Prompt
from lenskit.models.run import Run
from lenskit.models.text import show

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lenskit.lenses.lens import Lens
    from lenskit.lenses.picture import Panel


@dataclass(frozen=True, eq=False)
class Readings:
    """The trajectories of the rows of a batch: `readings[0]` is one, `readings.mean("kl")` their average.

    rows: one trajectory for each prompt, each without its padding.
    """

    rows: tuple[Trajectory, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Trajectory]:
        return iter(self.rows)

    def __getitem__(self, row: int) -> Trajectory:
        return self.rows[row]

    def part(self, which: Which | tuple[Which, Which]) -> Readings:
        """The same rows and positions of every trajectory, as `traj[...]` gives them."""
        return Readings(tuple(each[which] for each in self.rows))

    def mean(self, statistic: Statistic) -> np.ndarray:
        """(layer, pos) the average over the prompts that have this position, counted from the first; NaN left out."""
        total, count = self._sums(statistic)
        return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)

    def by_layer(self, statistic: Statistic) -> np.ndarray:
        """(layer,) the average over every token of every prompt; NaN left out."""
        total, count = (each.sum(1) for each in self._sums(statistic))
        return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)

    def _sums(self, statistic: Statistic) -> tuple[np.ndarray, np.ndarray]:
        """(layer, pos) sums and counts, in float64."""
        longest = max(each.shape[1] for each in self.rows)
        total = np.zeros((self.rows[0].shape[0], longest))
        count = np.zeros_like(total)
        for each in self.rows:
            values = np.asarray(each.statistic(statistic), dtype=np.float64)
            there = ~np.isnan(values)
            total[:, : values.shape[1]] += np.where(there, values, 0.0)
            count[:, : values.shape[1]] += there
        return total, count

    def to_pandas(self) -> pd.DataFrame:
        """The tables of all trajectories, with the prompt's number as `row`."""
        import pandas as pd

        tables = [each.to_pandas() for each in self.rows]
        for row, table in enumerate(tables):
            table.insert(0, "row", row)
        return pd.concat(tables, ignore_index=True)

    def figure(self, *statistics: Statistic, clip: tuple[float, float] | None = None) -> go.Figure:
        """A plotly heat map of the average of each statistic; over a cell, what every prompt says there.

        A column's head is the token that all prompts have there, or `*`.
        """
        from lenskit.lenses.picture import drawn

        return drawn([self._panel(name, clip) for name in statistics or ("probability",)])

    def _panel(self, statistic: Statistic, clip: tuple[float, float] | None) -> Panel:
        from lenskit.lenses.picture import Panel, scale_of

        first, values = self.rows[0], self.mean(statistic)
        layers, positions = values.shape
        return Panel(
            values=values,
            says=[[""] * positions for _ in range(layers)],
            hover=[[self._says(layer, pos) for pos in range(positions)] for layer in range(layers)],
            heads=[self._head(pos) for pos in range(positions)],
            names=first.layer_names,
            title=f"{first.provenance['lens']} lens, mean of {len(self)} prompts",
            legend=STATISTICS[statistic],
            scale=clip or scale_of(values, statistic),
            signed=statistic in SIGNED,
            downward=statistic == "rank",
            axis=f"layer ({first.site})",
        )

    def _head(self, pos: int) -> str:
        from lenskit.lenses.picture import plain

        ids = {int(each.ids[pos]): each for each in self.rows if pos < each.shape[1]}
        if len(ids) > 1:
            return "*"
        token, each = next(iter(ids.items()))
        return plain(show(each.pieces[token]))

    def _says(self, layer: int, pos: int) -> str:
        from lenskit.lenses.picture import plain

        lines = [f"layer {self.rows[0].layer_names[layer]}, position {pos}"]
        for row, each in enumerate(self.rows):
            if pos < each.shape[1]:
                ids, probs = each.top_ids[layer, pos, :3].tolist(), each.top_probs[layer, pos, :3].tolist()
                pairs = zip(ids, probs, strict=True)
                says = "  ".join(f"{plain(show(each.pieces[i]))} {p:.3f}" for i, p in pairs)
                lines.append(f"{row}: {says}")
        shown = lines[:13]
        return "<br>".join(shown if len(lines) == len(shown) else [*shown, f"and {len(lines) - len(shown)} more"])

    def __repr__(self) -> str:
        layers, lens = self.rows[0].shape[0], self.rows[0].provenance["lens"]
        tokens = sum(each.shape[1] for each in self.rows)
        return f"Readings({lens} lens, {len(self)} prompts, {layers} layers x {tokens} tokens in all)"


def read_all(
    lens: Lens,
    prompts: Prompt | Run,
    *,
    top_k: int = 10,
    target: Target = None,
    versus: Target = None,
    site: str | None = None,
    mask_input: bool = False,
    words: bool = False,
) -> Readings:
    """Read every prompt of a batch in one run, for averages over prompts; padding is never read.

    Arguments as for `lens.read`; a target is for every prompt, one token for all positions (or one for each, where
    all prompts have one length).

    >>> lk.read_all(lens, ["The capital of France is", "The capital of Spain is"]).mean("entropy")  # doctest: +SKIP
    """
    run = prompts if isinstance(prompts, Run) else lens.model.run(prompts, keep=site or lens.site)
    targets: dict[str, Target] = {"target": target, "versus": versus}
    return Readings(
        tuple(
            read(lens, run, row=row, top_k=top_k, site=site, mask_input=mask_input, words=words, **targets)
            for row in range(len(run.tokens))
        )
    )
