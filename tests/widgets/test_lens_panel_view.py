"""The lens table's second module in Chromium: regions and counts, ranks, writing on, acting, and how it comes."""

import json
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, BrowserContext, expect

from tests.widgets.made_up import MadeUp, entries, in_base64
from tests.widgets.test_accessibility import RUN
from tests.widgets.view import AXE, CONNECT, ORIGIN, View, built, new_context, page_of

PROMPT = "She put the cake in the oven"
OVEN = {"layer": 5, "pos": 6}


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = new_context(browser)
    yield context
    context.close()


def opened(context: BrowserContext, *, layers: int = 12, live: bool = True, **spec: object) -> View:
    made_up = MadeUp(layers=layers)
    view = View.open(context, made_up, made_up.spec(PROMPT, **spec), live=live)
    view.answer()
    view.page.wait_for_selector("[role=gridcell]")
    return view


@pytest.fixture
def open_view(context: BrowserContext) -> Iterator[Callable[..., View]]:
    views: list[View] = []

    def open_(**options: Any) -> View:
        views.append(opened(context, **options))
        return views[-1]

    yield open_
    for view in views:
        assert view.troubles == []


def acted(view: View, kind: str = "acted") -> None:
    """What Python answers to an `act`: the prompt's first tokens written thrice."""
    request = view.next_read()
    while request["kind"] != "act":
        request = view.next_read()
    ids = np.arange(4, dtype=np.int32)
    odds = np.array([0.6, 0.2, 0.1, 0.05], np.float32)
    names = ["before", "after", "placebo", "next_ids", "next_before", "next_after", "next_placebo"]
    values = [ids, ids[::-1].copy(), ids, ids, odds, odds[::-1].copy(), odds]
    arrays = dict(zip(names, values, strict=True))
    pieces = [[i, view.made_up._pieces[i]] for i in range(4)]
    message = {
        "v": 1, "kind": kind, "id": request["id"], "token": 1, "with": 2, "python": "model.generate(…)",
        "pieces": pieces, "arrays": entries(arrays),
    }  # fmt: skip
    view.deliver(message, [array.tobytes() for array in values])


class TestARegion:
    def test_is_drawn_with_the_mouse_and_what_is_read_in_it_is_counted(self, open_view):
        view = open_view()
        a, b = (view.cell(*cell).bounding_box() for cell in ((8, 2), (5, 4)))
        view.page.mouse.move(a["x"] + 9, a["y"] + 9)
        view.page.mouse.down()
        view.page.mouse.move(b["x"] + 9, b["y"] + 9, steps=6)
        view.page.mouse.up()
        assert (view.spec["selection"], view.spec["to"]) == ({"layer": 8, "pos": 2}, {"layer": 5, "pos": 4})
        box, region = view.box(".lk-region"), view.page.locator(".lk-region")
        expect(region).to_be_visible()
        assert box["y"] == pytest.approx(a["y"], abs=2)
        assert box["x"] + box["width"] == pytest.approx(b["x"] + b["width"], abs=2)
        counts = view.page.locator(".lk-counts")
        expect(counts).to_contain_text("4 × 3 cells, layer 5 to 8")
        tokens = view.made_up.tokenize(PROMPT)
        tops = [view.made_up.column(tokens[: pos + 1], None)["top_ids"][5:9, :8] for pos in (2, 3, 4)]
        ids, held = np.unique(np.stack(tops), return_counts=True)
        numbers = [int(text) for text in counts.locator(".lk-number").all_text_contents()]
        assert numbers == sorted(held.tolist(), reverse=True)[: len(numbers)]
        line = counts.get_by_role("button").first
        line.hover()
        expect(view.page.locator(".lk-lit")).to_have_count(numbers[0])
        view.page.locator(".lk-field").hover()
        expect(view.page.locator(".lk-lit")).to_have_count(0)
        assert len(ids) >= len(numbers)

    def test_is_drawn_with_the_keys_and_let_go_with_esc(self, open_view):
        view = open_view()
        grid = view.page.get_by_role("grid")
        for key in ("ArrowLeft", "ArrowDown", "Shift+ArrowDown", "Shift+ArrowLeft"):
            grid.press(key)
        assert (view.spec["selection"], view.spec["to"]) == ({"layer": 10, "pos": 5}, {"layer": 9, "pos": 4})
        expect(view.page.locator(".lk-counts")).to_contain_text("2 × 2 cells, layer 9 to 10")
        grid.press("Escape")
        assert (view.spec["selection"], view.spec["to"]) == ({"layer": 10, "pos": 5}, None)
        expect(view.page.locator(".lk-counts")).to_be_hidden()
        grid.press("Escape")
        assert view.spec["selection"] is None

    def test_is_undone_like_everything_else(self, open_view):
        view = open_view(selection=OVEN)
        grid = view.page.get_by_role("grid")
        grid.press("Shift+ArrowUp")
        assert view.spec["to"] == {"layer": 6, "pos": 6}
        grid.press("Control+z")
        assert view.spec["to"] is None

    def test_is_counted_in_a_frozen_page_too(self, open_view):
        view = open_view(live=False, selection=OVEN, to={"layer": 7, "pos": 4})
        counts = view.page.locator(".lk-counts")
        expect(counts.get_by_role("button").first).to_be_visible()
        assert counts.get_by_role("button", name="Words only").count() == 0


