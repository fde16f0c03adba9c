"""The published attribution graph: what is written is what the format asks for, and what others write is understood."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lenskit.circuits.graph import LOGIT, Graph
from lenskit.circuits.graph_files.published import paired, read_published
from tests.circuits import naive_pruning as naive
from tests.circuits.graphs import random_graph
from tests.circuits.published_files import foreign, read, written
from tests.circuits.same import assert_same
from tests.circuits.test_pruning import chain

TEXT, WHOLE, NUMBER = {"type": "string"}, {"type": "integer"}, {"type": "number"}
MAYBE = {"type": ["number", "null"]}
# What Neuronpedia's schema and circuit-tracer's own models ask of a file, and not less.
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["metadata", "qParams", "nodes", "links"],
    "properties": {
        "metadata": {
            "type": "object",
            "required": ["slug", "scan", "transcoder_list", "prompt_tokens", "prompt"],
            "properties": {
                "slug": TEXT,
                "scan": TEXT,
                "transcoder_list": {"type": "array", "items": TEXT},
                "prompt_tokens": {"type": "array", "items": TEXT},
                "prompt": TEXT,
                "node_threshold": MAYBE,
                "schema_version": {"const": 1},
                "info": {"type": "object"},
                "feature_details": {"type": "object"},
                "generation_settings": {"type": "object"},
                "pruning_settings": {"type": "object"},
            },
        },
        "qParams": {
            "type": "object",
            "required": ["pinnedIds", "supernodes", "linkType", "clickedId", "sg_pos"],
            "properties": {
                "pinnedIds": {"type": "array", "items": TEXT},
                "supernodes": {"type": "array", "items": {"type": "array", "items": TEXT, "minItems": 2}},
                "linkType": TEXT,
                "clickedId": TEXT,
                "sg_pos": TEXT,
            },
        },
        "nodes": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["node_id", "feature", "layer", "ctx_idx", "feature_type", "jsNodeId", "clerp"],
                "properties": {
                    "node_id": {"type": "string", "pattern": r"^(E|\d+)_(-1|\d+)_\d+$"},
                    "feature": WHOLE,
                    "layer": {"type": "string", "pattern": r"^(E|\d+)$"},
                    "ctx_idx": {"type": "integer", "minimum": 0},
                    "feature_type": {
                        "enum": ["embedding", "cross layer transcoder", "mlp reconstruction error", "logit"]
                    },
                    "token_prob": {"type": "number", "minimum": 0, "maximum": 1},
                    "is_target_logit": {"type": "boolean"},
                    "run_idx": WHOLE,
                    "reverse_ctx_idx": WHOLE,
                    "jsNodeId": TEXT,
                    "clerp": TEXT,
                    "influence": MAYBE,
                    "activation": MAYBE,
                },
            },
        },
        "links": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["source", "target", "weight"],
                "properties": {"source": TEXT, "target": TEXT, "weight": NUMBER},
            },
        },
    },
}


# Written here


@given(st.integers(0, 10**6))
def test_a_graph_written_here_is_one_of_the_published_and_comes_back_the_same(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    graph = random_graph(seed, nodes=40, edges=120, tokens=5, targets=3, groups={"</script>": (0, 7), "": (9,)})
    made = written(graph, tmp_path_factory.getbasetemp())
    jsonschema.validate(made, SCHEMA)
    names = [each["node_id"] for each in made["nodes"]]
    assert len(set(names)) == len({each["jsNodeId"] for each in made["nodes"]}) == len(graph)
    assert all(link["source"] in names and link["target"] in names for link in made["links"])
    assert_same(Graph.load(tmp_path_factory.getbasetemp() / "graph.json"), graph)


def test_a_pruned_one_an_empty_one_and_one_over_tokens_come_back(tmp_path: Path) -> None:
    for graph in (random_graph(0).pruned(), chain().keeping(np.zeros(4, dtype=bool)), random_graph(1).over_tokens()):
        jsonschema.validate(written(graph, tmp_path), SCHEMA)
        assert_same(Graph.load(tmp_path / "graph.json"), graph)


def test_the_names_and_numbers_are_the_published_ones(tmp_path: Path) -> None:
    made = written(replace(chain(), provenance={"model": "tiny", "circuit": {"tokens": [[3575]]}}), tmp_path)
    told = {each["node_id"]: each for each in made["nodes"]}
    assert list(told) == ["E_504_0", "0_7_0", "1_-1_0", "3_3575_0"]  # two layers: the logits are in layer 3
    assert [each["feature"] for each in told.values()] == [0, paired(0, 7), -1, 3575]
    assert [each["layer"] for each in told.values()] == ["E", "0", "1", "3"]
    assert told["3_3575_0"]["clerp"] == 'Output " capital" (p=1.000)'
    assert told["3_3575_0"]["is_target_logit"]
    assert made["metadata"]["scan"] == "tiny"
    assert (made["metadata"]["slug"], made["metadata"]["prompt"]) == ("capital", "The")
    assert made["links"][0] == {"source": "E_504_0", "target": "0_7_0", "weight": 3.0}


def test_a_feature_number_is_the_pairing_that_published_files_have() -> None:
    # layer, feature and number as they stand in files that circuit-tracer wrote
    known = [(0, 391, 77027), (2, 14696, 108037647), (24, 1500, 1163550), (25, 3681, 6872752), (6, 93699, 4390454064)]
    for layer, feature, number in known:
        assert paired(layer, feature) == number
    diagonals = [(total - feature, feature) for total in range(30) for feature in range(total + 1)]
    assert [paired(*pair) for pair in diagonals] == list(range(len(diagonals)))


def test_influence_is_the_share_that_all_nodes_up_to_it_have(tmp_path: Path) -> None:
    graph = random_graph(3)
    scores = naive.influence(naive.shares(graph), graph.weights)
    for n, each in enumerate(written(graph, tmp_path)["nodes"]):
        if graph.kind[n] == LOGIT:
            assert each["influence"] is None
        elif scores[n] > 0:
            assert each["influence"] == pytest.approx(scores[scores >= scores[n]].sum() / scores.sum())


def test_nothing_is_written_where_it_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"say a\.safetensors\.json"):
        chain().to_json(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="activation holds a number that is infinite"):
        replace(chain(), activation=np.array([np.nan, np.inf, np.nan, np.nan])).to_json(tmp_path / "a.json")
    assert not list(tmp_path.iterdir())


# Written by others


def test_another_s_file_is_understood(tmp_path: Path) -> None:
    jsonschema.validate(foreign() | {"qParams": {**foreign()["qParams"], "supernodes": []}}, SCHEMA)
    graph = read(tmp_path, foreign())
    assert [str(node) for node in graph.nodes] == [
        "embed@0", "embed@1", "0.5@1", "3.error@2", "24.5@2", "logit.0@2", "logit.1@2",
    ]  # fmt: skip
    assert (graph.n_layers, graph.layers) == (26, ("transcoder",) * 26)
    assert graph.tokens == (2, 235274, -1)  # the last token has no embedding in the file
    assert graph.pieces == ("<bos>", "1", "<b>")
    assert graph.labels == ('<b>4"</b>', "6")
    np.testing.assert_allclose(graph.weights, [0, 0, 0, 0, 0, 0.75, 0.25])
    np.testing.assert_array_equal(graph.size, [np.nan, np.nan, 4, np.nan, 2, 2, 1])
    np.testing.assert_array_equal(graph.value, [np.nan, np.nan, 4, np.nan, 2.5, np.nan, np.nan])
    np.testing.assert_array_equal(graph.bias, [np.nan, np.nan, 0, np.nan, 0, 0, 0])
    np.testing.assert_array_equal(graph.rest, [np.nan, np.nan, 2, np.nan, 0.5, 0, 0])
    assert graph.influence[graph.number("0.5@1")] == pytest.approx(0.75 * 0.75 + 0.25)
    assert graph.replacement_score == pytest.approx(0.8125)


def test_what_a_graph_has_no_place_for_is_kept_and_written_again(tmp_path: Path) -> None:
    graph = read(tmp_path, foreign())
    assert graph.groups == {"one": (2, 3), "one (2)": (5,)}
    assert graph.provenance == {
        "model": "gemma-2-2b",
        "circuit": {"tokens": [[900], [901]]},
        "published": {
            "metadata": {"node_threshold": 0.8, "info": {"creator_name": "somebody"}},
            "qParams": {"pinnedIds": ["0_5_1"]},
            "clerps": {"0_5_1": "a <i>name</i>"},
        },
    }
    again = written(graph, tmp_path)
    jsonschema.validate(again, SCHEMA)
    assert_same(Graph.load(tmp_path / "graph.json"), graph)
    theirs = foreign()
    assert again["metadata"]["info"] == theirs["metadata"]["info"]
    assert again["qParams"]["pinnedIds"] == ["0_5_1"]
    told = {each["node_id"]: each for each in again["nodes"]}
    for each in theirs["nodes"]:
        for name in ("feature", "layer", "ctx_idx", "feature_type", "activation", "clerp"):
            if each["feature_type"] != "logit" or name != "clerp":
                assert told[each["node_id"]][name] == each[name]
    assert sorted(again["links"], key=str) == sorted(theirs["links"], key=str)


def test_pins_and_supernodes_set_elsewhere_come_with_a_graph_of_ours(tmp_path: Path) -> None:
    made = written(chain(), tmp_path)
    made["qParams"] |= {"pinnedIds": ["0_7_0"], "supernodes": [["Texas", "0_7_0", "E_504-0"]]}  # by either name
    graph = read(tmp_path, made)
    assert graph.groups == {"Texas": (0, 1)}
    assert_same(graph, chain(), but=("groups", "provenance"))
    assert graph.provenance == {"published": {"qParams": {"pinnedIds": ["0_7_0"]}}}


def test_files_of_other_habits(tmp_path: Path) -> None:
    """Layers as whole numbers, errors by their older name, logits one layer lower, and no logits at all."""
    given = foreign()
    for each in given["nodes"]:
        each["layer"] = each["layer"] if each["layer"] == "E" else int(each["layer"])
    given["nodes"][2]["node_id"] = given["links"][4]["source"] = given["qParams"]["supernodes"][0][2] = "0_3_2"
    assert_same(read(tmp_path, given), read(tmp_path, foreign()))

    for each in given["nodes"]:
        each["layer"] = 25 if each["feature_type"] == "logit" else each["layer"]
    assert read(tmp_path, given).n_layers == 25

    short = foreign()
    short["links"], short["nodes"], short["qParams"]["supernodes"] = short["links"][:3], short["nodes"][:5], []
    graph = read(tmp_path, short)
    assert (graph.n_layers, graph.labels) == (25, ())
    assert graph.pruned().replacement_score == 0


def test_probabilities_that_are_none_count_the_same(tmp_path: Path) -> None:
    given = foreign()
    for each in given["nodes"]:
        each.pop("token_prob")
    assert read(tmp_path, given).weights.tolist() == [0, 0, 0, 0, 0, 0.5, 0.5]


def test_a_graph_that_was_read_can_be_written(tmp_path: Path) -> None:
    """Even one whose provenance another made up."""
    for odd in (5, [], {"metadata": 3, "qParams": [], "clerps": {"0_7_0": 3}}):
        for tokens in (3, [[]], ["x"], [[None]], [[{}]]):
            graph = replace(chain(), provenance={"published": odd, "circuit": {"tokens": tokens}})
            jsonschema.validate(written(graph, tmp_path), SCHEMA)
            assert len(read_published(tmp_path / "graph.json")) == 4
