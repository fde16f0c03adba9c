"""History: the loss of every layer at every step of a training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lenskit.curves import FAINT, on_any_page

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

NAMES = {"kl": "KL from the final prediction", "ce": "cross-entropy of the next token"}


@dataclass(frozen=True, eq=False)
class History:
    """What a training has seen so far. `TunedLens.train` gives one to `on_step` after every step.

    Attributes:
        losses: (step, layer) mean over the step's tokens before its update, in nats per token.
        layers: the layers that are trained.
        steps: how many steps there will be.
        tokens_per_step: how many tokens each reads.
        loss: `"kl"` or `"ce"`.
        bits_per_byte: what to multiply nats per token by for bits per byte of text; None where only ids were given.
    """

    losses: np.ndarray
    layers: tuple[int, ...]
    steps: int
    tokens_per_step: int
    loss: str
    bits_per_byte: float | None

    @property
    def step(self) -> int:
        """How many steps are done."""
        return len(self.losses)

    @property
    def nats(self) -> np.ndarray:
        """(step,) the mean over the layers, in nats per token."""
        return self.losses.mean(-1)

    @property
    def bits(self) -> np.ndarray | None:
        """(step,) the mean over the layers, in bits per byte; None where the bytes are not known."""
        return None if self.bits_per_byte is None else self.nats * self.bits_per_byte

    def to_pandas(self) -> pd.DataFrame:
        """One row for each step and layer."""
        import pandas as pd

        step, layer = (grid.ravel() for grid in np.indices(self.losses.shape))
        table = pd.DataFrame({"step": step, "layer": np.asarray(self.layers)[layer], "nats": self.losses.ravel()})
        if self.bits_per_byte is not None:
            table["bits_per_byte"] = table.nats * self.bits_per_byte
        return table

    def figure(self) -> go.Figure:
        """The loss curves as a plotly figure: each layer thin, from dark (early) to light (late), and their mean.

        Live in a notebook:

        >>> lk.TunedLens.train(model, text, on_step=lk.widgets.live_curves())  # doctest: +SKIP
        """
        import plotly.graph_objects as go
        from plotly.colors import sample_colorscale

        steps = np.arange(self.step)
        shades = sample_colorscale("Viridis", np.linspace(0.3, 0.75, len(self.layers)).tolist())
        figure = go.Figure(
            [
                go.Scatter(
                    x=steps,
                    y=self.losses[:, n],
                    name=f"layer {layer}",
                    line={"width": 1, "color": shades[n]},
                    hovertemplate=f"layer {layer}, step %{{x}}: %{{y:.3f}} nats<extra></extra>",
                )
                for n, layer in enumerate(self.layers)
            ]
        )
        figure.add_scatter(
            x=steps,
            y=self.nats,
            name="mean",
            line={"width": 3, "color": "#d55e00"},
            hovertemplate="mean, step %{x}: %{y:.3f} nats<extra></extra>",
        )
        return on_any_page(
            figure,
            str(self),
            height=360,
            xaxis={"title": "step", "range": [0, max(1, self.steps - 1)], "gridcolor": FAINT},
            yaxis={"title": f"{NAMES[self.loss]} (nats)", "type": "log", "gridcolor": FAINT},
        )

    def __str__(self) -> str:
        done = f"{NAMES[self.loss]}, step {self.step} of {self.steps}"
        if not self.step:
            return done
        bits = "" if self.bits is None else f", {self.bits[-1]:.3f} bits per byte"
        return f"{done}: {self.nats[0]:.3f} -> {self.nats[-1]:.3f} nats per token{bits}"

    def __repr__(self) -> str:
        return f"History({self})"
