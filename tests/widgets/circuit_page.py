"""A circuit graph in a page without Jupyter, answered by its own Python half."""

from playwright.sync_api import BrowserContext, Locator

from lenskit.widgets.circuit_graph import CircuitGraph
from tests.widgets import answered_page

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


class CircuitPage(answered_page.AnsweredPage):
    """The view in a page."""

    def __init__(self, context: BrowserContext, view: CircuitGraph) -> None:
        super().__init__(context, view, live_html(view))

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
    return answered_page.live_html(view, "Circuit", "circuit_graph")
