"""A feature browser in a page without Jupyter, answered by its own Python half on a real index and model."""

from playwright.sync_api import BrowserContext, Locator, expect

from lenskit.widgets.feature_browser import FeatureBrowser
from tests.widgets import answered_page
from tests.widgets.answered_page import frozen_html


class FeaturePage(answered_page.AnsweredPage):
    """The browser in a page."""

    def __init__(
        self, context: BrowserContext, view: FeatureBrowser, *, live: bool = True, body: str = "<body>"
    ) -> None:
        html = live_html(view) if live else frozen_html(view)
        super().__init__(context, view, html.replace("<body>", body, 1))

    @property
    def grid(self) -> Locator:
        return self.page.get_by_role("grid")

    def row(self, feature: int) -> Locator:
        return self.grid.get_by_role("row").filter(has=self.page.locator(f".lk-f-id:text-is('{feature}')"))

    @property
    def title(self) -> Locator:
        return self.page.locator(".lk-f-title")

    def shows(self, feature: int) -> None:
        expect(self.title).to_have_text(f"Neuron {self.view.facts['prefix']}{feature}")
        expect(self.page.locator(".lk-f-card")).not_to_have_class("lk-f-card lk-f-stale")

    def listed(self) -> list[int]:
        """The features in view, from the top."""
        rows = self.page.locator(".lk-f-row")
        found = rows.evaluate_all(
            "(rows) => rows.sort((a, b) => a.dataset.index - b.dataset.index)"
            ".map((row) => row.querySelector('.lk-f-id').textContent)"
        )
        return [int(text) for text in found if text != "…"]


def live_html(view: FeatureBrowser) -> str:
    """A page in which the view waits for the test's answers."""
    return answered_page.live_html(view, "Features", "feature_browser")
