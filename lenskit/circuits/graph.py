"""Graph: which features of a prompt made the answer, as nodes and edges."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lenskit.circuits.influence import Wires, influence, shares
from lenskit.circuits.nodes import KINDS, Node, NodeLike

if TYPE_CHECKING:
    import pandas as pd

EMBED, FEATURE, ERROR, LOGIT = range(4)


class Edge(NamedTuple):
    """A connection: the direct effect of a source on a target's value, in the target's own units."""

    source: Node
    target: Node
    weight: float


@dataclass(frozen=True, eq=False)
class Graph:
    """An attribution graph: the nodes that made an answer, and the direct linear effect of each on each.

    In the model with its attention patterns and norms held as they are on this prompt, and its MLPs taken apart into
    features and what these miss, the value of every feature and logit is a sum:

        value = bias + the edges into it + rest

    Nodes are ordered by layer, so that a source comes before what it reaches: embeddings, then of each layer features
    and errors, then logits. All arrays are read-only.

    Attributes:
        tokens: the prompt's token ids; `pieces`, the text of each.
        kind: (node,) 0 an embedding, 1 a feature, 2 an error, 3 a logit.
        layer: (node,) -1 for embeddings, the number of layers for logits.
        pos: (node,) the position.
        feature: (node,) which feature; of an embedding its token, of a logit which target; -1 for an error.
        value: (node,) of a feature its pre-activation, to which its edges sum; of a logit its value; nan otherwise.
        activation: (node,) of a feature, how active it is; nan otherwise.
        source, target, weight: (edge,) numbers of nodes, and the effect, in the order of the targets.
        bias: (node,) of features and logits: what biases give; nan otherwise.
        rest: (node,) of features and logits: the sum of what reaches them from what is no node here; nan otherwise.
        size: (node,) of features and logits: the sizes of all edges into them, summed, and that of `rest` as one.
        weights: (node,) how much each logit counts, such as its probability; together 1; 0 for all else.
        labels: of each logit its name, such as `" Paris"` or `" Mary" - " John"`.
        layers: of each layer what its features are: "transcoder", "neurons", or "none" where all is error.
        n_layers: how many layers the model has.
        groups: supernodes: a name, and the numbers of the nodes that it stands for.
        provenance: where it comes from.

    >>> graph = lk.circuits.attribute(model, "The capital of France is", transcoders)       # doctest: +SKIP
    >>> small = graph.pruned()                                                              # doctest: +SKIP
    >>> small.top(3), small.into("logit.0@4")[:5]                                           # doctest: +SKIP
    """

    tokens: tuple[int, ...]
    pieces: tuple[str, ...]
    kind: np.ndarray
    layer: np.ndarray
    pos: np.ndarray
    feature: np.ndarray
    value: np.ndarray
    activation: np.ndarray
    source: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    rest: np.ndarray
    size: np.ndarray
    weights: np.ndarray
    labels: tuple[str, ...]
    layers: tuple[str, ...]
    n_layers: int
    groups: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for name, dtype in NODE_ARRAYS.items():
            object.__setattr__(self, name, _array(getattr(self, name), dtype, name, len(self.kind)))
        for name, dtype in EDGE_ARRAYS.items():
            object.__setattr__(self, name, _array(getattr(self, name), dtype, name, len(self.source)))
        order = np.argsort(self.target, kind="stable")
        if np.any(np.diff(order) < 0):
            for name in EDGE_ARRAYS:
                object.__setattr__(self, name, _array(getattr(self, name)[order], EDGE_ARRAYS[name], name, len(order)))
        _check(self)

    # Nodes

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """Every node, in the order of the arrays."""
        columns = (self.kind.tolist(), self.layer.tolist(), self.pos.tolist(), self.feature.tolist())
        return tuple(Node(KINDS[kind], *where) for kind, *where in zip(*columns, strict=True))

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {str(node): number for number, node in enumerate(self.nodes)}

    def number(self, node: NodeLike | int) -> int:
        """A node's number in the arrays. Raises `KeyError` for one that is not here."""
        if isinstance(node, int | np.integer):
            if not 0 <= node < len(self):
                raise KeyError(f"node {node} does not exist: this graph has nodes 0 to {len(self) - 1}.")
            return int(node)
        name = str(Node.parse(node))
        if name not in self._numbers:
            raise KeyError(f"{name!r} is no node of this graph, which has {len(self)}: see graph.nodes.")
        return self._numbers[name]

    def of_kind(self, kind: int) -> np.ndarray:
        """The numbers of all nodes of a kind: `EMBED`, `FEATURE`, `ERROR` or `LOGIT` of this module."""
        return np.flatnonzero(self.kind == kind)

    def name(self, node: NodeLike | int) -> str:
        """What a node is, for people: its token for an embedding, its label for a logit, else its name."""
        number = self.number(node)
        each = self.nodes[number]
        if each.kind == "embed":
            return self.pieces[each.pos]
        return self.labels[each.feature] if each.kind == "logit" else str(each)

    def top(self, k: int = 10, kind: int = FEATURE) -> list[tuple[Node, float]]:
        """The k most influential nodes of a kind with their influence, the largest first."""
        numbers = self.of_kind(kind)
        order = numbers[np.argsort(-self.influence[numbers], kind="stable")[:k]]
        return [(self.nodes[n], float(self.influence[n])) for n in order]

    # Edges

    def into(self, node: NodeLike | int) -> list[Edge]:
        """The edges into a node, the largest effects first."""
        number = self.number(node)
        begin, end = np.searchsorted(self.target, [number, number + 1])
        return self._edges(np.arange(begin, end))

    def out_of(self, node: NodeLike | int) -> list[Edge]:
        """The edges out of a node, the largest effects first."""
        return self._edges(np.flatnonzero(self.source == self.number(node)))

    def _edges(self, which: np.ndarray) -> list[Edge]:
        order = which[np.argsort(-np.abs(self.weight[which]), kind="stable")]
        nodes = self.nodes
        return [Edge(nodes[self.source[e]], nodes[self.target[e]], float(self.weight[e])) for e in order]

    # Scores

    @cached_property
    def wires(self) -> Wires:
        """The edges as influence reads them."""
        size = np.nan_to_num(self.size, nan=0.0)
        return Wires(self.source, self.target, self.weight, self.layer, size, self.weights)

    @cached_property
    def influence(self) -> np.ndarray:
        """(node,) what of the logits' weight comes to each node along all ways; of a logit, its own weight."""
        found = influence(self.wires)
        found.flags.writeable = False
        return found

    @cached_property
    def _ends(self) -> tuple[float, float]:
        """How much of the weight comes from embeddings, and how much is lost to errors and to what is no node."""
        reached = self.influence
        given = np.bincount(self.target, weights=shares(self.wires), minlength=len(self))
        lost = np.where(np.isnan(self.size), 0.0, reached * (1 - given)).sum()
        return float(reached[self.kind == EMBED].sum()), float(reached[self.kind == ERROR].sum() + lost)

    @property
    def replacement_score(self) -> float:
        """How much of the influence goes all the way back to embeddings: 1 where no error and no rest has any."""
        tokens, lost = self._ends
        return tokens / (tokens + lost) if tokens + lost else 0.0

    @property
    def completeness_score(self) -> float:
        """How much of what reaches features and logits, weighted by their influence, is neither error nor rest."""
        told = self.kind[self.source] != ERROR
        given = np.bincount(self.target[told], weights=shares(self.wires)[told], minlength=len(self))
        targets = ~np.isnan(self.size) & (self.size > 0)
        reached = self.influence[targets]
        return float((reached * given[targets]).sum() / reached.sum()) if reached.sum() else 0.0

    # Other graphs made of it

    def keeping(self, nodes: np.ndarray, edges: np.ndarray | None = None) -> Graph:
        """The graph of some of its nodes and edges; what the others gave goes to `rest`.

        nodes: (node,) which, as booleans. edges: (edge,) which, of those between them.
        """
        kept = nodes[self.source] & nodes[self.target]
        kept = kept if edges is None else kept & edges
        away = ~kept
        lost = np.bincount(self.target[away], weights=self.weight[away], minlength=len(self))
        renumbered = np.cumsum(nodes) - 1
        groups = {
            name: left
            for name, of in self.groups.items()
            if (left := tuple(int(renumbered[n]) for n in of if nodes[n]))
        }
        return replace(
            self,
            **{name: getattr(self, name)[nodes] for name in NODE_ARRAYS if name != "rest"},
            rest=(self.rest + lost)[nodes],
            source=renumbered[self.source[kept]],
            target=renumbered[self.target[kept]],
            weight=self.weight[kept],
            groups=groups,
        )

    def pruned(self, nodes: float = 0.8, edges: float = 0.98) -> Graph:
        """The smallest graph that keeps this part of the influence: of the nodes', then of the edges' between them.

        Embeddings and logits stay. A feature or error that then reaches nothing goes, and a feature that nothing
        reaches. What is taken away goes to `rest`. Source: Ameisen et al., "Circuit Tracing" (2025).
        """
        from lenskit.circuits.pruning import pruned

        return pruned(self, nodes, edges)

    def grouped(self, name: str, nodes: Iterable[NodeLike | int]) -> Graph:
        """The same graph with a supernode: a name for some nodes. No nodes take the name away again.

        A node is in one group at most: it leaves the one in which it was.
        """
        numbers = tuple(sorted({self.number(node) for node in nodes}))
        groups = {other: tuple(n for n in of if n not in numbers) for other, of in self.groups.items() if other != name}
        groups[name] = numbers
        return replace(self, groups={name: of for name, of in groups.items() if of})

    def over_tokens(self) -> Graph:
        """The graph in which a feature is one node, whatever the position: its edges and values are summed."""
        from lenskit.circuits.merging import over_tokens

        return over_tokens(self)

    # To keep, and for others

    def to_pandas(self) -> pd.DataFrame:
        """One line for each node: `node`, `kind`, `layer`, `pos`, `feature`, `name`, `activation`, `influence`."""
        import pandas as pd

        return pd.DataFrame(
            {
                "node": [str(node) for node in self.nodes],
                "kind": [node.kind for node in self.nodes],
                "layer": self.layer,
                "pos": self.pos,
                "feature": self.feature,
                "name": [self.name(n) for n in range(len(self))],
                "activation": self.activation,
                "influence": self.influence,
            }
        )

    def save(self, path: str | Path) -> Path:
        """Write it as one safetensors file with all that it is; returns where.

        Raises `ValueError` for another suffix.
        """
        from lenskit.circuits.graph_files.files import save_graph

        return save_graph(self, path)

    @classmethod
    def load(cls, path: str | Path) -> Graph:
        """Read what `save` wrote, or a published attribution graph, `.json`. Raises `LoadError` with the reason."""
        from lenskit.circuits.graph_files.files import load_graph

        return load_graph(path)

    def to_json(self, path: str | Path, *, slug: str = "lenskit") -> Path:
        """Write it as other viewers read attribution graphs; returns where."""
        from lenskit.circuits.graph_files.published import write_published

        return write_published(self, path, slug)

    def __len__(self) -> int:
        return len(self.kind)

    def __repr__(self) -> str:
        counts = ", ".join(
            f"{count:,} {what}{'s' if count != 1 else ''}"
            for what, count in zip(KINDS, np.bincount(self.kind, minlength=4).tolist(), strict=True)
            if count
        )
        of = ", ".join(map(repr, self.labels[:2])) + (", ..." if len(self.labels) > 2 else "")
        return f"Graph({of}: {counts}, {len(self.weight):,} edges, replacement {self.replacement_score:.2f})"


