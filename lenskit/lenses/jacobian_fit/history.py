"""FitHistory: how the means of a fit settle, passage by passage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lenskit.lenses.picture import INK

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

FAINT = "rgba(128,128,128,0.2)"
LAST = 10


@dataclass(frozen=True, eq=False)
class FitHistory:
    """What a fit has seen so far. `JacobianLens.fit` gives one to `on_passage` after every passage.

    Attributes:
        changes: (step, place) by how much each mean changed, relative to its norm; infinite in the first.
        errors: (step, place) its standard error, relative to its norm, from two halves of the passages; NaN in the
            first.
        seconds: (step,) what each took.
        places: what each column is of, such as `resid_post.5`.
        passages: how many passages are done.
        planned: how many there will be.
        at_once: how many rows one backward gave.
        probes: random probes of each passage; None for an exact fit.
    """

    changes: np.ndarray
    errors: np.ndarray
    seconds: np.ndarray
    places: tuple[str, ...]
    passages: int
    planned: int
    at_once: int
    probes: int | None = None

    @property
    def settled(self) -> float:
        """The mean change of the last ten steps over all places: what a stopping rule looks at. Infinite before."""
        return float(self.changes[-LAST:].mean()) if len(self.changes) > LAST else float("inf")

    @property
    def error(self) -> np.ndarray:
        """(place,) the standard error of each mean now, relative to its norm."""
        return self.errors[-1]

    @property
    def left(self) -> float:
        """About how many seconds the passages that are left will take, as the last ones did."""
        if not len(self.seconds):
            return float("nan")
        per_passage = float(np.median(self.seconds[-LAST:])) * len(self.seconds) / max(1, self.passages)
        return per_passage * (self.planned - self.passages)

    def to_pandas(self) -> pd.DataFrame:
        """One row for each step and place."""
        import pandas as pd

        step, place = (grid.ravel() for grid in np.indices(self.changes.shape))
        names = np.asarray(self.places)[place]
        return pd.DataFrame(
            {"step": step, "place": names, "change": self.changes.ravel(), "error": self.errors.ravel()}
        )

    def figure(self) -> go.Figure:
        """The convergence as a plotly figure: how much each mean still changes, and the mean standard error.

        A line for each place, from dark (early layers) to light (late ones).
        """
        import plotly.graph_objects as go
        from plotly.colors import sample_colorscale

        steps = np.arange(1, len(self.changes))
        shades = sample_colorscale("Viridis", np.linspace(0.1, 0.9, len(self.places)).tolist())
        figure = go.Figure(
            [
                go.Scatter(
                    x=steps + 1,
                    y=self.changes[1:, n],
                    name=place,
                    line={"width": 1, "color": shades[n]},
                    hovertemplate=f"{place}, passage %{{x}}: changed by %{{y:.2%}}<extra></extra>",
                )
                for n, place in enumerate(self.places)
            ]
        )
        for name, values, color in (
            ("mean change", self.changes[1:].mean(-1), "#d55e00"),
            ("standard error", self.errors[1:].mean(-1), "#0072b2"),
        ):
            figure.add_scatter(
                x=steps + 1,
                y=values,
                name=name,
                line={"width": 3, "color": color},
                hovertemplate=f"{name}, passage %{{x}}: %{{y:.2%}}<extra></extra>",
            )
        figure.update_layout(
            template="none",
            # No ground of its own, and an ink that can be read on a light and on a dark page.
            paper_bgcolor="rgba(0,0,0,0)",
            plot_bgcolor="rgba(0,0,0,0)",
            font={"color": INK},
            height=360,
            margin={"l": 70, "r": 20, "t": 40, "b": 50},
            title={"text": str(self), "font": {"size": 13}},
            xaxis={"title": "passage", "range": [1, max(2, self.planned)], "gridcolor": FAINT},
            yaxis={"title": "change of the mean", "type": "log", "tickformat": ".1%", "gridcolor": FAINT},
        )
        return figure

    def __str__(self) -> str:
        how = "" if self.probes is None else f", approximate ({self.probes} probes)"
        done = f"passage {self.passages} of {self.planned}{how}"
        if len(self.changes) < 2:
            return done
        change, error = self.changes[-1].mean(), self.error.mean()
        time_left = f", {_time(self.left)} left" if self.passages < self.planned else ""
        return f"{done}: changed by {change:.1%}, standard error {error:.1%}{time_left}"

    def __repr__(self) -> str:
        return f"FitHistory({self})"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