class TestTheCells:
    def test_hold_words_where_these_are_asked_for(self, open_view):
        view = open_view()
        view.page.get_by_role("radio", name="words").check(force=True)
        request = view.answer()
        assert (request["words"], view.spec["cells"]) == (True, "words")
        view.page.get_by_role("radio", name="numbers").check(force=True)
        assert view.answer()["words"] is False

    def test_of_the_rank_of_a_token_hold_its_numbers(self, open_view):
        view = open_view(selection=OVEN)
        column = view.made_up.column(view.made_up.tokenize(PROMPT), None)
        view.page.get_by_role("grid").press("Enter")
        before = view.ink_in(5, 6)
        view.page.get_by_role("button", name="Its rank").click()
        request = view.answer()
        assert request["target"] == int(column["top_ids"][5, 0])
        assert (view.spec["statistic"], view.spec["cells"]) == ("rank", "numbers")
        expect(view.cell(5, 6)).to_have_attribute("aria-label", matching("rank of target 0$"))
        assert view.ink_in(5, 6) != before
        view.page.get_by_role("grid").press("r")
        assert (view.spec["statistic"], view.spec["cells"], view.spec["target"]) == ("probability", "tokens", None)


def matching(text: str) -> re.Pattern[str]:
    return re.compile(text)


class TestWritingOn:
    def test_puts_a_column_for_each_token_and_stops_with_esc(self, open_view):
        view = open_view()
        view.page.get_by_role("button", name="Write on").click()
        for count in range(1, 4):
            request = view.answer()
            assert len(request["written"]) == count
            assert request["have"] is not None
        expect(view.page.locator(".lk-head.lk-written")).to_have_count(3)
        assert view.spec["prompt"] == PROMPT
        view.next_read()  # the fourth is under way
        view.page.get_by_role("grid").press("Escape")
        expect(view.page.get_by_role("button", name="more")).to_be_visible()
        written = view.spec["written"]
        view.deliver(*view.made_up.reply({**view.sent[-1]}))
        expect(view.page.locator(".lk-head.lk-written")).to_have_count(4)
        assert view.spec["written"] == written
        assert len(view.sent) == view.answered

    def test_what_was_written_is_cleared_when_one_types(self, open_view):
        view = open_view(written=[2, 3])
        view.page.locator(".lk-field").fill("She put")
        request = view.next_read()
        assert (request["prompt"], request["written"]) == ("She put", [])


class TestActing:
    def test_asks_for_the_other_word_and_shows_before_after_and_placebo(self, open_view):
        view = open_view(selection=OVEN)
        view.page.get_by_role("button", name="Swap with").click()
        field = view.page.get_by_label("swap with")
        expect(field).to_be_focused()
        field.fill("fridge")
        field.press("Enter")
        acted(view)
        expect(view.page.locator(".lk-side-caption")).to_have_text(["before", "after", "placebo"])
        expect(view.page.locator(".lk-odds-line")).to_have_count(4)
        assert view.spec["act"]["with"] == "fridge"
        assert view.spec["act"]["pos"] == 6
        view.page.get_by_label("strength").press("ArrowRight")
        assert view.spec["act"]["strength"] == pytest.approx(1.1)
        view.page.get_by_role("grid").press("Escape")
        expect(view.page.locator(".lk-acting")).to_be_hidden()
        assert view.spec["act"] is None

    def test_begins_with_a_key_and_takes_its_band_from_the_region(self, open_view):
        view = open_view(selection=OVEN, to={"layer": 8, "pos": 4})
        expect(view.page.locator(".lk-counts")).to_be_visible()
        view.page.get_by_role("grid").press("a")
        assert (view.spec["act"]["how"], view.spec["act"]["layers"], view.spec["act"]["pos"]) == ("ablate", [5, 8], 4)


