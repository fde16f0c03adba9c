"""The second notebook in a real JupyterLab: every cell runs, its figures are drawn, and nothing asks another origin."""

from collections.abc import Callable

from playwright.sync_api import expect

from tests.house.repository import ROOT
from tests.lab.lab import Lab


def test_every_cell_runs_and_the_figures_are_drawn(lab_page: Lab, lab_copy: Callable[..., str]) -> None:
    lab_page.forget()
    notebook = lab_page.open(lab_copy(ROOT / "notebooks" / "02_model.ipynb"))
    notebook.run_all()
    expect(notebook.panel.locator(".js-plotly-plot .main-svg").first).to_be_visible()
    expect(notebook.panel.get_by_text("bit by bit the same: True hooks: 0")).to_be_visible()
    assert notebook.ask("sum(len(m._forward_hooks) for m in model.hf_model.modules())") == 0
    assert lab_page.troubles() == []
    notebook.close()
