"""The patch grid in Chromium, without Jupyter: what one sees and does, and what Python hears of it."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import BrowserContext, expect

from tests.widgets.made_up_patching import CLEAN, CORRUPT
from tests.widgets.patch_view import PatchView

Open = Callable[..., PatchView]

WORDS = [
    "When",
    "·Mary",
    "·and",
    "·John",
    "·went",
    "·to",
    "·the",
    "·store",
    ",",
    "·John",
    "·gave",
    "·a",
    "·drink",
    "·to",
]
DIFFERS, LAST = 9, 13


def big(view: PatchView) -> str:
    return view.page.locator(".lk-pg-big").inner_text()


def drag(view: PatchView, start: tuple[int, int], end: tuple[int, int]) -> None:
    boxes = [view.at(*cell).bounding_box() for cell in (start, end)]
    (a, b) = [(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2) for box in boxes if box]
    view.page.mouse.move(*a)
    view.page.mouse.down()
    view.page.mouse.move(*b, steps=5)
    view.page.mouse.up()


class TestTheTwoPrompts:
    def test_stand_one_above_the_other_with_what_differs_marked_and_joined(self, open_grid: Open):
        view = open_grid()
        assert view.page.locator(".lk-pg-clean .lk-pg-token").all_text_contents() == WORDS
        corrupt = [*WORDS[:DIFFERS], "·Mary", *WORDS[DIFFERS + 1 :]]
        assert view.page.locator(".lk-pg-corrupt .lk-pg-token").all_text_contents() == corrupt
        assert view.page.locator(".lk-pg-differs").all_text_contents() == ["·John", "·Mary"]
        joint = view.page.locator(".lk-pg-joint")
        expect(joint).to_have_count(1)
        column, line = view.at(5, DIFFERS).bounding_box(), joint.bounding_box()
        assert column is not None
        assert line is not None
        assert abs(column["x"] + column["width"] / 2 - line["x"] - line["width"] / 2) < 2

    def test_are_edited_where_they_stand_and_sent_when_typing_rests(self, open_grid: Open):
        view = open_grid()
        view.page.locator(".lk-pg-corrupt .lk-pg-token").nth(3).click()
        field = view.page.get_by_role("textbox", name="corrupt prompt")
        expect(field).to_be_focused()
        expect(field).to_have_value(CORRUPT)
        view.page.keyboard.press("End")
        view.page.keyboard.type(" him and", delay=5)
        asked = view.next("sweep")
        assert asked["corrupt"] == CORRUPT + " him and"
        assert view.spec["corrupt"] == asked["corrupt"]
        assert [message["kind"] for message in view.sent] == ["sweep", "sweep"]

    def test_that_do_not_line_up_are_told_of_in_the_foot_and_the_picture_stays(self, open_grid: Open):
        view = open_grid()
        view.page.get_by_role("grid").press("/")
        field = view.page.get_by_role("textbox", name="clean prompt")
        expect(field).to_be_focused()
        field.fill("When Mary")
        said = "the prompts do not line up: the clean one has 2 tokens, the corrupt one 14"
        view.deliver({"v": 1, "kind": "error", "id": view.next("sweep")["id"], "message": said})
        expect(view.page.get_by_role("alert")).to_have_text(said)
        expect(view.page.locator(".lk-foot")).to_be_hidden()
        assert view.page.locator(".lk-pg-clean .lk-pg-token").all_text_contents() == WORDS
        # The text that is not in the picture stays in sight, even without the focus.
        field.press("Escape")
        expect(view.page.get_by_role("grid")).to_be_focused()
        assert field.evaluate("(field) => getComputedStyle(field.parentElement).opacity") == "1"
        field.fill(CLEAN)
        field.press("Enter")
        view.answer()
        expect(view.page.get_by_role("alert")).to_be_hidden()
        field.press("Escape")
        assert field.evaluate("(field) => getComputedStyle(field.parentElement).opacity") == "0"

    def test_stand_above_the_grid_where_it_goes_over_heads(self, open_grid: Open):
        view = open_grid(site="z")
        grid = view.page.get_by_role("grid")
        assert grid.locator("[role=columnheader]").all_text_contents() == ["head", *map(str, range(9))]
        assert view.page.locator(".lk-pg-strip .lk-pg-clean .lk-pg-token").all_text_contents() == WORDS
        assert view.at(5, 3).get_attribute("aria-label", timeout=5000)
        assert re.match("layer 5, head 3: ", view.at(5, 3).get_attribute("aria-label") or "")


class TestTheSweep:
    def test_paints_discs_for_estimates_and_filled_cells_for_what_is_exact(self, open_grid: Open):
        view = open_grid(answered=False)
        request = view.next("sweep")
        view.deliver(*view.made_up.pair(request))
        view.deliver(*view.made_up.estimate(request))
        page, disc, corner = (255, 255, 255), view.colour_of_disc(2, DIFFERS), view.colour_in(2, DIFFERS)
        assert sum(disc) < 400
        assert sum(corner) > sum(page) - 60
        name = view.at(2, DIFFERS).get_attribute("aria-label") or ""
        assert name.endswith("of the difference restored, estimate")
        expect(view.page.locator(".lk-pg-disc-key")).to_be_visible()

        order = view.made_up.order(request)
        view.deliver(*view.made_up.cells(request, order[:60], done=60))
        assert sum(view.colour_in(2, DIFFERS)) < 400
        expect(view.at(2, DIFFERS)).to_have_attribute(
            "aria-label", re.compile("layer 2, position 9 ·John: 1.0. .*exact")
        )
        expect(view.page.locator(".lk-facts")).to_have_text("60 of 168 cells exact · about 4 s left")
        line = view.page.locator(".lk-pg-work .lk-progress")
        assert line.evaluate("(line) => line.style.transform") == f"scaleX({60 / 168:.6g})"

        view.deliver(*view.made_up.swept(request))
        expect(view.page.locator(".lk-facts")).to_have_text("float32 · cpu · 168 cells in 3.1 s · packed rows")
        expect(line).to_be_hidden()
        expect(view.page.locator(".lk-pg-disc-key")).to_be_hidden()

    def test_keeps_the_last_picture_until_the_next_one_has_cells(self, open_grid: Open):
        view = open_grid()
        view.page.get_by_role("radio", name="mlp_out").check()
        request = view.next("sweep")
        assert request["site"] == "mlp_out"
        before = view.at(2, DIFFERS).get_attribute("aria-label")
        view.deliver(*view.made_up.pair(request))
        expect(view.at(2, DIFFERS)).to_have_attribute("aria-label", before or "")
        view.deliver(*view.made_up.estimate(request))
        expect(view.at(2, DIFFERS)).not_to_have_attribute("aria-label", before or "")
        expect(view.page.locator(".lk-about")).to_contain_text("mlp_out · clean into corrupt")

    def test_is_stopped_by_escape_and_taken_up_again_from_a_prompt(self, open_grid: Open):
        view = open_grid(answered=False)
        request = view.next("sweep")
        for message in view.made_up.sweep(request)[:3]:
            view.deliver(*message)
        view.page.get_by_role("grid").press("Escape")
        assert view.next("stop")["id"] == request["id"]
        view.deliver(*view.made_up.swept(request, done=84))
        expect(view.page.locator(".lk-facts")).to_contain_text("stopped: 84 of 168 cells exact")
        view.page.get_by_role("grid").press("/")
        view.page.keyboard.press("Enter")
        assert view.next("sweep")["clean"] == CLEAN

    def test_says_why_the_fast_engine_was_not_taken(self, open_grid: Open):
        view = open_grid(answered=False)
        request = view.next("sweep")
        header, buffers = view.made_up.swept(request)
        view.deliver({**header, "engine": "one batch per layer", "why": "a convolution mixes positions"}, buffers)
        expect(view.page.locator(".lk-facts")).to_contain_text("one batch per layer: a convolution mixes positions")

    def test_has_a_fixed_scale_with_its_ends_in_real_units_that_can_be_fitted(self, open_grid: Open):
        view = open_grid(site="mlp_out")
        legend = view.page.locator(".lk-pg-scale")
        expect(legend).to_contain_text("−11share of the difference restored (1 = 11.61 logits)")
        view.page.get_by_role("button", name="fit to the data").click()
        low, high = view.spec["scale"]
        assert low == -high
        assert 0 < high < 1
        view.page.get_by_role("grid").press("Control+z")
        assert view.spec["scale"] is None


class TestAPatch:
    def test_is_run_by_a_click_and_tells_the_next_token_before_and_after(self, open_grid: Open):
        view = open_grid()
        view.at(8, DIFFERS).click()
        asked = view.next("patch")
        assert (asked["layers"], asked["columns"], asked["clean"]) == ([8], [DIFFERS], CLEAN)
        assert view.spec["selection"] == {"layer": 8, "pos": DIFFERS, "head": None}
        view.deliver(*view.made_up.patched(asked))
        expect(view.page.locator(".lk-pg-odd").first).to_have_text("·Mary.003 → .571")
        expect(view.page.locator(".lk-pg-odd").nth(1)).to_have_text("·John.750 → .114")
        share = float(view.made_up.effects(asked)[8, DIFFERS])
        assert big(view) == f"{share:.2f}"
        expect(view.page.locator(".lk-pg-meaning")).to_contain_text("−5.49 → ")
        expect(view.page.locator(".lk-pg-meaning")).to_contain_text("of +6.12 logits")
        assert [trial["selection"] for trial in view.spec["tried"]] == [view.spec["selection"]]
        assert view.spec["tried"][0]["share"] == pytest.approx(share)

    def test_is_made_for_a_look_where_the_pointer_rests_and_leaves_no_trace(self, open_grid: Open):
        view = open_grid()
        view.at(8, DIFFERS).hover()
        view.answer_patch()
        expect(view.page.locator(".lk-pg-odd").first).to_have_text("·Mary.003 → .571")
        assert (view.spec["selection"], view.spec["tried"]) == (None, [])
        # Asked for once: a click on it is answered from what is known.
        view.at(8, DIFFERS).click()
        expect(view.page.locator(".lk-pg-trial")).to_have_count(1)
        assert [message["kind"] for message in view.sent] == ["sweep", "patch"]

    def test_is_run_by_a_click_although_the_cells_are_made_anew_while_the_button_is_down(self, open_grid: Open):
        view = open_grid()
        cell = view.at(8, DIFFERS)
        (pressed,) = cell.element_handles()
        box = cell.bounding_box()
        assert box is not None
        view.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        view.page.mouse.down()
        assert view.page.viewport_size is not None
        narrower = view.page.viewport_size["width"] - 16  # a scroll bar comes
        view.page.set_viewport_size({"width": narrower, "height": view.page.viewport_size["height"]})
        view.page.wait_for_function("(cell) => !cell.isConnected", arg=pressed)
        view.page.mouse.up()
        view.answer_patch()
        expect(view.page.locator(".lk-pg-trial")).to_have_count(1)
        assert view.spec["selection"] == {"layer": 8, "pos": DIFFERS, "head": None}

    def test_of_a_region_is_drawn_with_the_pointer_and_made_jointly(self, open_grid: Open):
        view = open_grid()
        drag(view, (9, LAST - 1), (11, LAST))
        view.answer_patches_until([9, 10, 11], [LAST - 1, LAST])
        assert view.spec["selection"] == {"layer": 9, "pos": LAST - 1, "head": None}
        assert view.spec["to"] == {"layer": 11, "pos": LAST, "head": None}
        expect(view.page.locator("[role=gridcell][aria-selected=true]")).to_have_count(6)
        expect(view.page.locator(".lk-pg-trial")).to_have_text(re.compile(r"^9–11 · ·drink–·to \(6 cells\)"))
        expect(view.page.get_by_role("button", name="Patch the selection")).to_be_visible()

    def test_and_its_result_are_one_step_of_the_history(self, open_grid: Open):
        view = open_grid()
        for layer in (3, 4):
            view.at(layer, DIFFERS).click()
            view.answer_patch()
        trials = view.page.locator(".lk-pg-trial")
        expect(trials).to_have_count(2)
        view.page.mouse.move(2, 2)
        view.page.wait_for_timeout(1100)  # steps of one kind within a second are one
        view.at(5, DIFFERS).click()
        view.answer_patch()
        expect(trials).to_have_count(3)
        view.page.get_by_role("grid").press("Control+z")
        expect(trials).to_have_count(2)
        assert view.spec["selection"]["layer"] == 4
        view.page.get_by_role("grid").press("Control+Shift+z")
        expect(trials).to_have_count(3)
        trials.nth(2).click()
        assert view.spec["selection"]["layer"] == 3

    def test_waits_in_the_history_while_other_prompts_are_looked_at(self, open_grid: Open):
        view = open_grid()
        view.at(3, DIFFERS).click()
        view.answer_patch()
        trials = view.page.locator(".lk-pg-trial")
        expect(trials).to_have_count(1)
        field = view.page.get_by_role("textbox", name="corrupt prompt")
        for prompt, count in ((CORRUPT.replace(", Mary", ", Lily"), 0), (CORRUPT, 1)):
            field.fill(prompt)
            view.answer()
            expect(trials).to_have_count(count)

    def test_that_fails_is_told_of_in_words(self, open_grid: Open):
        view = open_grid()
        view.at(8, DIFFERS).click()
        view.deliver({"v": 1, "kind": "error", "id": view.next("patch")["id"], "message": "no memory"})
        expect(view.page.get_by_role("alert")).to_have_text("no memory")
        assert view.spec["tried"] == []

    def test_is_copied_as_python(self, open_grid: Open, grid_context: BrowserContext):
        grid_context.grant_permissions(["clipboard-read", "clipboard-write"])
        view = open_grid()
        view.at(8, DIFFERS).click()
        view.answer_patch()
        view.page.evaluate("navigator.clipboard = undefined")
        view.page.get_by_role("button", name="Copy as Python").click()
        expect(view.page.locator(".lk-pg-said")).to_contain_text(re.compile("Copied|by hand"))


class TestTheKeys:
    def test_move_extend_run_and_clear(self, open_grid: Open):
        view = open_grid()
        grid = view.page.get_by_role("grid")
        grid.focus()
        active = view.page.locator(".lk-pg-active")
        # It begins where the effect is largest.
        start = active.get_attribute("aria-label") or ""
        grid.press("ArrowUp")
        expect(active).not_to_have_attribute("aria-label", start)
        assert grid.get_attribute("aria-activedescendant") == active.get_attribute("id")
        grid.press("Control+Home")
        expect(active).to_have_attribute("aria-label", re.compile("layer 11, position 0 When: "))
        grid.press("Enter")
        view.next("patch")
        assert view.spec["selection"] == {"layer": 11, "pos": 0, "head": None}
        grid.press("Shift+ArrowRight")
        grid.press("Shift+ArrowDown")
        assert view.spec["to"] == {"layer": 10, "pos": 1, "head": None}
        expect(view.page.locator("[role=gridcell][aria-selected=true]")).to_have_count(4)
        grid.press("Enter")
        view.answer_patches_until([10, 11], [0, 1])
        grid.press("?")
        expect(view.page.locator(".lk-allkeys")).to_be_visible()
        grid.press("Escape")
        expect(view.page.locator(".lk-allkeys")).to_be_hidden()
        grid.press("Escape")
        assert (view.spec["selection"], view.spec["to"]) == (None, None)

    def test_do_not_reach_the_notebook(self, open_grid: Open):
        view = open_grid()
        view.page.evaluate("(heard = [], addEventListener('keydown', (event) => heard.push(event.key)))")
        grid = view.page.get_by_role("grid")
        for key in ("ArrowUp", "Shift+ArrowLeft", "Enter", "x", "Control+z", "/"):
            grid.press(key)
        assert view.page.evaluate("heard.filter((key) => key !== 'Shift' && key !== 'Control')") == []


class TestTheMetric:
    def test_is_chosen_by_clicking_among_the_next_tokens(self, open_grid: Open):
        view = open_grid()
        rows = view.page.locator(".lk-pg-choice")
        expect(rows.nth(1)).to_have_text("·Mary.680.003")
        view.page.get_by_role("radio", name="against ·her").check()
        asked = view.next("sweep")
        assert (asked["metric"], asked["against"]) == ("logit_diff", view.made_up.token_id(" her"))
        for message in view.made_up.sweep(asked):
            view.deliver(*message)
        expect(view.page.locator(".lk-about")).to_contain_text("logit difference ·Mary − ·her")

    def test_and_site_and_direction_are_undone_too(self, open_grid: Open):
        view = open_grid()
        view.page.get_by_role("radio", name="noise", exact=True).check()
        assert view.next("sweep")["direction"] == "noise"
        view.page.get_by_role("grid").press("Control+z")
        assert view.next("sweep")["direction"] == "denoise"
        assert view.page.get_by_role("radio", name="denoise").is_checked()


class TestPythonAndOthers:
    def test_a_spec_set_in_python_is_asked_for_and_drawn(self, open_grid: Open):
        view = open_grid()
        view.set_spec(selection={"layer": 4, "pos": 2, "head": None})
        expect(view.at(4, 2)).to_have_attribute("aria-selected", "true")
        view.set_spec(site="attn_out")
        assert view.next("sweep")["site"] == "attn_out"
        view.set_spec(clean="When Mary")
        expect(view.page.get_by_role("textbox", name="clean prompt")).to_have_value("When Mary")

    def test_a_linked_view_chooses_here_what_exists_here(self, open_grid: Open):
        view = open_grid()
        view.page.evaluate("model.set('links', [{ group: 'g', on: ['layer', 'pos', 'head'] }])")
        say = """(fields) => globalThis[Symbol.for('lenskit.linked')].dispatchEvent(
            new CustomEvent('g', { detail: { from: {}, fields, reached: new Set(['g']) } }))"""
        view.page.evaluate(say, {"layer": 3, "pos": 5, "head": 2})
        assert view.spec["selection"] == {"layer": 3, "pos": 5, "head": None}
        view.page.evaluate(say, {"layer": 7, "pos": 500})
        assert view.spec["selection"] == {"layer": 7, "pos": 5, "head": None}
        view.page.evaluate(say, {"head": 2})
        assert view.spec["selection"] == {"layer": 7, "pos": 5, "head": None}
