"""A real JupyterLab in a real browser: one server and one page for the whole session."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.lab.lab import Lab, OpenNotebook
from tests.lab.server import jupyterlab


@pytest.fixture(scope="session")
def lab_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that JupyterLab shows."""
    return tmp_path_factory.mktemp("lab_root")


@pytest.fixture(scope="session")
def lab_copy(lab_root: Path) -> Callable[[Path], str]:
    """A function that copies a notebook into the Lab, so that no committed one is written to, and names it."""
    return lambda notebook: Path(shutil.copy(notebook, lab_root)).name


@pytest.fixture(scope="session")
def lab_page(browser: Browser, lab_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The one page. Most tests take `lab` or `open_notebook` instead."""
    with jupyterlab(lab_root, tmp_path_factory.mktemp("lab_home")) as origin:
        context = browser.new_context(viewport={"width": 1400, "height": 1000})
        context.set_default_timeout(60_000)
        yield Lab.start(context, origin)
        context.close()


@pytest.fixture
def lab(lab_page: Lab) -> Lab:
    """JupyterLab, with a fresh record of what went wrong."""
    lab_page.forget()
    return lab_page


@pytest.fixture
def open_notebook(lab: Lab, lab_copy: Callable[[Path], str]) -> Iterator[Callable[[Path], OpenNotebook]]:
    """A function that opens a copy of a notebook in the Lab. It is closed, unsaved, after the test."""
    with ExitStack() as at_the_end:

        def open_copy(notebook: Path) -> OpenNotebook:
            opened = lab.open(lab_copy(notebook))
            at_the_end.callback(opened.close)
            return opened

        yield open_copy
