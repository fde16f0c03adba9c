"""The lens table with several lenses and two prompts, in Chromium: what one sees and does, and what Python hears."""

import os
import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, expect

from tests.widgets.made_up import MadeUp
from tests.widgets.test_accessibility import RUN
from tests.widgets.view import AXE, View, new_context, page_of

PROMPT = "She put the cake in the oven"
TWO = {"lenses": ["logit", "tuned"], "sites": {"logit": "resid_post", "tuned": "resid_pre"}}
SIDE = {"view": "side", "second": "tuned"}


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = new_context(browser)
    yield context
    context.close()


@pytest.fixture
def open_view(context: BrowserContext) -> Iterator[Callable[..., View]]:
    opened: list[View] = []

    def open_(prompt: str = PROMPT, *, layers: int = 12, facts: dict | None = None, **spec: object) -> View:
        made_up = MadeUp(layers=layers)
        view = View.open(context, made_up, made_up.spec(prompt, **spec), **(TWO if facts is None else facts))
        opened.append(view)
        view.answer()
        view.page.wait_for_selector("[role=gridcell]")
        return view

    yield open_
    for view in opened:
        assert view.troubles == []


def radio(view: View, name: str) -> Locator:
    return view.page.get_by_role("radio", name=name, exact=True)


def menu(view: View, name: str) -> Locator:
    return view.page.get_by_role("combobox", name=name)


def left_of(scroller: Locator) -> dict[str, float]:
    """Where the heads of the columns stand in their picture, by the column's number: each draws those in its view."""
    return scroller.get_by_role("columnheader").evaluate_all(
        """(heads) => Object.fromEntries(heads.map((e) => [e.getAttribute('aria-colindex'),
          e.getBoundingClientRect().left - e.closest('.lk-scroller').getBoundingClientRect().left]))"""
    )


class TestSwitchingTheLens:
    def test_asks_for_the_other_lens_and_carries_the_chosen_cell_to_the_same_state(self, open_view):
        view = open_view(selection={"layer": 5, "pos": 2}, scale=[0, 0.5])
        radio(view, "tuned").check()
        assert view.spec["selection"] == {"layer": 6, "pos": 2}
        assert view.spec["scale"] == [0, 0.5]
        request = view.next_read()
        assert (request["lens"], request["second"], request["have"]) == ("tuned", None, 1)
        # Until the answer comes the cell stays marked where it is.
        assert view.cell(5, 2).get_attribute("aria-selected") == "true"
        view.page.get_by_role("grid").press("Control+z")
        assert (view.spec["lens"], view.spec["selection"]) == ("logit", {"layer": 5, "pos": 2})

    def test_is_not_offered_where_there_is_one_lens(self, open_view):
        view = open_view(facts={})
        assert view.page.get_by_role("radiogroup", name="lens").count() == 0
        assert view.page.get_by_role("radiogroup", name="view").count() == 1


