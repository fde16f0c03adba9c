"""A front-end in a page without Jupyter: the page keeps what the view sends, the test answers it."""

from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Dialog, FloatRect, Locator, Page, Request

from lenskit.widgets.page import page
from tests.widgets.made_up import MadeUp, in_base64

ROOT = Path(__file__).parents[2]
STATIC = ROOT / "lenskit" / "widgets" / "static"
AXE = ROOT / "widgets" / "node_modules" / "axe-core" / "axe.min.js"
ORIGIN = "http://lenskit.test/"

# The page keeps the messages for the test instead of answering them itself.
CONNECT = """<script>
globalThis.sent = [];
globalThis.lenskitConnect = (model, deliver) => {
  Object.assign(globalThis, { model, deliver });
  return (message) => globalThis.sent.push(message);
};
</script>"""


def built(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")


def page_of(made_up: MadeUp, spec: dict, **facts: object) -> str:
    """The frozen page of a made-up table."""
    asked = {"prompt", "target", "versus", "lens", "second", "other"}
    question = (
        {name: spec[name] for name in asked}
        if spec["view"] != "one"
        else {"prompt": spec["prompt"], "target": spec["target"]}
    )
    reply = made_up.reply({"id": "0", "have": None, **question})
    return page(
        title="Lens table",
        front_end=built("lens_table.js"),
        css=built("lens_table.css"),
        state={
            "spec": spec,
            "facts": made_up.facts(**{"live": False, **facts}),
            "panel": {"source": built("lens_panel.js"), "css": built("lens_panel.css")},
        },
        reply=reply,
    )


class View:
    """The lens table in a page, and the Python half that answers it."""

    def __init__(self, page: Page, made_up: MadeUp) -> None:
        self.page = page
        self.made_up = made_up
        self.answered = 0
        self.troubles: list[str] = []
        page.on("pageerror", lambda error: self.troubles.append(str(error)))
        page.on("console", lambda said: self.troubles.append(said.text) if said.type == "error" else None)
        page.on("dialog", self._dialog)
        page.on("request", self._request)

    def _dialog(self, dialog: Dialog) -> None:
        self.troubles.append(f"a dialog: {dialog.message}")
        dialog.dismiss()

    def _request(self, request: Request) -> None:
        if not request.url.startswith((ORIGIN, "blob:", "data:")):
            self.troubles.append(f"a request to {request.url}")

    @classmethod
    def open(cls, context: BrowserContext, made_up: MadeUp, spec: dict, **facts: object) -> "View":
        """Render the view; nothing has been answered yet."""
        html = page_of(made_up, spec, **{"live": True, **facts}).replace("<body>", f"<body>{CONNECT}", 1)
        made_up.forget()
        page = context.new_page()
        page.route("**/*", lambda route: route.fulfill(body=html, content_type="text/html"))
        view = cls(page, made_up)
        page.goto(ORIGIN)
        page.wait_for_selector(".lk-root")
        return view

    @property
    def spec(self) -> dict:
        return self.page.evaluate("model.get('spec')")

    def set_spec(self, **changes: object) -> None:
        """What Python does when it assigns to `table.spec`."""
        self.page.evaluate("(changes) => model.set('spec', { ...model.get('spec'), ...changes })", changes)

    @property
    def sent(self) -> list[dict]:
        return self.page.evaluate("sent")

    def next_read(self) -> dict:
        """The next message that was not looked at yet; waits for it."""
        self.page.wait_for_function("(n) => sent.length > n", arg=self.answered)
        self.answered += 1
        return self.sent[self.answered - 1]

    def deliver(self, message: dict, buffers: list[bytes] | None = None) -> None:
        self.page.evaluate("([m, b]) => deliver(m, b)", [message, in_base64(buffers or [])])

    def answer(self) -> dict:
        """Answer the next message, as Python would."""
        request = self.next_read()
        self.deliver(*self.made_up.reply(request))
        return request

    def cell(self, layer: int, pos: int) -> Locator:
        return self.page.locator(f'[role=gridcell][aria-label^="layer {layer}, position {pos}:"]')

    def name_of(self, layer: int, pos: int) -> str:
        return self.cell(layer, pos).get_attribute("aria-label") or ""

    def box(self, selector: str) -> FloatRect:
        box = self.page.locator(selector).bounding_box()
        assert box is not None, f"{selector} is not shown"
        return box

    def colour_at(self, layer: int, pos: int) -> list[int]:
        """The colour that is painted near the lower left corner of a cell, where no token is: red, green, blue."""
        return self.page.evaluate(
            """(cell) => {
              const canvas = document.querySelector('canvas.lk-painting');
              const [c, r] = [canvas.getBoundingClientRect(), cell.getBoundingClientRect()];
              const scale = canvas.width / c.width;
              const [x, y] = [(r.left - c.left + 2.5) * scale, (r.bottom - c.top - 4) * scale];
              return [...canvas.getContext('2d').getImageData(x, y, 1, 1).data].slice(0, 3);
            }""",
            self.cell(layer, pos).element_handle(),
        )

    def ink_in(self, layer: int, pos: int) -> int:
        """How many pixels of a cell are not of its own colour: what is written in it."""
        return self.page.evaluate(
            """(cell) => {
              const canvas = document.querySelector('canvas.lk-painting');
              const [c, r] = [canvas.getBoundingClientRect(), cell.getBoundingClientRect()];
              const s = canvas.width / c.width;
              const box = [(r.left - c.left + 3) * s, (r.top - c.top + 3) * s, (r.width - 12) * s, (r.height - 6) * s];
              const { data } = canvas.getContext('2d').getImageData(...box);
              let count = 0;
              for (let i = 0; i < data.length; i += 4) {
                const d = [0, 1, 2].reduce((sum, k) => sum + Math.abs(data[i + k] - data[k]), 0);
                if (d > 90) count += 1;
              }
              return count;
            }""",
            self.cell(layer, pos).element_handle(),
        )


def new_context(browser: Browser, *, width: int = 1320, height: int = 950, scheme: str = "light") -> BrowserContext:
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if scheme == "dark" else "light",
        reduced_motion="reduce",
    )
    context.set_default_timeout(15_000)
    return context
