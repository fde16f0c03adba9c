"""The patch grid in a page without Jupyter: the page keeps what the view sends, the test answers it."""

from playwright.sync_api import BrowserContext, Locator

from lenskit.widgets.page import page
from tests.widgets.made_up_patching import MadeUpPatching
from tests.widgets.view import CONNECT, ORIGIN, View, built


def patch_page_of(made_up: MadeUpPatching, spec: dict, **facts: object) -> str:
    """The frozen page of a made-up sweep."""
    return page(
        title="Patching",
        front_end=built("patch_grid.js"),
        css=built("patch_grid.css"),
        state={"spec": spec, "facts": made_up.facts(**{"live": False, **facts})},
        reply=made_up.swept({**spec, "id": "0"}),
    )


class PatchView(View):
    """The patch grid in a page, and the Python half that answers it."""

    made_up: MadeUpPatching

    @classmethod
    def open(cls, context: BrowserContext, made_up: MadeUpPatching, spec: dict, **facts: object) -> "PatchView":  # pyright: ignore[reportIncompatibleMethodOverride]
        """Render the view; nothing has been answered yet."""
        html = patch_page_of(made_up, spec, **{"live": True, **facts}).replace("<body>", f"<body>{CONNECT}", 1)
        tab = context.new_page()
        tab.route("**/*", lambda route: route.fulfill(body=html, content_type="text/html"))
        view = cls(tab, made_up)  # pyright: ignore[reportArgumentType]
        tab.goto(ORIGIN)
        tab.wait_for_selector(".lk-root")
        return view

    def next(self, kind: str) -> dict:
        """The next message of a kind; those before it are passed over."""
        while (message := self.next_read())["kind"] != kind:
            pass
        return message

    def answer(self) -> dict:
        """Answer the next `sweep`, as Python would."""
        request = self.next("sweep")
        for message in self.made_up.sweep(request):
            self.deliver(*message)
        return request

    def answer_patch(self) -> dict:
        request = self.next("patch")
        self.deliver(*self.made_up.patched(request))
        return request

    def answer_patches_until(self, layers: list[int], columns: list[int]) -> None:
        """Answer what is asked up to the patch of a region: where a pointer or a key rested on its way, a look at a cell."""
        while (asked := self.answer_patch())["layers"] != layers or asked["columns"] != columns:
            assert len(asked["layers"]) == len(asked["columns"]) == 1, asked

    def at(self, layer: int, column: int) -> Locator:
        """A cell, by its layer and its position or head."""
        return self.page.locator(f'[role=row]:has(> [aria-label="layer {layer}"]) [aria-colindex="{column + 2}"]')

    def colour_in(self, layer: int, column: int) -> list[int]:
        """The colour that is painted near the lower left corner of a cell."""
        return self._pixel(layer, column, "[r.left - c.left + 3, r.bottom - c.top - 4]")

    def colour_of_disc(self, layer: int, column: int) -> list[int]:
        """The colour that is painted in a disc, left of the cell's middle."""
        return self._pixel(layer, column, "[(r.left + r.right) / 2 - c.left - 3, (r.top + r.bottom) / 2 - c.top]")

    def _pixel(self, layer: int, column: int, place: str) -> list[int]:
        return self.page.evaluate(
            f"""(cell) => {{
              const canvas = document.querySelector('canvas.lk-pg-painting');
              const [c, r] = [canvas.getBoundingClientRect(), cell.getBoundingClientRect()];
              const scale = canvas.width / c.width;
              const [x, y] = {place};
              return [...canvas.getContext('2d').getImageData(x * scale, y * scale, 1, 1).data].slice(0, 3);
            }}""",
            self.at(layer, column).element_handle(),
        )
