"""The lens table in Chromium, without Jupyter: what one sees and does, and what Python hears of it."""

import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, expect

from tests.widgets.made_up import MadeUp
from tests.widgets.view import View, new_context

PROMPT = "She put the cake in the oven"
WORDS = ["She", "·put", "·the", "·cake", "·in", "·the", "·oven"]


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = new_context(browser)
    yield context
    context.close()


@pytest.fixture
def open_view(context: BrowserContext) -> Iterator[Callable[..., View]]:
    """Opens views with their first table; after the test none may have had an error, a dialog or a request."""
    opened: list[View] = []

    def open_(made_up: MadeUp | None = None, prompt: str = PROMPT, **spec: object) -> View:
        made_up = made_up or MadeUp(layers=12)
        view = View.open(context, made_up, made_up.spec(prompt, **spec))
        opened.append(view)
        view.answer()
        view.page.wait_for_selector("[role=gridcell]")
        return view

    yield open_
    for view in opened:
        assert view.troubles == []


def heads(view: View) -> list[str]:
    return view.page.locator(".lk-head").all_text_contents()


class TestTheFirstTable:
    def test_is_asked_for_whole_and_shown_with_its_tokens_and_layers(self, open_view):
        view = open_view()
        assert [(m["kind"], m["prompt"], m["have"]) for m in view.sent] == [("read", PROMPT, None)]
        assert heads(view) == WORDS
        grid = view.page.get_by_role("grid")
        assert grid.get_attribute("aria-rowcount") == "13"
        assert grid.get_attribute("aria-colcount") == "8"
        labels = view.page.locator("[role=rowheader]").all_text_contents()
        assert labels == [str(layer) for layer in range(11, -1, -1)]

    def test_names_every_cell_with_its_layer_token_and_value(self, open_view):
        view = open_view()
        column = view.made_up.column(view.made_up.tokenize(PROMPT), None)
        name = view.name_of(7, 6)
        p = f"{column['top_probs'][7, 0]:.3f}"[1:]
        assert re.fullmatch(rf"layer 7, position 6: .+, probability {re.escape(p)}", name)

    def test_paints_a_stronger_colour_for_a_greater_probability(self, open_view):
        view = open_view()
        column = view.made_up.column(view.made_up.tokenize(PROMPT), None)
        order = column["top_probs"][:, 0].argsort()
        least, most = view.colour_at(int(order[0]), 6), view.colour_at(int(order[-1]), 6)
        assert sum(most) < sum(least) - 60

    def test_says_that_it_waits_where_python_does_not_answer(self, context):
        made_up = MadeUp(layers=4)
        view = View.open(context, made_up, made_up.spec(PROMPT))
        expect(view.page.locator(".lk-facts")).to_have_text("waiting for the kernel…")
        assert view.page.locator(".lk-progress").is_visible()


