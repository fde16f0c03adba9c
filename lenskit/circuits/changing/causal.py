"""The causal check: what a graph predicts of changes, beside what the model does when they are made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lenskit.circuits.changing.effects import total_effect
from lenskit.circuits.changing.interventions import Attention, Change, measured
from lenskit.circuits.graph import FEATURE, Graph
from lenskit.circuits.nodes import NodeLike
from lenskit.lenses.picture import plain
from lenskit.patching.edge_attribution import pearson
from lenskit.transcoders.transcoder import Transcoder

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lenskit.models.model import Model


@dataclass(frozen=True, eq=False)
class CausalCheck:
    """Predicted and measured effects of changing nodes of a graph, and the same for others that are as active.

    Attributes:
        names: of each change what was changed.
        predicted, measured: (change, label) by how much each target changes, as the graph has it and in the model.
        control_names, control_predicted, control_measured: the same of random nodes, one beside each change: features
            of the graph whose activation is nearest to that of what was changed among a few drawn at random.
        labels: the graph's targets.
        attention: whether attention patterns were "free" or "held".
        scale: by what activations were multiplied; None where each change says its own.
    """

    names: tuple[str, ...]
    predicted: np.ndarray
    measured: np.ndarray
    control_names: tuple[str, ...]
    control_predicted: np.ndarray
    control_measured: np.ndarray
    labels: tuple[str, ...]
    attention: Attention
    scale: float | None
    provenance: Mapping[str, Any] = field(repr=False)

    @property
    def correlation(self) -> float:
        """Pearson's, of predicted and measured effects over changes and targets; nan for fewer than three."""
        return _over(self.predicted, self.measured)

    @property
    def control_correlation(self) -> float:
        """The same of the random nodes."""
        return _over(self.control_predicted, self.control_measured)

    @property
    def same_sign(self) -> float:
        """For which part of the changes the first target goes the way that was predicted."""
        return float(np.mean(np.sign(self.predicted[:, 0]) == np.sign(self.measured[:, 0]))) if self.names else np.nan

    @property
    def times_control(self) -> float:
        """How many times as large the effects are, on average, as those of the random nodes; nan without these."""
        if not len(self.control_measured) or not len(self.measured):
            return float("nan")
        control = float(np.abs(self.control_measured).mean())
        return float(np.abs(self.measured).mean() / control) if control else float("inf")

    @property
    def supported(self) -> bool:
        """Whether the model does what the graph says.

        The effects go together with the predicted ones (correlation over .5), most have the predicted sign (over .7),
        and they are at least twice those of random nodes that are as active.
        """
        return bool(self.correlation > 0.5 and self.same_sign > 0.7 and self.times_control >= 2)

    def to_pandas(self) -> pd.DataFrame:
        """One line for each change and target: `change`, `target`, `predicted`, `measured`, `control`."""
        import pandas as pd

        rows = [
            (name, label, predicted[n], found[n], control)
            for names, columns, control in (
                (self.names, (self.predicted, self.measured), False),
                (self.control_names, (self.control_predicted, self.control_measured), True),
            )
            for name, predicted, found in zip(names, *columns, strict=True)
            for n, label in enumerate(self.labels)
        ]
        return pd.DataFrame(rows, columns=["change", "target", "predicted", "measured", "control"])

    def figure(self) -> go.Figure:
        """Measured over predicted effects, a point for each change and target, the random nodes in grey."""
        import plotly.graph_objects as go

        figure = go.Figure()
        everything = self.to_pandas()
        for control, name, colour in ((True, "random nodes", "#8d9198"), (False, "nodes", "#0b62a8")):
            part = everything[everything.control == control]
            figure.add_scatter(
                x=part.predicted,
                y=part.measured,
                text=[plain(change) for change in part.change],
                name=name,
                mode="markers",
                marker_color=colour,
            )
        ends = [float(everything.predicted.min()), float(everything.predicted.max())]
        figure.add_scatter(x=ends, y=ends, mode="lines", name="as predicted", line={"color": "#8d9198", "dash": "dot"})
        figure.update_layout(
            title=f"{plain(', '.join(self.labels[:2]))}: attention {self.attention}",
            xaxis_title="predicted change",
            yaxis_title="measured change",
        )
        return figure

    def __repr__(self) -> str:
        verdict = "supported" if self.supported else "not supported"
        return (
            f"CausalCheck({len(self.names)} changes, attention {self.attention}: correlation {self.correlation:.2f}, "
            f"of random nodes {self.control_correlation:.2f}; {self.times_control:.1f} times their effect; {verdict})"
        )


