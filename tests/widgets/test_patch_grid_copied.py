"""The Python that a patch grid copies, run: it gives what the grid shows."""

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, FloatRect, Locator, expect

import lenskit as lk
from lenskit.models.steps import finish
from lenskit.patching.metrics import kl, log_prob, logit_diff, prob, rank
from lenskit.widgets.patch_grid import PatchGrid
from tests.widgets.test_patch_grid_in_python import CLEAN, A, B, grid, model
from tests.widgets.view import new_context


def where(cell: Locator) -> FloatRect:
    """Where a cell is, once the picture is laid out: cells are drawn anew while it is."""
    expect(cell).to_be_visible()
    before = None
    for _ in range(100):
        box = cell.bounding_box()
        if box is not None and box == before:
            return box
        before = box
        cell.page.wait_for_timeout(30)
    raise AssertionError("the picture does not come to rest")


class TestCopiedPython:
    """What the view copies is run here, and gives what the grid shows."""

    @staticmethod
    def copied(browser: Browser, shown: PatchGrid, folder: Path, *cells: tuple[int, int]) -> str:
        """The code of a cell, or of a region from one cell to another, as the page of `to_html` gives it."""
        shown.to_html(folder / "grid.html")
        context = new_context(browser)
        tab = context.new_page()
        # Nothing takes the text from the page: it is then shown, to be copied by hand.
        tab.add_init_script(
            "document.execCommand = () => false;"
            "if (navigator.clipboard) navigator.clipboard.writeText = () => Promise.reject();"
        )
        tab.goto((folder / "grid.html").as_uri())
        boxes = []
        for layer, column in cells:
            row = tab.locator(f'[role=row]:has(> [aria-label="layer {layer}"])')
            boxes.append(where(row.locator(f'[aria-colindex="{column + 2}"]')))
        for box, act in zip(boxes, ("down", "up") if len(boxes) == 2 else ("down",), strict=True):
            tab.mouse.move(box["x"] + 20, box["y"] + 8, steps=4)
            getattr(tab.mouse, act)()
        if len(boxes) == 1:
            tab.mouse.up()
        tab.get_by_role("button", name="Copy as Python").click()
        code = tab.get_by_role("textbox", name="to be copied").input_value()
        context.close()
        return code

    @staticmethod
    def run(code: str, **names: Any) -> float:
        *body, last = code.split("\n")
        space = {"lk": lk, "model": model(), **names}
        exec("\n".join(body), space)
        return float(eval(last, space))

    @pytest.mark.parametrize("metric", [logit_diff(A, B), prob(A), log_prob(A), rank(A), kl()], ids=repr)
    @pytest.mark.parametrize("direction", ["denoise", "noise"])
    def test_gives_the_selected_cell_exactly(
        self, browser: Browser, tmp_path: Path, metric: Any, direction: str
    ) -> None:
        shown = grid(metric=metric, direction=direction)
        layer, pos = 1, len(model().batch(CLEAN).tokens[0]) - 4
        code = self.copied(browser, shown, tmp_path, (layer, pos))
        assert re.search(rf"layers={layer}, pos={pos}\)", code)
        assert self.run(code) == pytest.approx(float(shown.sweep.values[layer, pos]), abs=1e-4)

    @pytest.mark.parametrize("site", ["z", "attn_out"])
    def test_gives_a_region_exactly(self, browser: Browser, tmp_path: Path, site: str) -> None:
        shown = grid(site)
        code = self.copied(browser, shown, tmp_path, (0, 1), (1, 2))
        patched = finish(shown._live.patch(shown._asked(shown.spec), [0, 1], [1, 2]))
        assert self.run(code) == pytest.approx(patched.value, abs=1e-4)

    def test_gives_a_cell_by_ones_own_metric(self, browser: Browser, tmp_path: Path) -> None:
        def metric(run: Any) -> Any:
            return run.logits[0, -1, A] * 2

        shown = grid(metric=metric)
        code = self.copied(browser, shown, tmp_path, (1, 5))
        assert self.run(code, metric=metric) == pytest.approx(float(shown.sweep.values[1, 5]), abs=1e-4)
