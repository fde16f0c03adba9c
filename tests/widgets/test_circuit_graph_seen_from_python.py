"""What a person sees of a circuit graph in Python: its selection, its spec, what is shown, and its page."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import traitlets

import lenskit as lk
from lenskit.circuits.graph import Graph
from lenskit.circuits.nodes import Node
from lenskit.models.identity import ModelMismatch
from lenskit.widgets import LensTable, link
from lenskit.widgets.circuit_graph import CircuitGraph
from tests.circuits.graphs import random_graph
from tests.models.tiny import tiny, tiny_tokenizer
from tests.widgets.made_up_circuits import graph, strongest, view
from tests.widgets.made_up_features import PROMPT, index, model

TRICKY = "</script><!--<b>"


def edges_of(made: Graph) -> set[tuple[str, str]]:
    return {(str(made.nodes[s]), str(made.nodes[t])) for s, t in zip(made.source, made.target, strict=True)}


class TestTheSpec:
    def test_the_selection_and_the_spec_are_one_thing(self) -> None:
        shown, seen = view(), []
        assert shown.selection is None
        shown.observe(lambda change: seen.append(change["new"]), names="selection")
        (node,) = strongest()
        shown.selection = str(node)
        assert shown.selection == node
        assert shown.spec["selection"] == {
            "node": str(node), "kind": "feature", "layer": 1, "pos": node.pos, "feature": node.feature,
        }  # fmt: skip
        shown.spec = {**shown.spec, "selection": {"node": "embed@3"}}
        assert shown.selection == Node("embed", -1, 3, graph().tokens[3])
        shown.selection = len(graph()) - 1
        assert shown.spec["selection"]["node"] == "logit.1@7"
        shown.selection = None
        assert shown.spec["selection"] is None
        assert len(seen) == 4

    @pytest.mark.parametrize("wrong", ["1.9999@3", "here", 100_000, 1.5, True, ("embed", 3), Node("feature", 1, 99, 5)])
    def test_a_selection_that_is_not_there_is_refused(self, wrong: Any) -> None:
        with pytest.raises(traitlets.TraitError):
            view().selection = wrong

    @pytest.mark.parametrize(
        "change",
        [
            {"nodes": 0},
            {"nodes": 1.01},
            {"edges": "all"},
            {"edges": True},
            {"placebo": 1},
            {"pinned": ["1.9999@3"]},
            {"pinned": "embed@3"},
            {"ablated": ["embed@3"]},
            {"ablated": [3]},
            {"groups": {"a": ["embed@3"], "b": ["embed@3"]}},
            {"groups": {"a": ["nobody@3"]}},
            {"groups": {"": ["embed@3"]}},
            {"groups": ["embed@3"]},
            {"folded": ["a"]},
            {"selection": {"layer": 1, "pos": 3}},
            {"selection": {"node": "embed@3", "pos": 4}},
            {"selection": {"node": "embed@3", "colour": "red"}},
            {"theme": "dark"},
        ],
    )
    def test_a_wrong_spec_is_refused_and_the_view_stays_as_it_is(self, change: dict[str, Any]) -> None:
        shown = view()
        before = shown.spec
        with pytest.raises(traitlets.TraitError):
            shown.spec = {**shown.spec, **change}
        assert shown.spec == before

    def test_everything_that_a_person_chose_comes_back_from_its_json(self) -> None:
        shown, names = view(), [str(node) for node in strongest(1, 3)]
        shown.spec = {
            "nodes": 0.5, "edges": 0.9, "pinned": names[:1], "groups": {"keys": names[1:]}, "folded": ["keys"],
            "ablated": names[2:], "placebo": False, "selection": {"node": names[0]},
        }  # fmt: skip
        other = view()
        other.spec = json.loads(json.dumps(shown.spec))
        assert other.spec == shown.spec
        assert other.selection == strongest()[0]

    def test_it_begins_with_the_graphs_own_groups(self) -> None:
        names = [str(node) for node in strongest(1, 2)]
        assert CircuitGraph(graph().grouped("keys", names)).spec["groups"] == {
            "keys": sorted(names, key=graph().number)
        }


class TestWhatIsShown:
    @pytest.mark.parametrize("prune", [(0.8, 0.98), (0.4, 0.7), (1.0, 1.0)])
    def test_is_the_pruned_graph(self, prune: tuple[float, float]) -> None:
        made = random_graph(6, nodes=200, edges=1500)
        shown, expected = CircuitGraph(made, prune=prune).shown, made.pruned(*prune)
        assert shown.nodes == expected.nodes
        assert edges_of(shown) == edges_of(expected)
        np.testing.assert_allclose(shown.rest, expected.rest)

    def test_what_is_pinned_stays_with_its_edges(self) -> None:
        made = random_graph(6, nodes=200, edges=1500)
        shown = CircuitGraph(made, prune=(0.3, 0.5))
        gone = next(str(n) for n in made.nodes if n.kind == "feature" and n not in shown.shown.nodes)
        shown.spec = {**shown.spec, "pinned": [gone]}
        names = {str(node) for node in shown.shown.nodes}
        assert gone in names
        touching = {edge for edge in edges_of(made) if gone in edge and set(edge) <= names}
        assert touching
        assert edges_of(shown.shown) == edges_of(made.pruned(0.3, 0.5)) | touching

    def test_the_groups_are_those_of_the_view(self) -> None:
        made = random_graph(6)
        shown = CircuitGraph(made)
        features = [str(node) for node in shown.shown.nodes if node.kind == "feature"]
        gone = next(str(n) for n in made.nodes if n.kind == "feature" and n not in shown.shown.nodes)
        shown.spec = {**shown.spec, "groups": {"a": [features[0], gone], "b": [gone]} | {"b": []}}
        assert {name: [str(shown.shown.nodes[n]) for n in of] for name, of in shown.shown.groups.items()} == {
            "a": features[:1]
        }


class TestLinked:
    def test_it_follows_to_the_most_influential_node_that_is_drawn_there(self) -> None:
        shown = view()
        made = shown.shown
        node = strongest()[0]
        here = [n for n in range(len(made)) if (made.layer[n], made.pos[n]) == (1, node.pos)]
        best = max(here, key=lambda n: made.influence[n])
        shown.follow({"layer": 1, "pos": node.pos})
        assert shown.selection == made.nodes[best]
        other = next(made.nodes[n] for n in here if n != best)
        shown.selection = other
        shown.follow({"layer": 1, "pos": node.pos})
        assert shown.selection == other
        shown.selection = made.nodes[best]
        shown.follow({"pos": 99})
        assert shown.selection == made.nodes[best]
        shown.follow({"head": 1})
        assert shown.selection == made.nodes[best]
        shown.follow({"layer": 3})
        assert shown.selection is not None
        assert (shown.selection.kind, shown.selection.pos) in {("logit", 7), ("feature", node.pos)}

    def test_it_goes_together_with_a_lens_table(self) -> None:
        shown, table = view(), LensTable(model(), PROMPT)
        tied = link(table, shown, on=("layer", "pos"))
        (node,) = strongest()
        shown.selection = node
        assert table.spec["selection"] == {"layer": node.layer, "pos": node.pos}
        shown.selection = "embed@2"
        assert table.spec["selection"] == {"layer": node.layer, "pos": 2}
        table.selection = (1, node.pos)
        assert (shown.spec["selection"]["layer"], shown.spec["selection"]["pos"]) == (1, node.pos)
        tied.unlink()


class TestThePage:
    def test_it_prints_one_line_and_has_a_static_twin(self) -> None:
        shown = view()
        small = shown.shown
        sizes = f"{len(small)} of {len(graph())} nodes, {len(small.weight):,} of {len(graph().weight):,} edges"
        assert repr(shown) == f"CircuitGraph(' key', ' the': {sizes})"
        bundle, _ = shown._repr_mimebundle_()
        assert bundle["text/plain"] == repr(shown)
        assert "application/vnd.jupyter.widget-view+json" in bundle
        assert str(small.top(1)[0][0]) in bundle["text/html"]
        assert view()._repr_mimebundle_()[0]["text/html"] == bundle["text/html"]

    @pytest.mark.parametrize("where", ["token", "label", "group"])
    def test_a_name_in_the_static_twin_is_text(self, where: str) -> None:
        made = random_graph(0)
        first = str(made.top(1)[0][0])
        made = replace(
            made,
            pieces=tuple(TRICKY for _ in made.pieces) if where == "token" else made.pieces,
            labels=(TRICKY, "b") if where == "label" else made.labels,
        )
        made = made.grouped(TRICKY, [first]) if where == "group" else made
        html = CircuitGraph(made)._repr_mimebundle_()[0]["text/html"]
        assert "&lt;/script&gt;" in html
        assert "<b>" not in html
        assert "<!--" not in html

    def test_to_html_writes_one_file_that_names_no_address_and_nothing_ends_early_in_it(self, tmp_path: Path) -> None:
        made = replace(random_graph(0), labels=(TRICKY, "b"))
        shown = CircuitGraph(made.grouped(TRICKY, [made.top(1)[0][0]]))
        shown.to_html(tmp_path / "circuit.html")
        html = (tmp_path / "circuit.html").read_text(encoding="utf-8")
        assert html.count("</script>") == html.count("<script")
        assert "default-src 'none'" in html
        assert not re.search(r'(src|href)="(?!data:)', html)
        assert not [each for each in re.findall(r"https?://[^\s\"'\\<)]+", html) if "www.w3.org" not in each]
        block = re.search(r'<script type="application/json" id="lk-data">(.*?)</script>', html, re.DOTALL)
        assert block
        data = json.loads(block[1])
        assert data["state"]["facts"]["live"] is False
        assert data["state"]["panel"].keys() == {"source", "css"}
        header, buffers = data["reply"]
        assert (header["kind"], header["graph"]["labels"][0], header["ablated"]) == ("frozen", TRICKY, None)
        assert len(buffers) == len(header["graph"]["arrays"])

    def test_it_holds_the_cards_one_wants_first_and_the_ablation_that_is_shown(self) -> None:
        shown = view()
        every = strongest(1, 100)
        shown.spec = {
            **shown.spec,
            "selection": {"node": str(every[-1])},
            "pinned": [str(every[-2]), str(strongest(2)[0])],
            "ablated": [str(every[-3])],
        }
        header, buffers = shown._frozen(10)
        held = [(card["node"], card["feature"]) for card in header["cards"]]
        assert [node for node, _ in held[:3]] == [str(node) for node in (every[-1], every[-2], every[-3])]
        assert len({feature for _, feature in held}) == len(held) == 10
        assert header["ablated"]["nodes"] == [str(every[-3])]
        assert len(buffers) == sum(len(part["arrays"]) for part in (header["graph"], *header["cards"]))
        known = [piece[0] for card in header["cards"] for piece in card["pieces"]]
        assert len(known) == len(set(known))


class TestWhatItIsGiven:
    def test_it_shows_graphs_and_nothing_else(self) -> None:
        prompt: Any = PROMPT
        with pytest.raises(TypeError, match=r"lk\.circuits\.attribute"):
            CircuitGraph(prompt)

    def test_a_model_with_other_layers_is_refused(self) -> None:
        with pytest.raises(ValueError, match="6 layers"):
            CircuitGraph(random_graph(0), model=model())

    def test_an_index_of_another_model_is_refused(self) -> None:
        other = lk.Model(tiny("llama", seed=1, vocab=300, layers=3), tiny_tokenizer(300), name="other")
        with pytest.raises(ModelMismatch):
            CircuitGraph(graph(), model=other, index=index())

    def test_a_graph_alone_is_shown_without_torch(self, tmp_path: Path) -> None:
        program = f"""
import sys
from tests.circuits.graphs import random_graph
from lenskit.widgets.circuit_graph import CircuitGraph
shown = CircuitGraph(random_graph(0))
shown._repr_mimebundle_(), shown.to_html({str(tmp_path / "circuit.html")!r})
print("torch" in sys.modules, "transformers" in sys.modules)
"""
        done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
        assert done.stdout.split() == ["False", "False"]
