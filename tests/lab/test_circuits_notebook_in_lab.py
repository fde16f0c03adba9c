"""The circuits notebook in a real JupyterLab: every cell runs, and the graph shows what Python chooses and ablates."""

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Locator, expect

from tests.house.repository import ROOT
from tests.lab.lab import Lab, OpenNotebook
from tests.lab.test_quickstart_in_lab import within_15_seconds

HOOKS = "sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.hf_model.modules())"
# The share of the picture's pixels that have ink.
INKED = """(canvas) => {
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    return data.filter((_, i) => i % 4 === 3).filter((alpha) => alpha > 0).length * 4 / data.length;
}"""


@pytest.fixture(scope="module")
def notebook(lab_page: Lab, lab_copy: Callable[..., str]) -> Iterator[OpenNotebook]:
    """The notebook with all its cells run, none of which failed."""
    lab_page.forget()
    opened = lab_page.open(lab_copy(ROOT / "notebooks" / "07_circuits.ipynb"))
    opened.run_all(seconds=500)  # a minute and a half's work where the machine is idle, and tests share it
    yield opened
    opened.close()


@pytest.fixture
def circuit(lab_page: Lab, notebook: OpenNotebook) -> Iterator[Locator]:
    """The graph as the notebook shows it. Whatever a test does, nothing complains and no hook is left."""
    views = notebook.panel.get_by_role("group", name="Circuit")
    expect(views).to_have_count(1)
    views.scroll_into_view_if_needed()
    yield views
    within_15_seconds(lambda: notebook.ask(HOOKS), 0)
    assert lab_page.troubles() == []


def test_the_graph_is_drawn_as_python_has_it(circuit: Locator, notebook: OpenNotebook) -> None:
    nodes, edges = notebook.ask("(len(view.shown), len(view.shown.weight))")
    expect(circuit.locator(".lk-c-count")).to_have_text([f"{nodes} of 406", f"{edges} of 10,000"])
    assert circuit.locator(".lk-c-painting").evaluate(INKED) > 0.01
    expect(circuit.locator(".lk-c-token")).to_have_text(["The", "·keys", "·to", "·the", "·cabinet"])
    expect(circuit.locator(".lk-f-title").first).to_have_text("Neuron 28.907 at ·cabinet (4)")


def test_what_is_chosen_in_python_is_shown_with_the_sum_that_it_is(circuit: Locator, notebook: OpenNotebook) -> None:
    notebook.execute("view.selection = '25.1516@1'")
    expect(circuit.locator(".lk-f-title").first).to_have_text("Neuron 25.1516 at ·keys (1)")
    value = notebook.ask("float(graph.value[graph.number('25.1516@1')])")
    expect(circuit.locator(".lk-c-sum b")).to_have_text(f"{value:.2f}".replace("-", "−"))


def test_ablating_the_folded_group_does_what_a_live_circuit_says(circuit: Locator, notebook: OpenNotebook) -> None:
    # The slider hides some of them: they belong to the group all the same.
    notebook.execute(
        "group = [str(named.nodes[n]) for n in named.groups['a plural']]\n"
        "view.spec = {**view.spec, 'groups': {'a plural': group}, 'folded': ['a plural'], 'selection': None}\n"
        "view.selection = '25.1516@1'\n"
    )
    expect(circuit.locator(".lk-f-title").first).to_have_text("Group a plural")
    shown, whole = notebook.ask("(len(view.shown.groups['a plural']), len(group))")
    assert 5 < shown < whole
    expect(circuit.locator(".lk-c-numbers")).to_contain_text(f"{shown} of {whole} nodes")
    circuit.get_by_role("button", name="Ablate", exact=True).click()
    ablation = circuit.locator(".lk-c-ablation")
    expect(ablation.get_by_role("heading", name="Without a plural")).to_be_visible()
    expect(ablation.locator(".lk-f-verdict")).to_contain_text("random", timeout=60_000)
    within_15_seconds(lambda: sorted(notebook.ask("view.spec['ablated']")), sorted(notebook.ask("group")))

    notebook.execute("expected = lk.circuits.LiveCircuit(model, named).ablate(group)")
    predicted, measured = notebook.ask("(float(expected.predicted[0]), float(expected.measured[0]))")
    expect(ablation.locator("td").first).to_have_text(f"{predicted:+.2f}".replace("-", "−"))
    expect(ablation.locator(".lk-c-measured").first).to_have_text(f"{measured:+.2f}".replace("-", "−"))
    assert measured < predicted < 0, "without the plural the answer leans to ' is', by more than the graph says"
    before, after = notebook.ask("(float(expected.before[0]), float(expected.after[0]))")
    number = ablation.locator(".lk-c-odds .lk-f-number").first
    expect(number).to_have_text(f"{before:.3f} → {after:.3f}".replace("0.", "."))

    ablation.get_by_role("checkbox", name="beside random").uncheck()
    expect(ablation.locator(".lk-f-verdict")).not_to_contain_text("random", timeout=60_000)
    within_15_seconds(lambda: notebook.ask("view.spec['placebo']"), wanted=False)
    circuit.get_by_role("button", name="As it is", exact=True).click()
    expect(ablation).to_be_hidden()