class TestSideBySide:
    def test_begins_with_the_other_lens_and_names_both_sides(self, open_view):
        view = open_view()
        radio(view, "side by side").check()
        assert view.spec["second"] == "tuned"
        request = view.answer()
        assert (request["lens"], request["second"], request["other"]) == ("logit", "tuned", None)
        grids = view.page.get_by_role("grid")
        expect(grids).to_have_count(2)
        assert view.page.locator(".lk-side-name").all_text_contents() == ["logit", "tuned"]
        for grid, name in zip(grids.all(), ("logit", "tuned"), strict=True):
            assert (grid.get_attribute("aria-label") or "").startswith(f"{name}: ")
            assert grid.get_by_role("rowheader").all_text_contents()[:2] == ["final", "11"]
            first = grid.get_by_role("rowheader").nth(1)
            assert first.get_attribute("aria-label") == "before layer 11"

    def test_has_one_cursor_one_choice_and_one_scroll(self, open_view):
        view = open_view(" ".join(["word"] * 40), **SIDE)
        cells = view.page.locator('[role=gridcell][aria-label^="before layer 4, position 36:"]')
        cells.first.click()
        assert view.spec["selection"] == {"layer": 4, "pos": 36}
        expect(view.page.locator("[aria-selected=true]")).to_have_count(2)
        scrollers = view.page.locator(".lk-scroller")
        scrollers.first.evaluate("(e) => (e.scrollLeft = 300)")
        expect(scrollers.nth(1)).to_have_js_property("scrollLeft", 300)
        scrollers.last.evaluate("(e) => (e.scrollLeft = 120)")
        expect(scrollers.nth(0)).to_have_js_property("scrollLeft", 120)
        # The columns in view are drawn in the frame after.
        for _ in range(100):
            first, second = (left_of(scroller) for scroller in scrollers.all())
            shared = first.keys() & second.keys()
            if len(shared) > 3 and all(abs(first[key] - second[key]) <= 1 for key in shared):
                break
            view.page.wait_for_timeout(20)
        else:
            pytest.fail("the columns of the two sides stay apart")

    def test_shows_what_both_say_and_the_target_in_both(self, open_view):
        view = open_view(**SIDE, selection={"layer": 4, "pos": 3})
        detail = view.page.locator(".lk-pair-detail")
        expect(detail).to_contain_text("Before layer 4 after ·cake")
        assert detail.locator(".lk-pair-name").all_text_contents() == ["logit", "tuned"]
        tokens = view.made_up.tokenize(PROMPT)[:4]
        a, b = (view.made_up.column(tokens, None, lens, 13) for lens in ("logit", "tuned"))
        expect(detail).to_contain_text(f"{a['entropy'][4]:.2f} → {b['entropy'][4]:.2f}")
        third = int(a["top_ids"][4, 2])
        detail.locator(".lk-pair-side").first.locator("button").nth(2).click()
        assert view.answer()["target"] == third

    def test_lenses_change_places_where_the_second_is_chosen_as_the_first(self, open_view):
        view = open_view(**SIDE)
        radio(view, "tuned").check()
        assert (view.spec["lens"], view.spec["second"]) == ("tuned", "logit")

    @pytest.mark.parametrize("width", [890, 930])
    def test_stays_beside_each_other_where_two_short_prompts_fit(self, browser: Browser, width: int):
        context = new_context(browser, width=width, height=1400)
        made_up = MadeUp(layers=12, words=[f" {letter}" for letter in "abcdefghijkl"])
        view = View.open(context, made_up, made_up.spec("a b c d e", **SIDE), **TWO)
        view.answer()
        grids = view.page.get_by_role("grid")
        expect(grids).to_have_count(2)
        tops = grids.evaluate_all("(grids) => grids.map((grid) => grid.getBoundingClientRect().top)")
        assert tops[0] == tops[1]
        assert view.page.evaluate("document.documentElement.scrollWidth") <= width
        assert view.troubles == []
        context.close()

    def test_is_one_below_the_other_and_nothing_cut_off_where_it_is_narrow(self, browser: Browser):
        context = new_context(browser, width=420, height=1900)
        made_up = MadeUp(layers=12)
        view = View.open(context, made_up, made_up.spec(PROMPT, **SIDE), **TWO)
        view.answer()
        grids = view.page.get_by_role("grid")
        expect(grids).to_have_count(2)
        below = grids.last.evaluate(
            "(e, first) => e.getBoundingClientRect().top > first.getBoundingClientRect().bottom",
            grids.first.element_handle(),
        )
        assert below
        assert view.page.evaluate("document.documentElement.scrollWidth") <= 420
        assert view.troubles == []
        context.close()


class TestTheDifference:
    def test_needs_nothing_new_where_both_sides_are_here(self, open_view):
        view = open_view(**SIDE, scale=[0, 0.5])
        radio(view, "difference").check()
        expect(view.page.get_by_role("grid")).to_have_count(1)
        assert len(view.sent) == 1
        assert view.spec["scale"] is None
        assert view.page.locator(".lk-scale .lk-end").all_text_contents() == ["0", ".693 nats"]
        radio(view, "one").check()
        expect(view.page.locator(".lk-pair-detail")).to_be_hidden()
        assert len(view.sent) == 2  # the logit lens alone is read at its own site

    @pytest.mark.parametrize(
        ("label", "name", "ends"),
        [
            ("KL of the two", "kl", ["0", "20.00 nats"]),
            ("total variation", "total_variation", ["0", "1"]),
            ("largest change", "largest_change", ["−1", "+1"]),
            ("Δ p(target)", "target_probability", ["−1", "+1"]),
            ("Δ log p(target)", "target_log_prob", ["−10.00", "+10.00 nats"]),
            ("Δ entropy", "entropy", ["−10.00", "+10.00 nats"]),
            ("Δ rank", "rank", ["−49,151", "+49,151"]),
        ],
    )
    def test_is_coloured_by_a_measure_of_both_or_by_a_difference(self, open_view, label, name, ends):
        view = open_view(view="difference", second="tuned")
        menu(view, "colour").select_option(label=label)
        assert view.spec["difference"] == name
        assert view.page.locator(".lk-scale .lk-end").all_text_contents() == ends
        tokens = view.made_up.tokenize(PROMPT)[:3]
        a, b = (view.made_up.column(tokens, None, lens, 13) for lens in ("logit", "tuned"))
        said = view.page.locator('[aria-label^="before layer 5, position 2:"]').get_attribute("aria-label") or ""
        sign = {"target_probability": b["target_log_prob"][5] - a["target_log_prob"][5]}.get(name)
        if name == "entropy":
            assert said.endswith(f"{b['entropy'][5] - a['entropy'][5]:+.2f}".replace("-", "−"))
        elif sign is not None:
            assert ("−" in said.split(label)[-1]) == (sign < 0)
        else:
            assert label in said

    def test_is_fitted_to_its_data_as_far_to_either_side(self, open_view):
        view = open_view(view="difference", second="tuned", difference="entropy")
        view.page.get_by_role("button", name="fit to the data").click()
        low, high = view.spec["scale"]
        assert low == -high
        assert high < 10

    def test_says_which_tokens_differ_between_two_prompts(self, open_view):
        view = open_view(view="difference", other="She put the plan in the oven", facts={})
        expect(view.page.locator(".lk-differs")).to_have_text(["·cake→·plan"])
        expect(view.page.get_by_role("textbox", name="second prompt")).to_have_value("She put the plan in the oven")


