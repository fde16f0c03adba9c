"""A circuit graph, linked with a lens table in another cell, in a real JupyterLab: prune, walk, pin, group, ablate.

Every test here also asserts that nothing complained meanwhile: no console error, no page error, no request elsewhere.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Locator, expect

import lenskit as lk
from lenskit.circuits.attributing.asking import attribute
from lenskit.transcoders.index.feature_index import FeatureIndex
from tests.lab.lab import Lab, OpenNotebook
from tests.lab.test_quickstart_in_lab import within_15_seconds

PROMPT = "He had not seen her for three long"
NODE = "20.1144@7"
CELLS = [
    """
import lenskit as lk
from lenskit.circuits.graph import Graph
from lenskit.transcoders.index.feature_index import FeatureIndex
from lenskit.widgets.circuit_graph import CircuitGraph
model = lk.load("demo")
index = FeatureIndex.open("neurons20")
graph = Graph.load("years.safetensors")
""",
    "view = CircuitGraph(graph, model=model, index=index)\nview",
    f"table = lk.widgets.LensTable(model, {PROMPT!r})\ntable",
    "tied = lk.widgets.link(table, view, on=('layer', 'pos'))",
]


class Circuit:
    """The graph in the notebook, by its roles, and `view`, its Python half, in the kernel."""

    def __init__(self, notebook: OpenNotebook) -> None:
        self.notebook = notebook
        self.view = notebook.panel.get_by_role("group", name="Circuit").last
        self.picture = self.view.get_by_role("application", name="attribution graph")
        self.title = self.view.locator(".lk-f-title").first

    def slider(self, of: str) -> Locator:
        return self.view.get_by_role("slider", name=f"share of the influence of the {of} that is shown")

    def spec(self, key: str) -> object:
        return self.notebook.ask(f"view.spec[{key!r}]")


@pytest.fixture(scope="module")
def notebook(lab_page: Lab, lab_root: Path) -> Iterator[OpenNotebook]:
    # Made here: a cell has two minutes, and this may take longer on a busy machine.
    model = lk.load("demo")
    FeatureIndex.build(model, ("mlp_post", 20), lk.demo_texts()[:8], lab_root / "neurons20", on_progress=lambda _: None)
    attribute(model, PROMPT, (), " years", features=192).save(lab_root / "years.safetensors")
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS])
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(made, lab_root / "circuit.ipynb")
    lab_page.forget()
    opened = lab_page.open("circuit.ipynb")
    opened.run_all()
    yield opened
    opened.close()


@pytest.fixture
def circuit(lab: Lab, notebook: OpenNotebook) -> Iterator[Circuit]:
    """The graph with the neuron for lengths of time chosen, nothing else changed."""
    notebook.execute(f"view.spec = {{'selection': {{'node': {NODE!r}}}}}")
    circuit = Circuit(notebook)
    circuit.picture.scroll_into_view_if_needed()
    expect(circuit.title).to_contain_text("Neuron 20.1144")
    yield circuit
    assert lab.troubles() == []


def test_what_is_drawn_is_what_python_has_and_the_sliders_prune_both(circuit: Circuit) -> None:
    for of, name in (("nodes", "kind"), ("edges", "weight")):
        for key in (None, "PageDown", "Home", "End"):
            if key is not None:
                circuit.slider(of).press(key)
            share = circuit.slider(of).evaluate("(input) => Number(input.value)")
            within_15_seconds(lambda of=of: circuit.spec(of), share)
            shown = circuit.notebook.ask(f"len(view.shown.{name})")
            whole = circuit.notebook.ask(f"len(view.graph.{name})") if of == "nodes" else 10_000
            said = f"{round(100 * share)} percent, {shown:,} of {whole:,}"
            expect(circuit.slider(of)).to_have_attribute("aria-valuetext", said)


def test_the_keyboard_walks_pins_and_undoes_and_the_kernel_hears_of_it(circuit: Circuit) -> None:
    circuit.picture.focus()
    page = circuit.notebook.lab.page
    strongest = circuit.notebook.ask(f"str(view.shown.into({NODE!r})[0].source)")
    page.keyboard.press("Shift+ArrowDown")
    within_15_seconds(lambda: circuit.notebook.ask("str(view.selection)"), strongest)
    page.keyboard.press("Enter")
    within_15_seconds(lambda: circuit.spec("pinned"), [strongest])
    page.keyboard.press("Control+z")
    within_15_seconds(lambda: circuit.spec("pinned"), [])
    page.keyboard.press("Control+Shift+z")
    within_15_seconds(lambda: circuit.spec("pinned"), [strongest])
    expect(circuit.picture).to_be_focused()


def test_the_card_of_a_neuron_comes_from_its_index(circuit: Circuit) -> None:
    card = circuit.view.locator(".lk-c-card")
    expect(card).to_contain_text("years")
    maximum = circuit.notebook.ask("float(index.max[1144])")
    expect(card).to_contain_text(re.compile(rf"max {maximum:.0f}|max {maximum:.1f}|max {maximum:.2f}"))
    circuit.notebook.execute("view.selection = 'logit.0@7'")
    expect(card).to_be_hidden()


def test_nodes_are_gathered_and_named_and_python_has_the_group(circuit: Circuit) -> None:
    circuit.picture.focus()
    page = circuit.notebook.lab.page
    other = circuit.notebook.ask(f"str(view.shown.into({NODE!r})[0].source)")
    page.keyboard.press(" ")
    page.keyboard.press("Shift+ArrowDown")
    page.keyboard.press(" ")
    page.keyboard.press("g")
    field = circuit.view.get_by_role("textbox", name="name of the group")
    expect(field).to_be_focused()
    field.fill("lengths of time")
    field.press("Enter")
    within_15_seconds(
        lambda: sorted(circuit.notebook.ask("view.spec['groups']['lengths of time']")), sorted([NODE, other])
    )
    assert circuit.notebook.ask("len(view.shown.groups['lengths of time'])") == 2


def test_ablating_shows_what_plain_edits_give_beside_a_placebo_and_leaves_no_hook(circuit: Circuit) -> None:
    circuit.picture.press("a")
    within_15_seconds(lambda: circuit.spec("ablated"), [NODE])
    ablation = circuit.view.locator(".lk-c-ablation")
    expect(ablation.locator(".lk-f-verdict")).to_contain_text("random features", timeout=60_000)
    circuit.notebook.execute(
        "def silence(x):\n    x[0, 7, 1144] = 0\n    return x\n"
        "years = model.text.token(' years')\n"
        "without = [model.run(view.facts['prompt'], edits=edits).logits[0, -1].softmax(-1)[years].item()"
        " for edits in ([], [lk.Call('mlp_post', silence, layers=20)])]"
    )
    before, after = circuit.notebook.ask("without")
    line = ablation.locator(".lk-c-odds .lk-f-line").filter(has_text="years").first.locator(".lk-f-number")
    expect(line).to_have_text(f"{before:.3f} → {after:.3f}".replace("0.", "."))
    measured = circuit.notebook.ask("float(view.ablated.measured[0])")
    expect(ablation.locator(".lk-c-measured").first).to_have_text(f"{measured:+.2f}".replace("-", "−"))
    assert (
        circuit.notebook.ask("sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.hf_model.modules())")
        == 0
    )
    circuit.picture.press("Control+z")
    expect(ablation).to_be_hidden()


def test_a_place_chosen_in_the_lens_table_is_chosen_here_and_back(circuit: Circuit) -> None:
    table = circuit.notebook.panel.get_by_role("group", name="Lens table").last.get_by_role("grid")
    table.locator("[role=gridcell][aria-label^='layer 21, position 7:']").click()
    there = circuit.notebook.ask("[str(n) for n in view.shown.nodes if (n.layer, n.pos) == (21, 7)]")
    best = max(
        there, key=lambda name: circuit.notebook.ask(f"view.graph.influence[view.graph.number({name!r})].item()")
    )
    expect(circuit.title).to_contain_text(best.partition("@")[0])
    within_15_seconds(lambda: circuit.notebook.ask("str(view.selection)"), best)
    circuit.notebook.execute("view.selection = 'embed@3'")
    within_15_seconds(lambda: circuit.notebook.ask("table.selection.pos"), 3)
