"""An attention view in a page without Jupyter, answered by its own Python half on a real model."""

from typing import Any

from playwright.sync_api import BrowserContext

from lenskit.widgets.attention_view import AttentionView
from tests.widgets import answered_page
from tests.widgets.answered_page import frozen_html


class AttentionPage(answered_page.AnsweredPage):
    """The view in a page."""

    def __init__(self, context: BrowserContext, view: AttentionView, *, live: bool = True) -> None:
        super().__init__(context, view, live_html(view) if live else frozen_html(view))

    def grid(self, name: str) -> Any:
        return self.page.get_by_role("grid", name=name)

    @property
    def heads(self) -> Any:
        return self.grid("the pattern of each head")

    @property
    def pattern(self) -> Any:
        return self.grid("which key each query looks at")


def live_html(view: AttentionView) -> str:
    """A page in which the view waits for the test's answers."""
    return answered_page.live_html(view, "Attention", "attention_view")
