"""CircuitScore: how faithful, complete and small a circuit is, each beside random sets of the same size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False)
class CircuitScore:
    """What the metric is with a circuit alone, without it, and with random sets like it. The arrays cannot be written.

    Attributes:
        circuit: the names of its nodes.
        universe: how many nodes could be taken out, those of the circuit among them.
        full: (pair,), the metric of the model as it is.
        only: (pair,), with all but the circuit ablated.
        without: (pair,), with the circuit ablated.
        none: (pair,), with everything ablated that could be.
        placebos_only, placebos_without: (placebo, pair), the same of random sets with as many nodes of each kind.
        only_but_node: (node, pair), the circuit alone, without one of its nodes.
        only_but_part, without_part: (part, pair), the circuit alone, and the whole model, without a random part of it.
        parts: the names of the nodes of each such part.
        ablate_with, metric, seed: what was asked for.
        provenance: model, revision, dtype, device, versions, and the number of pairs.
    """

    circuit: tuple[str, ...]
    universe: int
    full: np.ndarray
    only: np.ndarray
    without: np.ndarray
    none: np.ndarray
    placebos_only: np.ndarray
    placebos_without: np.ndarray
    only_but_node: np.ndarray
    only_but_part: np.ndarray
    without_part: np.ndarray
    parts: tuple[tuple[str, ...], ...]
    ablate_with: str
    metric: str
    seed: int
    provenance: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, np.ndarray):
                value = value.view()
                value.flags.writeable = False
                object.__setattr__(self, each.name, value)

    # In words of the papers, from the means over the pairs

    @property
    def faithfulness(self) -> float:
        """The metric with the circuit alone, as a share of the whole model's: F(C) / F(M)."""
        return _share(self.only.mean(), self.full.mean())

    @property
    def recovered(self) -> float:
        """The same above what is there with everything ablated: 0 is that, 1 the whole model."""
        return self.between(self.only)

    @property
    def left(self) -> float:
        """What is left of the metric without the circuit, on the scale of `recovered`: of a complete one, 0."""
        return self.between(self.without)

    @property
    def incompleteness(self) -> np.ndarray:
        """(part,): by how much it differs whether a part is taken out of the circuit or of the model.

        |F(C \\ K) - F(M \\ K)| of the means, in the metric's units.
        """
        return np.abs(self.only_but_part.mean(1) - self.without_part.mean(1))

    @property
    def minimality(self) -> dict[str, float]:
        """How much the circuit alone loses without each node, in the metric's units: F(C) - F(C without it)."""
        lost = self.only.mean() - self.only_but_node.mean(1)
        return dict(zip(self.circuit, lost.tolist(), strict=True))

    def between(self, values: np.ndarray) -> float:
        """The mean of some values as a share of the way from everything ablated to the whole model."""
        none = self.none.mean()
        return _share(values.mean() - none, self.full.mean() - none)

    @property
    def placebos_recovered(self) -> np.ndarray:
        """(placebo,): `recovered` of the random sets."""
        return np.array([self.between(values) for values in self.placebos_only])

    @property
    def placebos_left(self) -> np.ndarray:
        """(placebo,): `left` of the random sets."""
        return np.array([self.between(values) for values in self.placebos_without])

    # What can be made of it

    def to_pandas(self) -> pd.DataFrame:
        """One line for each thing that was tried: `what`, the `metric` (mean over pairs), its `share` of the way, `sd`.

        Of random sets the mean over them, and as `sd` the spread between them; else `sd` is that between the pairs.
        """
        import pandas as pd

        lines = [(what, values.mean(), self.between(values), values.std()) for what, values in self._single]
        for what, values in self._random:
            if len(values):
                lines.append((what, values.mean(), self.between(values), values.mean(1).std()))
        lines += [
            (f"only the circuit but {node}", values.mean(), self.between(values), values.std())
            for node, values in zip(self.circuit, self.only_but_node, strict=True)
        ]
        return pd.DataFrame(lines, columns=["what", "metric", "share", "sd"])

    @property
    def _single(self) -> list[tuple[str, np.ndarray]]:
        return [
            ("the whole model", self.full),
            ("only the circuit", self.only),
            ("without the circuit", self.without),
            ("all ablated", self.none),
        ]

    @property
    def _random(self) -> list[tuple[str, np.ndarray]]:
        return [("only a random set", self.placebos_only), ("without a random set", self.placebos_without)]

    def figure(self) -> go.Figure:
        """Each trial as a line of points on the metric's axis, random sets in grey. Readable on light and dark pages.

        >>> score.figure().show()  # doctest: +SKIP
        """
        import plotly.graph_objects as go

        figure = go.Figure()
        grey = "rgba(128,128,128,0.55)"
        for what, values, colour in (
            ("the whole model", self.full[None], "#3a86b7"),
            ("only the circuit", self.only[None], "#3a86b7"),
            ("only a random set", self.placebos_only, grey),
            ("without a random set", self.placebos_without, grey),
            ("without the circuit", self.without[None], "#d9782f"),
            ("all ablated", self.none[None], "#d9782f"),
        ):
            means = values.mean(1).round(2).tolist()  # as it says on hovering, and the same on every processor
            figure.add_scatter(
                x=means,
                y=[what] * len(means),
                mode="markers",
                marker={"size": 12 if len(means) == 1 else 8, "color": colour},
                hovertemplate="%{y}: %{x:.2f}<extra></extra>",
            )
        lines = "rgba(128,128,128,0.2)"
        return figure.update_layout(
            showlegend=False,
            xaxis={
                "title": f"{self.metric}, mean of {len(self.full)} pairs",
                "gridcolor": lines,
                "zerolinecolor": lines,
            },
            yaxis={"autorange": "reversed", "gridcolor": lines, "automargin": True},
            height=300,
            margin={"t": 24, "b": 48},
            paper_bgcolor="rgba(0,0,0,0)",
            plot_bgcolor="rgba(0,0,0,0)",
            font={"color": "#797c82"},
        )

    def __repr__(self) -> str:
        beside = ""
        if len(self.placebos_only):
            only, without = self.placebos_recovered, self.placebos_left
            beside = (
                f"; {len(only)} random sets: {only.mean():.0%} +- {only.std():.0%} recovered, {without.mean():.0%} left"
            )
        return (
            f"CircuitScore({len(self.circuit)} of {self.universe} nodes, {self.metric}, {self.ablate_with}: "
            f"{self.recovered:.0%} recovered, {self.left:.0%} left without it{beside})"
        )


def _share(part: float, whole: float) -> float:
    return float(part / whole) if abs(whole) > 1e-9 else float("nan")
