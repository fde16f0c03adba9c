"""Counting, ranks, writing on and acting in a lens table, in a real JupyterLab on the demo model.

Every test here also asserts that nothing complained meanwhile: no console error, no page error, no request elsewhere.
The second module comes over the comm here, as it does for everybody.
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

PROMPT = "The capital of France is"
CELLS = [
    f"""
import lenskit as lk
from lenskit.lenses.tuned import TunedLens
from lenskit.models.steering import Swap
model = lk.load("demo")
lens = TunedLens.load(model, "demo")
table = lk.widgets.LensTable(model, {PROMPT!r}, lens=lens)
""",
    "table",
]


@pytest.fixture(scope="module")
def notebook(lab_page: Lab, lab_copy: Callable[..., str], tmp_path_factory) -> Iterator[OpenNotebook]:
    file: Path = tmp_path_factory.mktemp("notebooks") / "acting.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell(cell) for cell in CELLS], metadata=KERNEL), file)
    lab_page.forget()
    opened = lab_page.open(lab_copy(file))
    opened.run_all()
    assert lab_page.troubles() == []
    yield opened
    opened.close()


@pytest.fixture
def table(lab: Lab, notebook: OpenNotebook) -> Iterator[Table]:
    """The table at its prompt, with the word " France" chosen."""
    notebook.execute(f"table.spec = {{'prompt': {PROMPT!r}, 'lens': 'tuned', 'selection': {{'layer': 20, 'pos': 3}}}}")
    table = Table(notebook)
    table.prompt = table.view.get_by_role("textbox", name="prompt", exact=True)
    table.prompt.scroll_into_view_if_needed()
    expect(table.view.locator(".lk-head")).to_have_count(5)
    expect(table.selected).to_have_accessible_name(re.compile("^before layer 20, position 3: .*, probability"))
    yield table
    assert lab.troubles() == []


def test_what_is_read_in_a_region_is_counted_and_its_line_of_python_says_the_same(table: Table) -> None:
    for _ in range(3):
        table.grid.press("Shift+ArrowDown")
    counts = table.view.locator(".lk-counts")
    expect(counts).to_contain_text("4 × 1 cells, layer 17 to 20", timeout=30_000)
    shown = [int(text) for text in counts.locator(".lk-number").all_text_contents()]
    said = table.notebook.ask("lens.read(table.prompt).counts(layers=slice(17, 21), pos=slice(3, 4)).counts.tolist()")
    assert shown == said[: len(shown)]
    counts.get_by_role("button").first.focus()
    expect(table.view.locator(".lk-lit")).to_have_count(shown[0])


def test_words_are_shown_and_the_last_row_keeps_what_the_model_says(table: Table) -> None:
    table.view.get_by_role("radio", name="words", exact=True).check(force=True)
    within_15_seconds(lambda: table.notebook.ask("bool(table.trajectory.provenance.get('words'))"), True)
    said = table.notebook.ask("lens.read(table.prompt, words=True).tokens(20, 3)[:3]")
    lines = table.view.locator(".lk-cell-detail .lk-top-line .lk-token")
    expect(lines.first).to_have_text(said[0].replace(" ", "·"), timeout=30_000)


def test_the_rank_of_a_token_is_one_key_away_and_fills_the_grid_with_numbers(table: Table) -> None:
    token = table.notebook.ask("int(table.trajectory.top_ids[20, 3, 0])")
    table.grid.focus()
    table.grid.press("r")
    within_15_seconds(lambda: table.notebook.ask("[table.spec['target'], table.spec['cells']]"), [token, "numbers"])
    rank = table.notebook.ask("int(table.trajectory.rank[30, 4])")
    last = table.grid.locator("[role=gridcell][aria-colindex='6']").first
    expect(last).to_have_accessible_name(re.compile(f"rank of target {rank:,}$"), timeout=30_000)


def test_the_model_writes_on_column_by_column_and_what_it_writes_is_what_generate_writes(table: Table) -> None:
    table.grid.focus()
    table.grid.press("g")
    written = table.view.locator(".lk-head.lk-written")
    expect(written.first).to_be_visible(timeout=30_000)
    expect(table.view.get_by_role("button", name="more")).to_be_visible(timeout=120_000)
    new = table.notebook.ask("table.spec['written']")
    assert len(new) == 12
    assert new == table.notebook.ask(f"model.generate({PROMPT!r}, 12).new_tokens[0]")
    assert "1 of 17 positions recomputed" in (table.view.locator(".lk-facts").text_content() or "")
    table.view.get_by_role("button", name="Clear", exact=True).click()
    within_15_seconds(lambda: table.notebook.ask("table.spec['written']"), [])


def test_a_swap_shows_before_after_and_placebo_and_python_does_the_same(table: Table) -> None:
    table.grid.focus()
    table.grid.press("w")
    token, other = (table.view.get_by_label(name, exact=True) for name in ("token", "swap with"))
    expect(other).to_be_focused(timeout=30_000)
    token.fill("France")
    token.press("Enter")
    other.fill("Germany")
    other.press("Enter")
    acting = table.view.locator(".lk-acting")
    expect(acting.locator(".lk-progress")).to_be_hidden(timeout=120_000)
    expect(acting.locator(".lk-side-caption")).to_have_text(["before", "after", "placebo"])
    edit = "Swap(lens, ' France', ' Germany', layers=range(12, 24), pos=slice(3, None))"
    for side, edits in (("before", ""), ("after", edit)):
        said = table.notebook.ask(
            f"model.text.str_tokens(model.generate({PROMPT!r}, 12, edits=[{edits}]).new_tokens[0])"
        )
        assert acting.locator(f".lk-{side} .lk-token").all_text_contents() == said
    table.grid.press("Escape")
    expect(acting).to_be_hidden()


def test_what_is_wrong_with_a_word_is_said_where_it_was_typed(table: Table) -> None:
    table.grid.focus()
    table.grid.press("a")
    token = table.view.get_by_label("token", exact=True)
    token.fill("no such word")
    token.press("Enter")
    expect(table.view.locator(".lk-act-error")).to_contain_text("is not one token", timeout=30_000)