NODE_ARRAYS: dict[str, str] = {
    "kind": "int8",
    "layer": "int32",
    "pos": "int32",
    "feature": "int64",
    "value": "float64",
    "activation": "float64",
    "bias": "float64",
    "rest": "float64",
    "size": "float64",
    "weights": "float64",
}
EDGE_ARRAYS: dict[str, str] = {"source": "int32", "target": "int32", "weight": "float64"}


def _array(given: Any, dtype: str, name: str, length: int) -> np.ndarray:
    made = np.array(given, dtype=dtype)  # a copy: whoever gave it may go on writing into it
    if made.shape != (length,):
        raise ValueError(f"{name} is {made.shape}, and should be ({length},).")
    made.flags.writeable = False
    return made


def _check(graph: Graph) -> None:
    """Raise `ValueError` where the arrays do not hold together as a graph."""
    count = len(graph)
    for name in ("source", "target"):
        ends = getattr(graph, name)
        if len(ends) and not (ends.min() >= 0 and ends.max() < count):
            raise ValueError(f"{name} names nodes that are not there: this graph has {count}.")
    if len(graph.source) and not np.all(graph.layer[graph.source] < graph.layer[graph.target]):
        raise ValueError("an edge leads to a layer that is not above its own.")
    if count and np.any(np.diff(graph.layer) < 0):
        raise ValueError("nodes are given by layer, the lowest first.")
    if count and not (graph.kind.min() >= 0 and graph.kind.max() <= LOGIT):
        raise ValueError("a kind of node is 0 (embedding), 1 (feature), 2 (error) or 3 (logit).")
    if len(graph.tokens) != len(graph.pieces):
        raise ValueError(f"{len(graph.tokens)} tokens with {len(graph.pieces)} pieces of text.")
    if count and not (graph.pos.min() >= 0 and graph.pos.max() < max(1, len(graph.tokens))):
        raise ValueError("a node stands at a position that the prompt does not have.")
    logits = graph.feature[graph.kind == LOGIT]
    if len(logits) and not (logits.min() >= 0 and logits.max() < len(graph.labels)):
        raise ValueError(f"a logit has no label: there are {len(graph.labels)}.")
    if len(graph.layers) != graph.n_layers:
        raise ValueError(f"{graph.n_layers} layers, and what {len(graph.layers)} are made of.")
    for name, of in graph.groups.items():
        if any(not 0 <= n < count for n in of):
            raise ValueError(f"group {name!r} names nodes that are not there: this graph has {count}.")