def causal_check(
    model: Model,
    graph: Graph,
    transcoders: Transcoder | Iterable[Transcoder] = (),
    nodes: int | Sequence[NodeLike | Change] = 20,
    *,
    scale: float = 0.0,
    attention: Attention = "free",
    seed: int = 0,
) -> CausalCheck:
    """Change features in the real model and set what happens beside what the graph predicts.

    Each change is made by itself. Random features of the graph that are about as active are changed in the same way:
    a graph whose nodes do no better than these says nothing.

    Args:
        model, graph, transcoders: the model, a graph of one of its prompts, and what it was made with.
        nodes: how many of the most influential features, each by itself; or which: a node, a group's name for all of
            its nodes together, or several nodes with a factor each, such as `{"20.155@7": 0.0, "20.98@7": 2.0}`, which
            swaps one for the other.
        scale: by what the activation of a node is multiplied: 0 takes it away, 2 doubles it, -1 turns it round.
        attention: "free" lets attention respond, as in life; "held" keeps its patterns, as the graph does.
        seed: draws the random nodes.

    Raises `KeyError` for a node that is not there, `ValueError` for one that is no feature or where the graph is not
    this model's.

    Source: the perturbation experiments of Ameisen et al., "Circuit Tracing" (2025).

    >>> lk.circuits.causal_check(model, graph.pruned(), transcoders)  # doctest: +SKIP
    """
    given = [transcoders] if isinstance(transcoders, Transcoder) else list(transcoders)
    asked = [node for node, _ in graph.top(nodes)] if isinstance(nodes, int) else list(nodes)
    changes = [_change(graph, each, scale) for each in asked]
    controls = _controls(graph, changes, np.random.default_rng(seed))
    found = measured(model, graph, given, [*changes, *controls], attention).numpy()
    predicted = np.array([total_effect(graph, change) for change in [*changes, *controls]])
    predicted = predicted.reshape(-1, len(graph.labels))
    count = len(changes)
    return CausalCheck(
        names=tuple(
            each if isinstance(each, str) else _name(change) for each, change in zip(asked, changes, strict=True)
        ),
        predicted=predicted[:count],
        measured=found[:count],
        control_names=tuple(map(_name, controls)),
        control_predicted=predicted[count:],
        control_measured=found[count:],
        labels=graph.labels,
        attention=attention,
        scale=None if any(isinstance(each, Mapping) for each in asked) else scale,
        provenance=graph.provenance,
    )


def _change(graph: Graph, asked: NodeLike | Change, scale: float) -> Change:
    if isinstance(asked, Mapping):
        return asked
    if isinstance(asked, str) and asked in graph.groups:
        return {graph.nodes[n]: scale for n in graph.groups[asked]}
    return {asked: scale}


def _name(change: Change) -> str:
    return ", ".join(map(str, change))


_DRAWN = 8


def _controls(graph: Graph, changes: Sequence[Change], rng: np.random.Generator) -> list[Change]:
    """Beside each change, other features of the graph about as active, changed by the same factors.

    Of a few that are drawn at random the one whose activation is nearest is taken, at whatever layer and position.
    """
    taken = {graph.number(node) for change in changes for node in change}
    free = np.array([n for n in graph.of_kind(FEATURE).tolist() if n not in taken])
    found = list[Change]()
    for change in changes:
        control = dict[NodeLike, float]()
        for node, factor in change.items():
            if not len(free):
                break
            drawn = rng.choice(len(free), size=min(_DRAWN, len(free)), replace=False)
            activation = graph.activation[graph.number(node)]
            nearest = drawn[np.argmin(np.abs(graph.activation[free[drawn]] - activation))]
            control[graph.nodes[free[nearest]]] = factor
            free = np.delete(free, nearest)
        if control:
            found.append(control)
    return found


def _over(predicted: np.ndarray, found: np.ndarray) -> float:
    return pearson(predicted.ravel(), found.ravel()) if predicted.size > 2 else float("nan")
