"""The third notebook in a real JupyterLab: every cell runs, figures and tables are drawn, nothing asks elsewhere."""

from collections.abc import Callable

from playwright.sync_api import expect

from tests.house.repository import ROOT
from tests.lab.lab import Lab


def test_every_cell_runs_and_the_figures_and_both_tables_are_drawn(lab_page: Lab, lab_copy: Callable[..., str]) -> None:
    lab_page.forget()
    notebook = lab_page.open(lab_copy(ROOT / "notebooks" / "03_lenses.ipynb"))
    notebook.run_all()
    # Trajectory, loss, evaluation: a figure each, and the loss is one that was drawn anew in its place at every step.
    expect(notebook.panel.locator(".js-plotly-plot")).to_have_count(3)
    tables = notebook.panel.get_by_role("group", name="Lens table")
    expect(tables).to_have_count(2)
    expect(tables.first.get_by_role("grid")).to_have_count(2)  # logit beside tuned
    expect(tables.last.get_by_role("grid")).to_have_count(1)  # the difference of two prompts
    expect(tables.last.locator(".lk-legend")).to_contain_text("Jensen-Shannon")
    assert notebook.ask("table.comparison.second.tokens(25, -1)[0]") == " Paris"
    assert notebook.ask("sum(len(m._forward_hooks) for m in model.hf_model.modules())") == 0
    assert lab_page.troubles() == []
    notebook.close()
