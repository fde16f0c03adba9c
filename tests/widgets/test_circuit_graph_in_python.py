"""The Python half of the circuit graph: what it sends, in which order, and what it never does."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lenskit as lk
from lenskit.circuits.attributing.asking import attribute
from lenskit.circuits.changing.effects import total_effect
from lenskit.circuits.graph import EDGE_ARRAYS, EMBED, LOGIT, NODE_ARRAYS, Graph
from lenskit.widgets import circuit_graph
from lenskit.widgets.circuit_graph import CircuitGraph
from lenskit.widgets.circuit_wire import fitting
from lenskit.widgets.feature_wire import card_message
from tests.circuits.graphs import random_graph
from tests.models.tiny import tiny, tiny_tokenizer
from tests.widgets.feature_wire import hooks
from tests.widgets.feature_wire import Wire, opened
from tests.widgets.made_up_circuits import LABELS, graph, strongest, view
from tests.widgets.made_up_features import NEURONS, PROMPT, dictionary, index, model


class TestTheGraph:
    @pytest.mark.parametrize("made", [graph(), random_graph(2, nodes=300, edges=2000)])
    def test_travels_as_its_own_arrays(self, made: Graph) -> None:
        header, arrays = Wire(CircuitGraph(made)).ask("graph")
        assert (header["n_nodes"], header["n_edges"]) == (len(made), len(made.weight))
        assert (header["tokens"], header["labels"]) == (list(made.pieces), list(made.labels))
        assert (header["n_layers"], header["layers"]) == (made.n_layers, list(made.layers))
        assert (header["live"], header["cards"], header["names"]) == (False, [], {})
        assert arrays.keys() == {*NODE_ARRAYS, *EDGE_ARRAYS, "influence"}
        for name, array in arrays.items():
            np.testing.assert_allclose(array, getattr(made, name), rtol=1e-6)

    def test_what_travels_is_enough_to_prune_by(self) -> None:
        """As the front-end does it: from the arrays alone, the same nodes and edges as `Graph.pruned`."""
        made = random_graph(5, nodes=400, edges=3000)
        _, arrays = Wire(CircuitGraph(made)).ask("graph")
        held: dict[str, Any] = {name: arrays[name] for name in (*NODE_ARRAYS, *EDGE_ARRAYS)}
        again = replace(made, **held)
        assert again.pruned().nodes == made.pruned().nodes
        np.testing.assert_array_equal(again.pruned().target, made.pruned().target)

    def test_of_one_too_large_to_draw_comes_the_most_influential_part_and_it_says_so(self) -> None:
        made = random_graph(1, nodes=3000, edges=80_000)
        shown = CircuitGraph(made)
        header, arrays = Wire(shown).ask("graph")
        assert (header["n_nodes"], header["n_edges"]) == (1500, 10_000)
        assert shown.facts["cut"] == "1,500 of 3,000 nodes, 10,000 of 80,000 edges"
        free = np.flatnonzero((made.kind != EMBED) & (made.kind != LOGIT))
        best = free[np.argsort(-made.influence[free], kind="stable")[: 1500 - (len(made) - len(free))]]
        expected = {str(made.nodes[n]) for n in best} | {
            str(node) for node in made.nodes if node.kind in ("embed", "logit")
        }
        assert {str(node) for node in shown.shown.nodes} <= expected
        assert {str(node) for node in fitting(made).nodes} == expected
        reached = ~np.isnan(arrays["value"])
        sums = arrays["bias"] + arrays["rest"] + np.bincount(arrays["target"], arrays["weight"], 1500)
        np.testing.assert_allclose(sums[reached], arrays["value"][reached], rtol=1e-3, atol=1e-3)
        kept = [made.number(node) for node in fitting(made).nodes]
        np.testing.assert_allclose(arrays["influence"], made.influence[kept], rtol=1e-6)

    def test_of_one_with_too_many_edges_the_part_that_is_drawn_first_is_pruned_as_the_whole(self) -> None:
        made = random_graph(2, nodes=400, edges=20_000, tokens=6)
        part = fitting(made)
        assert (len(part), len(part.weight)) == (400, 10_000)
        for nodes, edges in ((0.7, 0.98), (0.5, 0.9)):
            expected, got = made.pruned(nodes, edges), part.pruned(nodes, edges)
            assert got.nodes == expected.nodes
            np.testing.assert_array_equal(got.weight, expected.weight)

    def test_one_that_fits_is_not_touched(self) -> None:
        made = random_graph(1, nodes=1500, edges=10_000)
        assert fitting(made) is made
        assert CircuitGraph(made).facts["cut"] is None

    def test_one_of_too_many_tokens_is_refused(self) -> None:
        with pytest.raises(ValueError, match="a view draws 20 nodes"):
            fitting(random_graph(1, tokens=30), nodes=20)

    def test_without_a_model_features_with_an_index_have_names_and_the_others_none(self) -> None:
        header, _ = Wire(view(model=None)).ask("graph")
        assert header["cards"] == [1]
        active = graph().activation > 0
        features = {node.feature for node, on in zip(graph().nodes, active, strict=True) if on and node.layer == 1}
        assert set(header["names"]) == {f"1.{feature}" for feature in features}
        feature = features.pop()
        first = [text for text, _, _ in index().promotes(feature, 3)]
        words = header["names"][f"1.{feature}"].split(" · ")
        assert [word.strip("·") for word in first] == [word.strip("·") for word in words]


class TestTheCard:
    def test_is_the_feature_browsers(self) -> None:
        (node,) = strongest()
        header, arrays = Wire(view()).ask("card", node=str(node))
        expected, buffers = card_message(index(), node.feature, "t:1")
        assert {key: header[key] for key in expected} == expected
        assert (header["node"], header["unit"]) == (str(node), "neuron")
        for name, array in opened(expected, buffers)[1].items():
            np.testing.assert_array_equal(arrays[name], array)

    @pytest.mark.parametrize(
        ("node", "why"),
        [
            ("embed@3", "an embedding has no card"),
            ("logit.0@7", "a target has no card"),
            (str(strongest(2)[0]), "no index of layer 2's features: give one"),
        ],
    )
    def test_is_missing_for_a_reason(self, node: str, why: str) -> None:
        header, _ = Wire(view()).ask("card", node=node)
        assert (header["kind"], header["node"]) == ("card", node)
        assert why in header["missing"]
        assert "arrays" not in header

    def test_of_a_node_that_is_not_there_is_an_error_in_words(self) -> None:
        header, _ = Wire(view()).ask("card", node="2.9999@3")
        assert header["kind"] == "error"
        assert header["message"].startswith("'2.9999@3' is no node of this graph")

    @pytest.mark.parametrize("given", [{0: index()}, index()])
    def test_an_index_is_for_the_layer_that_it_knows(self, given: Any) -> None:
        assert set(view(index=given).indices) == {1}

    def test_an_index_of_something_else_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"the index is of neurons of mlp_post.1, and in layer 1 the graph has"):
            CircuitGraph(random_graph(0), index=index())


class TestLive:
    def test_an_ablation_is_what_plain_edits_give_beside_the_graphs_and_a_placebo(self) -> None:
        nodes = strongest(1, 2)

        def silence(x: torch.Tensor) -> torch.Tensor:
            for node in nodes:
                x[0, node.pos, node.feature] = 0
            return x

        plain = model().run(PROMPT).logits[0, -1]
        without = model().run(PROMPT, edits=lk.Call("mlp_post", silence, layers=1)).logits[0, -1]
        header, _ = Wire(view()).ask("ablate", nodes=[str(node) for node in nodes], scale=0.0, placebo=True)
        assert (header["kind"], set(header["nodes"])) == ("ablated", {str(node) for node in nodes})
        ids = torch.maximum(plain.softmax(-1), without.softmax(-1)).topk(10).indices
        pieces = [piece if isinstance(piece, str) else list(piece) for piece in model().text.pieces(ids.tolist())]
        for name, logits in (("before", plain), ("after", without)):
            assert [piece for piece, _ in header[name]] == pieces
            np.testing.assert_allclose([p for _, p in header[name]], logits.softmax(-1)[ids], atol=1e-5)
        for effect, label, token in zip(header["effects"], LABELS, model().text.tokens(LABELS), strict=True):
            assert effect["label"] == label
            assert effect["before"] == pytest.approx(float(plain[token] - plain.mean()), abs=1e-4)
            assert effect["after"] == pytest.approx(float(without[token] - without.mean()), abs=1e-4)
        np.testing.assert_allclose(header["predicted"], predicted(nodes), rtol=1e-6)
        placebo = header["placebo"]
        assert placebo["n"] == 12
        assert len(placebo["mean"]) == len(placebo["spread"]) == 2
        assert min(placebo["spread"]) > 0
        assert header["kl"] > 0 < placebo["kl"]

    def test_of_a_dictionary_it_takes_away_what_the_feature_writes(self) -> None:
        basis = dictionary()
        made = attribute(model(), PROMPT, basis, LABELS, features=200)
        node = next(node for node, _ in made.top(200) if node.layer == 1)
        active = float(made.activation[made.number(node)])
        edit = lk.Add("mlp_out", -active * basis.W_dec[0, node.feature], layers=1, pos=node.pos)
        before, after = (model().run(PROMPT, edits=edits).logits[0, -1].softmax(-1) for edits in ([], [edit]))
        shown = CircuitGraph(made, model=model(), transcoders=[basis])
        header, _ = Wire(shown).ask("ablate", nodes=[str(node)], scale=0.0, placebo=False)
        ids = torch.maximum(before, after).topk(10).indices
        np.testing.assert_allclose([p for _, p in header["after"]], after[ids], atol=1e-5)
        assert float((after - before).abs().max()) > 1e-3
        assert header["placebo"] is None

    def test_python_sees_the_same_without_another_run(self) -> None:
        shown = view()
        (node,) = strongest()
        assert shown.ablated is None
        shown.spec = {**shown.spec, "ablated": [str(node)]}
        header, _ = Wire(shown).ask("ablate", nodes=[str(node)], scale=0.0, placebo=True)
        ablated = shown.ablated
        assert ablated is not None
        assert ablated is shown.ablated
        assert [effect["after"] for effect in header["effects"]] == ablated.value_after.tolist()
        shown.spec = {**shown.spec, "placebo": False}
        assert shown.ablated is not None
        assert len(shown.ablated.placebo) == 0

    def test_the_last_question_wins_and_each_gets_one_answer(self) -> None:
        async def click_quickly() -> list[tuple[str, str]]:
            wire = Wire(view())
            for n, node in enumerate(strongest(1, 3)):
                wire.say("ablate", f"t:{n}", nodes=[str(node)], scale=0.0, placebo=True)
                await asyncio.sleep(0)
            for _ in range(60):
                await asyncio.sleep(0)
            return [kind for kind in wire.kinds() if kind[1] != "progress"]

        assert asyncio.run(click_quickly()) == [("t:0", "superseded"), ("t:1", "superseded"), ("t:2", "ablated")]
        assert hooks() == 0

    @pytest.mark.parametrize("how", ["no nodes", "closed"])
    def test_it_can_be_stopped(self, how: str) -> None:
        async def stop() -> list[str]:
            wire = Wire(view())
            wire.say("ablate", "t:1", nodes=[str(strongest()[0])], scale=0.0, placebo=True)
            await asyncio.sleep(0)
            if how == "closed":
                wire.view.close()
            else:
                wire.say("ablate", "t:2", nodes=[], scale=0.0, placebo=True)
            for _ in range(60):
                await asyncio.sleep(0)
            return [kind for _, kind in wire.kinds() if kind != "progress"]

        assert asyncio.run(stop()) == ["superseded"]
        assert hooks() == 0

    @pytest.mark.parametrize(
        ("nodes", "said"),
        [
            (["embed@3"], "embed@3 is no feature"),
            (["2.9999@3"], "'2.9999@3' is no node of this graph"),
            (["<b>"], "'<b>' is no node. Nodes are"),
        ],
    )
    def test_what_cannot_be_done_is_answered_in_words(self, nodes: list[str], said: str) -> None:
        wire = Wire(view())
        header, _ = wire.ask("ablate", nodes=nodes, scale=0.0, placebo=True)
        assert header["kind"] == "error"
        assert header["message"].startswith(said)
        assert wire.ask("ablate", nodes=[str(strongest()[0])], scale=0.0, placebo=True)[0]["kind"] == "ablated"

    def test_without_a_model_it_shows_and_refuses_to_ablate(self) -> None:
        shown = view(model=None)
        wire = Wire(shown)
        assert wire.ask("graph")[0]["live"] is False
        assert wire.ask("card", node=str(strongest()[0]))[0]["feature"] < NEURONS
        header, _ = wire.ask("ablate", nodes=[str(strongest()[0])], scale=0.0, placebo=True)
        assert header["message"] == "without a model nothing is ablated: CircuitGraph(graph, model=model)."
        shown.spec = {**shown.spec, "ablated": [str(strongest()[0])]}
        assert shown.ablated is None

    def test_another_models_graph_is_refused_when_something_is_ablated(self) -> None:
        alike = lk.Model(tiny("llama", seed=1, vocab=300, layers=3), tiny_tokenizer(300), name="alike")
        shown = CircuitGraph(graph(), model=alike)
        header, _ = Wire(shown).ask("ablate", nodes=[str(strongest()[0])], scale=0.0, placebo=True)
        assert "in alike on its prompt" in header["message"]

    def test_the_second_module_comes_when_it_is_asked_for(self) -> None:
        header, _ = Wire(view()).ask("panel")
        static = Path(circuit_graph.__file__).parent / "static"
        assert header["source"] == (static / "circuit_panel.js").read_text(encoding="utf-8")
        assert header["css"] == (static / "circuit_panel.css").read_text(encoding="utf-8")

    def test_what_is_no_message_of_this_wire_raises(self) -> None:
        with pytest.raises(ValueError, match="version 1 of the wire"):
            Wire(view()).say("everything")


def predicted(nodes: list[Any]) -> np.ndarray:
    """What the graph says of each target: neurons of one layer do not reach each other."""
    return sum((total_effect(graph(), node) for node in nodes), np.zeros(len(LABELS)))
