"""Published attribution graphs: the JSON that circuit-tracer writes and Neuronpedia shows.

    {metadata {slug scan prompt_tokens prompt ...}, qParams {pinnedIds supernodes ...}, nodes [...], links [...]}

A node is an embedding `E_{token}_{pos}` in layer "E", a feature `{layer}_{feature}_{pos}`, an error `{layer}_-1_{pos}`
or a logit `{n_layers + 1}_{token}_{pos}`. A feature's number beside its id stands for its layer as well: it is their
Cantor pairing. A node's influence there is which share of all influence is left when it is the last one that is kept.

Sources: circuit-tracer (Hanna, Piotrowski et al., 2025), `graph_models.py`; Neuronpedia, `graph-schema.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lenskit.artifacts import whole_file
from lenskit.circuits.graph import EMBED, ERROR, FEATURE, LOGIT, Graph
from lenskit.circuits.graph_files.reading import WIDEST

KINDS = {EMBED: "embedding", FEATURE: "cross layer transcoder", ERROR: "mlp reconstruction error", LOGIT: "logit"}
QUERY = {"pinnedIds": [], "linkType": "both", "clickedId": "", "sg_pos": ""}
OWN = "lenskit"  # under this name travels what the format has no place for; others leave it alone
OWN_NUMBERS = ("value", "bias", "rest", "size")


def write_published(graph: Graph, path: str | Path, slug: str) -> Path:
    """What `Graph.to_json` does.

    What the format has no place for, such as biases and provenance, travels under the name "lenskit", so that the graph
    is read back equal. Raises `ValueError` for another suffix than .json, and for numbers that are infinite.
    """
    path = Path(path).expanduser()
    if path.suffix != ".json":
        raise ValueError(f"other viewers read JSON files: say {path.name}.json rather than {path.name!r}.")
    for name in (*OWN_NUMBERS, "activation", "weight", "weights"):
        if np.any(np.abs(getattr(graph, name)) >= WIDEST):
            raise ValueError(f"{name} holds a number that is infinite, or nearly so: nothing was written.")
    written = json.dumps(_published(graph, slug), allow_nan=False)
    with whole_file(path) as unfinished:
        unfinished.write_text(written + "\n", encoding="utf-8")
    return path


def read_published(path: str | Path) -> Graph:
    """Read a published attribution graph, such as circuit-tracer writes them. Raises `LoadError` with the reason.

    A file that lenskit did not write does not say all that a graph holds. A feature's activation is taken for its value
    (it is, but for dictionaries that measure otherwise than they gate); a logit's value is nan. `bias` is 0, and `rest`
    is what is left of the value: biases and what was pruned, where the value is known, else 0. `size` is the sum of the
    sizes of the edges into a node, so that influence is that of the pruned graph. Layers have transcoders. Supernodes
    become groups; pins and what else the file says are kept in `provenance["published"]`.
    """
    from lenskit.circuits.graph_files.published_reading import read

    return read(Path(path).expanduser())


def paired(layer: int, feature: int) -> int:
    """The number that stands for a layer and a feature: their Cantor pairing.

    >>> paired(0, 391)
    77027
    """
    return (layer + feature) * (layer + feature + 1) // 2 + feature


def _published(graph: Graph, slug: str) -> dict[str, Any]:
    provenance = {name: value for name, value in graph.provenance.items() if name != "published"}
    own = {"version": 1, "n_layers": graph.n_layers, "layers": graph.layers, "labels": graph.labels}
    ids = _ids(graph)
    return {
        "metadata": {
            "transcoder_list": [],
            **_said_before(graph, "metadata"),
            "slug": slug,
            "scan": str(provenance.get("model", "")),
            "prompt_tokens": graph.pieces,
            "prompt": "".join(graph.pieces),
            "schema_version": 1,
            OWN: {**own, "tokens": graph.tokens, "provenance": provenance},
        },
        "qParams": {
            **QUERY,
            **_said_before(graph, "qParams"),
            "supernodes": [[name, *(ids[n] for n in of)] for name, of in graph.groups.items()],
        },
        "nodes": _nodes(graph, ids, _said_before(graph, "clerps")),
        "links": [
            {"source": ids[source], "target": ids[target], "weight": weight}
            for source, target, weight in zip(
                graph.source.tolist(), graph.target.tolist(), graph.weight.tolist(), strict=True
            )
        ],
    }


def _said_before(graph: Graph, part: str) -> Mapping[str, Any]:
    """What the file said that the graph was read from, if it was read from one."""
    kept = graph.provenance.get("published")
    found = kept.get(part) if isinstance(kept, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _ids(graph: Graph) -> list[str]:
    """The published name of each node."""
    layer = {EMBED: "E", LOGIT: str(graph.n_layers + 1)}
    outputs = _outputs(graph)
    found = list[str]()
    for node, kind in zip(graph.nodes, graph.kind.tolist(), strict=True):
        number = outputs[node.feature] if kind == LOGIT else node.feature
        found.append(f"{layer.get(kind, node.layer)}_{number}_{node.pos}")
    return found


def _outputs(graph: Graph) -> list[int]:
    """Of each target a number that tells it from the others: its token, where provenance knows, or its place."""
    asked = graph.provenance.get("circuit")
    tokens = asked.get("tokens") if isinstance(asked, Mapping) else None
    first = [each[0] for each in tokens if isinstance(each, list | tuple) and each] if isinstance(tokens, list) else []
    known = all(isinstance(each, int) for each in first) and len(set(first)) == len(first) == len(graph.labels)
    return first if known else list(range(len(graph.labels)))


def _nodes(graph: Graph, ids: list[str], clerps: Mapping[str, str]) -> list[dict[str, Any]]:
    outputs, left = _outputs(graph), _kept_until(graph)
    likeliest = int(graph.weights.argmax()) if len(graph) else -1
    numbers = {name: _plain(getattr(graph, name)) for name in (*OWN_NUMBERS, "activation")}
    found = list[dict[str, Any]]()
    for n, (node, kind) in enumerate(zip(graph.nodes, graph.kind.tolist(), strict=True)):
        layer, middle, _ = ids[n].split("_")
        backwards = len(graph.tokens) - 1 - node.pos
        share = float(graph.weights[n])
        own: dict[str, Any] = {name: numbers[name][n] for name in OWN_NUMBERS}
        each = {
            "node_id": ids[n],
            "feature": {EMBED: node.pos, FEATURE: paired(node.layer, node.feature), ERROR: -1}.get(kind),
            "layer": layer,
            "ctx_idx": node.pos,
            "feature_type": KINDS[kind],
            "token_prob": share,
            "is_target_logit": n == likeliest,
            "run_idx": 0,
            "reverse_ctx_idx": backwards,
            "jsNodeId": f"{layer}_{middle}-{backwards}",
            "clerp": str(clerps.get(ids[n], "")),
            "influence": left[n],
            "activation": numbers["activation"][n],
            OWN: own,
        }
        if kind == LOGIT:
            label = graph.labels[node.feature]
            each |= {"feature": outputs[node.feature], "clerp": f'Output "{label}" (p={share:.3f})'}
            own |= {"weight": share, "target": node.feature}
        found.append(each)
    return found


def _kept_until(graph: Graph) -> list[float | None]:
    """Of each node but logits, the share of the influence that it and all more influential ones have together."""
    scores = np.where(graph.kind == LOGIT, 0.0, graph.influence)
    order = np.argsort(-scores, kind="stable")
    reached = np.empty(len(graph))
    reached[order] = np.cumsum(scores[order])
    reached = reached / scores.sum() if scores.sum() else np.ones(len(graph))
    return [None if kind == LOGIT else share for kind, share in zip(graph.kind, reached.tolist(), strict=True)]


def _plain(numbers: np.ndarray) -> list[float | None]:
    """With null where a number is none."""
    return [None if value != value else value for value in numbers.tolist()]
