"""Circuit: a set of nodes or of edges that is said to do a task, and the trial of whether it does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lenskit.models.batch import Prompt
from lenskit.models.run import Run
from lenskit.patching.ablations import With, ablations, metrics_for, rows_of
from lenskit.patching.circuit_score import CircuitScore
from lenskit.patching.draws import Draws
from lenskit.patching.edge_ablations import EdgePair, edges_of, edges_taken_out, kind_of_edge, name_of
from lenskit.patching.edge_runs import EdgeLike
from lenskit.patching.metrics import Metric
from lenskit.patching.nodes import Node, NodeLike, all_heads, all_mlps, as_nodes, check_nodes
from lenskit.patching.wiring import Input

if TYPE_CHECKING:
    from lenskit.models.model import Model

_SHOWN = 20

Among = Literal["heads", "mlps", "heads and mlps"]


@dataclass(frozen=True)
class Circuit:
    """The parts that are said to do a task: heads `"9.6"` and MLPs `"5.mlp"`, or edges; no other is said to matter.

    edges: pairs of who writes and who reads it, `("3.5", "5.2.q")`, or `Edges.top(200)`.

    >>> Circuit(["9.6", "9.9", "5.mlp"])
    Circuit(9.6, 9.9, 5.mlp)
    >>> Circuit(edges=[("9.6", "10.0.q"), ("10.0", "logits")])
    Circuit(9.6 -> 10.0.q, 10.0 -> logits)
    >>> "9.6" in Circuit(["9.6"]), len(Circuit(["9.6", (9, 6)]))
    (True, 1)
    """

    nodes: tuple[Node, ...]
    edges: tuple[EdgePair, ...]

    def __init__(self, nodes: NodeLike | Iterable[NodeLike] = (), edges: Iterable[EdgeLike] = ()) -> None:
        made = as_nodes(nodes)
        for node in made:
            if node.kind not in ("head", "mlp"):
                raise ValueError(f"a circuit is of heads '9.6' and MLPs '5.mlp', and {node} is neither.")
        pairs = tuple(dict.fromkeys((Node.parse(edge[0]), Input.parse(edge[1])) for edge in edges))
        if made and pairs:
            raise ValueError("a circuit is of nodes or of edges: all edges of a node are in the circuit with it.")
        object.__setattr__(self, "nodes", made)
        object.__setattr__(self, "edges", pairs)

    def __contains__(self, node: object) -> bool:
        return isinstance(node, str | tuple) and Node.parse(node) in self.nodes

    def __len__(self) -> int:
        return len(self.names)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its nodes or edges."""
        return tuple(map(str, self.nodes)) or tuple(map(name_of, self.edges))

    def __repr__(self) -> str:
        return f"Circuit({', '.join(self.names[:_SHOWN]) or 'empty'}{', ...' if len(self) > _SHOWN else ''})"


def evaluate_circuit(
    model: Model,
    circuit: Circuit | NodeLike | Iterable[NodeLike],
    clean: Prompt,
    corrupt: Prompt,
    metric: Metric | Callable[[Run], Any] | Sequence[Metric],
    *,
    ablate_with: With = "resample",
    among: Among | None = None,
    placebos: int = 20,
    subsets: int = 10,
    seed: int = 0,
) -> CircuitScore:
    """Whether a circuit does by itself what the model does (faithfulness), and nothing else does (completeness).

    Every number comes beside the same of random sets with as many heads and as many MLPs: a circuit proves something
    only as far as it beats these.

    Args:
        model: the model.
        circuit: its nodes, or a `Circuit` of edges.
        clean, corrupt: prompts, as many of each; each pair of one length.
        metric: what the task is measured by, on the clean prompts; one for all, or one for each.
        ablate_with: what a node that is taken out gives instead: what it gives on the corrupt prompt ("resample"), its
            mean over all corrupt prompts, position by position ("mean", which needs them to be of one length), or zero.
            An edge that is taken out carries what its sender gives on the corrupt prompt.
        among: which nodes are taken out when they are not in the circuit. By default the kinds that the circuit has,
            so that with a circuit of heads all MLPs stay, as in the paper.
        placebos: how many random sets.
        subsets: how many random parts K of the circuit are taken out of it, and of the whole model: the circuit is
            complete if that makes the same difference in both.
        seed: of the random sets.

    Raises `SiteUnavailable` for nodes that are not there, `PromptsDiffer` for pairs that do not line up, and
    `ValueError` for a circuit with nodes of a kind that `among` leaves out.

    Sources: Wang et al., "Interpretability in the Wild" (2022), section 4; Hanna et al., "Have Faith in Faithfulness"
    (2024), for the share of what can be recovered.

    >>> lk.patching.evaluate_circuit(model, lk.Circuit(["23.3", "23.0"]), clean, corrupt, metrics)  # doctest: +SKIP
    """
    made = circuit if isinstance(circuit, Circuit) else Circuit(circuit)
    rows, others = rows_of(model, clean), rows_of(model, corrupt)
    if len(rows) != len(others):
        raise ValueError(f"{len(rows)} clean prompts and {len(others)} corrupt ones: each needs its partner.")
    metrics = metrics_for(metric, len(rows))
    if made.edges:
        if ablate_with != "resample" or among is not None:
            raise ValueError("edges outside of a circuit carry the corrupt prompt's signal: ablate_with='resample'.")
        every = edges_of(model, rows[0], others[0])
        draws = Draws(made.edges, every, kind_of_edge, placebos, subsets, seed)
        trials = edges_taken_out(model, rows, others, metrics)
        found = draws.tried(((trial.full, trial.without) for trial in trials), name_of)
    else:
        check_nodes(model, made.nodes)
        every = _universe(model, made, among)
        draws = Draws(made.nodes, every, lambda node: node.kind, placebos, subsets, seed)
        trials = ablations(model, rows, others, metrics, every, ablate_with)
        found = draws.tried(((trial.full, trial.without) for trial in trials), str)
    return CircuitScore(
        circuit=made.names,
        universe=len(every),
        **found,
        ablate_with=ablate_with,
        metric=_said(metric),
        seed=seed,
        provenance={**model.provenance, "pairs": len(rows)},
    )


def _universe(model: Model, circuit: Circuit, among: Among | None) -> list[Node]:
    """All nodes that can be taken out. Raises `ValueError` for a circuit with others."""
    kinds = {node.kind for node in circuit.nodes} or {"head"}
    if among is not None:
        named = {"heads": {"head"}, "mlps": {"mlp"}, "heads and mlps": {"head", "mlp"}}
        if among not in named:
            raise ValueError(f"among={among!r}: nodes are 'heads', 'mlps' or 'heads and mlps'.")
        if not kinds <= named[among] and circuit.nodes:
            raise ValueError(f"among={among!r}, and {circuit!r} has others: say among='heads and mlps'.")
        kinds = named[among]
    return (all_heads(model) if "head" in kinds else []) + (all_mlps(model) if "mlp" in kinds else [])


def _said(metric: object) -> str:
    if isinstance(metric, Sequence):
        kinds = dict.fromkeys(repr(each).partition("(")[0] for each in metric)
        return f"{', '.join(kinds)} of each pair"
    return repr(metric)
