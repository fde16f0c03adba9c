"""The page that a circuit graph's `to_html()` writes: opened from disk, with no network, still to be explored."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.widgets.made_up_circuits import strongest, view
from tests.widgets.view import new_context


def opened(browser: Browser, file: Path, scheme: str = "light") -> tuple[Page, list[str]]:
    """The page, offline, and all that it complains about or asks for."""
    context = new_context(browser, scheme=scheme)
    context.set_offline(True)
    page, troubles = context.new_page(), list[str]()
    page.on(
        "request", lambda request: troubles.extend({request.url} - set(re.findall("(?:file|blob):.*", request.url)))
    )
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda said: troubles.append(said.text) if said.type == "error" else None)
    page.goto(file.as_uri())
    return page, troubles


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_prunes_and_shows_cards_and_the_ablation_without_a_kernel(
    browser: Browser, tmp_path: Path, scheme: str
) -> None:
    shown = view()
    node, other = strongest(1, 2)
    shown.spec = {**shown.spec, "selection": {"node": str(node)}, "ablated": [str(node)], "pinned": [str(other)]}
    shown.to_html(tmp_path / "circuit.html")
    page, troubles = opened(browser, tmp_path / "circuit.html", scheme)
    assert page.locator(".lk-root").get_attribute("data-lk-theme") == scheme
    expect(page.locator(".lk-f-title").first).to_contain_text(f"Neuron 1.{node.feature}")
    ablated = shown.ablated
    assert ablated is not None
    measured = page.locator(".lk-c-measured").first
    expect(measured).to_have_text(f"{ablated.measured[0]:+.2f}".replace("-", "−"))
    expect(page.locator(".lk-c-card")).to_contain_text(re.compile(r"fires on .* of tokens"))
    nodes = page.get_by_role("slider", name="share of the influence of the nodes that is shown")
    expect(nodes).to_have_attribute("aria-valuetext", re.compile(rf"percent, {len(shown.shown)} of"))
    nodes.press("Home")
    shown.spec = {**shown.spec, "nodes": 0.05}
    expect(nodes).to_have_attribute("aria-valuetext", re.compile(rf"percent, {len(shown.shown)} of"))
    assert troubles == []
    page.context.close()


def test_says_of_a_feature_whose_card_it_does_not_hold_that_it_does_not(browser: Browser, tmp_path: Path) -> None:
    shown = view(prune=(1.0, 1.0))
    shown.selection = strongest(1)[0]
    shown.to_html(tmp_path / "circuit.html", cards=1)
    page, troubles = opened(browser, tmp_path / "circuit.html")
    expect(page.locator(".lk-c-card")).to_contain_text("fires on")
    held = shown.selection.feature
    other = next(node for node in strongest(1, 50) if node.feature != held)
    shown.selection = other
    shown.to_html(tmp_path / "other.html", cards=0)
    page.context.close()
    page, more = opened(browser, tmp_path / "other.html")
    expect(page.locator(".lk-c-card")).to_contain_text("this page does not hold its card")
    assert troubles + more == []
    page.context.close()
