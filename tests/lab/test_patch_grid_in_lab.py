"""The patch grid in a real JupyterLab, on the demo model: it paints, follows an edit at once, and stops when closed.

Every test here also asserts that nothing complained meanwhile: no console error, no page error, no request elsewhere.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import Locator, expect

from tests.lab.lab import Lab, OpenNotebook
from tests.lab.test_quickstart_in_lab import within_15_seconds
from tests.lab.test_the_harness_itself import KERNEL

CELLS = [
    """
import lenskit as lk
from lenskit.patching.metrics import logit_diff
from lenskit.patching.sweeps import sweep
model = lk.load("demo")
clean = "When Mary and John went to the store, John gave a drink to"
corrupt = "When Mary and John went to the store, Mary gave a drink to"
grid = lk.widgets.PatchGrid(model, clean, corrupt, metric=logit_diff(" Mary", " John"))
""",
    # What is asked, every breath of a sweep, and what is answered, in the order in which they happen in the kernel.
    """
log = []

def watched(asked, whole=grid._live.sweep):
    steps = whole(asked)
    while True:
        try:
            part = next(steps)
        except StopIteration as end:
            return end.value
        log.append(("breath", asked.corrupt, asked.site))
        yield part

def send(content, buffers=None, send=grid.send):
    log.append((content["kind"], content["id"], content.get("done")))
    send(content, buffers)

def receive(_, content, buffers):
    log.append(("asked", content["id"], content["kind"]))

