"""Published attribution graphs as files: written here, as another writes them, and read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lenskit.circuits.graph import Graph
from lenskit.circuits.graph_files.published import paired, read_published


def written(graph: Graph, folder: Path, slug: str = "capital") -> dict[str, Any]:
    return json.loads(graph.to_json(folder / "graph.json", slug=slug).read_text())


def foreign() -> dict[str, Any]:
    """As circuit-tracer writes it: of a model of 26 layers, with two logits."""

    def node(name: str, kind: str, **more: Any) -> dict[str, Any]:
        layer, number, pos = name.split("_")
        plain = {"token_prob": 0.0, "is_target_logit": False, "run_idx": 0, "reverse_ctx_idx": 0, "clerp": ""}
        about = {"node_id": name, "feature": int(number), "layer": layer, "ctx_idx": int(pos), "feature_type": kind}
        return about | plain | {"jsNodeId": f"{layer}_{number}-0", "influence": 0.4, "activation": None} | more

    feature, output = "cross layer transcoder", "logit"
    return {
        "metadata": {
            "slug": "123", "scan": "gemma-2-2b", "transcoder_list": [], "prompt_tokens": ["<bos>", "1", "<b>"],
            "prompt": "<bos>1<b>", "node_threshold": 0.8, "schema_version": 1, "info": {"creator_name": "somebody"},
        },
        "qParams": {
            "pinnedIds": ["0_5_1"], "supernodes": [["one", "0_5_1", "3_-1_2"], ["one", "27_900_2"], ["none"]],
            "linkType": "both", "clickedId": "", "sg_pos": "",
        },
        "nodes": [
            node("0_5_1", feature, feature=paired(0, 5), activation=4.0, clerp="a <i>name</i>"),
            node("24_5_2", feature, feature=paired(24, 5), activation=2.5),
            node("3_-1_2", "mlp reconstruction error"),
            node("E_2_0", "embedding", feature=0),
            node("E_235274_1", "embedding", feature=1),
            node("27_900_2", output, token_prob=0.3, is_target_logit=True, clerp='Output "<b>4"</b>" (p=0.300)'),
            node("27_901_2", output, token_prob=0.1, clerp='Output "6" (p=0.100)'),
        ],
        "links": [
            {"source": "E_2_0", "target": "0_5_1", "weight": -1.0},
            {"source": "E_235274_1", "target": "0_5_1", "weight": 3.0},
            {"source": "0_5_1", "target": "24_5_2", "weight": 2.0},
            {"source": "24_5_2", "target": "27_900_2", "weight": 1.5},
            {"source": "3_-1_2", "target": "27_900_2", "weight": -0.5},
            {"source": "0_5_1", "target": "27_901_2", "weight": 1.0},
        ],
    }  # fmt: skip


def read(folder: Path, given: Any) -> Graph:
    path = folder / "foreign.json"
    path.write_text(given if isinstance(given, str) else json.dumps(given))
    return read_published(path)
