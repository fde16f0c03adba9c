"""The first notebook in a real JupyterLab, as a reader meets it: run it, type, click, ask the kernel what it knows.

Every test here also asserts that nothing complained meanwhile: no console error, no page error, no request elsewhere.
"""

import re
import time
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Locator, expect

from tests.house.repository import ROOT
from tests.lab.lab import Lab, OpenNotebook

PROMPT = "The capital of France is"


class Table:
    """The first live table of the notebook, by its roles, and `table`, its Python half, in the kernel."""

    def __init__(self, notebook: OpenNotebook) -> None:
        self.notebook = notebook
        self.view = notebook.panel.get_by_role("group", name="Lens table").first
        self.prompt = self.view.get_by_role("textbox", name="prompt")
        self.grid = self.view.get_by_role("grid")
        self.error = self.view.get_by_role("alert")
        self.selected = self.grid.locator("[role=gridcell][aria-selected=true]")

    def cell(self, layer: int, pos: int) -> Locator:
        header = self.notebook.lab.page.get_by_role("rowheader", name=f"layer {layer}", exact=True)
        # A grid counts its columns from 1, and the first holds the layers' numbers.
        return self.grid.get_by_role("row").filter(has=header).locator(f"[aria-colindex='{pos + 2}']")

    def has_selected(self, layer: int, pos: int) -> None:
        """Wait until this cell is marked as selected, and no other is."""
        expect(self.cell(layer, pos)).to_have_attribute("aria-selected", "true")
        expect(self.selected).to_have_count(1)

    def shows(self, prompt: str) -> None:
        """Wait until each cell in view is painted with what the kernel reads there for this prompt."""
        expect(self.prompt).to_have_value(prompt)
        within_15_seconds(lambda: self.notebook.ask("table.prompt"), prompt)
        layers, positions = self.notebook.ask("table.trajectory.shape")
        expect(self.grid).to_have_attribute("aria-colcount", str(positions + 1))
        read = self.notebook.ask(
            "{(layer, pos): table.trajectory.tokens(layer, pos)[0]"
            f" for layer in range({layers}) for pos in range({positions})}}"
        )
        in_view = self.painted()
        assert (layers - 1, positions - 1) in in_view
        words = [cell for cell in in_view if WORD.fullmatch(read[cell])]
        assert words
        within_15_seconds(
            lambda: {cell: self.painted().get(cell) for cell in words}, {cell: as_drawn(read[cell]) for cell in words}
        )
        assert "" not in self.painted().values()

    def painted(self) -> dict[tuple[int, int], str]:
        """The token of each cell, by layer and position, as it is drawn and said. Only columns near the view exist."""
        labels = self.grid.get_by_role("gridcell").evaluate_all(
            "cells => cells.map(cell => cell.getAttribute('aria-label'))"
        )
        said = [re.fullmatch(r"layer (\d+), position (\d+): (.*), [^,]+", label, re.DOTALL) for label in labels]
        assert None not in said, labels
        return {(int(cell[1]), int(cell[2])): cell[3] for cell in said if cell}


# Tokens that are drawn as they are, but for a leading space; how the others are drawn is the front-end's tests' matter.
WORD = re.compile(" ?[!-~]{1,20}")


def as_drawn(word: str) -> str:
    return word.replace(" ", "·")


def within_15_seconds(look: Callable[[], object], wanted: object) -> None:
    """Look until one sees what is wanted, as `expect` does for what is in the page."""
    deadline = time.monotonic() + 15
    while (seen := look()) != wanted and time.monotonic() < deadline:
        time.sleep(0.05)
    assert seen == wanted


@pytest.fixture(scope="module")
def notebook(lab_page: Lab, lab_copy: Callable[..., str]) -> Iterator[OpenNotebook]:
    """The notebook, with every cell run once for all tests here."""
    lab_page.forget()
    opened = lab_page.open(lab_copy(ROOT / "notebooks" / "01_quickstart.ipynb"))
    opened.run_all()
    assert lab_page.troubles() == []
    yield opened
    opened.close()


@pytest.fixture
def table(lab: Lab, notebook: OpenNotebook) -> Iterator[Table]:
    """The table, showing PROMPT with nothing selected."""
    notebook.execute(f"table.selection = None; table.prompt = {PROMPT!r}")
    table = Table(notebook)
    table.prompt.scroll_into_view_if_needed()
    table.shows(PROMPT)
    yield table
    assert lab.troubles() == []


def test_running_the_notebook_paints_every_cell_with_the_token_that_python_reads_there(table: Table) -> None:
    layers, positions = table.notebook.ask("table.trajectory.shape")
    assert (layers, positions) == (30, 5)
    expect(table.view.get_by_role("gridcell")).to_have_count(layers * positions)
    expect(table.cell(29, 4)).to_have_accessible_name(re.compile(": ·Paris, "))


