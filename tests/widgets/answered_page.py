"""A view in a page without Jupyter, answered by its own Python half when the test lets it."""

import asyncio
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import BrowserContext, Dialog, FloatRect, Page

from lenskit.widgets.page import page
from tests.widgets.made_up import in_base64
from tests.widgets.view import CONNECT, ORIGIN, built


class AnsweredPage:
    """The view in a page. What it asks is kept until the test lets Python answer; what goes wrong is in `troubles`."""

    def __init__(self, context: BrowserContext, view: Any, html: str) -> None:
        self.view = view
        self.replies: list[tuple[dict[str, Any], list[bytes]]] = []
        self.troubles: list[str] = []
        self.answered = 0
        view.send = lambda content, buffers=None: self.replies.append((content, buffers or []))
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
                self.deliver(message, buffers)
        return question

    def answer_all(self, rest: int = 0) -> list[dict[str, Any]]:
        """Answer until nothing is asked; what was asked. Typing and sliders rest a while before they ask."""
        asked = []
        if rest:
            self.page.wait_for_timeout(rest)
        while len(self.sent) > self.answered:
            asked.append(self.answer())
        return asked

    def deliver(self, message: dict[str, Any], buffers: Sequence[bytes] = ()) -> None:
        self.page.evaluate("([m, b]) => deliver(m, b)", [message, in_base64(list(buffers))])

    def set_spec(self, **changes: object) -> None:
        """What Python does when it assigns to `view.spec`."""
        self.page.evaluate("(changes) => model.set('spec', { ...model.get('spec'), ...changes })", changes)

    def box(self, selector: str) -> FloatRect:
        box = self.page.locator(selector).bounding_box()
        assert box is not None, f"{selector} is not shown"
        return box


@contextmanager
def at_once() -> Iterator[None]:
    """Without Playwright's event loop, which stays marked as running: what Python is asked is then done at once."""
    loop = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    yield
    asyncio._set_running_loop(loop)


def live_html(view: Any, title: str, front_end: str) -> str:
    """A page in which the view waits for the test's answers."""
    state = {"spec": view.spec, "facts": view.facts, "links": []}
    module, css = built(f"{front_end}.js"), built(f"{front_end}.css")
    html = page(title=title, front_end=module, css=css, state=state, reply=({}, []))
    return html.replace("<body>", f"<body>{CONNECT}", 1)


def frozen_html(view: Any, **more: Any) -> str:
    """What `to_html` writes."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "view.html"
        view.to_html(file, **more)
        return file.read_text(encoding="utf-8")
