"""The feature browser, linked with a lens table in another cell, in a real JupyterLab: type, walk, ablate, ask Python.

Every test here also asserts that nothing complained meanwhile: no console error, no page error, no request elsewhere.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Locator, expect

import lenskit as lk
from lenskit.transcoders.index.feature_index import FeatureIndex
from tests.lab.lab import Lab, OpenNotebook
from tests.lab.test_quickstart_in_lab import within_15_seconds

PROMPT = "He had not seen her for three long"
CELLS = [
    """
import lenskit as lk
from lenskit.transcoders.index.feature_index import FeatureIndex
model = lk.load("demo")
index = FeatureIndex.open("neurons20")
""",
    f"browser = lk.widgets.FeatureBrowser(index, model, {PROMPT!r}, feature=1144)\nbrowser",
    f"table = lk.widgets.LensTable(model, {PROMPT!r})\ntable",
    "tied = lk.widgets.link(table, browser, on='pos')",
]


class Features:
    """The browser in the notebook, by its roles, and `browser`, its Python half, in the kernel."""

    def __init__(self, notebook: OpenNotebook) -> None:
        self.notebook = notebook
        self.view = notebook.panel.get_by_role("group", name="Features").last
        self.prompt = self.view.get_by_role("textbox", name="prompt")
        self.grid = self.view.get_by_role("grid")
        self.title = self.view.locator(".lk-f-title")
        self.tokens = self.view.get_by_role("option")

    def odds(self) -> Locator:
        return self.view.locator(".lk-f-odds .lk-f-line")


@pytest.fixture(scope="module")
def notebook(lab_page: Lab, lab_root: Path) -> Iterator[OpenNotebook]:
    # Made here: a cell has two minutes, and this may take longer on a busy machine.
    FeatureIndex.build(
        lk.load("demo"), ("mlp_post", 20), lk.demo_texts()[:8], lab_root / "neurons20", on_progress=lambda _: None
    )
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS])
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(made, lab_root / "features.ipynb")
    lab_page.forget()
    opened = lab_page.open("features.ipynb")
    opened.run_all()
    yield opened
    opened.close()


@pytest.fixture
def features(lab: Lab, notebook: OpenNotebook) -> Iterator[Features]:
    """The browser, showing neuron 1144 on PROMPT, nothing changed."""
    notebook.execute(
        f"browser.spec = {{'prompt': {PROMPT!r}, 'selection': {{'feature': 1144, 'pos': None}}, 'sort': 'density'}}"
    )
    features = Features(notebook)
    features.grid.scroll_into_view_if_needed()
    expect(features.title).to_have_text("Neuron 20.1144")
    expect(features.tokens).to_have_count(8)
    yield features
    assert lab.troubles() == []


def test_typing_shows_what_fires_where_now(features: Features) -> None:
    features.prompt.press("End")
    features.prompt.press_sequentially(" years, or", delay=30)
    within_15_seconds(lambda: features.notebook.ask("browser.prompt"), PROMPT + " years, or")
    positions = features.notebook.ask("len(browser.fired.ids)")
    expect(features.tokens).to_have_count(positions)
    on = features.notebook.ask("(browser.fired.of(1144) > 0).tolist()")
    labels = features.tokens.evaluate_all("(all) => all.map((one) => one.ariaLabel)")
    assert [not label.endswith("silent") for label in labels] == on


def test_the_keyboard_walks_features_and_tokens_and_the_kernel_hears_of_it(features: Features) -> None:
    features.grid.focus()
    page = features.notebook.lab.page
    for key in ("Home", "ArrowDown", "ArrowDown", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    third = features.notebook.ask("int(index.sorted_by('density')[2])")
    expect(features.title).to_have_text(f"Neuron 20.{third}")
    within_15_seconds(lambda: features.notebook.ask("tuple(browser.selection)"), (third, 1))
    page.keyboard.press("p")
    within_15_seconds(lambda: features.notebook.ask("browser.spec['pinned']"), [third])
    expect(features.grid).to_be_focused()
    page.keyboard.press("Control+z")
    within_15_seconds(lambda: features.notebook.ask("browser.spec['pinned']"), [])


def test_ablating_shows_what_plain_edits_give_beside_a_placebo_and_leaves_no_hook(features: Features) -> None:
    features.grid.press("a")
    expect(features.view.locator(".lk-f-verdict")).to_contain_text("20 draws", timeout=60_000)
    features.notebook.execute(
        "edits = browser._live.edits(browser.prompt, 1144, by='scale', amount=0.0); years = model.text.token(' years');"
        "before = model.run(browser.prompt).logits[0, -1].softmax(-1)[years].item();"
        "after = model.run(browser.prompt, edits=edits).logits[0, -1].softmax(-1)[years].item()"
    )
    before, after = features.notebook.ask("before"), features.notebook.ask("after")
    line = features.odds().filter(has_text="years").first.locator(".lk-f-number").first
    expect(line).to_have_text(f"{before:.3f} → {after:.3f}".replace("0.", "."))
    expect(features.view.locator(".lk-f-beside").first).to_have_text(re.compile(r"placebo \S+ ± "))
    assert (
        features.notebook.ask(
            "sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.hf_model.modules())"
        )
        == 0
    )
    features.grid.press("Control+z")
    expect(features.view.locator(".lk-f-verdict")).to_be_hidden()


def test_a_token_chosen_in_the_lens_table_is_chosen_here_and_back(features: Features) -> None:
    table = features.notebook.panel.get_by_role("group", name="Lens table").last.get_by_role("grid")
    table.locator("[role=gridcell][aria-label^='layer 27, position 5:']").click()
    expect(features.view.get_by_role("option", selected=True)).to_have_accessible_name(re.compile(r"\(5\)"))
    within_15_seconds(lambda: features.notebook.ask("browser.selection.pos"), 5)
    features.tokens.nth(3).click()
    within_15_seconds(lambda: features.notebook.ask("table.selection.pos"), 3)


def test_what_python_chooses_is_shown(features: Features) -> None:
    features.notebook.execute("browser.selection = (655, 2)")
    expect(features.title).to_have_text("Neuron 20.655")
    expect(features.view.locator(".lk-f-chosen")).to_be_visible()
    expect(features.view.get_by_role("option", selected=True)).to_have_accessible_name(re.compile(r"\(2\)"))
