"""Whatever a token says, it is shown as text, legibly, and never becomes a part of the page."""

import re

import pytest
from playwright.sync_api import Browser, expect

from tests.widgets.made_up import MadeUp, Piece
from tests.widgets.view import View, new_context, page_of

HOSTILE: tuple[Piece, ...] = (
    "<img src=x onerror=alert(1)>",
    "</script>",
    "</script><script>alert(2)</script>",
    "<!--",
    "</style><style>*{display:none}",
    "\"'><svg onload=alert(3)>",
    "{{css}}{title}",
)
LEGIBLE: dict[str, Piece] = {
    "·שלום": " שלום", "مرحبا": "مرحبا", "日本語": "日本語", "·👩‍🚀": " 👩‍🚀", "↵": "\n", "⇥": "\t", "␣␣": "  ",
    "⟨E2⟩⟨82⟩": [0xE2, 0x82], "⟨202E⟩": "\u202e", "⟨200B⟩": "\u200b", "∅": "",
}  # fmt: skip


class Parrot(MadeUp):
    """Its prompt is made of chosen tokens, and it predicts nothing else."""

    def tokenize(self, prompt: str) -> list[int]:
        return [self.token_id(piece) for piece in self.extra]


def said(view: View) -> list[str]:
    labels = view.page.locator("[role=gridcell]").evaluate_all("(cells) => cells.map((c) => c.ariaLabel)")
    return [label.split(": ", 1)[1].rsplit(", ", 1)[0] for label in labels]


def nothing_was_made_of(view: View) -> None:
    """No element but those of the view, and no script but those of the page."""
    assert view.page.locator("#lk-here :is(img, script, style, svg[onload], iframe)").count() == 0
    assert view.page.locator("script").count() <= 3
    assert view.page.locator("[role=gridcell]").first.is_visible()
    assert view.troubles == []


def test_markup_is_text_in_heads_cells_detail_and_profile(browser: Browser):
    context = new_context(browser)
    made_up = Parrot(layers=6, extra=HOSTILE, words=list(HOSTILE), k=7)
    view = View.open(context, made_up, made_up.spec("<b>prompt</b></textarea>"))
    view.answer()
    shown = [str(piece)[:24] + ("…" if len(str(piece)) > 24 else "") for piece in HOSTILE]
    expect(view.page.locator(".lk-head")).to_have_text(shown)
    assert set(said(view)) <= set(HOSTILE)
    view.page.locator("[role=gridcell]").first.click()
    tokens = view.page.locator(".lk-top .lk-token").all_text_contents()
    assert sorted(tokens) == sorted(map(str, HOSTILE))
    for cell in view.page.locator("[role=gridcell]").all()[:7]:
        cell.hover()
    assert view.page.locator(".lk-field").input_value() == "<b>prompt</b></textarea>"
    nothing_was_made_of(view)
    context.close()


def test_markup_is_text_in_the_frozen_page(browser: Browser, tmp_path):
    context = new_context(browser)
    made_up = Parrot(layers=6, extra=HOSTILE, words=list(HOSTILE), k=7)
    file = tmp_path / "table.html"
    file.write_text(page_of(made_up, made_up.spec("</script><script>alert(4)</script><!--"), model="</script>&"))
    view = View(context.new_page(), made_up)
    view.page.remove_listener("request", view._request)
    view.page.goto(file.as_uri())
    expect(view.page.locator(".lk-head")).to_have_count(len(HOSTILE))
    assert set(said(view)) <= set(HOSTILE)
    assert view.page.locator(".lk-field").input_value() == "</script><script>alert(4)</script><!--"
    expect(view.page.locator(".lk-about")).to_have_text("</script>& · 6 layers")
    nothing_was_made_of(view)
    context.close()


@pytest.mark.parametrize("shown, piece", LEGIBLE.items(), ids=list(LEGIBLE))
def test_every_script_and_every_invisible_character_is_legible(browser: Browser, shown: str, piece: Piece):
    context = new_context(browser)
    made_up = Parrot(layers=3, extra=(piece, "a"), words=[piece, "a"], k=2)
    view = View.open(context, made_up, made_up.spec("x"))
    view.answer()
    expect(view.page.locator(".lk-head").first).to_have_text(shown, use_inner_text=False)
    view.page.locator("[role=gridcell]").first.click()
    assert shown in view.page.locator(".lk-top .lk-token").all_text_contents()
    assert shown in said(view)
    # And the canvas has ink for it.
    found = said(view).index(shown)
    assert view.ink_in(2 - found // 2, found % 2) > 4
    assert view.troubles == []
    context.close()


def test_a_right_to_left_token_starts_at_the_right(browser: Browser):
    context = new_context(browser)
    made_up = Parrot(layers=3, extra=(" שלום",), words=[" שלום", "a"], k=2)
    view = View.open(context, made_up, made_up.spec("x"))
    view.answer()
    head = view.page.locator(".lk-head").first
    expect(head).to_be_visible()
    space, whole = head.locator(".lk-space").bounding_box(), head.bounding_box()
    assert space is not None
    assert whole is not None
    assert space["x"] > whole["x"] + whole["width"] / 2
    context.close()


def test_a_long_token_ends_in_a_sign_of_it_and_shows_whole_when_hovered_and_in_the_detail(browser: Browser):
    context = new_context(browser)
    long = "Donaudampfschifffahrtsgesellschaft"
    made_up = Parrot(layers=3, extra=(long,), words=[long, long.upper()], k=2)
    view = View.open(context, made_up, made_up.spec("x"))
    view.answer()
    cell = view.cell(2, 0)
    width = cell.bounding_box()
    cell.hover()
    expect(view.page.locator(".lk-peek")).to_have_text(re.compile(f"^{long}$", re.IGNORECASE))
    assert cell.bounding_box() == width
    assert long in view.page.locator(".lk-top .lk-token").all_text_contents()
    context.close()
