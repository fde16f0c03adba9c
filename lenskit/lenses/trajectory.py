"""Trajectory: what a lens reads at each layer and position, as plain arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lenskit.lenses.statistic import STATISTICS, Statistic
from lenskit.models.text import Piece, show

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lenskit.lenses.counting import Counts
    from lenskit.lenses.readout import Columns

Which = int | slice | Sequence[int]


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Top-k and statistics of a lens at every layer and position. All arrays are (layer, pos, ...), in nats.

    The last row is the model's own prediction: for `resid_post` it is the last layer's, for other sites one more.
    `traj[5:20, -8:]` is the part of it in these rows and positions, `traj[::2]` every other row.

    Attributes:
        ids: (pos,) the prompt's token ids.
        site: the site that was read in each layer.
        top_ids, top_probs: (layer, pos, k), the likeliest first.
        entropy: of the layer's prediction.
        kl: KL(final || layer), from the model's final prediction to the layer's.
        target_ids: (pos,) the target at each position.
        target_log_prob: its log-probability.
        rank: how many tokens the layer holds likelier than the target; 0 is first.
        pieces: the text of each token that occurs, by id; bytes where it is not valid UTF-8 by itself.
        provenance: model, revision, lens, dtype, device, attention, edits, versions.
        layers: (layer,) the number of each row; `final` is that of the model's own prediction.
        positions: (pos,) the position of each column in the prompt.
        loss: the cross-entropy of the token that follows in the prompt, NaN where none does; None while one types.
        versus_ids, versus_log_prob: of the second target, where one was given.
        log_prob_difference_change: by how much the difference of the two grows from the row before; NaN in the first.
    """

    ids: np.ndarray
    site: str
    top_ids: np.ndarray
    top_probs: np.ndarray
    entropy: np.ndarray
    kl: np.ndarray
    target_ids: np.ndarray
    target_log_prob: np.ndarray
    rank: np.ndarray
    pieces: Mapping[int, Piece] = field(repr=False)
    provenance: Mapping[str, Any] = field(repr=False)
    layers: np.ndarray
    positions: np.ndarray
    final: int
    loss: np.ndarray | None = None
    versus_ids: np.ndarray | None = None
    versus_log_prob: np.ndarray | None = None
    log_prob_difference_change: np.ndarray | None = None

    @classmethod
    def of(
        cls,
        columns: Columns,
        ids: Sequence[int],
        pieces: Mapping[int, Piece],
        site: str,
        provenance: Mapping[str, Any],
        layers: Sequence[int] | None = None,
    ) -> Trajectory:
        """A trajectory of position-first columns; `layers` are its rows' numbers, by default counted from 0."""
        rows = columns.entropy.shape[1]
        numbers = list(range(rows)) if layers is None else list(layers)
        versus, change = columns.versus_log_prob, None
        if versus is not None:
            difference = _difference(columns.target_log_prob, versus).T
            before = np.concatenate([np.full_like(difference[:1], np.nan), difference[:-1]])
            change = _difference(difference, before)
        return cls(
            ids=_frozen(np.asarray(ids, dtype=np.int32)),
            site=site,
            top_ids=_frozen(columns.top_ids.swapaxes(0, 1)),
            top_probs=_frozen(columns.top_probs.swapaxes(0, 1)),
            entropy=_frozen(columns.entropy.T),
            kl=_frozen(columns.kl.T),
            target_ids=_frozen(columns.target_ids),
            target_log_prob=_frozen(columns.target_log_prob.T),
            rank=_frozen(columns.target_rank.T),
            pieces=pieces,
            provenance=provenance,
            layers=_frozen(np.asarray(numbers)),
            positions=_frozen(np.arange(len(ids))),
            final=numbers[-1],
            loss=None if columns.following_log_prob is None else _frozen(-columns.following_log_prob.T),
            versus_ids=None if columns.versus_ids is None else _frozen(columns.versus_ids),
            versus_log_prob=None if versus is None else _frozen(versus.T),
            log_prob_difference_change=None if change is None else _frozen(change),
        )

    def __getitem__(self, which: Which | tuple[Which, Which]) -> Trajectory:
        """The part in these rows, or rows and positions: indices, lists or slices; both axes stay."""
        rows, columns = which if isinstance(which, tuple) and len(which) == 2 else (which, slice(None))
        layer = np.atleast_1d(np.arange(self.shape[0])[_index(rows)])  # raises IndexError
        pos = np.atleast_1d(np.arange(self.shape[1])[_index(columns)])
        if not layer.size or not pos.size:
            raise IndexError(f"nothing is left of {self.shape[0]} rows and {self.shape[1]} positions.")
        changed = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name in ("ids", "target_ids", "versus_ids", "positions"):
                changed[each.name] = None if value is None else _frozen(value[pos])
            elif each.name == "layers":
                changed[each.name] = _frozen(value[layer])
            elif isinstance(value, np.ndarray):
                changed[each.name] = _frozen(value[np.ix_(layer, pos)])
        return replace(self, **changed)

    def stride(self, every: int) -> Trajectory:
        """Every so many rows, counted back from the last, which is always among them."""
        if every < 1:
            raise ValueError(f"a stride is at least 1, not {every}.")
        return self[np.arange(self.shape[0] - 1, -1, -every)[::-1].tolist()]

    @property
    def shape(self) -> tuple[int, int]:
        """(layers, positions)."""
        layers, positions = self.entropy.shape
        return layers, positions

    @property
    def layer_names(self) -> list[str]:
        """What to call each row: the layer's number; `final` where the model's own prediction is a row of its own."""
        own = self.final if self.site != "resid_post" else None
        return ["final" if layer == own else str(layer) for layer in self.layers.tolist()]

    @property
    def probability(self) -> np.ndarray:
        """(layer, pos) probability of each cell's top token."""
        return self.top_probs[..., 0]

    @property
    def target_probability(self) -> np.ndarray:
        """(layer, pos) probability of the target."""
        return np.exp(self.target_log_prob)

    @property
    def cross_entropy(self) -> np.ndarray:
        """(layer, pos) cross-entropy of the target: minus its log-probability."""
        return -self.target_log_prob

    @property
    def log_prob_difference(self) -> np.ndarray | None:
        """(layer, pos) log-probability of the target less that of `versus`, where one was given."""
        return None if self.versus_log_prob is None else _difference(self.target_log_prob, self.versus_log_prob)

    @property
    def prompt_tokens(self) -> list[str]:
        """The text of the prompt's tokens, as it is."""
        return [self._text(i) for i in self.ids.tolist()]

    @property
    def targets(self) -> list[str]:
        """The text of the target at each position."""
        return [self._text(i) for i in self.target_ids.tolist()]

    def tokens(self, layer: int, pos: int) -> list[str]:
        """The top-k tokens of one cell, likeliest first, their text as it is (`" Paris"`, not `"·Paris"`)."""
        layers, positions = self.shape
        if not -layers <= layer < layers or not -positions <= pos < positions:
            raise IndexError(
                f"layer {layer}, position {pos} does not exist: there are layers 0 to {layers - 1} and positions 0 to "
                f"{positions - 1}."
            )
        return [self._text(i) for i in self.top_ids[layer, pos].tolist()]

    def statistic(self, name: Statistic) -> np.ndarray:
        """(layer, pos) values of a statistic by its name. Raises ValueError for one that is none or was not read."""
        if name not in STATISTICS:
            raise ValueError(f"{name!r} is not a statistic. Statistics are: {', '.join(STATISTICS)}.")
        values = getattr(self, name)
        if values is None:
            how = "a live reading has no next token yet" if name == "loss" else "read again with versus="
            raise ValueError(f"{name!r} was not read: {how}.")
        return values

    @property
    def statistics(self) -> list[Statistic]:
        """The statistics that were read."""
        return [name for name in STATISTICS if getattr(self, name) is not None]  # pyright: ignore[reportReturnType]

    def to_pandas(self) -> pd.DataFrame:
        """One row for each layer and position, with every statistic that was read and the top token."""
        import pandas as pd

        layer, pos = (grid.ravel() for grid in np.indices(self.shape))
        prompt, targets = self.prompt_tokens, self.targets
        values = {name: self.statistic(name).ravel() for name in self.statistics}
        numbers = {name: x if name == "rank" else x.astype(np.float64) for name, x in values.items()}
        return pd.DataFrame(
            {
                "layer": self.layers[layer],
                "pos": self.positions[pos],
                "token": [prompt[p] for p in pos],
                "top_token": [self._text(i) for i in self.top_ids[..., 0].ravel().tolist()],
                "target": [targets[p] for p in pos],
                **numbers,
            }
        )

    def figure(self, *statistics: Statistic, clip: tuple[float, float] | None = None) -> go.Figure:
        """A plotly heat map of each statistic, each cell with its top token and, on hover, its top-k.

        Several statistics are panels of one figure; none stands for "probability". Beyond `clip`, colours stay as they
        are at its ends. Raises what `statistic` raises.

        >>> lens.read("The capital of France is").figure("entropy", "kl").show()  # doctest: +SKIP
        """
        from lenskit.lenses.picture import drawn, panel

        return drawn([panel(self, name, clip=clip) for name in statistics or ("probability",)])

    def rank_picture(self) -> go.Figure:
        """A plotly picture of the target's rank in every cell: its number, coloured by its logarithm, first is framed.

        Read with `target=" Paris"` for the rank of one token everywhere; without a target it is, at each position, the
        rank of what the model itself finally says.
        Source: the rank heat map of the Jacobian lens's published slices.

        >>> lens.read("The capital of France is", target=" Paris").rank_picture().show()  # doctest: +SKIP
        """
        from lenskit.lenses.rank_picture import rank_picture

        return rank_picture(self)

    def counts(self, *, layers: Which = slice(None), pos: Which = slice(None), top: int = 8) -> Counts:
        """Count what is read in a region: which words does this passage hold at these layers?

        Args:
            layers, pos: the rows and positions of the region, as in `traj[layers, pos]`; all by default.
            top: how many of each cell's likeliest tokens count.

        Raises `ValueError` for a `top` of which the cells hold fewer, and `IndexError` for an empty region.
        Source: the counts beside Neuronpedia's Jacobian-lens transcripts (top 8 over chosen layers and positions).

        >>> lens.read("She put the cake in the oven", words=True).counts(layers=slice(15, 23))  # doctest: +SKIP
        """
        from lenskit.lenses.counting import counted

        return counted(self, layers, pos, top)

    def _text(self, token: int) -> str:
        piece = self.pieces[token]
        return piece if isinstance(piece, str) else show(piece)

    def _repr_html_(self) -> str:
        from lenskit.lenses.table import html_table

        return html_table(self)

    def __repr__(self) -> str:
        layers, positions = self.shape
        lens, model = self.provenance["lens"], self.provenance["model"]
        text = show("".join(p if isinstance(p, str) else "�" for p in map(self.pieces.__getitem__, self.ids.tolist())))
        short = text if len(text) <= 40 else f"{text[:39]}…"
        says = show(self.pieces[int(self.top_ids[-1, -1, 0])])
        return f"Trajectory({lens} lens, {layers} layers x {positions} tokens of {model}: {short!r} -> {says!r})"


def _difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # of two tokens that are both left out, there is none
        return a - b


def _index(which: Which) -> Any:
    return which if isinstance(which, int | slice) else np.asarray(which, dtype=np.int64)


def _frozen(array: np.ndarray) -> np.ndarray:
    array = array.view()
    array.flags.writeable = False
    return array
