"""The page that `to_html()` writes: one file, opened from disk, with no network, still to be explored."""

import json
import re

import pytest
from playwright.sync_api import Browser, expect

from lenskit.widgets.page import page
from tests.widgets.made_up import MadeUp
from tests.widgets.view import View, new_context, page_of

PROMPT = "The capital of France is"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_opens_from_disk_and_works_without_a_network(browser: Browser, tmp_path, scheme: str):
    made_up = MadeUp(layers=8)
    file = tmp_path / "table.html"
    file.write_text(page_of(made_up, made_up.spec(PROMPT)))
    context = new_context(browser, scheme=scheme)
    context.set_offline(True)
    view = View(context.new_page(), made_up)
    asked: list[str] = []
    view.page.remove_listener("request", view._request)
    view.page.on("request", lambda request: asked.append(request.url.split(":")[0]))
    view.page.goto(file.as_uri())
    expect(view.page.locator(".lk-head")).to_have_count(5)
    assert set(asked) <= {"file", "blob"}
    assert view.page.locator(".lk-root").get_attribute("data-lk-theme") == scheme
    assert view.page.get_by_text("frozen: open the notebook to type").is_visible()
    assert view.page.locator(".lk-field").get_attribute("readonly") is not None
    assert view.page.get_by_role("button", name="Make target").count() == 0
    view.cell(3, 2).click()
    expect(view.page.locator(".lk-heading")).to_contain_text("Layer 3 after ·of")
    view.page.get_by_role("combobox", name="colour").select_option(label="entropy")
    assert "entropy" in view.name_of(3, 2)
    view.page.get_by_role("grid").press("Control+z")
    assert "probability" in view.name_of(3, 2)
    assert view.troubles == []
    context.close()


def test_shows_a_readable_table_where_there_are_no_scripts(browser: Browser):
    text = page(title="T", front_end="", css="", state={}, reply=({}, []), static="<table><td>Paris</td></table>")
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.set_content(text)
    assert tab.locator("main table").inner_text() == "Paris"
    context.close()


def test_forbids_everything_that_is_not_in_it():
    text = page(title="T", front_end="", css="", state={}, reply=({}, []))
    policy = "default-src 'none'; script-src 'unsafe-inline' blob:; style-src 'unsafe-inline'; img-src data:"
    assert f'content="{policy}"' in text
    assert not re.search(r'(src|href)="(?!data:)', text)


TRICKY = ["</script>", "<!--", "</SCRIPT >", "<script", "]]>", "&lt;", "\u2028", "\\u003c", "{x}"]


@pytest.mark.parametrize("text", TRICKY)
def test_holds_any_text_exactly_and_nothing_ends_its_script_early(text: str):
    state, reply = {"spec": {"prompt": text}}, ({"prompt": text}, [b"\x00\xff"])
    html = page(title=text, front_end=f"// {text}", css="", state=state, reply=reply)
    block = re.search(r'<script type="application/json" id="lk-data">(.*?)</script>', html, re.DOTALL)
    assert block
    data = json.loads(block[1])
    assert data["frontEnd"] == f"// {text}"
    assert data["state"]["spec"]["prompt"] == text
    assert data["reply"] == [{"prompt": text}, ["AP8="]]
    assert html.lower().count("<script") == 2
    assert html.count("<!--") == 0


def test_refuses_a_number_that_json_does_not_have():
    with pytest.raises(ValueError, match="JSON"):
        page(title="T", front_end="", css="", state={"scale": [0, float("nan")]}, reply=({}, []))
