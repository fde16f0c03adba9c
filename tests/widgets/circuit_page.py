"""A circuit graph in a page without Jupyter, answered by its own Python half."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from playwright.sync_api import BrowserContext, Dialog, Locator, Page

from lenskit.widgets.circuit_graph import CircuitGraph
from lenskit.widgets.page import page
from tests.widgets.attention_page import at_once
from tests.widgets.made_up import in_base64
from tests.widgets.view import CONNECT, ORIGIN, built

# Where along a line the pointer finds what: the middle of the stretch on which a note is shown.
SCAN = """([from, to, y]) => {
  const [sheet, tip] = ['.lk-c-sheet', '.lk-c-tip'].map((name) => document.querySelector(name));
  const found = {};
  for (let x = from; x < to; x += 2) {
    sheet.dispatchEvent(new PointerEvent('pointermove', { clientX: x, clientY: y, pointerType: 'mouse' }));
    if (!tip.hidden) (found[tip.firstChild.textContent] ??= []).push(x);
  }
  sheet.dispatchEvent(new PointerEvent('pointerleave'));
  return Object.fromEntries(Object.entries(found).map(([text, at]) => [text, at[at.length >> 1]]));
}"""


class CircuitPage:
    """The view in a page. What it asks is kept until the test lets Python answer."""

    def __init__(self, context: BrowserContext, view: CircuitGraph) -> None:
        self.view = view
        self.replies: list[tuple[dict[str, Any], list[bytes]]] = []
        self.troubles: list[str] = []
        self.answered = 0
        keep: Any = lambda content, buffers=None: self.replies.append((content, buffers or []))  # noqa: E731
        view.send = keep
        html = live_html(view)
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

    def answer_all(self) -> list[str]:
        """Answer until nothing is asked; what was asked."""
        asked = []
        while len(self.sent) > self.answered:
            asked.append(self.answer()["kind"])
        return asked

    def deliver(self, message: dict[str, Any], buffers: Sequence[bytes] = ()) -> None:
        self.page.evaluate("([m, b]) => deliver(m, b)", [message, in_base64(list(buffers))])

    def set_spec(self, **changes: object) -> None:
        """What Python does when it assigns to `view.spec`."""
        self.page.evaluate("(changes) => model.set('spec', { ...model.get('spec'), ...changes })", changes)

    @property
    def picture(self) -> Locator:
        return self.page.get_by_role("application")

    @property
    def title(self) -> Locator:
        return self.page.locator(".lk-c-head .lk-f-title")

    @property
    def said(self) -> str:
        """What a screen reader was told last."""
        return self.page.locator(".lk-c-stage > [role=status]").text_content() or ""

    def along(self, layer: int | str) -> dict[str, tuple[float, float]]:
        """What the pointer finds in a layer's row: the first line of each note beside it, and where."""
        row = self.page.locator(f".lk-c-layer:text-is('{layer}')").bounding_box()
        sheet = self.page.locator(".lk-c-sheet").bounding_box()
        assert row is not None, f"there is no row {layer}"
        assert sheet is not None
        y = row["y"] + row["height"] / 2
        found = self.page.evaluate(SCAN, [sheet["x"] + 48, sheet["x"] + sheet["width"], y])
        return {text: (x, y) for text, x in found.items()}

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    def lines(self, title: str) -> list[str]:
        """The lines of a list of the detail."""
        section = self.page.locator(".lk-c-lines").filter(has=self.page.locator(f"h4:has-text('{title}')"))
        return [" ".join(text.split()) for text in section.locator(".lk-f-line").all_inner_texts()]


def live_html(view: CircuitGraph) -> str:
    """A page in which the view waits for the test's answers."""
    state = {"spec": view.spec, "facts": view.facts, "links": []}
    front_end, css = built("circuit_graph.js"), built("circuit_graph.css")
    html = page(title="Circuit", front_end=front_end, css=css, state=state, reply=({}, []))
    return html.replace("<body>", f"<body>{CONNECT}", 1)


def frozen_html(view: CircuitGraph, **more: Any) -> str:
    """What `to_html` writes."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "view.html"
        view.to_html(file, **more)
        return file.read_text(encoding="utf-8")
