"""The attention view, linked with a lens table in another cell, in a real JupyterLab: type, click, ablate, ask Python.

Every test here also asserts that nothing complained meanwhile: no console error, no page error, no request elsewhere.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Locator, expect

from tests.lab.lab import Lab, OpenNotebook
from tests.lab.test_quickstart_in_lab import within_15_seconds

PROMPT = "When Mary and John went to the store, John gave a drink to"
CELLS = [
    "import lenskit as lk\nmodel = lk.load('demo')",
    f"view = lk.widgets.AttentionView(model, {PROMPT!r})\nview",
    f"table = lk.widgets.LensTable(model, {PROMPT!r})\ntable",
    "tied = lk.widgets.link(table, view)",
]


class Attention:
    """The view in the notebook, by its roles, and `view`, its Python half, in the kernel."""

    def __init__(self, notebook: OpenNotebook) -> None:
        self.notebook = notebook
        self.view = notebook.panel.get_by_role("group", name="Attention").last
        self.prompt = self.view.get_by_role("textbox", name="prompt")
        self.heads = self.view.get_by_role("grid", name="the pattern of each head")
        self.pattern = self.view.get_by_role("grid", name="which key each query looks at")
        self.error = self.view.get_by_role("alert")

    def shows_head(self, layer: int, head: int) -> None:
        expect(self.view.locator(".lk-a-title")).to_have_text(f"Head {layer}.{head}")
        expect(self.pattern.locator("xpath=..")).not_to_have_class(re.compile("lk-a-stale"))

    def next_tokens(self) -> Locator:
        return self.view.locator(".lk-a-said .lk-a-line")


@pytest.fixture(scope="module")
def notebook(lab_page: Lab, lab_root: Path) -> Iterator[OpenNotebook]:
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS])
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(made, lab_root / "attention.ipynb")
    lab_page.forget()
    opened = lab_page.open("attention.ipynb")
    opened.run_all()
    yield opened
    opened.close()


@pytest.fixture
def attention(lab: Lab, notebook: OpenNotebook) -> Iterator[Attention]:
    """The view, showing head 16.0 of PROMPT, nothing ablated."""
    notebook.execute(
        f"view.spec = {{**view.spec, 'prompt': {PROMPT!r}, 'ablated': [], 'pick': 'all', 'show': 'pattern',"
        " 'hide_first': False}; view.selection = (16, 0)"
    )
    attention = Attention(notebook)
    attention.heads.scroll_into_view_if_needed()
    attention.shows_head(16, 0)
    expect(attention.view.locator(".lk-a-chip")).to_have_count(0)
    yield attention
    assert lab.troubles() == []


def test_typing_brings_the_patterns_of_the_new_prompt(attention: Attention) -> None:
    attention.prompt.press("End")
    attention.prompt.press_sequentially(" the man, and", delay=30)
    within_15_seconds(lambda: attention.notebook.ask("view.prompt"), PROMPT + " the man, and")
    positions = attention.notebook.ask("len(view.attention.ids)")
    expect(attention.pattern).to_have_attribute("aria-rowcount", str(positions))
    expect(attention.view.locator(".lk-facts")).to_contain_text(f"of {positions} positions recomputed")


def test_the_arrows_walk_heads_and_cells_and_the_kernel_hears_of_it(attention: Attention) -> None:
    attention.heads.focus()
    for key in ["ArrowRight", "ArrowRight", "PageUp"]:
        attention.notebook.lab.page.keyboard.press(key)
    attention.shows_head(17, 2)
    for key in ["Tab", "ArrowUp", "ArrowUp", "ArrowLeft"]:
        attention.notebook.lab.page.keyboard.press(key)
    within_15_seconds(lambda: attention.notebook.ask("tuple(view.selection)"), (17, 2, 12, 11))
    expect(attention.pattern).to_be_focused()
    weight = attention.notebook.ask("float(view.attention.weights(17, 2)[12, 11])")
    cell = attention.pattern.get_by_role("gridcell")
    expect(cell).to_have_accessible_name(f"query ·drink (12), key ·a (11): {weight:.2f}".replace(" 0.", " ."))


def test_ablating_a_head_shows_what_plain_edits_give_and_undo_takes_it_back(attention: Attention) -> None:
    attention.notebook.execute("view.selection = (1, 5)")
    attention.shows_head(1, 5)
    attention.heads.press("a")
    expect(attention.next_tokens().first.locator(".lk-a-number")).to_contain_text("→")
    attention.notebook.execute(
        "ids = model.text.ids(view.prompt); paris = model.text.token(' Mary');"
        "before = model.run(view.prompt).logits[0, -1].softmax(-1)[paris].item();"
        "after = model.run(view.prompt, edits=lk.Zero('z', layers=1, heads=5)).logits[0, -1].softmax(-1)[paris].item()"
    )
    before, after = attention.notebook.ask("before"), attention.notebook.ask("after")
    assert after < before - 0.1
    line = attention.next_tokens().filter(has_text="Mary").first.locator(".lk-a-number")
    expect(line).to_have_text(f"{before:.3f} → {after:.3f}".replace("0.", "."))
    within_15_seconds(lambda: attention.notebook.ask("view.ablation.heads"), ((1, 5),))
    attention.heads.press("Control+z")
    expect(attention.next_tokens().first.locator(".lk-a-number")).not_to_contain_text("→")
    assert attention.notebook.ask("sum(len(m._forward_hooks) for m in model.hf_model.modules())") == 0


def test_what_is_chosen_in_the_table_is_chosen_in_the_view_and_back_in_the_page_and_in_the_kernel(
    attention: Attention,
) -> None:
    notebook = attention.notebook
    grid = notebook.panel.get_by_role("group", name="Lens table").last.get_by_role("grid")
    cell = grid.locator("[role=gridcell][aria-label^='layer 27, position 12:']")
    cell.click()
    attention.shows_head(27, 0)
    within_15_seconds(lambda: notebook.ask("(view.selection.layer, view.selection.pos)"), (27, 12))
    attention.heads.press("PageDown")
    selected = grid.locator("[role=gridcell][aria-selected=true]")
    expect(selected).to_have_attribute("aria-label", re.compile("^layer 26, position 12:"))
    within_15_seconds(lambda: notebook.ask("(table.selection.layer, table.selection.pos)"), (26, 12))
    notebook.execute("table.selection = (3, 4)")
    attention.shows_head(3, 0)
    for _ in range(12):  # a key held down: both views end where it ends, and stay there
        attention.heads.press("ArrowUp")
    attention.shows_head(15, 0)
    notebook.lab.page.wait_for_timeout(400)
    attention.shows_head(15, 0)
    assert notebook.ask("(table.selection.layer, view.selection.layer)") == (15, 15)


def test_a_prompt_that_is_too_long_is_explained_in_the_view_which_goes_on_working(attention: Attention) -> None:
    attention.prompt.fill("word " * 900)
    expect(attention.error).to_have_text(re.compile("MiB, and at most 512 are held: shorten the prompt"))
    expect(attention.pattern).to_have_attribute("aria-rowcount", "14")
    attention.prompt.fill(PROMPT)
    expect(attention.error).to_be_hidden()


def test_closing_the_view_stops_what_it_computes(attention: Attention) -> None:
    attention.notebook.execute("other = lk.widgets.AttentionView(model, 'a')")
    # anywidget complains of a model that is closed before the page has made it, and nothing tells when it has.
    attention.notebook.lab.page.wait_for_timeout(1500)
    attention.notebook.execute(
        "other._receive(other, {'v': 1, 'kind': 'read', 'id': 'x:1', 'prompt': view.prompt * 8, 'show': 'pattern',"
        " 'hide_first': False, 'pick': 'all', 'by': 'zero', 'ablated': [], 'head': None,"
        " 'have': {'table': None, 'modes': [], 'kinds': [], 'heads': []}}, []); other.close()"
    )
    within_15_seconds(
        lambda: attention.notebook.ask(
            "sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.hf_model.modules())"
        ),
        0,
    )
    assert attention.notebook.ask("other._read") == "a"
