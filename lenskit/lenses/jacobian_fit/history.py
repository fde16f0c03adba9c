"""FitHistory: how the means of a fit settle, passage by passage."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
    def step(self) -> int:
        """How many steps are done, of one passage for each process."""
        return len(self.changes)

    @property
    def steps(self) -> int:
        """How many there will be, if nothing ends it early. `lk.widgets.live_curves` asks for both."""
        return -(-self.planned * self.step // max(1, self.passages))

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

        A thin line for each place, from dark (early layers) to light (late ones); the first and the last are named.
        """
        import plotly.graph_objects as go

        steps = np.arange(2, len(self.changes) + 1)
        figure = go.Figure()
        for name, values, width, color in self._lines():
            figure.add_scatter(
                x=steps,
                y=values,
                name=name,
                line={"width": width, "color": color},
                showlegend=width > 1 or name in (self.places[0], self.places[-1]),
                legendrank=1 if width > 1 else 2,  # the wide ones are drawn last, to lie on top, and named first
                mode="lines+markers" if len(steps) < 20 else "lines",
                cliponaxis=False,
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
            xaxis=_axis("passage", range=[1, max(2, self.planned)], tickformat="d", dtick=_every(self.planned)),
            yaxis=_axis("relative to the mean", range=self._decades(), type="log", tickformat=".1~%", dtick="D2"),
        )
        return figure

    def _lines(self) -> list[tuple[str, np.ndarray, int, str]]:
        """Of each line its name, its values from the second step on, its width and its colour."""
        from plotly.colors import sample_colorscale

        shades = sample_colorscale("Viridis", np.linspace(0.25, 0.75, len(self.places)).tolist())
        return [
            *((place, self.changes[1:, n], 1, str(shades[n])) for n, place in enumerate(self.places)),
            ("mean change", self.changes[1:].mean(-1), 3, "#d55e00"),
            ("standard error", self.errors[1:].mean(-1), 3, "#0072b2"),
        ]

    def _decades(self) -> list[int]:
        """Logarithms of the ends of the axis: whole decades, so that it stays as it is from one passage to the next."""
        seen = np.concatenate([self.changes[1:].ravel(), self.errors[1:].mean(-1)])
        seen = seen[np.isfinite(seen) & (seen > 0)]
        low, high = (float(seen.min()), float(seen.max())) if len(seen) else (1.0, 1.0)
        return [min(-2, math.floor(math.log10(low))), max(0, math.ceil(math.log10(high)))]

    def __str__(self) -> str:
        how = "" if self.probes is None else f", approximate ({self.probes} probes)"
        said = f"passage {self.passages} of {self.planned}{how}"
        if len(self.changes) > 1:
            said += f": changed by {self.changes[-1].mean():.1%}, standard error {self.error.mean():.1%}"
        return said + (f", {_time(self.left)} left" if 0 < self.passages < self.planned else "")

    def __repr__(self) -> str:
        return f"FitHistory({self})"


def _axis(title: str, **options: Any) -> dict[str, Any]:
    return {"title": title, "gridcolor": FAINT, "zeroline": False, **options}


def _every(count: int) -> int:
    """From one tick to the next, in whole passages: some ten of them."""
    return max(1, round(count / 10))


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