class TestTyping:
    def test_sends_one_read_when_it_rests_and_repaints_with_the_suffix(self, open_view):
        view = open_view()
        field = view.page.get_by_role("textbox", name="prompt")
        field.press("End")
        field.press_sequentially(" and waited", delay=5)
        request = view.answer()
        assert (request["prompt"], request["have"]) == (f"{PROMPT} and waited", 1)
        expect(view.page.locator(".lk-head")).to_have_count(9)
        assert heads(view) == [*WORDS, "·and", "·waited"]
        expect(view.page.locator(".lk-facts")).to_contain_text("2 of 9 positions recomputed")
        assert len(view.sent) == 2
        assert view.spec["prompt"] == f"{PROMPT} and waited"

    def test_enter_asks_at_once_and_shift_enter_makes_a_new_line(self, open_view):
        view = open_view()
        field = view.page.get_by_role("textbox", name="prompt")
        field.press("End")
        field.press("Shift+Enter")
        assert view.answer()["prompt"] == f"{PROMPT}\n"
        field.press("Enter")
        assert view.answer()["prompt"] == f"{PROMPT}\n"

    def test_keeps_the_last_picture_until_the_next_arrives(self, open_view):
        view = open_view()
        view.page.get_by_role("textbox", name="prompt").fill("Another thing")
        request = view.next_read()
        assert heads(view) == WORDS
        assert view.page.locator(".lk-progress").is_visible()
        view.deliver({"v": 1, "kind": "progress", "id": request["id"], "done": 3, "total": 12})
        assert "0.25" in (view.page.locator(".lk-progress").get_attribute("style") or "")
        view.deliver(*view.made_up.reply(request))
        assert heads(view) == ["Another", "·thing"]
        assert not view.page.locator(".lk-progress").is_visible()

    def test_that_fails_says_why_in_the_foot_until_the_next_success(self, open_view):
        view = open_view()
        field = view.page.get_by_role("textbox", name="prompt")
        field.fill("")
        request = view.next_read()
        why = "the prompt is empty: type something <b>here</b>"
        view.deliver({"v": 1, "kind": "error", "id": request["id"], "prompt": "", "message": why})
        expect(view.page.get_by_role("alert")).to_have_text(why)
        assert view.page.locator(".lk-keys").first.is_hidden()
        assert heads(view) == WORDS
        field.fill("Better")
        view.answer()
        expect(view.page.locator(".lk-head")).to_have_text(["Better"])
        assert view.page.locator(".lk-error").is_hidden()
        assert view.page.locator(".lk-foot").is_visible()

    def test_follows_the_end_of_a_long_prompt(self, open_view):
        view = open_view(prompt=" ".join(["word"] * 60))
        field = view.page.get_by_role("textbox", name="prompt")
        field.press("Control+End")
        field.press_sequentially(" more")
        view.answer()
        expect(view.page.locator(".lk-head", has_text="more")).to_be_in_viewport()
        assert view.page.locator(".lk-head").count() < 40


