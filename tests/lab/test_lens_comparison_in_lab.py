"""Two lenses and two prompts in one lens table, in a real JupyterLab on the demo model.

Every test here also asserts that nothing complained meanwhile: no console error, no page error, no request elsewhere.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import expect

from tests.lab.lab import Lab, OpenNotebook
from tests.lab.test_quickstart_in_lab import Table, within_15_seconds
from tests.lab.test_the_harness_itself import KERNEL

CELLS = [
    """
import lenskit as lk
from lenskit.lenses.tuned import TunedLens
model = lk.load("demo")
logit, tuned = lk.LogitLens(model), TunedLens.load(model, "demo")
table = lk.widgets.LensTable(model, "The capital of France is", lens=[logit, tuned])
""",
    "table",
]
PARIS = re.compile(": ·Paris, ")


@pytest.fixture(scope="module")
def notebook(lab_page: Lab, lab_copy: Callable[..., str], tmp_path_factory) -> Iterator[OpenNotebook]:
    file: Path = tmp_path_factory.mktemp("notebooks") / "comparing_lenses.ipynb"
    made = new_notebook(cells=[new_code_cell(cell) for cell in CELLS], metadata=KERNEL)
    nbformat.write(made, file)
    lab_page.forget()
    opened = lab_page.open(lab_copy(file))
    opened.run_all()
    assert lab_page.troubles() == []
    yield opened
    opened.close()


@pytest.fixture
def table(lab: Lab, notebook: OpenNotebook) -> Iterator[Table]:
    """The table, showing one reading through the logit lens."""
    notebook.execute(
        "table.spec = {'prompt': 'The capital of France is', 'lens': 'logit', 'selection': {'layer': 24, 'pos': 4}}"
    )
    table = Table(notebook)
    table.prompt = table.view.get_by_role("textbox", name="prompt", exact=True)
    table.prompt.scroll_into_view_if_needed()
    table.shows("The capital of France is")
    yield table
    assert lab.troubles() == []


def test_the_lens_is_switched_in_place_and_the_chosen_state_stays_chosen(table: Table) -> None:
    where = table.selected.bounding_box()
    table.view.get_by_role("radio", name="tuned").check(force=True)
    expect(table.grid.get_by_role("rowheader", name="final prediction")).to_have_count(1)
    # What the logit lens reads after layer 24, a tuned lens reads before layer 25: the same state, in the same place.
    within_15_seconds(lambda: table.notebook.ask("str(table.selection.site)"), "resid_pre.25")
    assert table.selected.bounding_box() == where
    expect(table.selected).to_have_accessible_name(re.compile("^before layer 25, position 4: ·Paris, "))
    assert table.notebook.ask("table.trajectory.tokens(25, 4)[0]") == " Paris"
    assert "0 of 5 positions recomputed" in (table.view.locator(".lk-facts").text_content() or "")


def test_two_lenses_stand_side_by_side_and_as_a_difference(table: Table) -> None:
    table.view.get_by_role("radio", name="side by side").check(force=True)
    grids = table.view.get_by_role("grid")
    expect(grids).to_have_count(2, timeout=30_000)
    expect(grids.first).to_have_attribute("aria-label", re.compile("^logit: "))
    expect(table.view.locator("[aria-selected=true]")).to_have_count(2)
    table.view.get_by_role("radio", name="difference").check(force=True)
    expect(grids).to_have_count(1)
    expect(table.view.locator(".lk-legend")).to_contain_text("Jensen-Shannon")
    said = table.notebook.ask("[float(table.comparison.js[25, 4]), table.comparison.first.site]")
    assert said[1] == "resid_pre"
    shown = f"{said[0]:.3f}".removeprefix("0")
    expect(table.view.locator("[aria-selected=true]")).to_have_accessible_name(
        re.compile(f"^before layer 25, position 4: ·Paris, Jensen-Shannon {re.escape(shown)}$")
    )


def test_another_prompt_is_typed_beside_the_first_and_refused_where_it_does_not_line_up(table: Table) -> None:
    table.view.get_by_role("radio", name="side by side").check(force=True)
    table.view.get_by_role("combobox", name="with").select_option("prompt")
    other = table.view.get_by_role("textbox", name="second prompt")
    expect(other).to_be_focused()
    other.fill("The capital of Italy is")
    second = table.view.get_by_role("grid").last
    rome = second.locator("[role=gridcell][aria-colindex='6']").first
    expect(rome).to_have_accessible_name(re.compile(": ·Rome, "), timeout=30_000)
    expect(second.locator(".lk-differs")).to_have_text(["·Italy"])
    assert table.notebook.ask("table.comparison.second.tokens(-1, -1)[0]") == " Rome"
    other.fill("The capital of beautiful Italy is")
    expect(table.error).to_have_text(
        re.compile('the first has 5 tokens, the second 6. They first differ at position 3: "·France" in the first')
    )
    expect(second.locator(".lk-differs")).to_have_text(["·Italy"])
