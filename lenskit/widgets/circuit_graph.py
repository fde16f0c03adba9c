"""CircuitGraph: an attribution graph in a cell, which one prunes, groups and takes apart with one's hands."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import traitlets

from lenskit.circuits.graph import Graph
from lenskit.circuits.nodes import Node
from lenskit.models.sites import SiteUnavailable
from lenskit.widgets import circuit_wire as wire
from lenskit.widgets.circuit_spec import DEFAULT, FIELDS, checked, facts_of, node_of, place_of, sizes
from lenskit.widgets.circuit_words import words_of
from lenskit.widgets.latest import Latest
from lenskit.widgets.link import Linkable
from lenskit.widgets.page import page
from lenskit.widgets.wire import VERSION

if TYPE_CHECKING:
    from lenskit.circuits.changing.live import Ablated
    from lenskit.models.model import Model
    from lenskit.transcoders.index.feature_index import FeatureIndex
    from lenskit.transcoders.transcoder import Transcoder

_STATIC = Path(__file__).parent / "static"
_KINDS = ("graph", "card", "ablate", "panel")


class CircuitGraph(Linkable):
    """The graph of an answer: layers upwards, tokens across; prune it live, name its parts, ablate them and see.

    Args:
        graph: of a prompt, as `lk.circuits.attribute` makes it. Of one larger than 1,500 nodes and 10,000 edges the
            most influential part is drawn, and the view says so.
        model: the model whose graph it is: to ablate nodes beside random features, and to say what the most influential
            features promote. Without one the view needs only the graph.
        transcoders: the dictionaries that the graph was made with; none where it is made of neurons.
        index: what a `FeatureIndex` knows of a layer's features, for their cards and names; or several, by layer.
        prune: of which part of the influence the nodes and the edges are drawn at first; see `Graph.pruned`.

    Attributes:
        spec: everything that a person chose, pins and groups too, as JSON; see `widgets/WIRE.md`. Set it to restore a
            view.
        selection: the chosen node, a `Node`, or None. Read it, set it (also to a name, "20.155@7"), observe it.

    Raises `ValueError` where model, transcoders or index cannot be those of the graph, and `ModelMismatch` where an
    index belongs to another model.

    >>> view = lk.widgets.CircuitGraph(graph, model=model, transcoders=transcoders, index=index)  # doctest: +SKIP
    >>> view.selection = "20.155@7"                                                               # doctest: +SKIP
    >>> view.shown.into("logit.0@7")                                                              # doctest: +SKIP
    """

    _esm = _STATIC / "circuit_graph.js"
    _css = _STATIC / "circuit_graph.css"
    selection_fields = FIELDS

    spec = traitlets.Dict(help="What a person chose, as JSON.").tag(sync=True)
    facts = traitlets.Dict(help="What is being looked at, as JSON.").tag(sync=True)
    selection = traitlets.Any(None, allow_none=True, help="The chosen node, or None.")

    def __init__(
        self,
        graph: Graph,
        *,
        model: Model | None = None,
        transcoders: Transcoder | Iterable[Transcoder] = (),
        index: FeatureIndex | Mapping[int, FeatureIndex] | None = None,
        prune: tuple[float, float] = (0.8, 0.98),
    ) -> None:
        self._ablating: Latest[Ablated] = Latest()
        if not isinstance(graph, Graph):
            raise TypeError(f"a CircuitGraph shows a Graph, not a {type(graph).__name__}: see lk.circuits.attribute.")
        self.graph, self.model = graph, model
        self.indices = _by_layer(index, graph, model)
        self._live: Any = None
        self._transcoders: list[Transcoder] = []
        if model is not None:
            from lenskit.circuits.changing.live import LiveCircuit

            self._transcoders = [transcoders] if not isinstance(transcoders, Iterable) else list(transcoders)
            self._live = LiveCircuit(model, graph, self._transcoders)
        self._drawn = wire.fitting(graph)
        self._pruned: tuple[tuple[float, float], Graph] | None = None
        self._ablated: tuple[dict[str, Any], Ablated] | None = None
        nodes = [str(node) for node in self._drawn.nodes]
        groups = {name: [nodes[n] for n in of] for name, of in self._drawn.groups.items()}
        spec = {**DEFAULT, "nodes": prune[0], "edges": prune[1], "groups": groups}
        super().__init__(spec=spec, facts=facts_of(graph, self._drawn, model))
        self.on_msg(self._receive)

    # What Python sees

    @property
    def shown(self) -> Graph:
        """What is drawn now: pruned as the sliders say, with what is pinned, and the groups as they are in the view."""
        spec, drawn = self.spec, self._drawn
        pruned = self._pruned_to(spec["nodes"], spec["edges"])
        kept, chosen = _within(pruned, drawn)
        pinned = np.zeros(len(drawn), dtype=bool)
        pinned[[drawn.number(name) for name in spec["pinned"]]] = True
        graph = drawn.keeping(kept | pinned, chosen | pinned[drawn.source] | pinned[drawn.target])
        there = {str(node): number for number, node in enumerate(graph.nodes)}
        groups = {name: tuple(there[each] for each in of if each in there) for name, of in spec["groups"].items()}
        return replace(graph, groups={name: of for name, of in groups.items() if of})

    @property
    def ablated(self) -> Ablated | None:
        """What the chosen ablation does to the answer, computed now if no view has asked; None where nothing is."""
        asked = self._question(self.spec["ablated"], 0.0, self.spec["placebo"])
        if self._live is None or not asked["nodes"]:
            return None
        from lenskit.models.steps import finish

        if self._ablated is None or self._ablated[0] != asked:
            self._ablating.stop()
            self._ablated = (asked, finish(self._steps(asked)))
        return self._ablated[1]

    def to_html(self, path: str | os.PathLike[str], *, cards: int = 60) -> None:
        """Write the view as one HTML file that can be explored offline: pruning, grouping and pinning work in it.

        It holds the graph, the ablation that is shown, and the cards of the chosen, pinned and most influential
        features, about 10 KB each. Ablating something else needs the notebook.
        """
        html = page(
            title=f"Circuit · {self.facts['prompt']}",
            front_end=(_STATIC / "circuit_graph.js").read_text(encoding="utf-8"),
            css=(_STATIC / "circuit_graph.css").read_text(encoding="utf-8"),
            state={"spec": self.spec, "facts": {**self.facts, "live": False}, "links": [], "panel": _panel()},
            reply=self._frozen(cards),
            static=self._static(),
        )
        Path(path).write_text(html, encoding="utf-8")

    def close(self) -> None:
        """Close the view and give up what it was computing."""
        self._ablating.stop()
        super().close()

    def __repr__(self) -> str:
        labels = ", ".join(map(repr, self.graph.labels[:2])) + (", ..." if len(self.graph.labels) > 2 else "")
        return f"CircuitGraph({labels}: {sizes(self.shown, self.graph)})"

    def _frozen(self, most: int) -> wire.Message:
        graph = wire.graph_message(self._drawn, self.indices, self._names, False, "frozen")
        cards = [wire.node_card(self.indices, node, "frozen") for node in self._with_cards()[:most]]
        ablated = self.ablated
        shown = None if ablated is None else wire.ablated_message(ablated, "frozen", 0.0)
        return wire.frozen_message(graph, cards, shown)

    def _with_cards(self) -> list[Node]:
        """The features that have cards, one node for each: the chosen first, then by influence."""
        spec = self.spec
        chosen = [] if spec["selection"] is None else [spec["selection"]["node"]]
        shown = [node for node in self.shown.nodes if node.kind == "feature"]
        ranked = map(str, sorted(shown, key=self._influence, reverse=True))
        found = dict[tuple[int, int], Node]()
        for node in map(Node.parse, [*chosen, *spec["pinned"], *spec["ablated"], *ranked]):
            index = self.indices.get(node.layer)
            if node.kind == "feature" and index is not None and node.feature < index.n_features:
                found.setdefault((node.layer, node.feature), node)
        return list(found.values())

    def _static(self) -> str:
        from lenskit.widgets.circuit_html import html_table

        influence = {str(node): self._influence(node) for node in self.shown.nodes}
        return html_table(self.shown, influence, self._names, self.spec["pinned"], repr(self))

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = super()._repr_mimebundle_(**kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        return {**(data or {}), "text/html": self._static()}, metadata

    @cached_property
    def _names(self) -> dict[str, str]:
        return words_of(self._drawn, self.indices, self.model, self._transcoders)

    def _influence(self, node: Node) -> float:
        """What the view says of a node, whatever else is drawn."""
        return float(self._drawn.influence[self._drawn.number(node)])

    def _pruned_to(self, nodes: float, edges: float) -> Graph:
        if self._pruned is None or self._pruned[0] != (nodes, edges):
            self._pruned = ((nodes, edges), self._drawn.pruned(nodes, edges))
        return self._pruned[1]

    # Selection and spec are one thing seen from two sides

    @traitlets.validate("spec")
    def _check_spec(self, proposal: Any) -> dict[str, Any]:
        return checked(proposal["value"], self._drawn) if proposal["value"] else {}

    @traitlets.validate("selection")
    def _check_selection(self, proposal: Any) -> Node | None:
        return None if proposal["value"] is None else node_of(proposal["value"], self._drawn)

    @traitlets.observe("spec")
    def _spec_changed(self, change: Any) -> None:
        place = change["new"].get("selection")
        self.selection = None if place is None else place["node"]

    @traitlets.observe("selection")
    def _selection_changed(self, change: Any) -> None:
        place = None if change["new"] is None else place_of(change["new"])
        if self.spec and self.spec["selection"] != place:
            self.spec = {**self.spec, "selection": place}

    def follow(self, fields: Mapping[str, int]) -> None:
        """Choose the most influential node that is drawn where a linked view chose, if one is.

        The chosen node stays where it stands there already.
        """
        place = self.spec["selection"]
        wanted = {name: fields[name] for name in ("layer", "pos") if name in fields}
        if place is not None:
            wanted = {name: place[name] for name in ("layer", "pos")} | wanted
        if not wanted or (place is not None and all(place[name] == value for name, value in wanted.items())):
            return
        here = [node for node in self.shown.nodes if all(getattr(node, name) == at for name, at in wanted.items())]
        if here:
            self.spec = {**self.spec, "selection": place_of(max(here, key=self._influence))}

    # The live half

    def _receive(self, _: Any, message: dict[str, Any], buffers: list[Any]) -> None:
        """Answer a view: the graph and cards at once, what the model must run beside the notebook."""
        if message.get("v") != VERSION or message.get("kind") not in _KINDS:
            raise ValueError(f"the front-end sent {message!r}; this is version {VERSION} of the wire.")
        if message["kind"] == "ablate":
            self._ablate(message)
            return
        try:
            answer = self._at_once(message)
        except Exception as error:  # it is shown: in the view, as its reply
            answer = wire.reply("error", message["id"], message=_in_words(error)), []
        self.send(*answer)

    def _at_once(self, asked: Mapping[str, Any]) -> wire.Message:
        if asked["kind"] == "graph":
            return wire.graph_message(self._drawn, self.indices, self._names, self._live is not None, asked["id"])
        if asked["kind"] == "panel":
            return wire.reply("panel", asked["id"], **_panel()), []
        return wire.node_card(self.indices, node_of(asked["node"], self._drawn), asked["id"])

    def _ablate(self, message: Mapping[str, Any]) -> None:
        identity, begun = message["id"], time.perf_counter()
        if not message["nodes"]:
            self._ablating.stop()
            return
        asked = self._question(message["nodes"], message["scale"], message["placebo"])

        def done(ablated: Ablated) -> None:
            self._ablated = (asked, ablated)
            ms = round((time.perf_counter() - begun) * 1000, 1)
            self.send(*wire.ablated_message(ablated, identity, ms))

        def failed(error: Exception) -> None:
            self.send(wire.reply("error", identity, message=_in_words(error)))

        def progress(share: float) -> None:
            self.send(wire.reply("progress", identity, done=round(100 * share), total=100))

        def superseded() -> None:
            self.send(wire.reply("superseded", identity))

        self._ablating.start(self._steps(asked), done, failed, progress, superseded)

    def _steps(self, asked: Mapping[str, Any]) -> Generator[float, None, Ablated]:
        if self._live is None:
            raise ValueError("without a model nothing is ablated: CircuitGraph(graph, model=model).")
        return (yield from self._live.steps(asked["nodes"], asked["scale"], placebo=asked["placebo"]))

    def _question(self, nodes: Iterable[str], scale: float, placebo: bool) -> dict[str, Any]:
        """What is asked, with what the model's answer depends on."""
        edits = None if self.model is None else self.model.edits
        return {"nodes": sorted(nodes), "scale": float(scale), "placebo": bool(placebo), "edits": edits}


