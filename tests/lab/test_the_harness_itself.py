"""The harness sees what a user would see, and would notice what must not happen. Without a model: seconds."""

from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import expect

from tests.lab.lab import Lab, OpenNotebook

Open = Callable[[Path], OpenNotebook]

COUNTER = """
import anywidget, traitlets

class Counter(anywidget.AnyWidget):
    _esm = '''
    function render({ model, el }) {
        const button = document.createElement("button");
        const draw = () => { button.textContent = `count ${model.get("count")}`; };
        button.onclick = () => { model.set("count", model.get("count") + 1); model.save_changes(); };
        model.on("change:count", draw);
        draw();
        el.append(button);
    }
    export default { render };
    '''
    count = traitlets.Int(1).tag(sync=True)

counter = Counter()
counter
"""


# Without it JupyterLab asks which kernel to take.
KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}


def notebook(folder: Path, *cells: str) -> Path:
    path = folder / "scratch.ipynb"
    nbformat.write(new_notebook(metadata=KERNEL, cells=[new_code_cell(cell) for cell in cells]), path)
    return path


def test_a_widget_is_painted_and_talks_with_the_kernel_in_both_directions(
    lab: Lab, open_notebook: Open, tmp_path: Path
) -> None:
    opened = open_notebook(notebook(tmp_path, COUNTER))
    opened.run_all()
    button = opened.panel.get_by_role("button", name="count 1")
    expect(button).to_be_visible()

    button.click()
    expect(opened.panel.get_by_role("button", name="count 2")).to_be_visible()
    assert opened.ask("counter.count") == 2

    opened.execute("counter.count = 7")
    expect(opened.panel.get_by_role("button", name="count 7")).to_be_visible()
    assert lab.troubles() == []


def test_a_failing_cell_is_noticed(open_notebook: Open, tmp_path: Path) -> None:
    opened = open_notebook(notebook(tmp_path, "1 + 1", "{}['missing']"))
    with pytest.raises(AssertionError, match="KeyError: 'missing'"):
        opened.run_all()


def test_console_errors_page_errors_and_outside_requests_are_noticed(
    lab: Lab, open_notebook: Open, tmp_path: Path
) -> None:
    open_notebook(notebook(tmp_path, "pass"))
    lab.page.evaluate("() => console.error('a complaint')")
    lab.page.evaluate("() => { setTimeout(() => { throw new Error('a crash'); }); }")
    lab.page.evaluate("() => fetch('http://127.0.0.1:9/elsewhere').catch(() => {})")
    lab.page.wait_for_function("() => true")

    assert "a complaint" in lab.console_errors
    assert any("a crash" in error for error in lab.page_errors)
    assert lab.outside_requests == ["request to another origin: http://127.0.0.1:9/elsewhere"]