class TestTwoPrompts:
    def test_begin_as_one_and_the_second_is_typed_in_its_own_field(self, open_view):
        view = open_view(facts={})
        radio(view, "side by side").check()
        assert view.spec["other"] == PROMPT
        assert view.answer()["other"] == PROMPT
        field = view.page.get_by_role("textbox", name="second prompt")
        expect(field).to_be_focused()
        field.fill("She put the plan in the oven")
        request = view.answer()
        assert (request["prompt"], request["other"]) == (PROMPT, "She put the plan in the oven")
        expect(view.page.locator(".lk-stage").first.locator(".lk-differs")).to_have_text(["·cake"])
        expect(view.page.locator(".lk-stage").last.locator(".lk-differs")).to_have_text(["·plan"])
        assert view.page.locator(".lk-side-name").all_text_contents() == ["first", "second"]

    def test_that_do_not_line_up_are_explained_and_the_picture_stays(self, open_view):
        view = open_view(view="side", other="She put the plan in the oven", facts={})
        view.page.get_by_role("textbox", name="second prompt").fill("She put")
        request = view.next_read()
        why = "the prompts do not line up: the first has 7 tokens, the second 2."
        view.deliver({"v": 1, "kind": "error", "id": request["id"], "prompt": PROMPT, "message": why})
        expect(view.page.get_by_role("alert")).to_have_text(why)
        expect(view.page.locator(".lk-stage").last.locator(".lk-differs")).to_have_text(["·plan"])

    def test_the_menu_goes_from_a_lens_to_a_prompt_and_back(self, open_view):
        view = open_view(**SIDE)
        menu(view, "with").select_option(label="another prompt")
        assert (view.spec["second"], view.spec["other"]) == (None, PROMPT)
        view.answer()
        view.page.get_by_role("textbox", name="second prompt").fill("She put the plan in the oven")
        view.answer()
        menu(view, "with").select_option(label="tuned lens")
        assert (view.spec["second"], view.spec["other"]) == ("tuned", None)
        expect(view.page.get_by_role("textbox", name="second prompt")).to_have_count(0)
        menu(view, "with").select_option(label="another prompt")
        assert view.spec["other"] == "She put the plan in the oven"


def test_a_second_target_adds_what_colours_by_the_two(open_view):
    view = open_view(selection={"layer": 4, "pos": 3})
    options = menu(view, "colour").locator("option")
    assert "target against second" not in options.all_text_contents()
    view.page.get_by_role("grid").press("v")
    second = int(view.made_up.column(view.made_up.tokenize(PROMPT)[:4], None)["top_ids"][4, 0])
    assert view.next_read()["versus"] == second
    assert {"target against second", "its change by layer"} <= set(options.all_text_contents())
    menu(view, "colour").select_option(label="target against second")
    view.page.get_by_role("button", name="Clear target").click()
    assert (view.spec["versus"], view.spec["statistic"]) == (None, "probability")


@pytest.mark.parametrize("view_", ["side", "difference"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_to_object_to(browser: Browser, scheme: str, view_: str):
    if not AXE.exists():
        reason = "no axe-core here: run npm ci in widgets/"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    context = new_context(browser, scheme=scheme)
    made_up = MadeUp(layers=12)
    spec = made_up.spec(PROMPT, view=view_, other="She put the plan in the oven", selection={"layer": 5, "pos": 3})
    view = View.open(context, made_up, spec, **TWO)
    view.answer()
    view.page.wait_for_selector("[role=gridcell]")
    view.page.evaluate(AXE.read_text(encoding="utf-8"))
    found = view.page.evaluate(RUN)
    assert found["violations"] == []
    looked_at = dict(found["passes"])["color-contrast"]
    for part in ("lk-differs", "lk-pair-name", "lk-select"):
        assert any(part in node for node in looked_at), part
    context.close()


def test_a_frozen_page_of_two_sides_can_be_looked_at_in_every_view(browser: Browser, tmp_path):
    made_up = MadeUp(layers=8)
    file = tmp_path / "both.html"
    file.write_text(page_of(made_up, made_up.spec(PROMPT, **SIDE), lenses=["logit"], sites=TWO["sites"]))
    context = new_context(browser)
    context.set_offline(True)
    page = context.new_page()
    page.goto(file.as_uri())
    expect(page.get_by_role("grid")).to_have_count(2)
    for name, count in (("difference", 1), ("one", 1), ("side by side", 2)):
        page.get_by_role("radio", name=name, exact=True).check()
        expect(page.get_by_role("grid")).to_have_count(count)
    expect(page.get_by_role("rowheader", name=re.compile("final prediction"))).to_have_count(2)
    context.close()
