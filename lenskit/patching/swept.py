"""Sweep: what a metric becomes after each patch of a grid, as plain arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    import plotly.graph_objects as go

Direction = Literal["denoise", "noise"]


class Axis(NamedTuple):
    """One axis of a sweep.

    Attributes:
        name: "layer", "pos", "head", "neuron", "span", or "pair" where several pairs of prompts were swept.
        ticks: which layers, positions, heads, neurons; spans and pairs are numbered.
        labels: what to write there: tokens at positions (as `show` draws them), the names of spans.
    """

    name: str
    ticks: tuple[int, ...]
    labels: tuple[str, ...]


class Best(NamedTuple):
    """A cell of a sweep: where it is, its value, and how far that is from the unpatched prompt's."""

    where: dict[str, int | str]
    value: float
    effect: float


@dataclass(frozen=True, eq=False)
class Sweep:
    """The metric after each patch of a grid, such as layer x position. The arrays cannot be written.

    Attributes:
        site: what was patched.
        axes: the axes of the arrays, `over` their names.
        values: the metric after each patch; nan where a cell has not been computed.
        exact: whether a value was computed by a forward; an estimate, or none yet, is not.
        clean, corrupt: the metric on the two prompts; arrays (pair,) for several pairs. `corrupt` is None for an
            ablation, which needs no second prompt.
        metric: as it is written, `logit_diff(' Mary', ' John')`.
        direction: "denoise" patches the corrupt prompt, "noise" the clean one.
        engine, why: how it was computed, and why not by packed rows; both None for an estimate.
        provenance: model, revision, dtype, device, attention, edits, versions, and `question`: prompts, source, window.
    """

    site: str
    axes: tuple[Axis, ...]
    values: np.ndarray
    exact: np.ndarray
    clean: float | np.ndarray
    corrupt: float | np.ndarray | None
    metric: str
    direction: Direction
    engine: str | None = None
    why: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        shape = tuple(len(axis.ticks) for axis in self.axes)
        for name, kind in (("values", np.float64), ("exact", np.bool_)):
            array = np.array(getattr(self, name), dtype=kind)
            if array.shape != shape:
                raise ValueError(f"{name} of shape {array.shape} for axes of {shape}.")
            object.__setattr__(self, name, _frozen(array))
        for name in ("clean", "corrupt"):
            given = getattr(self, name)
            made = given if given is None else np.array(given, dtype=np.float64)
            object.__setattr__(self, name, float(made) if made is not None and made.ndim == 0 else _frozen(made))

    # What is in it

    @property
    def over(self) -> tuple[str, ...]:
        """The names of the axes."""
        return tuple(axis.name for axis in self.axes)

    @property
    def base(self) -> float | np.ndarray:
        """The metric on the prompt that is patched, before any patch."""
        return self.corrupt if self.direction == "denoise" and self.corrupt is not None else self.clean

    @property
    def effect(self) -> np.ndarray:
        """How far each patch moves the metric, in its own units: value - base."""
        return _frozen(self.values - self._spread(self.base))

    @property
    def normalised(self) -> np.ndarray:
        """The effect as a share of the way from the patched prompt to the other one: 0 is none, 1 the whole way.

        Raises `ValueError` where there is no second prompt, or where the two have one value: use `effect`.
        """
        target = self.clean if self.direction == "denoise" else self.corrupt
        if target is None:
            raise ValueError(
                "this sweep has no corrupt prompt to measure by: use sweep.effect, in the metric's units, or give one."
            )
        way = np.asarray(target) - np.asarray(self.base)
        if not np.all(np.abs(way) > 1e-7):
            raise ValueError(
                f"{self.metric} is the same on both prompts, so nothing can be a share of the difference: use "
                "sweep.effect, or prompts between which the metric differs."
            )
        return _frozen(self.effect / self._spread(way))

    @property
    def done(self) -> float:
        """Which share of the cells is exact."""
        return float(self.exact.mean()) if self.exact.size else 1.0

    def best(self, k: int = 10) -> list[Best]:
        """The k cells with the largest effect in either direction, the largest first; of equals the first.

        >>> sweep.best(1)  # doctest: +SKIP
        [Best(where={'layer': 6, 'pos': 9, 'token': '·Mary'}, value=6.13, effect=11.62)]
        """
        effect = self.effect
        size = np.where(np.isnan(effect), -np.inf, np.abs(effect)).ravel()
        order = [int(i) for i in np.argsort(-size, kind="stable")[:k] if np.isfinite(size[i])]
        places = [tuple(map(int, np.unravel_index(i, effect.shape))) for i in order]
        return [Best(self.where(place), float(self.values[place]), float(effect[place])) for place in places]

    def where(self, place: tuple[int, ...]) -> dict[str, int | str]:
        """What the indices of a cell stand for: its layer, position and token, head, neuron or span."""
        found = dict[str, int | str]()
        for axis, i in zip(self.axes, place, strict=True):
            found[axis.name] = axis.labels[i] if axis.name == "span" else axis.ticks[i]
            if axis.name == "pos" and axis.labels[i] != str(axis.ticks[i]):
                found["token"] = axis.labels[i]
        return found

    # What can be made of it

    def mean(self) -> Sweep:
        """The mean over the pairs of prompts: of the values, and of both ends. A sweep of one pair is itself."""
        if self.over[0] != "pair":
            return self
        corrupt = None if self.corrupt is None else float(np.mean(self.corrupt))
        return replace(
            self,
            axes=self.axes[1:],
            values=self.values.mean(0),
            exact=self.exact.all(0),
            clean=float(np.mean(self.clean)),
            corrupt=corrupt,
        )

    def correlation(self, other: Sweep) -> float:
        """Pearson's correlation of the values over the cells that both have: an estimate's with the exact sweep.

        Raises `ValueError` for a sweep over other axes, and where fewer than three cells are in both.
        """
        mine, theirs = ([(axis.name, axis.ticks) for axis in sweep.axes] for sweep in (self, other))
        if mine != theirs:
            raise ValueError(f"{self!r} and {other!r} are not over the same cells: they cannot be correlated.")
        both = ~(np.isnan(self.values) | np.isnan(other.values))
        if both.sum() < 3:
            raise ValueError(f"only {both.sum()} cells are in both sweeps: a correlation needs three.")
        a, b = (sweep.effect[both] for sweep in (self, other))
        a, b = a - a.mean(), b - b.mean()
        size = np.sqrt((a**2).sum() * (b**2).sum())
        return float((a * b).sum() / size) if size else float("nan")

    def to_pandas(self) -> pd.DataFrame:
        """One line for each cell: where it is, `value`, `effect`, `normalised` (where there is such) and `exact`."""
        import pandas as pd

        grids = np.indices(self.values.shape).reshape(len(self.axes), -1)
        columns = dict[str, Any]()
        for axis, places in zip(self.axes, grids, strict=True):
            what = axis.labels if axis.name == "span" else axis.ticks
            columns[axis.name] = [what[i] for i in places]
            if axis.name == "pos":
                columns["token"] = [axis.labels[i] for i in places]
        columns |= {"value": self.values.ravel(), "effect": self.effect.ravel()}
        if self.has_share:
            columns["normalised"] = self.normalised.ravel()
        return pd.DataFrame(columns | {"exact": self.exact.ravel()})

    @property
    def has_share(self) -> bool:
        """Whether there are two ends that differ, so that `normalised` exists."""
        if self.corrupt is None:
            return False
        return bool(np.all(np.abs(np.asarray(self.clean) - np.asarray(self.corrupt)) > 1e-7))

    def figure(self) -> go.Figure:
        """A plotly heat map: exact cells filled, with their numbers, estimates as discs. Readable on light and dark.

        Of several pairs the mean is drawn. With three axes layers and heads go down and positions across, the
        rows with the strongest effects only, if there are many.

        >>> sweep.figure().show()  # doctest: +SKIP
        """
        from lenskit.patching.picture import heat_map

        return heat_map(self)

    def save(self, path: str | Path) -> Path:
        """Save it to a JSON file, with the arrays beside it in a `.safetensors` file. `Sweep.load` reads it.

        Raises `ValueError` for a path that does not end in `.json`.
        """
        from lenskit.patching.sweep_files import save_sweep

        return save_sweep(self, path)

    @classmethod
    def load(cls, path: str | Path) -> Sweep:
        """The sweep that `save` wrote. Raises `FileNotFoundError`, and `ValueError` for a file that is none."""
        from lenskit.patching.sweep_files import load_sweep

        return load_sweep(path)

    def _spread(self, ends: float | np.ndarray) -> np.ndarray:
        """The ends of each pair, shaped to go with the values."""
        ends = np.asarray(ends)
        return ends.reshape(ends.shape + (1,) * (self.values.ndim - ends.ndim))

    def _repr_html_(self) -> str:
        from lenskit.patching.picture import html_table

        return html_table(self)

    def __repr__(self) -> str:
        size = " x ".join(f"{len(axis.ticks)} {_PLURAL[axis.name]}" for axis in self.axes)
        ends = f"clean {_mean(self.clean):.2f}" + (
            "" if self.corrupt is None else f", corrupt {_mean(self.corrupt):.2f}"
        )
        state = "exact" if self.exact.all() else f"{self.done:.0%} exact"
        best = "".join(f", most at {_place(each.where)}: {each.value:.2f}" for each in self.best(1))
        model = self.provenance.get("model", "a model")
        return f"Sweep({self.direction} {self.site}, {self.metric}: {size} of {model}, {state}; {ends}{best})"


_PLURAL = {
    "pair": "pairs",
    "layer": "layers",
    "pos": "positions",
    "head": "heads",
    "neuron": "neurons",
    "span": "spans",
}


def _place(where: Mapping[str, int | str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in where.items())


def _mean(ends: float | np.ndarray) -> float:
    return float(np.mean(ends))


def _frozen(array: Any) -> Any:
    if isinstance(array, np.ndarray):
        array = array.view()
        array.flags.writeable = False
    return array