def test_typing_more_repaints_the_table_and_python_reads_the_new_prompt(table: Table) -> None:
    before = table.grid.screenshot()
    table.prompt.press("End")
    table.prompt.press_sequentially(" Paris. The capital of Italy is", delay=30)
    table.shows(PROMPT + " Paris. The capital of Italy is")
    expect(table.cell(29, 11)).to_have_accessible_name(re.compile(": ·Rome, "))
    assert table.grid.screenshot() != before


def test_asking_for_the_numbers_while_the_view_waits_for_them_does_not_leave_it_behind(table: Table) -> None:
    longer = PROMPT + " Paris, and the capital of Spain is"
    table.prompt.fill(longer)
    within_15_seconds(lambda: table.notebook.ask("table.prompt"), longer)
    assert table.notebook.ask("table.trajectory.tokens(-1, -1)[0]") == " Madrid"
    table.shows(longer)


def test_taking_back_what_was_typed_shows_the_shorter_prompt_again(table: Table) -> None:
    table.prompt.fill("The capital of")
    table.shows("The capital of")


def test_a_click_selects_the_cell_in_the_kernel(table: Table) -> None:
    table.cell(27, 4).click()
    table.has_selected(27, 4)
    within_15_seconds(
        lambda: table.notebook.ask("table.selection and (table.selection.layer, table.selection.pos)"), (27, 4)
    )


def test_a_selection_made_in_python_shows_in_the_view(table: Table) -> None:
    table.notebook.execute("table.selection = (12, 2)")
    table.has_selected(12, 2)
    table.notebook.execute("table.selection = None")
    expect(table.selected).to_have_count(0)


def test_the_arrow_keys_belong_to_the_table_and_not_to_jupyterlab(table: Table) -> None:
    table.cell(20, 1).click()
    for key in ["ArrowUp", "ArrowRight", "ArrowRight", "Enter"]:
        table.grid.press(key)
    table.has_selected(21, 3)
    expect(table.grid).to_be_focused()


def test_an_observer_in_the_notebook_hears_of_a_click_in_the_thread_of_the_cells(table: Table) -> None:
    # JupyterLab delivers what a view says in another thread of the kernel, where nothing may touch the model.
    table.notebook.execute(
        "import threading; heard = []; at_home = threading.current_thread();"
        " hear = lambda change: heard.append((change['new'].pos, threading.current_thread() is at_home));"
        " table.observe(hear, names='selection')"
    )
    table.cell(29, 3).click()
    table.has_selected(29, 3)
    within_15_seconds(lambda: table.notebook.ask("heard"), [(3, True)])
    table.notebook.execute("table.unobserve(hear, names='selection')")


@pytest.mark.parametrize(
    ("wrong", "said"), [("", "empty"), ("word " * 8200, "8,?192")], ids=["an empty prompt", "a prompt that is too long"]
)
def test_a_prompt_that_cannot_be_read_is_explained_in_the_view_which_goes_on_working(
    table: Table, wrong: str, said: str
) -> None:
    table.prompt.fill(wrong)
    expect(table.error).to_have_text(re.compile(said))
    # The last good picture stays.
    expect(table.grid).to_have_attribute("aria-colcount", "6")

    table.prompt.fill("The capital of Italy is")
    table.shows("The capital of Italy is")
    expect(table.error).to_be_hidden()


def test_markup_in_a_prompt_is_text(table: Table) -> None:
    markup = "<img src=x onerror=alert(1)></script>"
    table.prompt.fill(markup)
    table.shows(markup)
    expect(table.view.locator("img, script")).to_have_count(0)


def test_the_last_table_shows_what_the_layers_are_about_and_can_be_switched_to_what_they_would_say(
    lab: Lab, notebook: OpenNotebook
) -> None:
    last = notebook.panel.get_by_role("group", name="Lens table").last
    last.scroll_into_view_if_needed()
    grid = last.get_by_role("grid")
    chosen = grid.locator("[role=gridcell][aria-selected=true]")
    expect(chosen).to_have_accessible_name(re.compile("^layer 23, position 11: ·oven, "))
    expect(grid.get_by_role("gridcell", name=re.compile("^layer 20, position 5: ·fridge, "))).to_have_count(1)

    last.get_by_role("radio", name="logit", exact=True).check(force=True)
    within_15_seconds(lambda: notebook.ask("about.lens is lens"), True)
    expect(chosen).to_have_accessible_name(re.compile("^layer 23, position 11: (?!·oven, )"))
    expect(grid.get_by_role("gridcell", name=re.compile("·fridge, "))).to_have_count(0)
    assert lab.troubles() == []
