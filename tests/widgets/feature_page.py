"""A feature browser in a page without Jupyter, answered by its own Python half on a real index and model."""

import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import BrowserContext, Dialog, FloatRect, Locator, Page, expect

from lenskit.widgets.feature_browser import FeatureBrowser
from lenskit.widgets.page import page
from tests.widgets.attention_page import at_once
from tests.widgets.made_up import in_base64
from tests.widgets.view import CONNECT, ORIGIN, built


class FeaturePage:
    """The browser in a page. What it asks is kept until the test lets Python answer."""

    def __init__(
        self, context: BrowserContext, view: FeatureBrowser, *, live: bool = True, body: str = "<body>"
    ) -> None:
        self.view = view
        self.replies: list[tuple[dict[str, Any], list[bytes]]] = []
        self.troubles: list[str] = []
        self.answered = 0
        keep: Any = lambda content, buffers=None: self.replies.append((content, buffers or []))  # noqa: E731
        view.send = keep
        html = (live_html(view) if live else frozen_html(view)).replace("<body>", body, 1)
        self.page: Page = context.new_page()
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("console", lambda said: self.troubles.append(said.text) if said.type == "error" else None)
        self.page.on("dialog", self._dialog)
        self.page.route("**/*", lambda route: route.fulfill(body=html, content_type="text/html"))
        self.page.goto(ORIGIN)
        self.page.wait_for_selector(".lk-root")

    def _dialog(self, dialog: Dialog) -> None:
        self.troubles.append(f"a dialog: {dialog.message}")
        dialog.dismiss()

    @property
    def spec(self) -> dict[str, Any]:
        return self.page.evaluate("model.get('spec')")

    @property
    def sent(self) -> list[dict[str, Any]]:
        return self.page.evaluate("sent")

    def answer(self) -> dict[str, Any]:
        """Let Python answer the next question; waits for it."""
        self.page.wait_for_function("(n) => sent.length > n", arg=self.answered)
        question = self.sent[self.answered]
        self.answered += 1
        self.replies.clear()
        # What the view chose reaches Python before its question does.
        spec = self.spec
        with at_once():
            self.view.set_state({"spec": spec})
            self.view._receive(self.view, question, [])
        for message, buffers in self.replies:
            if "kind" in message:
                self.page.evaluate("([m, b]) => deliver(m, b)", [message, in_base64(buffers)])
        return question

    def answer_all(self, rest: int = 0) -> list[dict[str, Any]]:
        """Answer until nothing is asked; typing and sliders rest a while before they ask."""
        asked = []
        if rest:
            self.page.wait_for_timeout(rest)
        while len(self.sent) > self.answered:
            asked.append(self.answer())
        return asked

    def set_spec(self, **changes: object) -> None:
        """What Python does when it assigns to `view.spec`."""
        self.page.evaluate("(changes) => model.set('spec', { ...model.get('spec'), ...changes })", changes)

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

    def box(self, selector: str) -> FloatRect:
        box = self.page.locator(selector).bounding_box()
        assert box is not None, f"{selector} is not shown"
        return box


def live_html(view: FeatureBrowser) -> str:
    """A page in which the view waits for the test's answers."""
    state = {"spec": view.spec, "facts": view.facts, "links": []}
    html = page(
        title="Features",
        front_end=built("feature_browser.js"),
        css=built("feature_browser.css"),
        state=state,
        reply=({}, []),
    )
    return html.replace("<body>", f"<body>{CONNECT}", 1)


def frozen_html(view: FeatureBrowser, **more: Any) -> str:
    """What `to_html` writes."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "view.html"
        view.to_html(file, **more)
        return file.read_text(encoding="utf-8")
