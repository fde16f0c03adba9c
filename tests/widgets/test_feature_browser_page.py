"""The feature browser in Chromium, without Jupyter, answered by its own Python half: what one sees and does."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, BrowserContext, expect

from lenskit.widgets import FeatureBrowser
from tests.widgets.answered_page import frozen_html
from tests.widgets.feature_page import FeaturePage
from tests.widgets.made_up_features import NEURONS, PROMPT, index, model
from tests.widgets.test_accessibility import RUN
from tests.widgets.test_tokens_are_text import HOSTILE
from tests.widgets.view import AXE, new_context

Open = Callable[..., FeaturePage]


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = new_context(browser)
    yield context
    context.close()


@pytest.fixture
def open_page(context: BrowserContext) -> Iterator[Open]:
    """Opens browsers with their first answers; after the test none may have had an error."""
    opened: list[FeaturePage] = []

    def open_(view: FeatureBrowser | None = None, *, where: BrowserContext | None = None, **chosen: Any) -> FeaturePage:
        view = view or FeatureBrowser(index(), model(), PROMPT, feature=3)
        view.spec = {**view.spec, **chosen}
        page = FeaturePage(where or context, view)
        opened.append(page)
        page.answer_all()
        page.answer_all()
        expect(page.title).to_be_visible()
        return page

    yield open_
    for page in opened:
        assert page.troubles == []
        page.page.close()


def by(name: str) -> list[int]:
    ix = index()
    values = ix.max / np.where(ix.mean > 0, ix.mean, 1) if name == "peakedness" else getattr(ix, name)
    return np.argsort(-values, kind="stable").tolist()


def test_the_list_shows_its_first_screen_and_the_browser_fetches_no_more(open_page: Open) -> None:
    page = open_page(sort="density", selection={"feature": by("density")[0], "pos": None})
    assert page.listed()[:20] == by("density")[:20]
    expect(page.grid).to_have_attribute("aria-rowcount", str(NEURONS + 1))
    assert [(m["start"], m["count"]) for m in page.sent if m["kind"] == "rows" and m["count"]] == [(0, 64)]
    assert page.page.locator(".lk-f-row").count() < 45
    expect(page.row(by("density")[0]).locator(".lk-f-value")).to_have_text(
        re.compile(rf"^{100 * index().density[by('density')[0]]:.0f} %$")
    )


def test_scrolling_fetches_the_rows_that_come_into_view(open_page: Open) -> None:
    page = open_page(sort="density")
    page.grid.evaluate("(grid) => { grid.scrollTop = grid.scrollHeight; }")
    page.answer_all(60)
    assert page.listed()[-1] == by("density")[-1]
    assert [(m["start"], m["count"]) for m in page.sent if m["kind"] == "rows" and m["count"]][1:] == [(64, 64)]


def test_taken_out_of_the_page_and_put_back_it_shows_the_same_rows(open_page: Open) -> None:
    page = open_page(sort="density")
    page.grid.evaluate("(grid) => { grid.scrollTop = 1200; }")
    page.answer_all(60)
    before = page.listed()
    page.page.evaluate("() => { const root = document.querySelector('.lk-root'); root.parentElement.append(root); }")
    assert page.grid.evaluate("(grid) => grid.scrollTop") == 0
    page.grid.hover()
    assert page.grid.evaluate("(grid) => grid.scrollTop") == 1200
    assert page.listed() == before


def test_a_click_chooses_a_feature_and_its_card_tells_what_the_index_knows(open_page: Open) -> None:
    page = open_page(sort="density", selection={"feature": by("density")[0], "pos": None})
    feature = by("density")[4]
    page.row(feature).click()
    page.answer_all()
    page.shows(feature)
    assert page.spec["selection"] == {"feature": feature, "pos": None}
    numbers = page.page.locator(".lk-f-for .lk-f-number").all_text_contents()
    expected = [logit for _, _, logit in index().promotes(feature, 6)]
    assert [float(text.replace("−", "-")) for text in numbers] == pytest.approx(expected, abs=0.006)
    examples = page.page.locator(".lk-f-example > .lk-f-number").all_text_contents()
    assert [float(text) for text in examples] == pytest.approx([e.value for e in index().examples(feature)], rel=0.02)


def test_the_keyboard_alone_walks_pins_notes_and_undoes(open_page: Open) -> None:
    page = open_page(sort="density")
    order = by("density")
    page.page.keyboard.press("Tab")
    page.grid.focus()
    keys = page.page.keyboard
    for key, expected in (("Home", 0), ("ArrowDown", 1), ("ArrowDown", 2), ("ArrowUp", 1), ("End", NEURONS - 1)):
        keys.press(key)
        page.answer_all(60)
        assert page.spec["selection"]["feature"] == order[expected], key
    page.shows(order[-1])
    active = page.grid.get_attribute("aria-activedescendant")
    expect(page.page.locator(f"[id='{active}']")).to_have_attribute("aria-selected", "true")
    keys.press("p")
    keys.press("n")
    keys.type("the last")
    keys.press("Enter")
    assert (page.spec["pinned"], page.spec["notes"]) == ([order[-1]], {str(order[-1]): "the last"})
    expect(page.grid).to_be_focused()
    expect(page.row(order[-1])).to_have_class(re.compile("lk-f-pinned"))
    keys.press("Control+z")
    keys.press("Control+z")
    assert (page.spec["pinned"], page.spec["notes"]) == ([], {})
    keys.press("Control+Shift+z")
    assert page.spec["pinned"] == [order[-1]]


def test_a_token_or_a_number_is_found(open_page: Open) -> None:
    page = open_page(sort="density")
    page.grid.press("f")
    page.page.keyboard.type("th")
    page.answer_all(250)
    promoted = [
        f for f in by("density") if any("th" in str(index().piece(int(t))).lower() for t in index().promoted[f])
    ]
    assert page.listed()[: len(promoted)] == promoted[:30]
    expect(page.page.locator(".lk-f-match").first).to_be_visible()
    expect(page.page.locator(".lk-f-under")).to_contain_text(f"{len(promoted)} of {NEURONS}")
    page.page.get_by_role("textbox", name="find").fill("1.77")
    page.answer_all(250)
    page.shows(77)
    page.page.keyboard.press("Escape")
    page.answer_all(250)
    assert (page.spec["find"], page.spec["selection"]["feature"]) == ("", 77)


def test_typing_a_sentence_shows_what_fires_where_now(open_page: Open) -> None:
    page = open_page()
    page.page.get_by_role("textbox", name="prompt").fill("The keys to the store")
    page.answer_all(250)
    fired = page.view.fired
    tokens = page.page.get_by_role("option")
    expect(tokens).to_have_count(len(fired.ids))
    on = fired.of(3)
    labels = tokens.evaluate_all("(all) => all.map((one) => one.ariaLabel)")
    assert [not label.endswith("silent") for label in labels] == [bool(value > 0) for value in on]
    page.page.get_by_role("radio", name="fires on prompt").check(force=True)
    page.answer_all(60)
    features, peaks = fired.peaks()
    shares = peaks / index().max[features]
    assert page.listed()[0] == features[shares.argmax()]
    tokens.nth(2).click()
    page.answer_all(60)
    assert page.spec["selection"]["pos"] == 2
    expect(page.page.locator(".lk-f-here")).to_contain_text(f"{len(fired.at(2)[0])} neurons fire")
    page.page.get_by_role("radio", name="at token").check(force=True)
    page.answer_all(60)
    here, values = fired.at(2)
    assert page.listed()[0] == here[(values / index().max[here]).argmax()]
    page.page.keyboard.press("Escape")


def test_ablating_shows_what_plain_edits_give_beside_a_placebo(open_page: Open) -> None:
    features, peaks = FeatureBrowser(index(), model(), PROMPT).fired.peaks()
    page = open_page(FeatureBrowser(index(), model(), PROMPT, feature=int(features[peaks.argmax()])))
    page.grid.press("a")
    page.answer_all(250)
    steered = page.view.steered
    assert steered is not None
    numbers = page.page.locator(".lk-f-odds .lk-f-number:not(.lk-f-beside)").all_text_contents()
    shown = [[float(x) for x in text.replace("<.001", "0").split(" → ")] for text in numbers]
    pairs = np.stack([steered.before, steered.after], 1)[:6]
    np.testing.assert_allclose(shown, pairs, atol=0.00051)
    expect(page.page.locator(".lk-f-beside").first).to_have_text(re.compile(r"placebo [.<]\S+ ± "))
    expect(page.page.locator(".lk-f-verdict")).to_contain_text("20 draws")
    page.page.get_by_role("button", name="As it is").click()
    page.answer_all(250)
    expect(page.page.locator(".lk-f-verdict")).to_be_hidden()
    page.page.get_by_role("radio", name="add", exact=True).check(force=True)
    slider = page.page.get_by_role("slider")
    slider.press("ArrowRight")
    page.answer_all(250)
    assert page.spec["steer"] == {"by": "add", "amount": 0.05}
    expect(page.page.locator(".lk-f-verdict")).to_be_visible()


def test_bands_windows_neighbours_and_heads_can_be_looked_through(open_page: Open) -> None:
    page = open_page()
    page.page.get_by_role("radio", name="0–20", exact=True).check(force=True)
    assert page.spec["band"] == 0
    expected = [example.value for example in index().examples(3, band=0)]
    shown = page.page.locator(".lk-f-example > .lk-f-number").all_text_contents()
    assert [float(text) for text in shown] == pytest.approx(expected, rel=0.05)
    page.page.get_by_role("radio", name="all kept").check(force=True)
    assert page.spec["window"] is None
    page.page.get_by_role("button", name="which tokens").first.click()
    page.answer_all()
    expect(page.page.locator(".lk-f-through dd .lk-token")).not_to_have_count(0)
    (near, _), *_ = index().similar(3)
    page.page.get_by_role("button", name=re.compile(rf"^neuron 1\.{near},")).first.click()
    page.answer_all(60)
    page.shows(near)


def test_what_python_or_a_linked_view_chooses_is_shown(open_page: Open) -> None:
    page = open_page(sort="density")
    far = by("density")[90]
    page.set_spec(selection={"feature": far, "pos": 2})
    page.answer_all(60)
    page.answer_all(60)
    page.shows(far)
    expect(page.row(far)).to_be_in_viewport()
    expect(page.page.get_by_role("option", selected=True)).to_have_count(1)


def test_an_error_is_told_in_words_and_the_browser_goes_on(open_page: Open) -> None:
    page = open_page()
    page.page.get_by_role("textbox", name="prompt").fill("key " * 200)
    page.answer_all(250)
    expect(page.page.get_by_role("alert")).to_contain_text("128")
    page.page.get_by_role("textbox", name="prompt").fill("The key")
    page.answer_all(250)
    expect(page.page.get_by_role("alert")).to_be_hidden()
    page.page.keyboard.press("Escape")
    page.shows(3)


def test_whatever_tokens_notes_and_prompts_say_is_text(open_page: Open) -> None:
    view = FeatureBrowser(index(), model(), PROMPT, feature=3)
    hostile: Any = lambda token: str(HOSTILE[token % len(HOSTILE)])  # noqa: E731
    view.index.piece = hostile
    view._live._pieces = lambda tokens: {int(i): hostile(i) for i in tokens}
    page = open_page(
        view, notes={"3": str(HOSTILE[0])}, prompt="<b>x</b>", pinned=[3], steer={"by": "add", "amount": 1}
    )
    page.answer_all(250)
    tokens = {text.replace("·", " ") for text in page.page.locator(".lk-token").all_text_contents()}
    assert tokens <= {str(text) for text in HOSTILE}
    assert page.page.locator("#lk-here :is(img, script, style, svg[onload], iframe)").count() == 0
    assert page.page.locator("script").count() <= 3


@pytest.mark.parametrize(("scheme", "width"), [("light", 1320), ("dark", 370)])
def test_axe_finds_nothing_to_object_to_and_nothing_is_cut_off(
    browser: Browser, open_page: Open, scheme: str, width: int
) -> None:
    if not AXE.exists():
        pytest.skip("no axe-core here: run npm ci in widgets/")
    context = new_context(browser, scheme=scheme, width=width)
    view = FeatureBrowser(index(), model(), PROMPT, feature=3)
    page = open_page(view, where=context, pinned=[3], notes={"3": "a note"}, steer={"by": "add", "amount": 1})
    page.answer_all(250)
    page.page.get_by_role("option").nth(2).click()
    page.answer_all(250)
    page.grid.press("?")
    assert page.page.evaluate("document.documentElement.scrollWidth") <= width
    page.page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.page.evaluate(RUN)
    assert found["violations"] == []
    looked_at = dict(found["passes"])["color-contrast"]
    for part in ("lk-f-id", "lk-f-value", "lk-f-number", "lk-f-link", "lk-kbd", "lk-f-tinted"):
        assert any(part in node for node in looked_at), part
    assert page.troubles == []


def test_the_frozen_page_browses_what_it_holds_and_says_so(context: BrowserContext) -> None:
    view = FeatureBrowser(index(), model(), PROMPT, feature=3)
    view.spec = {**view.spec, "pinned": [3, 50], "sort": "density"}
    html = frozen_html(view, features=20)
    tab = context.new_page()
    troubles: list[str] = []
    tab.on("pageerror", lambda error: troubles.append(str(error)))
    tab.route("**/*", lambda route: route.fulfill(body=html, content_type="text/html"))
    tab.goto("http://lenskit.test/")
    expect(tab.locator(".lk-f-under")).to_contain_text(f"20 of {NEURONS} neurons are in this page")
    expect(tab.locator(".lk-f-title")).to_have_text("Neuron 1.3")
    held = tab.locator(".lk-f-row").count()
    assert held == 20
    tab.locator(".lk-f-row").nth(2).click()
    expect(tab.locator(".lk-f-title")).not_to_have_text("Neuron 1.3")
    tab.get_by_role("radio", name="pinned").check(force=True)
    expect(tab.locator(".lk-f-row")).to_have_count(2)
    tab.get_by_role("radio", name="fires on prompt").check(force=True)
    expect(tab.get_by_role("option")).to_have_count(len(view.fired.ids))
    expect(tab.get_by_role("slider")).to_have_count(0)
    assert troubles == []
    tab.close()
