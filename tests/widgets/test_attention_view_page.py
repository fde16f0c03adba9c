"""The attention view in Chromium, without Jupyter, answered by its own Python half: what one sees and does."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from playwright.sync_api import Browser, BrowserContext, expect

import lenskit as lk
from lenskit.widgets import AttentionView
from tests.models.architectures import build
from tests.models.tiny import tiny, tiny_tokenizer
from tests.widgets.attention_page import AttentionPage
from tests.widgets.test_accessibility import RUN
from tests.widgets.view import AXE, new_context

PROMPT = "The key to the cabinet is the key"


@cache
def model(layers: int = 3) -> lk.Model:
    return lk.Model(tiny("llama", vocab=300, layers=layers), tiny_tokenizer(300), name="tiny")


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = new_context(browser)
    yield context
    context.close()


@pytest.fixture
def open_page(context: BrowserContext) -> Iterator[Callable[..., AttentionPage]]:
    """Opens views with their first answer; after the test none may have had an error."""
    opened: list[AttentionPage] = []

    def open_(prompt: str = PROMPT, layers: int = 3, **chosen: Any) -> AttentionPage:
        view = AttentionView(model(layers), prompt)
        view.spec = {**view.spec, **chosen}
        page = AttentionPage(context, view)
        opened.append(page)
        page.answer()
        expect(page.heads).to_be_visible()
        return page

    yield open_
    for page in opened:
        assert page.troubles == []


def active(page: AttentionPage, grid: Any) -> str:
    """What a screen reader says of the cell that is chosen in a grid."""
    name = grid.get_attribute("aria-activedescendant")
    return page.page.locator(f"[id='{name}']").get_attribute("aria-label") or ""


def test_the_first_picture_has_every_head_and_the_chosen_one_large(open_page):
    page = open_page(selection={"layer": 1, "head": 2, "pos": 3, "key": 1})
    assert (page.heads.get_attribute("aria-rowcount"), page.heads.get_attribute("aria-colcount")) == ("3", "4")
    assert active(page, page.heads) == "head 1.2"
    weights = page.view.attention.weights(1, 2)
    assert active(page, page.pattern).endswith(f": {weights[3, 1]:.2f}".replace(" 0.", " ."))
    expect(page.page.locator(".lk-a-title")).to_have_text("Head 1.2")
    shown = page.page.locator(".lk-a-looks .lk-a-number").all_text_contents()
    assert [float(text) for text in shown] == pytest.approx(sorted(weights[3][weights[3] >= 0.005])[::-1], abs=6e-4)


def test_the_cells_are_painted_in_the_colour_of_their_weight(open_page):
    page = open_page(selection={"layer": 1, "head": 2, "pos": None, "key": None})
    weights = page.view.attention.weights(1, 2)
    n = len(weights)
    seen = [(q, k) for q in range(n) for k in range(q + 1)]
    strong, weak = max(seen, key=lambda at: weights[at]), min(seen, key=lambda at: weights[at])

    def sum_at(cell: tuple[int, int]) -> int:
        page.set_spec(selection={"layer": 1, "head": 2, "pos": cell[0], "key": cell[1]})
        return page.page.evaluate(
            """() => {
              const cell = document.querySelector('.lk-a-pattern .lk-a-active').getBoundingClientRect();
              const canvas = document.querySelector('.lk-a-pattern canvas');
              const box = canvas.getBoundingClientRect();
              const ratio = canvas.width / box.width;
              const [x, y] = [(cell.left - box.left + 6) * ratio, (cell.bottom - box.top - 6) * ratio];
              const [r, g, b, a] = canvas.getContext('2d').getImageData(x, y, 1, 1).data;
              return a === 0 ? 765 : r + g + b;
            }"""
        )

    assert sum_at(strong) < sum_at(weak) - 60


def test_a_click_chooses_a_head_and_python_hears_of_it(open_page):
    page = open_page()
    box = page.heads.bounding_box()
    # The top row is the last layer: its second head, by the tile of the first and the step of 70.
    page.page.mouse.click(box["x"] + 33 + 70 + 30, box["y"] + 23 + 30)
    assert page.spec["selection"] | {"pos": None, "key": None} == {"layer": 2, "head": 1, "pos": None, "key": None}
    page.answer_all()
    expect(page.page.locator(".lk-a-title")).to_have_text("Head 2.1")


def test_the_keyboard_walks_heads_layers_and_cells(open_page):
    page = open_page(selection={"layer": 1, "head": 2, "pos": None, "key": None})
    page.heads.press("ArrowUp")
    page.heads.press("ArrowLeft")
    assert (page.spec["selection"]["layer"], page.spec["selection"]["head"]) == (2, 1)
    page.heads.press("PageDown")
    page.answer_all()
    assert active(page, page.heads) == "head 1.1"
    page.page.keyboard.press("Tab")
    expect(page.pattern).to_be_focused()
    n = len(page.view.attention.ids)
    for key in ("ArrowUp", "ArrowUp", "ArrowLeft"):
        page.pattern.press(key)
    assert (page.spec["selection"]["pos"], page.spec["selection"]["key"]) == (n - 2, n - 3)
    page.pattern.press("PageDown")
    page.answer_all()
    assert page.spec["selection"] == {"layer": 0, "head": 1, "pos": n - 2, "key": n - 3}
    page.pattern.press("Escape")
    assert page.spec["selection"] == {"layer": 0, "head": 1, "pos": None, "key": None}


def test_a_ablates_v_weighs_by_values_f_hides_the_first_token_and_all_can_be_undone(open_page):
    page = open_page(selection={"layer": 1, "head": 2, "pos": None, "key": None})
    page.heads.press("a")
    assert page.answer()["ablated"] == [[1, 2]]
    expect(page.page.locator(".lk-a-said .lk-a-heading")).to_contain_text("as it is → ablated")
    after = model().run(PROMPT, edits=lk.Zero("z", layers=1, heads=2)).logits[0, -1].softmax(-1)
    before = model().run(PROMPT).logits[0, -1].softmax(-1)
    best = int(torch.maximum(before, after).argmax())
    first = page.page.locator(".lk-a-said .lk-a-number").first
    expect(first).to_have_text(f"{before[best]:.3f} → {after[best]:.3f}".replace("0.", "."))
    page.heads.press("v")
    assert page.answer()["show"] == "value-weighted"
    page.heads.press("f")
    assert page.answer()["hide_first"] is True
    expect(page.page.get_by_role("button", name="put head 1.2 back")).to_be_visible()
    for _ in range(3):
        page.heads.press("Control+z")
    page.answer_all()
    assert (page.spec["ablated"], page.spec["show"], page.spec["hide_first"]) == ([], "pattern", False)
    page.heads.press("Control+Shift+z")
    page.answer_all()
    assert page.spec["ablated"] == [[1, 2]]
    page.page.get_by_role("button", name="put head 1.2 back").click()
    page.answer_all()
    expect(page.page.locator(".lk-a-said .lk-a-heading")).not_to_contain_text("ablated")


@pytest.mark.parametrize("show", ["pattern", "value-weighted"])
@pytest.mark.parametrize("hide", [False, True])
def test_copied_python_gives_the_numbers_that_are_shown(open_page, show: str, hide: bool):
    n = len(model().batch(PROMPT).tokens[0])
    page = open_page(
        selection={"layer": 2, "head": 3, "pos": n - 1, "key": 2}, show=show, hide_first=hide, ablated=[[1, 0], [0, 2]],
        by="mean",
    )  # fmt: skip
    # On plain http there is no clipboard: what is copied is what is selected then.
    page.page.evaluate(
        "() => { document.execCommand = () => Boolean(globalThis.copied = document.activeElement.value); }"
    )
    page.page.get_by_role("button", name="Copy as Python").click()
    page.page.wait_for_function("() => globalThis.copied")
    names: dict[str, Any] = {"model": model()}
    exec(page.page.evaluate("copied"), names)
    np.testing.assert_allclose(names["weights"], page.view.attention.weights(2, 3, show, hide_first=hide), atol=1e-5)
    shown = page.page.locator(".lk-a-said .lk-a-line").first
    best = int(torch.maximum(names["before"], names["after"]).argmax())
    expect(shown.locator(".lk-a-number")).to_have_text(
        f"{names['before'][best]:.3f} → {names['after'][best]:.3f}".replace("0.", ".")
    )
    expect(page.page.locator(".lk-a-note")).to_have_text("Copied.")


def test_heads_are_sorted_by_a_score_which_says_what_it_was_measured_on(open_page):
    page = open_page()
    page.page.get_by_role("radio", name="induction").check()
    page.answer()
    scores = lk.head_scores(model().run(PROMPT, keep="pattern"), "induction")
    page.heads.press("Control+Home")
    page.answer_all()
    best = divmod(int(scores.argmax()), 4)
    assert active(page, page.heads) == f"head {best[0]}.{best[1]}, induction {scores.max():.2f}"
    expect(page.page.locator(".lk-a-sorting")).to_contain_text("of this prompt")
    page.page.get_by_role("textbox", name="prompt").fill("abcd")
    page.answer()
    expect(page.page.locator(".lk-a-sorting")).to_contain_text("repeated random tokens, as no token of this prompt")


def test_typing_asks_once_and_keeps_the_last_picture_until_the_next(open_page):
    page = open_page()
    field = page.page.get_by_role("textbox", name="prompt")
    field.press("End")
    field.press_sequentially(" to the", delay=5)
    page.page.wait_for_function("() => sent.length > 1")
    assert page.page.locator(".lk-progress").is_visible()
    before = page.pattern.get_attribute("aria-rowcount")
    assert page.answer()["prompt"] == PROMPT + " to the"
    assert int(page.pattern.get_attribute("aria-rowcount")) > int(before)
    assert len(page.sent) == 2
    field.fill("")
    page.answer()
    expect(page.page.get_by_role("alert")).to_contain_text("empty")
    expect(page.pattern).to_be_visible()


def test_hovering_previews_a_query_and_leaves_the_choice(open_page):
    page = open_page(selection={"layer": 1, "head": 2, "pos": 5, "key": 1})
    heading = page.page.locator(".lk-a-looks .lk-a-heading")
    expect(heading).to_contain_text("(5) looks at")
    cell = page.page.locator(".lk-a-pattern .lk-a-active").bounding_box()
    page.page.mouse.move(cell["x"] + 10, cell["y"] - 20)
    expect(heading).to_contain_text("(4) looks at")
    page.page.mouse.move(5, 5)
    expect(heading).to_contain_text("(5) looks at")
    assert page.spec["selection"]["pos"] == 5


def test_markup_in_a_prompt_is_text(open_page):
    page = open_page("<img src=x onerror=alert(1)></script>")
    page.heads.press("a")
    page.answer()
    assert page.page.locator(".lk-root img, .lk-root script").count() == 0


def test_a_model_without_patterns_shows_the_reason_and_no_empty_grid(context):
    view = AttentionView(lk.Model(build("mamba"), tiny_tokenizer(300), name="mamba"), "The")
    page = AttentionPage(context, view)
    page.answer()
    expect(page.page.get_by_role("alert")).to_contain_text("'pattern' does not exist in Mamba")
    expect(page.page.locator(".lk-body")).to_be_hidden()
    assert page.troubles == []


def test_many_heads_and_a_long_prompt_are_painted_only_as_far_as_they_are_seen(open_page):
    page = open_page(" ".join(["a b c d"] * 14), layers=30, selection={"layer": 3, "head": 1, "pos": 90, "key": 80})
    sizes = page.page.evaluate(
        "() => [...document.querySelectorAll('canvas')].map(c => [c.clientWidth, c.clientHeight])"
    )
    assert all(width <= 1320 and height <= 760 for width, height in sizes)
    assert page.page.locator("[role=gridcell]").count() == 2
    for selector in (".lk-a-tiles", ".lk-a-pattern"):
        cell, seen = page.box(f"{selector} .lk-a-active"), page.box(selector)
        assert seen["y"] <= cell["y"]
        assert cell["y"] + cell["height"] <= seen["y"] + seen["height"] + 1
        assert cell["x"] + cell["width"] <= seen["x"] + seen["width"] + 1


@pytest.mark.parametrize("width", [500, 905, 1320])
def test_sizes_settle_at_once_in_a_frame_whose_scrollbar_comes_and_goes(context, width: int):
    """VS Code and others show a view in a frame as high as it asks for; a scrollbar then takes part of the width."""
    page = AttentionPage(context, AttentionView(model(), PROMPT))
    page.answer()
    expect(page.heads).to_be_visible()
    height = page.page.evaluate(
        """(width) => {
          const root = document.querySelector('.lk-root');
          globalThis.changes = 0;
          let last = '';
          new ResizeObserver(() => {
            const size = [root.clientWidth, root.clientHeight].join();
            if (size !== last) changes += 1;
            last = size;
          }).observe(root);
          const frame = root.parentElement;
          // One pixel less than it takes: a scrollbar is needed exactly when there is none.
          frame.style.cssText = `width: ${width}px; overflow-y: auto`;
          return root.offsetHeight;
        }""",
        width,
    )
    for less in (1, 12, 0):
        page.page.evaluate(
            """(height) => {
              changes = 0;
              document.querySelector('.lk-root').parentElement.style.height = `${height}px`;
            }""",
            height - less,
        )
        page.page.wait_for_timeout(200)
        assert page.page.evaluate("changes") <= 2


@pytest.mark.parametrize("width", [360, 500, 800])
def test_in_a_narrow_cell_the_parts_stand_below_each_other_and_nothing_sticks_out(browser: Browser, width: int):
    context = new_context(browser, width=width)
    page = AttentionPage(context, AttentionView(model(12), PROMPT))
    page.answer()
    tiles, pattern = page.box(".lk-a-tiles"), page.box(".lk-a-pattern")
    assert pattern["y"] >= tiles["y"] + tiles["height"]
    assert page.page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert page.troubles == []
    context.close()


@pytest.mark.parametrize("live", [True, False], ids=["live", "frozen"])
@pytest.mark.parametrize("width", [1320, 360])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_to_object_to(browser: Browser, scheme: str, width: int, live: bool):
    if not AXE.exists():
        pytest.skip("no axe-core here: run npm ci in widgets/")
    context = new_context(browser, scheme=scheme, width=width)
    view = AttentionView(model(), PROMPT, pick="induction")
    view.spec = {**view.spec, "ablated": [[1, 2], [0, 1]], "selection": {"layer": 1, "head": 2, "pos": 4, "key": 1}}
    page = AttentionPage(context, view, live=live)
    if live:
        page.answer()
    expect(page.heads).to_be_visible()
    page.heads.press("?")
    page.page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.page.evaluate(RUN)
    assert found["violations"] == []
    looked_at = dict(found["passes"])["color-contrast"]
    for part in ("lk-a-title", "lk-a-number", "lk-a-chip", "lk-kbd", "lk-a-sorting", "<span>induction"):
        assert any(part in node for node in looked_at), part
    context.close()


def test_a_frozen_page_can_be_explored_without_python(context):
    view = AttentionView(model(), PROMPT)
    view.selection = (1, 2, 3, 1)
    page = AttentionPage(context, view, live=False)
    expect(page.heads).to_be_visible()
    expect(page.page.locator(".lk-a-title")).to_have_text("Head 1.2")
    page.heads.press("v")
    page.heads.press("f")
    page.heads.press("ArrowUp")
    expect(page.page.locator(".lk-a-title")).to_have_text("Head 2.2")
    expect(page.page.locator(".lk-a-unit")).to_contain_text("first token left out")
    weights = view._live._attention.weights(2, 2, "value-weighted", hide_first=True)  # pyright: ignore
    assert active(page, page.pattern).endswith(f": {weights[3, 1]:.2f}".replace(" 0.", " ."))
    page.page.get_by_role("radio", name="duplicate").check()
    expect(page.page.locator(".lk-a-sorting")).to_contain_text("sorted by duplicate token score")
    expect(page.page.get_by_role("button", name="Ablate")).to_have_count(0)
    assert page.troubles == []


def test_the_chosen_head_comes_into_view_where_it_stands_elsewhere_and_scrolling_away_is_respected(open_page):
    page = open_page(layers=30, selection={"layer": 3, "head": 1, "pos": None, "key": None})

    def seen() -> bool:
        cell, window = page.box(".lk-a-tiles .lk-a-active"), page.box(".lk-a-tiles")
        return window["y"] <= cell["y"] <= window["y"] + window["height"] - cell["height"]

    assert seen()
    page.page.locator(".lk-a-tiles").evaluate("(tiles) => { tiles.scrollTop = 0; }")
    page.page.get_by_role("textbox", name="prompt").fill(PROMPT + " to the")
    page.answer()
    assert not seen()
    page.page.get_by_role("radio", name="previous token").check()
    page.answer()
    assert seen()
    page.page.set_viewport_size({"width": 500, "height": 900})
    page.page.wait_for_function("() => document.querySelector('.lk-root').classList.contains('lk-narrow')")
    assert seen()
