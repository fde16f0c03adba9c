"""The patch grid in narrow cells, with long prompts and hostile tokens, for every reader, and without a kernel."""

import os
import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Browser, expect

from tests.widgets.made_up import Piece
from tests.widgets.made_up_patching import MadeUpPatching
from tests.widgets.patch_view import PatchView, patch_page_of
from tests.widgets.test_accessibility import RUN
from tests.widgets.view import AXE, new_context

Open = Callable[..., PatchView]

DIFFERS = 9


class TestSize:
    def test_a_long_prompt_scrolls_inside_itself_and_draws_only_what_is_seen(self, open_grid: Open):
        words = " ".join(["When Mary and John went to the store, John gave a drink to"] * 9)
        view = open_grid(clean=words, corrupt=words[::-1].replace("nhoJ", "yraM", 1)[::-1])
        assert view.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert view.page.get_by_role("grid").get_attribute("aria-colcount") == "127"
        assert view.page.locator("[role=gridcell]").count() < 12 * 60
        # It begins where the two begin to differ: before that nothing can have an effect.
        differs = view.page.locator(".lk-pg-top .lk-pg-differs").first
        expect(differs).to_be_in_viewport()
        view.page.get_by_role("grid").press("Control+Home")
        expect(view.page.locator(".lk-pg-top .lk-pg-covered")).to_have_count(0)
        view.page.get_by_role("grid").press("Control+End")
        expect(view.at(0, 125)).to_be_visible()
        # No token is cut in half by the labels at the left.
        covered = view.page.locator(".lk-pg-top .lk-pg-covered")
        assert covered.count() > 0
        gutter = view.box(".lk-pg-top .lk-pg-clean .lk-pg-gutter")
        for token in view.page.locator(".lk-pg-top .lk-pg-token:not(.lk-pg-covered)").all():
            box = token.bounding_box()
            assert box is not None
            assert box["x"] >= gutter["x"] + gutter["width"] - 6
        expect(view.page.locator(".lk-pg-active")).to_have_attribute("aria-label", re.compile("layer 0, position 125"))

    @pytest.mark.parametrize("width", [500, 360])
    def test_in_a_narrow_cell_nothing_is_cut_off(self, browser: Browser, width: int):
        context = new_context(browser, width=width)
        made_up = MadeUpPatching(layers=12)
        view = PatchView.open(context, made_up, made_up.spec())
        view.answer()
        assert view.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        picture, detail = view.box(".lk-picture"), view.box(".lk-detail")
        assert detail["y"] >= picture["y"] + picture["height"]
        assert view.troubles == []
        context.close()


class TestTokensAreText:
    HOSTILE: tuple[Piece, ...] = (
        "<img src=x onerror=alert(1)>",
        "</script>",
        "\"'><svg onload=alert(3)>",
        " שלום",
        "\n",
        "\t",
    )

    def test_in_heads_lists_history_and_legend(self, open_grid: Open):
        class Parrot(MadeUpPatching):
            """Its clean prompt is made of chosen tokens, the corrupt one of the same backwards."""

            def tokenize(self, prompt: str) -> list[int]:
                ids = [self.token_id(piece) for piece in self.extra]
                return ids if prompt.startswith("<b>") else ids[::-1]

        made_up = Parrot(layers=6, extra=self.HOSTILE, next=self.HOSTILE)
        view = open_grid(made_up, clean="<b>a</b></textarea>", corrupt="<i>b</i>")
        shown = [
            *(str(piece)[:24] + ("…" if len(str(piece)) > 24 else "") for piece in self.HOSTILE[:3]),
            "·שלום",
            "↵",
            "⇥",
        ]
        assert view.page.locator(".lk-pg-clean .lk-pg-token").all_text_contents() == shown
        view.at(3, 1).click()
        view.answer_patch()
        expect(view.page.locator(".lk-pg-trial")).to_contain_text("</script>")
        assert str(self.HOSTILE[0]) in view.page.locator(".lk-pg-odd .lk-token").all_text_contents()
        assert str(self.HOSTILE[0]) in view.page.locator(".lk-pg-choice .lk-token").all_text_contents()
        expect(view.page.locator(".lk-about")).to_contain_text("<img src=x onerror=alert(1)>")
        assert view.page.locator("#lk-here :is(img, script, style, svg[onload], iframe)").count() == 0
        assert view.page.get_by_role("textbox", name="clean prompt").input_value() == "<b>a</b></textarea>"