def _by_layer(
    index: FeatureIndex | Mapping[int, FeatureIndex] | None, graph: Graph, model: Model | None
) -> dict[int, FeatureIndex]:
    """The indices by the layer whose features they know. Raises `ValueError` where they know others."""
    given = [] if index is None else list(index.values()) if isinstance(index, Mapping) else [index]
    found = dict[int, Any]()
    for each in given:
        layer = each.reads.layer
        kind = "neurons" if each.is_neurons else "transcoder"
        if layer is None or not 0 <= layer < graph.n_layers or graph.layers[layer] != kind:
            there = "has no such layer" if layer is None or layer >= graph.n_layers else f"has {graph.layers[layer]!r}"
            raise ValueError(f"the index is of {each.basis_name}, and in layer {layer} the graph {there}.")
        if model is not None:
            each.identity.check(model, f"the index at {each.folder}", "build one for this model")
        found[layer] = each
    return found


def _panel() -> dict[str, str]:
    """The front-end's second module, which a view asks for when it first shows a card or an ablation."""
    parts = {"source": "js", "css": "css"}
    return {name: (_STATIC / f"circuit_panel.{end}").read_text(encoding="utf-8") for name, end in parts.items()}


def _within(small: Graph, large: Graph) -> tuple[np.ndarray, np.ndarray]:
    """Which nodes and edges of a graph are in another one made of it."""
    number = np.array([large.number(node) for node in small.nodes], dtype=np.int64)
    kept = np.zeros(len(large), dtype=bool)
    kept[number] = True
    pairs = number[small.source] * len(large) + number[small.target]
    return kept, np.isin(large.source.astype(np.int64) * len(large) + large.target, pairs)


def _in_words(error: Exception) -> str:
    """An error as the view shows it: lenskit's own say what to do, others are named."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    own = isinstance(error, (ValueError, IndexError, KeyError, SiteUnavailable, traitlets.TraitError))
    return text if own and text else f"{type(error).__name__}: {text}"
