"""Take the README's pictures anew: the lens table in a real JupyterLab on the demo model, light and dark."""

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
table = lk.widgets.LensTable(model, "When Mary and John went to the store, John gave a drink to")
table.selection = (27, -1)
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
        context = browser.new_context(viewport={"width": 1780, "height": 1150}, device_scale_factor=1.5)
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


main()