class TestTheModule:
    def test_is_asked_for_once_and_only_when_it_is_needed(self, context):
        made_up = MadeUp(layers=4)
        view = opened_without_panel(context, made_up)
        assert [message["kind"] for message in view.sent] == ["read"]
        grid = view.page.get_by_role("grid")
        grid.press("Shift+ArrowDown")
        assert view.next_read()["kind"] == "panel"
        grid.press("Shift+ArrowDown")
        source = {"source": built("lens_panel.js"), "css": built("lens_panel.css")}
        view.deliver({"v": 1, "kind": "panel", "id": "panel", **source})
        expect(view.page.locator(".lk-counts")).to_contain_text("3 × 1 cells")
        assert [message["kind"] for message in view.sent] == ["read", "panel"]
        assert view.troubles == []

    def test_that_cannot_be_loaded_is_said_in_words_and_the_table_goes_on(self, context):
        made_up = MadeUp(layers=4)
        view = opened_without_panel(context, made_up)
        view.page.evaluate("URL.createObjectURL = () => 'blob:refused'")
        view.page.get_by_role("grid").press("Shift+ArrowDown")
        view.next_read()
        view.deliver({"v": 1, "kind": "panel", "id": "panel", "source": "", "css": ""})
        expect(view.page.locator(".lk-error")).to_contain_text("this page does not let the panel load")
        view.page.get_by_role("grid").press("Escape")
        assert view.spec["to"] is None


def opened_without_panel(context: BrowserContext, made_up: MadeUp) -> View:
    """A view whose page does not hold the second module, as in a notebook."""
    html = page_of(made_up, made_up.spec(PROMPT), live=True)
    page = context.new_page()
    body = html.replace("<body>", f"<body>{CONNECT}", 1).replace('"panel":', '"no_panel":', 1)
    made_up.forget()
    page.route("**/*", lambda route: route.fulfill(body=body, content_type="text/html"))
    shown = View(page, made_up)
    page.goto(ORIGIN)
    page.wait_for_selector(".lk-root")
    shown.answer()
    page.wait_for_selector("[role=gridcell]")
    return shown


@pytest.mark.parametrize("width", [1320, 370])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_to_object_to_and_nothing_is_cut_off(browser: Browser, scheme: str, width: int):
    if not AXE.exists():
        if os.environ.get("CI") == "true":
            pytest.fail("no axe-core here: run npm ci in widgets/")
        pytest.skip("no axe-core here: run npm ci in widgets/")
    context = new_context(browser, scheme=scheme, width=width, height=1700)
    act = {"how": "swap", "token": 1, "with": 2, "strength": 1, "layers": [4, 8], "pos": 3}
    view = opened(context, selection=OVEN, to={"layer": 8, "pos": 4}, act=act, written=[2, 3])
    expect(view.page.locator(".lk-counts")).to_be_visible()
    acted(view)
    expect(view.page.locator(".lk-odds-line")).to_have_count(4)
    view.page.locator(".lk-counts .lk-top-line").first.focus()
    assert view.page.evaluate("document.documentElement.scrollWidth") <= width
    view.page.evaluate(AXE.read_text(encoding="utf-8"))
    found = view.page.evaluate(RUN)
    assert found["violations"] == []
    looked_at = dict(found["passes"])["color-contrast"]
    for part in ("lk-side-caption", "before → after", "lk-rest", "lk-word"):
        assert any(part in node for node in looked_at), part
    assert view.troubles == []
    context.close()


def test_a_hostile_token_stays_text_in_the_panel(browser: Browser):
    context = new_context(browser)
    hostile = "<img src=x onerror=alert(1)>"
    made_up = MadeUp(layers=6, k=3, extra=(hostile,), words=[" a", " b", " c"])
    view = View.open(
        context, made_up, made_up.spec("She put", selection={"layer": 5, "pos": 0}, to={"layer": 0, "pos": 1})
    )
    view.answer()
    expect(view.page.locator(".lk-counts")).to_contain_text(hostile)
    assert view.page.locator("img").count() == 0
    assert view.troubles == []
    context.close()


def test_a_frozen_page_holds_each_lens_by_itself(browser: Browser, tmp_path):
    made_up, context = MadeUp(layers=6), new_context(browser)
    facts = {"lenses": ["logit", "tuned"], "sites": {"logit": "resid_post", "tuned": "resid_post"}}
    html = page_of(made_up, made_up.spec(PROMPT), **facts)
    made_up.forget()
    question = {"id": "0", "have": None, "prompt": PROMPT, "target": None, "lens": "tuned"}
    message, buffers = MadeUp(layers=6, k=1, words=[" tuned"]).reply(question)
    other = json.dumps([message, in_base64(buffers)]).replace("<", "\\u003c")
    file = tmp_path / "table.html"
    file.write_text(html.replace('"reply":', f'"others": [{other}], "reply":', 1))
    view = View(context.new_page(), made_up)
    view.page.remove_listener("request", view._request)
    view.page.goto(file.as_uri())
    view.page.wait_for_selector("[role=gridcell]")
    view.page.get_by_role("radio", name="tuned").check(force=True)
    expect(view.cell(3, 1)).to_have_attribute("aria-label", matching(": ·tuned,"))
    view.page.get_by_role("radio", name="logit").check(force=True)
    expect(view.cell(3, 1)).not_to_have_attribute("aria-label", matching(": ·tuned,"))
    assert view.troubles == []
    context.close()
