"""The Jacobian lens notebook in a real JupyterLab: every cell runs, and the table shows three lenses' words."""

import re
from collections.abc import Callable

from playwright.sync_api import expect

from tests.house.repository import ROOT
from tests.lab.lab import Lab
from tests.lab.test_quickstart_in_lab import within_15_seconds


def test_every_cell_runs_and_the_table_shows_the_words_of_both_lenses(
    lab_page: Lab, lab_copy: Callable[..., str]
) -> None:
    lab_page.forget()
    notebook = lab_page.open(lab_copy(ROOT / "notebooks" / "06_jacobian_lens.ipynb"))
    notebook.run_all(seconds=400)  # a minute's work where the machine is idle, and tests share it
    expect(notebook.panel.locator(".js-plotly-plot")).to_have_count(2)  # ranks, and the fit, drawn anew in its place
    table = notebook.panel.get_by_role("group", name="Lens table")
    expect(table).to_have_count(1)
    table.scroll_into_view_if_needed()
    expect(table.get_by_role("grid")).to_have_count(2)  # Jacobian beside tuned
    oven = table.get_by_role("grid").first.get_by_role("gridcell", name=re.compile(": ·oven, "))
    expect(oven.first).to_be_attached()  # a cell says it, not only a column's head
    assert notebook.ask("list(table.lenses)") == ["jacobian", "tuned", "logit"]
    assert notebook.ask("bool((swaps['clamped'] > 0).sum() > (swaps['live'] > 0).sum())")
    hooks = "sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.hf_model.modules())"
    within_15_seconds(lambda: notebook.ask(hooks), 0)
    assert lab_page.troubles() == []
    notebook.close()
