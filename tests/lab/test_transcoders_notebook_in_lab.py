"""The transcoders notebook in a real JupyterLab: every cell runs, and both browsers show what is chosen in Python."""

import re
from collections.abc import Callable

from playwright.sync_api import expect

from tests.house.repository import ROOT
from tests.lab.lab import Lab
from tests.lab.test_quickstart_in_lab import within_15_seconds


def test_every_cell_runs_and_both_browsers_show_what_fires(lab_page: Lab, lab_copy: Callable[..., str]) -> None:
    lab_page.forget()
    notebook = lab_page.open(lab_copy(ROOT / "notebooks" / "05_transcoders.ipynb"))
    notebook.run_all(seconds=400)  # a minute's work where the machine is idle, and tests share it
    expect(notebook.panel.locator(".js-plotly-plot")).to_have_count(1)  # the training, drawn anew in its place
    browsers = notebook.panel.get_by_role("group", name="Features")
    expect(browsers).to_have_count(2)
    neurons = browsers.first
    neurons.scroll_into_view_if_needed()
    expect(neurons).to_contain_text(re.compile("655"))
    notebook.execute("browser.selection = 1144")
    within_15_seconds(lambda: notebook.ask("browser.selection.feature"), 1144)
    expect(neurons).to_contain_text("years")
    hooks = "sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.hf_model.modules())"
    within_15_seconds(lambda: notebook.ask(hooks), 0)
    assert lab_page.troubles() == []
    notebook.close()