grid._live.sweep, grid.send = watched, send
grid._msg_callbacks.callbacks.insert(0, receive)
grid
""",
]


class Grid:
    """The live grid in the notebook, by its roles, and `grid`, its Python half, in the kernel."""

    def __init__(self, notebook: OpenNotebook) -> None:
        self.notebook = notebook
        self.view = notebook.panel.get_by_role("group", name="Patching").last
        self.grid = self.view.get_by_role("grid")
        self.facts = self.view.locator(".lk-facts")
        self.trials = self.view.locator(".lk-pg-trial")

    def cell(self, layer: int, column: int) -> Locator:
        header = self.notebook.lab.page.get_by_role("rowheader", name=f"layer {layer}", exact=True)
        return self.grid.get_by_role("row").filter(has=header).locator(f"[aria-colindex='{column + 2}']")

    def is_swept(self) -> None:
        expect(self.facts).to_have_text(re.compile(r"cells in .* packed rows"), timeout=60_000)

    def log(self) -> list[tuple]:
        return self.notebook.ask("log")

    def waits_for(self, kind: str, identity: str) -> None:
        within_15_seconds(lambda: (kind, identity) in [entry[:2] for entry in self.log()], True)

    def choose(self, name: str) -> str:
        """Choose a site; the id of the sweep that this asks for."""
        before = len(self.log())
        self.view.get_by_role("radio", name=name).check(force=True)
        within_15_seconds(lambda: any(e[0] == "asked" and e[2] == "sweep" for e in self.log()[before:]), True)
        return next(e[1] for e in self.log()[before:] if e[0] == "asked" and e[2] == "sweep")


@pytest.fixture(scope="module")
def notebook(
    lab_page: Lab, lab_copy: Callable[[Path], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OpenNotebook]:
    lab_page.forget()
    path = tmp_path_factory.mktemp("grid") / "grid.ipynb"
    nbformat.write(new_notebook(metadata=KERNEL, cells=[new_code_cell(cell) for cell in CELLS]), path)
    opened = lab_page.open(lab_copy(path))
    opened.run_all()
    yield opened
    opened.close()


@pytest.fixture
def grid(lab: Lab, notebook: OpenNotebook) -> Iterator[Grid]:
    grid = Grid(notebook)
    yield grid
    assert lab.troubles() == []


def test_the_estimate_is_painted_first_and_then_every_cell_exactly(grid: Grid) -> None:
    grid.is_swept()
    answers = [entry for entry in grid.log() if entry[0] in ("pair", "cells", "swept")]
    assert [kind for kind, _, _ in answers][:2] == ["pair", "cells"]
    assert answers[1][2] < 420
    assert answers[-1][::2] == ("swept", 420)
    values = grid.notebook.ask("grid.sweep.normalised.round(2).tolist()")
    for layer, pos in ((18, 9), (21, 9), (27, 13), (23, 13)):
        said = f"layer {layer}, position {pos} .*: {values[layer][pos]:.2f} of the difference restored, exact"
        expect(grid.cell(layer, pos)).to_have_accessible_name(re.compile(said))


def test_a_click_patches_and_the_kernel_knows_the_cell(grid: Grid) -> None:
    grid.cell(21, 9).click()
    expect(grid.trials).to_have_count(1)
    expect(grid.view.locator(".lk-pg-big")).to_have_text("0.61")
    expect(grid.view.locator(".lk-pg-meaning")).to_contain_text("−5.49 → +1.61 of +6.12 logits")
    expect(grid.view.locator(".lk-pg-odd").filter(has_text="·Mary")).to_contain_text(".003 → .571")
    within_15_seconds(lambda: grid.notebook.ask("tuple(grid.selection)"), ("resid_pre", 21, 9, None))
    grid.notebook.execute("grid.selection = (18, 9)")
    expect(grid.cell(18, 9)).to_have_attribute("aria-selected", "true")
    expect(grid.grid.locator("[role=gridcell][aria-selected=true]")).to_have_count(1)


def test_the_keyboard_alone_extends_a_region_patches_it_and_takes_it_back(grid: Grid) -> None:
    grid.cell(24, 13).click()
    expect(grid.trials).to_have_count(2)
    for key in ["Shift+ArrowUp"] * 5 + ["Enter"]:
        grid.grid.press(key)
    expect(grid.trials).to_have_count(3)
    expect(grid.trials.first).to_have_text(re.compile(r"^24–29 · ·to \(6 cells\)"))
    within_15_seconds(lambda: grid.notebook.ask("grid.spec['to']"), {"layer": 29, "pos": 13, "head": None})
    expect(grid.grid).to_be_focused()
    grid.grid.press("Control+z")
    expect(grid.trials).to_have_count(2)


def test_a_prompt_edited_during_a_sweep_stops_it_within_one_breath_and_the_new_one_ends_right(grid: Grid) -> None:
    old = grid.choose("head z")
    grid.waits_for("cells", old)
    other = "When Mary and John went to the store, Lily gave a drink to"
    field = grid.view.get_by_role("textbox", name="corrupt prompt")
    grid.view.locator(".lk-pg-corrupt .lk-pg-token").first.click()
    field.fill(other)
    field.press("Escape")
    grid.is_swept()
    log = grid.log()
    new = next(e[1] for e in reversed(log) if e[0] == "asked" and e[2] == "sweep")
    assert new != old
    after = log[log.index(("asked", new, "sweep")) :]
    # At most the breath that was being taken; no more cells of the old sweep; one answer to each.
    assert sum(1 for e in after if e[0] == "breath" and e[1] != other) <= 1
    assert [e[0] for e in log if e[1] == old] == ["asked", "pair", "cells", "superseded"]
    assert [e[::2] for e in after if e[1] == new][-1] == ("swept", 270)
    assert grid.notebook.ask("grid.spec['corrupt']") == other
    same = grid.notebook.ask(
        "bool(abs(grid.sweep.values - sweep(model, clean, grid.spec['corrupt'], 'z',"
        " logit_diff(' Mary', ' John'), ('layer', 'head')).values).max() < 1e-4)"
    )
    assert same


def test_prompts_that_do_not_line_up_are_explained_in_the_view_which_goes_on_working(grid: Grid) -> None:
    field = grid.view.get_by_role("textbox", name="corrupt prompt")
    grid.view.locator(".lk-pg-corrupt .lk-pg-token").first.click()
    field.fill("When Mary and John went to the store, Mary and Tom gave a drink to")
    expect(grid.view.get_by_role("alert")).to_have_text(re.compile("do not line up: .* first differ at position 9"))
    field.fill("When Mary and John went to the store, Mary gave a drink to")
    grid.is_swept()
    expect(grid.view.get_by_role("alert")).to_be_hidden()
    field.press("Escape")


def test_clearing_the_output_stops_the_sweep_that_nobody_sees(grid: Grid, lab: Lab) -> None:
    old = grid.choose("attn_out")
    grid.waits_for("cells", old)
    lab.act("() => window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
    grid.waits_for("swept", old)
    within_15_seconds(lambda: grid.log()[-1][0], "swept")
    assert grid.log()[-1][2] < 420


def test_closing_the_widget_stops_everything(grid: Grid) -> None:
    grid.notebook.execute(
        "grid._receive(grid, {'v': 1, 'kind': 'sweep', 'id': 'x:1', **{key: grid.spec[key] for key in"
        " ('clean', 'corrupt', 'site', 'direction', 'metric', 'answer', 'against')}, 'site': 'z'}, [])"
    )
    within_15_seconds(lambda: ("breath", grid.notebook.ask("grid.spec['corrupt']"), "z") in grid.log()[-20:], True)
    grid.notebook.execute("grid.close()")
    count = len(grid.log())
    assert grid.log()[-1][0] in ("superseded", "breath")
    assert [entry for entry in grid.log()[count:] if entry[0] == "breath"] == []
    assert (
        grid.notebook.ask("sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.hf_model.modules())")
        == 0
    )