class TestEverybody:
    @pytest.fixture
    def axe(self) -> str:
        if not AXE.exists():
            reason = "no axe-core here: run npm ci in widgets/"
            if os.environ.get("CI") == "true":
                pytest.fail(reason)
            pytest.skip(reason)
        return AXE.read_text(encoding="utf-8")

    @pytest.mark.parametrize(
        ("scheme", "width", "site"), [("light", 1320, "resid_pre"), ("dark", 1320, "z"), ("dark", 360, "resid_pre")]
    )
    def test_axe_finds_nothing_to_object_to(self, browser: Browser, axe: str, scheme: str, width: int, site: str):
        context = new_context(browser, scheme=scheme, width=width)
        made_up = MadeUpPatching(layers=12)
        view = PatchView.open(context, made_up, made_up.spec(site=site))
        for message in made_up.sweep(view.next("sweep"))[:3]:
            view.deliver(*message)
        view.at(5, 3).click()
        view.answer_patch()
        expect(view.page.locator(".lk-pg-trial")).to_have_count(1)
        assert view.page.locator(".lk-root").get_attribute("data-lk-theme") == scheme
        view.page.get_by_role("grid").press("?")
        view.page.evaluate(axe)
        found = view.page.evaluate(RUN)
        assert found["violations"] == []
        looked_at = dict(found["passes"])["color-contrast"]
        assert len(looked_at) > 30
        for part in (
            "lk-pg-box",
            "lk-pg-numbers",
            "lk-pg-subhead",
            "lk-pg-gutter",
            "lk-kbd",
            "lk-facts",
            "lk-pg-meaning",
        ):
            assert any(part in node for node in looked_at), part
        context.close()

    def test_everything_can_be_reached_with_the_tab_key(self, open_grid: Open):
        view = open_grid()
        focused = (
            "(document.activeElement.ariaLabel || document.activeElement.value || document.activeElement.innerText)"
        )
        reached = []
        for _ in range(8):
            view.page.keyboard.press("Tab")
            reached.append(view.page.evaluate(focused))
        assert reached == [
            "resid_pre",
            "denoise",
            "clean prompt",
            "corrupt prompt",
            "effect of a patch at each layer and column",
            "fit to the data",
            "Patch here",
            "Copy as Python",
        ]


class TestTheFrozenPage:
    def test_opens_from_disk_and_can_be_explored(self, browser: Browser, tmp_path):
        made_up = MadeUpPatching(layers=8)
        file = tmp_path / "grid.html"
        file.write_text(patch_page_of(made_up, made_up.spec()), encoding="utf-8")
        context = new_context(browser)
        context.set_offline(True)
        view = PatchView(context.new_page(), made_up)  # pyright: ignore[reportArgumentType]
        view.page.remove_listener("request", view._request)
        view.page.goto(file.as_uri())
        expect(view.page.locator(".lk-pg-clean .lk-pg-token")).to_have_count(14)
        expect(view.page.locator(".lk-facts")).to_have_text("float32 · cpu · 112 cells · packed rows")
        assert view.page.get_by_role("button", name="Patch here").count() == 0
        assert view.page.get_by_role("radio", name="answer ·John").is_disabled()
        view.at(3, DIFFERS).click()
        expect(view.page.locator(".lk-pg-heading")).to_contain_text("Layer 3 at ·John (position 9)")
        expect(view.at(3, DIFFERS)).to_have_attribute("aria-selected", "true")
        view.page.get_by_role("grid").press("Control+z")
        expect(view.at(3, DIFFERS)).to_have_attribute("aria-selected", "false")
        assert view.troubles == []
        context.close()