class TestChoosing:
    def test_a_click_pins_a_cell_and_tells_python(self, open_view):
        view = open_view()
        view.cell(5, 2).click()
        assert view.spec["selection"] == {"layer": 5, "pos": 2}
        assert view.cell(5, 2).get_attribute("aria-selected") == "true"
        assert view.page.locator("[aria-selected=true]").count() == 1
        expect(view.page.locator(".lk-heading")).to_contain_text("Layer 5 after ·the")

    def test_hovering_only_previews(self, open_view):
        view = open_view(selection={"layer": 5, "pos": 2})
        view.cell(3, 4).hover()
        expect(view.page.locator(".lk-heading")).to_contain_text("Layer 3 after ·in")
        assert view.spec["selection"] == {"layer": 5, "pos": 2}
        view.page.locator(".lk-about").hover()
        expect(view.page.locator(".lk-heading")).to_contain_text("Layer 5 after ·the")

    def test_the_keys_walk_and_enter_pins(self, open_view):
        view = open_view()
        grid = view.page.get_by_role("grid")
        grid.focus()
        for key in ["ArrowLeft", "ArrowDown", "ArrowDown", "ArrowUp", "Enter"]:
            grid.press(key)
        assert view.spec["selection"] == {"layer": 10, "pos": 5}
        for key, cell in {
            "Home": (10, 0), "End": (10, 6), "Control+Home": (11, 0), "PageDown": (1, 0), "PageUp": (11, 0),
            "Control+End": (0, 6),
        }.items():  # fmt: skip
            grid.press(key)
            name = f"layer {cell[0]}, position {cell[1]}:"
            active = view.page.locator(f"#{grid.get_attribute('aria-activedescendant')}")
            assert (active.get_attribute("aria-label") or "").startswith(name), key
        grid.press("Escape")
        assert view.spec["selection"] is None

    def test_python_chooses_too(self, open_view):
        view = open_view()
        view.set_spec(selection={"layer": 2, "pos": 3})
        assert view.cell(2, 3).get_attribute("aria-selected") == "true"
        expect(view.page.locator(".lk-heading")).to_contain_text("Layer 2 after ·cake")
        assert len(view.sent) == 1

    def test_a_choice_far_along_a_long_prompt_is_scrolled_to(self, open_view):
        view = open_view(prompt=" ".join(["word"] * 80))
        view.set_spec(selection={"layer": 2, "pos": 3})
        expect(view.cell(2, 3)).to_be_in_viewport()

    def test_shows_the_top_tokens_with_probabilities_entropy_and_kl(self, open_view):
        view = open_view()
        view.cell(6, 6).click()
        column = view.made_up.column(view.made_up.tokenize(PROMPT), None)
        numbers = view.page.locator(".lk-top .lk-number").all_text_contents()
        assert numbers == [f"{p:.3f}"[1:] for p in column["top_probs"][6]]
        detail = view.page.locator(".lk-numbers")
        expect(detail).to_contain_text(f"{column['entropy'][6]:.2f} nats")
        expect(detail).to_contain_text(f"{column['kl'][6]:.2f} nats")
        expect(detail).to_contain_text(f"rank {column['target_rank'][6]:,}")

    def test_a_token_can_be_made_the_target_and_cleared(self, open_view):
        view = open_view()
        view.cell(6, 6).click()
        third = int(view.made_up.column(view.made_up.tokenize(PROMPT), None)["top_ids"][6, 2])
        view.page.locator(".lk-top-line").nth(2).click()
        assert view.answer()["target"] == third
        assert view.spec["target"] == third
        expect(view.page.locator(".lk-top-line.lk-target")).to_have_count(1)
        view.page.get_by_role("button", name="Clear target").click()
        assert view.answer()["target"] is None

    @pytest.mark.parametrize("clipboard", ["the clipboard", "a selection", "nothing"])
    def test_a_cell_is_copied_as_python_also_where_the_page_may_not_copy(self, open_view, clipboard):
        view = open_view(prompt='Say "hi"\n')
        view.page.evaluate(
            """(which) => {
              const writeText = async (text) => { globalThis.copied = text; };
              const value = which === 'the clipboard' ? { writeText } : undefined;
              Object.defineProperty(navigator, 'clipboard', { value });
              document.execCommand = () => {
                if (which === 'nothing') return false;
                const { value, selectionStart, selectionEnd } = document.activeElement;
                globalThis.copied = value.slice(selectionStart, selectionEnd);
                return true;
              };
            }""",
            clipboard,
        )
        view.cell(6, 1).click()
        view.page.get_by_role("button", name="Copy as Python").click()
        code = 'lens.read("Say \\"hi\\"\\n").tokens(layer=6, pos=1)'
        if clipboard == "nothing":
            expect(view.page.get_by_role("textbox", name="to be copied")).to_have_value(code)
        else:
            expect(view.page.get_by_role("status")).to_have_text("Copied.")
            assert view.page.evaluate("copied") == code

    def test_is_undone_and_redone(self, open_view):
        view = open_view()
        view.cell(5, 2).click()
        view.page.get_by_role("combobox", name="colour").select_option(label="entropy")
        assert view.spec["statistic"] == "entropy"
        grid = view.page.get_by_role("grid")
        grid.press("Control+z")
        assert (view.spec["statistic"], view.spec["selection"]) == ("probability", {"layer": 5, "pos": 2})
        grid.press("Control+z")
        assert view.spec["selection"] is None
        grid.press("Control+Shift+z")
        assert view.spec["selection"] == {"layer": 5, "pos": 2}


