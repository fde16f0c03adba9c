"""The patch grid, opened in a page for a test."""

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext

from tests.widgets.made_up_patching import MadeUpPatching
from tests.widgets.patch_view import PatchView
from tests.widgets.view import new_context

Open = Callable[..., PatchView]


@pytest.fixture
def grid_context(browser: Browser) -> Iterator[BrowserContext]:
    context = new_context(browser)
    yield context
    context.close()


@pytest.fixture
def open_grid(grid_context: BrowserContext) -> Iterator[Open]:
    """Opens patch grids with their first sweep; after the test none may have had an error, a dialog or a request."""
    opened: list[PatchView] = []

    def open_(
        made_up: MadeUpPatching | None = None, *, answered: bool = True, live: bool = True, **spec: object
    ) -> PatchView:
        made_up = made_up or MadeUpPatching(layers=12)
        view = PatchView.open(grid_context, made_up, made_up.spec(**spec), live=live)  # type: ignore[arg-type]
        opened.append(view)
        if answered:
            view.answer()
            view.page.wait_for_selector("[role=gridcell]")
        return view

    yield open_
    for view in opened:
        assert view.troubles == []
