"""Take the README's pictures anew: views in a real JupyterLab on the demo model, light and dark."""

from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from playwright.sync_api import sync_playwright

from tests.conftest import QUIET_CHROMIUM, find_chromium
from tests.lab.lab import Lab
from tests.lab.server import jupyterlab

PICTURES = Path(__file__).parent.parent / "pictures"
CELL = """
import lenskit as lk

model = lk.load("demo")
jacobian = lk.JacobianLens.load(model, "demo")
lenses = [jacobian, lk.TunedLens.load(model, "demo"), lk.LogitLens(model)]
table = lk.widgets.LensTable(model, "She put the cake in the oven and waited for it to", lens=lenses)
table.spec = table.spec | {"cells": "words"}
table.selection = (23, -1)
table
"""
THEME = "theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})"


def main() -> None:
    """Write `pictures/lens_table_light.png` and `_dark.png`."""
    PICTURES.mkdir(exist_ok=True)
    with TemporaryDirectory() as root, TemporaryDirectory() as home:
        kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)], metadata=kernel)
        nbformat.write(notebook, Path(root) / "picture.ipynb")
        take(Path(root), Path(home))


def take(root: Path, home: Path) -> None:
    """Run the notebook in JupyterLab and photograph its table."""
    with sync_playwright() as playwright, jupyterlab(root, home) as origin:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=QUIET_CHROMIUM)
        context = browser.new_context(viewport={"width": 1880, "height": 1150}, device_scale_factor=1.5)
        lab = Lab.start(context, origin)
        opened = lab.open("picture.ipynb")
        opened.run_all()
        table = opened.panel.get_by_role("group", name="Lens table")
        table.locator("[role=gridcell][aria-selected=true]").wait_for()
        for name in ("Light", "Dark"):
            lab.act(THEME, f"JupyterLab {name}")
            lab.page.wait_for_timeout(1500)  # the theme's style sheet comes when it comes
            table.screenshot(path=PICTURES / f"lens_table_{name.lower()}.png")
        opened.close()
        browser.close()


CIRCUIT = """
import lenskit as lk

model = lk.load("demo")
graph = lk.circuits.attribute(model, "The keys to the cabinet", target=" are", versus=" is", features=400)
plural = {"are", "were", "they", "aren", "weren", "'re", "these", "those", "themselves"}
gain = model.weights.norm("final_norm").gain


def says(node):
    sign = 1 if graph.activation[graph.number(node)] > 0 else -1
    logits = (model.weights.W_out[node.layer][node.feature] * sign * gain) @ model.weights.W_U
    return {model.text.decode([token]).strip() for token in logits.topk(6).indices.tolist()}


at_keys = [graph.nodes[n] for n in graph.of_kind(1) if graph.nodes[n].pos == 1]
pushing = [node for node in at_keys if lk.circuits.total_effect(graph, node)[0] < -0.12]
keys = [str(node) for node in pushing if plural & says(node)]
view = lk.widgets.CircuitGraph(graph.grouped("a plural", keys), model=model, prune=(0.5, 0.8))
view.spec = view.spec | {"ablated": keys}
view.selection = "28.907@4"
view
"""


def circuit() -> None:
    """Write `pictures/circuit_graph_light.png` and `_dark.png`: the group of notebook 07, taken away."""
    with TemporaryDirectory() as root, TemporaryDirectory() as home:
        kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CIRCUIT)], metadata=kernel)
        nbformat.write(notebook, Path(root) / "picture.ipynb")
        with sync_playwright() as playwright, jupyterlab(Path(root), Path(home)) as origin:
            browser = playwright.chromium.launch(executable_path=find_chromium(), args=QUIET_CHROMIUM)
            context = browser.new_context(viewport={"width": 1560, "height": 1700}, device_scale_factor=1.5)
            lab = Lab.start(context, origin)
            opened = lab.open("picture.ipynb")
            opened.run_all()
            view = opened.panel.get_by_role("group", name="Circuit")
            view.locator(".lk-f-verdict").wait_for()
            for name in ("Light", "Dark"):
                lab.act(THEME, f"JupyterLab {name}")
                lab.page.wait_for_timeout(1500)
                view.screenshot(path=PICTURES / f"circuit_graph_{name.lower()}.png")
            opened.close()
            browser.close()


if __name__ == "__main__":
    main()
    circuit()