class TestTheColours:
    @pytest.mark.parametrize(
        "label, name, ends",
        [
            ("probability", "probability", ["0", "1"]),
            ("entropy", "entropy", ["0", "10.80 nats"]),
            ("KL to final", "kl", ["0", "20.00 nats"]),
            ("rank of target", "rank", ["49,151", "0"]),
            ("p(target)", "target_probability", ["0", "1"]),
            ("cross-entropy of target", "cross_entropy", ["0", "20.00 nats"]),
        ],
    )
    def test_follow_the_chosen_statistic_on_a_scale_with_real_units(self, open_view, label, name, ends):
        view = open_view(statistic="rank" if name == "probability" else "probability")
        before = view.colour_at(3, 3)
        view.page.get_by_role("combobox", name="colour").select_option(label=label)
        assert view.spec["statistic"] == name
        assert view.page.locator(".lk-scale .lk-end").all_text_contents() == ends
        assert label in view.name_of(3, 3)
        assert view.colour_at(3, 3) != before

    def test_can_be_fitted_to_the_data_and_fixed_again(self, open_view):
        view = open_view(statistic="kl")
        view.page.get_by_role("button", name="fit to the data").click()
        low, high = view.spec["scale"]
        columns = [view.made_up.column(view.made_up.tokenize(PROMPT)[: i + 1], None)["kl"] for i in range(7)]
        assert (low, high) == pytest.approx((min(c.min() for c in columns), max(c.max() for c in columns)))
        view.page.get_by_role("button", name="fixed scale").click()
        assert view.spec["scale"] is None

    def test_turn_over_with_the_order_of_the_layers(self, open_view):
        view = open_view()
        top = view.cell(11, 0).bounding_box()["y"]
        colour = view.colour_at(11, 0)
        view.page.get_by_role("radio", name="first on top").check()
        assert view.cell(0, 0).bounding_box()["y"] == top
        assert view.colour_at(11, 0) == colour

    def test_are_those_of_the_page_around_it_and_follow_it(self, open_view):
        view = open_view()
        root = view.page.locator(".lk-root")
        assert root.get_attribute("data-lk-theme") == "light"
        light = view.colour_at(3, 3)
        view.page.evaluate("document.body.style.background = '#1e1e1e'")
        expect(root).to_have_attribute("data-lk-theme", "dark")
        assert sum(view.colour_at(3, 3)) < sum(light)
        view.page.evaluate("document.body.style.background = ''")
        view.page.emulate_media(color_scheme="dark")
        expect(root).to_have_attribute("data-lk-theme", "dark")
        view.page.emulate_media(color_scheme="light")
        expect(root).to_have_attribute("data-lk-theme", "light")


class TestItsShape:
    def test_has_its_detail_below_and_nothing_cut_off_in_360_pixels(self, browser: Browser):
        context = new_context(browser, width=360, height=1300)
        made_up = MadeUp(layers=30)
        view = View.open(context, made_up, made_up.spec(PROMPT))
        view.answer()
        view.page.wait_for_selector("[role=gridcell]")
        assert view.page.evaluate("document.documentElement.scrollWidth") <= 360
        outside = view.page.evaluate(
            """() => [...document.querySelectorAll('.lk-root *')]
                 .filter((e) => !e.closest('.lk-scroller') && e.getClientRects().length)
                 .filter((e) => e.getBoundingClientRect().right > 360 || e.getBoundingClientRect().left < 0)
                 .map((e) => e.className)"""
        )
        assert outside == []
        picture, detail = view.box(".lk-picture"), view.box(".lk-detail")
        assert detail["y"] >= picture["y"] + picture["height"]
        assert view.troubles == []
        context.close()

    @pytest.mark.parametrize("layers, prompt", [(2, "Hello"), (64, PROMPT), (30, " ".join(["word"] * 100))])
    def test_is_as_wide_as_its_data_and_scrolls_inside_itself(self, open_view, layers, prompt):
        view = open_view(MadeUp(layers=layers), prompt)
        assert view.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        picture, sheet = view.box(".lk-picture"), view.box(".lk-sheet")
        assert picture["width"] <= sheet["width"] + 1
        assert picture["height"] < 1000

    def test_keeps_heads_layers_and_profile_in_place_while_it_scrolls(self, open_view):
        view = open_view(MadeUp(layers=64), " ".join(["word"] * 100))
        parts = (".lk-row >> nth=20 >> .lk-layer", ".lk-heads", ".lk-profile-head")
        number, head, profile = (view.page.locator(part) for part in parts)
        before = number.bounding_box()["x"], head.bounding_box()["y"], profile.bounding_box()
        view.page.locator(".lk-scroller").evaluate("(e) => e.scrollTo(600, 200)")
        expect(view.page.locator(".lk-scroller")).to_have_js_property("scrollTop", 200)
        assert (number.bounding_box()["x"], head.bounding_box()["y"], profile.bounding_box()) == before

    def test_draws_the_profile_on_the_rows_own_axis(self, open_view):
        view = open_view()
        view.cell(4, 3).click()
        row, point = view.cell(4, 3).bounding_box(), view.page.locator(".lk-point").bounding_box()
        assert point["y"] + point["height"] / 2 == pytest.approx(row["y"] + 10.5, abs=1.5)
