"""The spec and the facts of a circuit graph, and what is chosen in it, as `widgets/WIRE.md` has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import traitlets

from lenskit.circuits.nodes import Node
from lenskit.widgets.wire import VERSION

if TYPE_CHECKING:
    from lenskit.circuits.graph import Graph
    from lenskit.models.model import Model

FIELDS = ("node", "kind", "layer", "pos", "feature")
DEFAULT: dict[str, Any] = {
    "v": VERSION,
    "nodes": 0.8,
    "edges": 0.98,
    "selection": None,
    "pinned": [],
    "groups": {},
    "folded": [],
    "ablated": [],
    "placebo": True,
}


def checked(proposed: Mapping[str, Any], graph: Graph) -> dict[str, Any]:
    """A spec that somebody wrote, whole: what is left out takes its default.

    Raises `TraitError` for a key or a value that does not exist, and for a node that the graph does not have.
    """
    spec = {**DEFAULT, **proposed}
    if unknown := set(spec) - set(DEFAULT):
        raise traitlets.TraitError(f"a spec has the keys {', '.join(DEFAULT)}, and no {sorted(unknown)}.")
    for key in ("nodes", "edges"):
        if not (_is_number(spec[key]) and 0 < spec[key] <= 1):
            raise traitlets.TraitError(f"{key} is a share of the influence, over 0 and up to 1, not {spec[key]!r}.")
    if not isinstance(spec["placebo"], bool):
        raise traitlets.TraitError(f"placebo is true or false, not {spec['placebo']!r}.")
    for key in ("pinned", "ablated"):
        for name in _texts(spec[key], key):
            node_of(name, graph)
    for name in spec["ablated"]:
        if Node.parse(name).kind != "feature":
            raise traitlets.TraitError(f"{name} is no feature, and only features are ablated.")
    _check_groups(spec["groups"], graph)
    for name in _texts(spec["folded"], "folded"):
        if name not in spec["groups"]:
            raise traitlets.TraitError(f"group {name!r} cannot be folded: there are {sorted(spec['groups'])}.")
    if spec["selection"] is not None:
        spec["selection"] = place_of(_chosen(spec["selection"], graph))
    return spec


def node_of(value: Any, graph: Graph) -> Node:
    """The node of the graph that a person means, by its name, its number or itself. Raises `TraitError`."""
    if isinstance(value, bool) or not isinstance(value, str | int | Node):
        raise traitlets.TraitError(f"a selection is None, a node such as '20.155@7', or its number, not {value!r}.")
    try:
        return graph.nodes[graph.number(value)]
    except (KeyError, ValueError) as error:
        raise traitlets.TraitError(str(error.args[0])) from None


def place_of(node: Node) -> dict[str, Any]:
    """A node as a spec has it chosen."""
    return {"node": str(node), **node._asdict()}


def facts_of(graph: Graph, drawn: Graph, model: Model | None) -> dict[str, Any]:
    """What is being looked at, which does not change while the widget lives; `drawn` is what of the graph travels."""
    said = graph.provenance.get("model")
    return {
        "v": VERSION,
        "live": True,
        "title": "Circuit",
        "model": None if model is None else model.name,
        "prompt": "".join(graph.pieces),
        "about": sizes(drawn) if model is not None or said is None else f"{said}, {sizes(drawn)}",
        "cut": None if drawn is graph else _cut(drawn, graph),
        "dtype": "" if model is None else str(model.dtype).removeprefix("torch."),
        "device": "" if model is None else str(model.device),
    }


def sizes(graph: Graph, of: Graph | None = None) -> str:
    """How large a graph is, or of how large a one it is a part."""
    counts = (len(graph), len(graph.weight)), (None, None) if of is None else (len(of), len(of.weight))
    each = zip(*counts, ("nodes", "edges"), strict=True)
    return ", ".join(f"{n:,} {name}" if whole is None else f"{n:,} of {whole:,} {name}" for n, whole, name in each)


def _cut(drawn: Graph, graph: Graph) -> str:
    """What of a larger graph is here: nodes, where some are missing, and edges."""
    said = sizes(drawn, graph)
    return said if len(drawn) < len(graph) else said.partition(", ")[2]


def _chosen(selection: Any, graph: Graph) -> Node:
    if not (isinstance(selection, Mapping) and isinstance(selection.get("node"), str)):
        raise traitlets.TraitError(f"the selection of a spec is null or has {', '.join(FIELDS)}; not {selection!r}.")
    node = node_of(selection["node"], graph)
    wrong = {key: value for key, value in selection.items() if key not in FIELDS or value != place_of(node)[key]}
    if wrong:
        raise traitlets.TraitError(f"the selection names {node}, and says {wrong} besides, which is not so.")
    return node


def _check_groups(groups: Any, graph: Graph) -> None:
    if not (isinstance(groups, Mapping) and all(isinstance(name, str) and name for name in groups)):
        raise traitlets.TraitError(f"groups are lists of nodes by a name, not {groups!r}.")
    seen = set[str]()
    for name, of in groups.items():
        for each in _texts(of, f"group {name!r}"):
            node_of(each, graph)
            if each in seen:
                raise traitlets.TraitError(f"{each} is in two groups; a node is in one at most.")
            seen.add(each)


def _texts(given: Any, name: str) -> Sequence[str]:
    right = isinstance(given, Sequence) and not isinstance(given, str) and all(isinstance(x, str) for x in given)
    if not right:
        raise traitlets.TraitError(f"{name} is a list of names, not {given!r}.")
    return given


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
