"""History: what a training of a dictionary has seen so far, step by step, and on text that it does not learn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lenskit.curves import FAINT, on_any_page

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lenskit.transcoders.training import Report

CURVES = ("explained", "active", "dead", "loss")
BLUE, RED, GREEN = "#3a86b7", "#d55e00", "#009e73"  # told apart by colour-blind eyes, too


class Look(NamedTuple):
    """What was seen on held-out text.

    Attributes:
        step: after how many steps.
        explained: the share of the written site's variance about its mean that the dictionary explains.
        recovered: the share of the loss that mean ablation of that site costs which the dictionary spares: CE
            recovered. NaN where it cannot stand in its site's place.
    """

    step: int
    explained: float
    recovered: float


@dataclass(frozen=True, eq=False)
class History:
    """What a training has seen so far. `Transcoder.train` gives one to `on_step` after every step.

    Attributes:
        name: what is read and written.
        steps: how many steps there will be.
        explained: (step,) the share of the batch's variance about its mean that was explained.
        active: (step,) how many features of a token were active, on average: L0.
        dead: (step,) the share of features that have not been active for the recipe's `dead_after` tokens.
        loss: (step,) what was minimised.
        looks: what was seen on held-out text, every so often.
        linear: what the best linear map from what is read to what is written explains there: the baseline that every
            transcoder must beat. NaN where both are the same site, or no text was held out.
        density: (feature,) the share of tokens in which each feature was active over the last hundred steps or so.
    """

    name: str
    steps: int
    explained: np.ndarray
    active: np.ndarray
    dead: np.ndarray
    loss: np.ndarray
    looks: tuple[Look, ...]
    linear: float
    density: np.ndarray

    @property
    def step(self) -> int:
        """How many steps are done."""
        return len(self.loss)

    def to_pandas(self) -> pd.DataFrame:
        """One row for each step; what was seen on held-out text stands in the rows of its steps."""
        import pandas as pd

        table = pd.DataFrame({"step": np.arange(1, self.step + 1)} | {name: getattr(self, name) for name in CURVES})
        looks = pd.DataFrame(self.looks, columns=["step", "held_out_explained", "recovered"])
        return table.merge(looks, on="step", how="left")

    def figure(self) -> go.Figure:
        """Four curves as a plotly figure: explained variance and CE recovered, L0, dead features, densities.

        Live in a notebook:

        >>> lk.Transcoder.train(model, texts, ..., on_step=lk.widgets.live_curves())  # doctest: +SKIP
        """
        import plotly.graph_objects as go
        from plotly.subplots import make_subplots

        titles = ("explained variance, CE recovered", "active features of a token (L0)", "dead features", "densities")
        figure = make_subplots(2, 2, subplot_titles=titles, vertical_spacing=0.22, horizontal_spacing=0.1)
        steps = np.arange(1, self.step + 1)

        def line(
            row: int,
            column: int,
            x: Sequence[float] | np.ndarray,
            y: Sequence[float] | np.ndarray,
            name: str,
            **style: Any,
        ) -> None:
            style = {"line": {"color": BLUE, "width": 1.5}, "showlegend": False} | style
            figure.add_trace(go.Scatter(x=x, y=y, name=name, **style), row, column)

        line(1, 1, steps, self.explained, "explained, of the batch", showlegend=True)
        for field, name, colour in (("explained", "explained, held out", RED), ("recovered", "CE recovered", GREEN)):
            seen = [getattr(look, field) for look in self.looks]
            style = {"mode": "lines+markers", "line": {"color": colour, "width": 2}, "showlegend": True}
            line(1, 1, [look.step for look in self.looks], seen, name, **style)
        if np.isfinite(self.linear):
            style = {"line": {"color": RED, "dash": "dot"}, "showlegend": True, "mode": "lines"}
            line(1, 1, [0, self.steps], [self.linear] * 2, "a linear map, held out", **style)
        line(1, 2, steps, self.active, "L0")
        line(2, 1, steps, self.dead, "dead")
        alive = np.log10(self.density[self.density > 0])
        bars = go.Histogram(x=alive, nbinsx=40, name="features", marker={"color": BLUE}, showlegend=False)
        figure.add_trace(bars, 2, 2)
        figure.update_xaxes(title={"text": "step", "standoff": 4}, range=[0, self.steps], gridcolor=FAINT)
        figure.update_xaxes(title={"text": "log10 of the share of tokens"}, range=None, row=2, col=2)
        figure.update_yaxes(gridcolor=FAINT, rangemode="tozero")
        lowest = min([0.0, *self.explained[5:].tolist(), *(look.explained for look in self.looks)])
        figure.update_yaxes(range=[max(-1.0, lowest), 1.05], row=1, col=1)
        figure.update_annotations(font={"size": 12})
        on_any_page(figure, str(self).replace("; ", "<br>"), height=580)
        return figure.update_layout(
            margin={"t": 80}, title={"y": 0.97, "yanchor": "top"}, legend={"orientation": "h", "y": -0.14}
        )

    def __str__(self) -> str:
        done = f"{self.name}, step {self.step} of {self.steps}"
        if not self.step:
            return done
        told = f"{done}: explained {self.explained[-1]:.3f}, L0 {self.active[-1]:.1f}, dead {self.dead[-1]:.1%}"
        if self.looks:
            last = self.looks[-1]
            beside = f" (a linear map {self.linear:.3f})" if np.isfinite(self.linear) else ""
            told += f"; held out {last.explained:.3f}{beside}"
            told += f", CE recovered {last.recovered:.1%}" if np.isfinite(last.recovered) else ""
        return told

    def __repr__(self) -> str:
        return f"History({self})"


class Record:
    """A history in the making, of one dictionary's training.

    Args:
        name: what is read and written.
        steps: how many there will be.
        linear: what a linear map explains of held-out text, or NaN.
    """

    def __init__(self, name: str, steps: int, linear: float = float("nan")) -> None:
        self.name, self.steps, self.linear = name, steps, linear
        self._curves, self._done = np.empty((steps, len(CURVES))), 0
        self._looks: list[Look] = []

    def add(self, report: Report) -> None:
        """Note a step."""
        self._curves[self._done] = [getattr(report, name) for name in CURVES]
        self._done += 1

    def look(self, look: Look) -> None:
        """Note what was seen on held-out text."""
        self._looks.append(look)

    def history(self, density: Tensor) -> History:
        """All that was noted, as a value."""
        curves = dict(zip(CURVES, self._curves[: self._done].T, strict=True))
        return History(
            self.name, self.steps, **curves, looks=tuple(self._looks), linear=self.linear, density=density.cpu().numpy()
        )

    def state(self) -> dict[str, Tensor]:
        """As tensors, for a checkpoint."""
        looks = torch.tensor(self._looks, dtype=torch.float64).view(-1, len(Look._fields))
        curves = torch.from_numpy(self._curves[: self._done].copy())
        return {"curves": curves, "looks": looks, "linear": torch.tensor(self.linear, dtype=torch.float64)}

    def resume(self, state: Mapping[str, Tensor]) -> Record:
        """Go on from a state."""
        self._done = len(state["curves"])
        self._curves[: self._done] = state["curves"].numpy()
        self._looks = [Look(int(step), *rest) for step, *rest in state["looks"].tolist()]
        self.linear = float(state["linear"])
        return self
