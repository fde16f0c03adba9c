"""Reading published attribution graphs: every value is checked, and what a file announces is never believed."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lenskit.circuits.graph import EMBED, ERROR, FEATURE, LOGIT, Graph
from lenskit.circuits.graph_files.published import KINDS, OWN, OWN_NUMBERS, QUERY
from lenskit.circuits.graph_files.reading import (
    layers,
    listed,
    named,
    number,
    parsed,
    reading,
    text,
    texts,
    whole,
    wholes,
)
from lenskit.models.files.load_error import LoadError

MOST_BYTES = 256 << 20  # some four million links; as Python's values they take some ten times as much
_MOST_LAYERS = 10_000
_NAME = re.compile(r"(?:E|\d{1,9})_(?P<number>-?\d{1,15})_(?P<pos>\d{1,9})", re.ASCII)
_OUTPUT = re.compile(r'Output "(?P<label>.*)" \(p=[^)]*\)', re.DOTALL)
_KINDS = {name: kind for kind, name in KINDS.items()}
_SAID_OTHERWISE = {"slug", "scan", "prompt_tokens", "prompt", "schema_version", OWN}


class _Node(NamedTuple):
    """A node as the file has it: `layer` in its count, `number` the middle of its name."""

    name: str
    other_name: str
    kind: int
    layer: int
    pos: int
    number: int
    activation: float
    share: float
    clerp: str
    own: dict[str, Any]


def read(path: Path) -> Graph:
    """What `read_published` does."""
    with reading(path):
        if not path.is_file():
            raise LoadError("there is no such file.")
        if (size := path.stat().st_size) > MOST_BYTES:
            raise LoadError(
                f"it has {size / 1e6:,.0f} MB, and at most {MOST_BYTES / 1e6:,.0f} are read: prune it first."
            )
        given = named(parsed(path.read_bytes()), "the file")
        metadata = named(given.get("metadata"), "metadata")
        query = named(given.get("qParams"), "qParams")
        nodes = [_node(each) for each in listed(given.get("nodes"), "nodes")]
        own = named(metadata[OWN], f"metadata.{OWN}") if OWN in metadata else None
        if own is not None and own.get("version") != 1:
            raise LoadError(f"metadata.{OWN} is of version {own.get('version')!r}, and this lenskit reads version 1.")
        n_layers = _n_layers(nodes) if own is None else whole(own.get("n_layers"), "n_layers")
        nodes.sort(key=lambda each: {EMBED: -1, LOGIT: n_layers}.get(each.kind, each.layer))
        places = _places(nodes)
        return Graph(
            pieces=texts(metadata.get("prompt_tokens"), "metadata.prompt_tokens"),
            n_layers=n_layers,
            groups=_groups(query.get("supernodes", []), nodes, places),
            provenance=_provenance(metadata, own, query, nodes),
            **_told(metadata, own, nodes, n_layers),
            **_arrays(nodes, n_layers, *_links(given.get("links"), places), own is not None),
        )


def _node(given: Any) -> _Node:
    each = named(given, "a node")
    name = text(each.get("node_id"), "node_id")
    sort = text(each.get("feature_type"), f"feature_type of node {name!r}")
    found, kind = _NAME.fullmatch(name), _KINDS.get(sort)
    if kind is None:
        raise LoadError(f"node {name!r} is of the kind {sort!r}, and known are {', '.join(_KINDS)}.")
    if found is None:
        raise LoadError(f"{name!r} is no name of a node, such as E_504_3 or 20_155_7.")
    layer = each.get("layer")
    if isinstance(layer, str) and layer.isascii() and layer.isdigit() and len(layer) < 10:
        layer = int(layer)
    if kind == EMBED:
        layer = -1 if layer == "E" else layer
    layer = whole(layer, f"layer of node {name!r}", least=-1 if kind == EMBED else 0)
    pos = whole(each.get("ctx_idx"), f"ctx_idx of node {name!r}")
    if kind == FEATURE and name != f"{layer}_{found['number']}_{pos}":
        raise LoadError(f"node {name!r} stands in layer {layer} at position {pos}: one of them is wrong.")
    if kind == EMBED and layer != -1:
        raise LoadError(f"the embedding {name!r} stands in layer {layer}, not in E.")
    least = -1 if kind == EMBED else 0  # of a token that is not known
    return _Node(
        name=name,
        other_name=text(each.get("jsNodeId", name), f"jsNodeId of node {name!r}"),
        kind=kind,
        layer=layer,
        pos=pos,
        number=-1 if kind == ERROR else whole(int(found["number"]), f"the middle of {name!r}", least),
        activation=number(each.get("activation"), f"activation of node {name!r}"),
        share=number(each.get("token_prob", 0.0), f"token_prob of node {name!r}"),
        clerp=text(each.get("clerp", ""), f"clerp of node {name!r}"),
        own=named(each.get(OWN, {}), f"{OWN} of node {name!r}"),
    )


def _n_layers(nodes: list[_Node]) -> int:
    """How many layers the model has, by the layer of the logits, which is one higher than it need be."""
    inside = max((each.layer for each in nodes if each.kind in (FEATURE, ERROR)), default=-1) + 1
    above = {each.layer for each in nodes if each.kind == LOGIT}
    if len(above) > 1:
        raise LoadError(f"its logits stand in different layers, {min(above)} and {max(above)}.")
    layer = above.pop() if above else inside + 1
    if layer < inside or layer > _MOST_LAYERS:
        raise LoadError(f"its logits stand in layer {layer}, with features in {inside} layers.")
    return max(layer - 1, inside)


def _places(nodes: list[_Node]) -> dict[str, int]:
    """The number of each node by its name."""
    found, seen = dict[str, int](), set[tuple[int, ...]]()
    for place, each in enumerate(nodes):
        what = each.kind, each.layer, each.pos, each.number
        if each.name in found or what in seen:
            raise LoadError(f"node {each.name!r} is there twice.")
        found[each.name] = place
        seen.add(what)
    return found


def _links(given: Any, places: dict[str, int]) -> tuple[list[int], list[int], list[float]]:
    """Sources, targets and weights."""
    seen = dict[tuple[int, int], float]()
    for each in listed(given, "links"):
        link = named(each, "a link")
        ends = [text(link.get(end), f"the {end} of a link") for end in ("source", "target")]
        for end in ends:
            if end not in places:
                raise LoadError(f"a link from {ends[0]!r} to {ends[1]!r} names a node that is not there: {end!r}.")
        pair = places[ends[0]], places[ends[1]]
        weight = number(link.get("weight"), f"the weight of the link from {ends[0]!r} to {ends[1]!r}")
        if pair in seen or math.isnan(weight):
            raise LoadError(f"the link from {ends[0]!r} to {ends[1]!r} is there twice, or has no weight.")
        seen[pair] = weight
    return [pair[0] for pair in seen], [pair[1] for pair in seen], list(seen.values())


def _groups(given: Any, nodes: list[_Node], places: dict[str, int]) -> dict[str, tuple[int, ...]]:
    """Supernodes, each a name and the names of its nodes, of either sort."""
    others = defaultdict[str, list[int]](list)
    for place, each in enumerate(nodes):
        others[each.other_name].append(place)
    found = dict[str, tuple[int, ...]]()
    for each in listed(given, "supernodes"):
        name, *of = texts(each, "a supernode") or ("",)
        numbers = set[int]()
        for member in of:
            if member not in places and member not in others:
                raise LoadError(f"the supernode {name!r} names a node that is not there: {member!r}.")
            numbers |= {places[member]} if member in places else set(others[member])
        again = next(n for n in range(1, len(found) + 2) if (name if n == 1 else f"{name} ({n})") not in found)
        if numbers:
            found[name if again == 1 else f"{name} ({again})"] = tuple(sorted(numbers))
    return found


def _told(metadata: dict[str, Any], own: dict[str, Any] | None, nodes: list[_Node], n_layers: int) -> dict[str, Any]:
    """Tokens, labels and what the layers have: as lenskit wrote them, or as far as they can be made out."""
    if own is not None:
        return {
            "tokens": wholes(own.get("tokens"), "tokens", least=-1),
            "labels": texts(own.get("labels"), "labels"),
            "layers": layers(own.get("layers"), "layers"),
        }
    length = len(listed(metadata.get("prompt_tokens"), "metadata.prompt_tokens"))
    known = {each.pos: each.number for each in nodes if each.kind == EMBED}
    return {
        "tokens": tuple(known.get(pos, -1) for pos in range(length)),
        "labels": tuple(_label(each) for each in nodes if each.kind == LOGIT),
        "layers": ("transcoder",) * n_layers,
    }


def _label(node: _Node) -> str:
    found = _OUTPUT.fullmatch(node.clerp)
    return found["label"] if found else node.clerp or str(node.number)


def _provenance(
    metadata: dict[str, Any], own: dict[str, Any] | None, query: dict[str, Any], nodes: list[_Node]
) -> dict[str, Any]:
    if own is None:
        targets = [[each.number] for each in nodes if each.kind == LOGIT]
        found: dict[str, Any] = {"model": str(metadata.get("scan", "")), "circuit": {"tokens": targets}}
    else:
        found = dict(named(own.get("provenance"), "provenance"))
    more = {name: value for name, value in metadata.items() if name not in _SAID_OTHERWISE}
    if not more.get("transcoder_list", True):
        del more["transcoder_list"]
    asked = {name: query[name] for name, usual in QUERY.items() if query.get(name, usual) != usual}
    clerps = {each.name: each.clerp for each in nodes if each.clerp and each.kind != LOGIT}
    kept = {name: of for name, of in (("metadata", more), ("qParams", asked), ("clerps", clerps)) if of}
    return {**found, "published": kept} if kept else found


def _arrays(
    nodes: list[_Node], n_layers: int, source: list[int], target: list[int], weight: list[float], own: bool
) -> dict[str, Any]:
    kind = np.array([each.kind for each in nodes], dtype=np.int8)
    reached = (kind == FEATURE) | (kind == LOGIT)
    if not np.all(reached[np.array(target, dtype=int)]):
        raise LoadError("a link leads to an embedding or an error, which nothing reaches.")
    found = {
        "kind": kind,
        "layer": [{EMBED: -1, LOGIT: n_layers}.get(each.kind, each.layer) for each in nodes],
        "pos": [each.pos for each in nodes],
        "feature": [each.number for each in nodes],
        "activation": np.array([each.activation for each in nodes]),
        "source": source,
        "target": target,
        "weight": weight,
    }
    return found | (_own_arrays(nodes, found) if own else _made_out(nodes, found, reached))


def _own_arrays(nodes: list[_Node], found: dict[str, Any]) -> dict[str, Any]:
    """What lenskit wrote with each node."""
    numbers = {
        name: [number(each.own.get(name), f"{name} of node {each.name!r}") for each in nodes] for name in OWN_NUMBERS
    }
    logits = [each.kind == LOGIT for each in nodes]
    numbers["weights"] = [_weight(each) if logit else 0.0 for each, logit in zip(nodes, logits, strict=True)]
    targets = [
        whole(each.own.get("target"), f"target of node {each.name!r}") if logit else feature
        for each, logit, feature in zip(nodes, logits, found["feature"], strict=True)
    ]
    return numbers | {"feature": targets}


def _weight(node: _Node) -> float:
    """How much a logit counts. Raises `LoadError` where that is no number."""
    weight = number(node.own.get("weight"), f"weight of node {node.name!r}")
    if not weight >= 0:
        raise LoadError(f"the logit {node.name!r} has the weight {weight}: it should be 0 or more.")
    return weight


def _made_out(nodes: list[_Node], found: dict[str, Any], reached: np.ndarray) -> dict[str, Any]:
    """What another's file does not say, as far as it can be made out; see `read_published`."""
    count, nan = len(nodes), np.full(len(nodes), np.nan)
    kind, target, weight = found["kind"], np.array(found["target"], dtype=int), np.array(found["weight"], dtype=float)
    value = np.where(kind == FEATURE, found["activation"], nan)
    told = np.bincount(target, weights=weight, minlength=count)
    rest = np.where(reached, np.nan_to_num(value - told, nan=0.0), nan)
    size = np.where(reached, np.bincount(target, weights=np.abs(weight), minlength=count), nan)
    share = np.array([max(0.0, each.share) if each.kind == LOGIT else 0.0 for each in nodes])
    share = np.nan_to_num(share) if np.nansum(share) > 0 else (kind == LOGIT).astype(float)
    order = np.cumsum(kind == LOGIT) - 1
    return {
        "value": value,
        "bias": np.where(reached, 0.0, nan),
        "rest": rest,
        "size": size,
        "weights": share / share.sum() if share.sum() else share,
        "feature": np.where(kind == LOGIT, order, found["feature"]),
    }
