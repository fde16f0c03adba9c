"""The patching notebook in a real JupyterLab: it runs, its grids end exact, and what is linked goes together."""

import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Locator, expect

from tests.house.repository import ROOT
from tests.lab.lab import Lab, OpenNotebook
from tests.lab.test_quickstart_in_lab import within_15_seconds


@pytest.fixture(scope="module")
def notebook(lab_page: Lab, lab_copy: Callable[..., str]) -> Iterator[OpenNotebook]:
    """The notebook with every cell run; a cell that fails is an error here."""
    lab_page.forget()
    opened = lab_page.open(lab_copy(ROOT / "notebooks" / "04_patching.ipynb"))
    opened.run_all(seconds=400)  # a minute's work where the machine is idle, and tests share it
    yield opened
    opened.close()


def test_both_grids_end_with_every_cell_exact_and_the_figures_are_drawn(lab_page: Lab, notebook: OpenNotebook) -> None:
    grids = notebook.panel.get_by_role("group", name="Patching")
    expect(grids).to_have_count(2)
    for grid, columns in ((grids.first, 14), (grids.last, 9)):
        grid.scroll_into_view_if_needed()
        expect(grid.locator(".lk-facts")).to_have_text(re.compile(r"cells in .* packed rows"), timeout=90_000)
        cells = grid.get_by_role("grid").get_by_role("gridcell")
        expect(cells).to_have_count(30 * columns)
        assert all(name.endswith(", exact") for name in said(cells))
    expect(notebook.panel.locator(".js-plotly-plot .main-svg").first).to_be_visible()
    assert lab_page.troubles() == []


def test_a_head_chosen_in_either_linked_view_is_chosen_in_the_other(lab_page: Lab, notebook: OpenNotebook) -> None:
    grid = notebook.panel.get_by_role("group", name="Patching").last
    attention = notebook.panel.get_by_role("group", name="Attention")
    title = attention.locator(".lk-a-title")
    expect(title).to_have_text("Head 20.0")

    cell(grid, 23, 3).click()
    expect(title).to_have_text("Head 23.3")
    within_15_seconds(lambda: notebook.ask("tuple(attention.selection)[:2]"), (23, 3))

    heads = attention.get_by_role("grid", name="the pattern of each head")
    heads.focus()
    heads.press("ArrowRight")
    expect(title).to_have_text("Head 23.4")
    expect(cell(grid, 23, 4)).to_have_attribute("aria-selected", "true")
    within_15_seconds(lambda: notebook.ask("(by_head.selection.layer, by_head.selection.head)"), (23, 4))
    assert lab_page.troubles() == []


def test_the_model_is_left_as_it_was(notebook: OpenNotebook) -> None:
    hooks = "sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.hf_model.modules())"
    within_15_seconds(lambda: notebook.ask(hooks), 0)


def said(cells: Locator) -> list[str]:
    return cells.evaluate_all("cells => cells.map(cell => cell.getAttribute('aria-label'))")


def cell(grid: Locator, layer: int, column: int) -> Locator:
    header = grid.page.get_by_role("rowheader", name=f"layer {layer}", exact=True)
    return grid.get_by_role("grid").get_by_role("row").filter(has=header).locator(f"[aria-colindex='{column + 2}']")
