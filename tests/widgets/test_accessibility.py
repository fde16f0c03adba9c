"""axe-core on the lens table, light and dark: no violation, and the contrast rule has really looked."""

import os

import pytest
from playwright.sync_api import Browser

from tests.widgets.made_up import MadeUp
from tests.widgets.view import AXE, View, new_context

RUN = """async () => {
  const found = await axe.run('.lk-root', { resultTypes: ['violations', 'passes', 'incomplete'] });
  const nodes = (list) => list.map((rule) => [rule.id, rule.nodes.map((node) => node.html.slice(0, 160))]);
  return { violations: nodes(found.violations), passes: nodes(found.passes) };
}"""


@pytest.fixture(scope="module")
def axe() -> str:
    if not AXE.exists():
        reason = "no axe-core here: run npm ci in widgets/"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return AXE.read_text(encoding="utf-8")


@pytest.mark.parametrize("live", [True, False], ids=["live", "frozen"])
@pytest.mark.parametrize("width", [1320, 360])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_to_object_to(browser: Browser, axe: str, scheme: str, width: int, live: bool):
    context = new_context(browser, scheme=scheme, width=width)
    made_up = MadeUp(layers=12)
    spec = made_up.spec("She put the cake in the oven", selection={"layer": 5, "pos": 3})
    view = View.open(context, made_up, spec, live=live)
    view.answer()
    view.page.wait_for_selector("[role=gridcell]")
    assert view.page.locator(".lk-root").get_attribute("data-lk-theme") == scheme
    view.page.get_by_role("grid").press("?")
    view.page.evaluate(axe)
    found = view.page.evaluate(RUN)
    assert found["violations"] == []
    looked_at = dict(found["passes"])["color-contrast"]
    assert len(looked_at) > 30
    # Among them a head, a switch, a layer's number, a probability, a key and the facts.
    for part in ("lk-head", "<span>last on top", "lk-layer", "lk-number", "lk-kbd", "lk-facts"):
        assert any(part in node for node in looked_at), part
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_error_can_be_read(browser: Browser, axe: str, scheme: str):
    context = new_context(browser, scheme=scheme)
    made_up = MadeUp(layers=4)
    view = View.open(context, made_up, made_up.spec("She"))
    view.answer()
    view.page.locator(".lk-field").fill("x")
    view.deliver({"v": 1, "kind": "error", "id": view.next_read()["id"], "message": "no memory: shorten it"})
    view.page.evaluate(axe)
    found = view.page.evaluate(RUN)
    assert found["violations"] == []
    assert any("lk-error" in node for node in dict(found["passes"])["color-contrast"])
    context.close()


def test_everything_can_be_reached_with_the_tab_key_and_its_focus_is_seen(browser: Browser):
    context = new_context(browser)
    made_up = MadeUp(layers=4)
    view = View.open(context, made_up, made_up.spec("She put the cake"))
    view.answer()
    view.page.wait_for_selector("[role=gridcell]")
    reached = []
    for _ in range(11):
        view.page.keyboard.press("Tab")
        reached.append(view.page.evaluate("document.activeElement.value || document.activeElement.className"))
    switches = ["one", "probability", "tokens", "last-first"]
    assert reached[:8] == [*switches, "She put the cake", "lk-button lk-write", "lk-grid", "lk-button lk-link"]
    assert set(reached[8:]) == {"lk-top-line", "lk-top-line lk-target"}
    view.page.get_by_role("grid").focus()
    view.page.keyboard.press("ArrowLeft")
    shadow = view.page.locator(".lk-active").evaluate("(cell) => getComputedStyle(cell).boxShadow")
    assert "3px" in shadow
    context.close()
