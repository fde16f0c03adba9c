"""The circuit graph for everybody: when large, in both themes, narrow, as a file, and whatever its words say."""

import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from playwright.sync_api import Browser, BrowserContext, expect

from lenskit.circuits.graph import EMBED, FEATURE, LOGIT, Graph
from lenskit.widgets.circuit_graph import CircuitGraph
from lenskit.widgets.circuit_spec import place_of
from tests.circuits.graphs import random_graph
from tests.widgets.circuit_numbers import FILE, numbers_of, read
from tests.widgets.answered_page import frozen_html
from tests.widgets.circuit_page import CircuitPage
from tests.widgets.made_up_circuits import graph, strongest, view
from tests.widgets.test_accessibility import RUN
from tests.widgets.test_tokens_are_text import HOSTILE
from tests.widgets.view import AXE, new_context


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = new_context(browser)
    yield context
    context.close()


def large() -> Graph:
    """1,500 nodes and 10,000 edges over 30 layers, all of which are drawn when nothing is pruned."""
    rng = np.random.default_rng(0)
    made = random_graph(4, nodes=1500, edges=2, tokens=12, n_layers=30, targets=6)
    n, kind = len(made), made.kind
    reached = (kind == FEATURE) | (kind == LOGIT)
    pairs = set[tuple[int, int]]()
    for node in np.flatnonzero(kind != LOGIT):  # each reaches something, most at the very next layers
        above = np.flatnonzero(reached & (made.layer > made.layer[node]) & (made.pos >= made.pos[node]))
        pairs.add((int(node), int(above[min(len(above) - 1, int(rng.exponential(40)))])))
    for node in np.flatnonzero(kind == FEATURE):  # and each is reached by the token it stands at
        pairs.add((int(np.flatnonzero((kind == EMBED) & (made.pos == made.pos[node]))[0]), int(node)))
    while len(pairs) < 10_000:
        source, target = sorted(rng.integers(n, size=2).tolist())
        upwards = made.layer[source] < made.layer[target] and made.pos[source] <= made.pos[target]
        if reached[target] and kind[source] != LOGIT and upwards:
            pairs.add((source, target))
    source, target = np.array(sorted(pairs, key=lambda pair: pair[1])).T
    weight = rng.laplace(size=len(source))
    size = np.where(reached, np.bincount(target, np.abs(weight), n), np.nan)
    return replace(made, source=source, target=target, weight=weight, size=size)


# A pointer that meets one node after another, without a rest between them.
SWEEP = """() => {
  const [sheet, tip, title] = ['.lk-c-sheet', '.lk-c-tip', '.lk-c-head .lk-f-title'].map((name) => document.querySelector(name));
  const box = sheet.getBoundingClientRect();
  const told = new MutationObserver(() => {});
  told.observe(title, { childList: true, characterData: true, subtree: true });
  const met = [];
  for (let i = 0; met.length < 60 && i < 3000; i++) {
    const clientX = box.left + 60 + (box.width - 80) * ((i * 0.618) % 1);
    const clientY = box.top + 30 + (box.height - 50) * ((i * 0.377) % 1);
    sheet.dispatchEvent(new PointerEvent('pointermove', { clientX, clientY, pointerType: 'mouse' }));
    if (!tip.hidden) met.push(tip.firstChild.textContent);
  }
  return { met, told: told.takeRecords().length };
}"""


def test_1500_nodes_and_10000_edges_are_all_drawn_and_the_detail_waits_until_the_pointer_rests(
    context: BrowserContext,
) -> None:
    shown = CircuitGraph(large(), prune=(1.0, 1.0))
    page = CircuitPage(context, shown)
    page.answer()
    # Some edges carry less than a millionth of a millionth of the influence: Python leaves out the same.
    edges = len(shown.shown.weight)
    assert page.page.locator(".lk-c-count").all_text_contents() == ["1,500 of 1,500", f"{edges:,} of 10,000"]
    assert edges > 9_900
    swept = page.page.evaluate(SWEEP)
    assert len(set(swept["met"])) > 40
    assert swept["told"] == 0
    expect(page.title).to_contain_text(swept["met"][-1].split()[0])
    assert page.troubles == []
    page.page.close()


def test_a_graph_that_was_cut_says_so_and_prunes_as_python_does(context: BrowserContext) -> None:
    shown = CircuitGraph(random_graph(1, nodes=2200, edges=30_000, n_layers=20))
    page = CircuitPage(context, shown)
    page.answer_all()
    expect(page.page.locator(".lk-facts")).to_contain_text("1,500 of 2,200 nodes, 10,000 of 30,000 edges")
    counts = page.page.locator(".lk-c-count").all_text_contents()
    assert counts == [f"{len(shown.shown)} of 1,500", f"{len(shown.shown.weight)} of 10,000"]
    page.page.close()


def test_the_front_end_is_held_to_numbers_that_are_still_python_s() -> None:
    said = json.loads(FILE.read_text(encoding="utf-8"))
    found = numbers_of(read(said))
    np.testing.assert_allclose(found["influence"], said["influence"], rtol=1e-9)
    assert found["pruned"] == said["pruned"]


@pytest.mark.parametrize(("scheme", "width"), [("light", 1320), ("dark", 1320), ("light", 400), ("dark", 400)])
def test_axe_finds_nothing_to_object_to_and_nothing_is_cut_off(browser: Browser, scheme: str, width: int) -> None:
    if not AXE.exists():
        pytest.skip("no axe-core here: run npm ci in widgets/")
    context = new_context(browser, scheme=scheme, width=width)
    node = strongest(1)[0]
    shown = view()
    shown.spec = {**shown.spec, "selection": place_of(node), "ablated": [str(node)], "groups": {"a": [str(node)]}}
    page = CircuitPage(context, shown)
    page.answer_all()
    while page.answer_all():
        page.page.wait_for_timeout(50)
    page.page.wait_for_selector(".lk-f-example")
    page.page.wait_for_selector(".lk-c-effects")
    page.picture.press("?")
    assert page.page.locator(".lk-root").get_attribute("data-lk-theme") == scheme
    assert page.page.evaluate("document.documentElement.scrollWidth") <= width
    picture, detail = (page.page.locator(name).bounding_box() for name in (".lk-picture", ".lk-detail"))
    assert picture is not None
    assert detail is not None
    beside = detail["x"] >= picture["x"] + picture["width"]
    below = detail["y"] >= picture["y"] + picture["height"]
    assert (beside, below) == (width > 900, width <= 900)
    page.page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.page.evaluate(RUN)
    assert found["violations"] == []
    looked_at = dict(found["passes"])["color-contrast"]
    for part in ("lk-c-says", "lk-c-numbers", "lk-f-number", "lk-kbd", "lk-c-share", "lk-c-measured", "lk-c-name"):
        assert any(part in node for node in looked_at), part
    assert page.troubles == []
    context.close()


def test_the_picture_follows_the_theme(context: BrowserContext) -> None:
    page = CircuitPage(context, view())
    page.answer_all()
    pixels = "() => document.querySelector('.lk-c-painting').toDataURL()"
    light = page.page.evaluate(pixels)
    page.page.emulate_media(color_scheme="dark")
    expect(page.page.locator(".lk-root")).to_have_attribute("data-lk-theme", "dark")
    assert page.page.evaluate(pixels) != light
    page.page.close()


@pytest.mark.parametrize("width", [1320, 700])
def test_a_long_prompt_and_30_layers_scroll_inside_the_picture(browser: Browser, width: int) -> None:
    context = new_context(browser, width=width)
    shown = CircuitGraph(random_graph(3, nodes=900, edges=5000, tokens=90, n_layers=30, targets=5))
    page = CircuitPage(context, shown)
    page.answer_all()
    assert page.page.evaluate("document.documentElement.scrollWidth") <= width
    sizes = page.picture.evaluate(
        "(box) => [box.scrollWidth > box.clientWidth, box.scrollHeight - box.clientHeight, box.scrollLeft > 0]"
    )
    # The targets are in view at first, at the last token.
    assert sizes == [True, 0, True]
    expect(page.page.locator(".lk-c-tokens")).to_have_class("lk-c-tokens lk-c-upright")
    layers = page.page.locator(".lk-c-layer").all_text_contents()
    assert [name for name in layers if name.isdigit()] == [str(layer) for layer in reversed(range(30))]
    page.picture.focus()
    for _ in range(31):
        page.page.keyboard.press("ArrowDown")
    page.page.keyboard.press("Home")
    assert page.spec["selection"]["node"] == "embed@0"
    expect(page.page.locator(".lk-c-token").first).to_be_in_viewport()
    context.close()


def test_what_tokens_labels_and_names_say_is_text(context: BrowserContext) -> None:
    base = graph()
    pieces = tuple(HOSTILE[n % len(HOSTILE)] for n in range(len(base.pieces)))
    node = strongest(1)[0]
    hostile = replace(
        base, pieces=pieces, labels=(str(HOSTILE[0]), str(HOSTILE[2])), groups={str(HOSTILE[5]): (base.number(node),)}
    )
    shown = view()
    shown = CircuitGraph(hostile, model=shown.model, index=shown.indices)
    shown._names = {f"{n.layer}.{n.feature}": str(HOSTILE[1]) for n in base.nodes if n.kind == "feature"}
    shown.spec = {**shown.spec, "selection": place_of(node), "ablated": [str(node)], "folded": [str(HOSTILE[5])]}
    page = CircuitPage(context, shown)
    page.answer_all()
    page.answer_all()
    for x, y in page.along(0).values():
        page.page.mouse.move(x, y)
        expect(page.page.locator(".lk-c-tip")).to_be_visible()
    assert page.page.locator("#lk-here :is(img, script, iframe, svg[onload])").count() == 0
    expect(page.title).to_contain_text(str(HOSTILE[5]))
    assert page.page.locator("script").count() <= 3
    assert page.troubles == []
    page.page.close()


def test_the_page_that_to_html_writes_explores_what_it_holds_and_asks_nobody(browser: Browser) -> None:
    context = new_context(browser)
    node, other = strongest(1, 2)
    shown = view()
    shown.spec = {**shown.spec, "selection": place_of(node), "ablated": [str(node)]}
    tab = context.new_page()
    troubles: list[str] = []
    tab.on("pageerror", lambda error: troubles.append(str(error)))
    tab.on("console", lambda said: troubles.append(said.text) if said.type == "error" else None)
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    html = frozen_html(shown, cards=1)
    tab.route("**/*", lambda route: route.fulfill(body=html, content_type="text/html"))
    tab.goto("http://lenskit.test/")
    expect(tab.locator(".lk-f-example")).not_to_have_count(0)
    expect(tab.locator(".lk-c-effects tbody tr")).to_have_count(2)
    expect(tab.get_by_role("button", name="Ablate", exact=True)).to_be_hidden()
    before = tab.locator(".lk-c-count").first.text_content()
    tab.get_by_role("slider", name="nodes").fill("0.4")
    assert tab.locator(".lk-c-count").first.text_content() != before
    tab.get_by_role("slider", name="nodes").fill("1")
    tab.get_by_role("application").focus()
    for _ in range(20):
        tab.keyboard.press("ArrowRight")
        if f"{other.layer}.{other.feature} at" in (tab.locator(".lk-c-head .lk-f-title").text_content() or ""):
            break
    expect(tab.locator(".lk-c-card")).to_contain_text("this page does not hold its card")
    tab.keyboard.press("Enter")
    expect(tab.get_by_role("button", name="Unpin")).to_be_visible()
    assert troubles == []
    assert [url for url in asked if not url.startswith(("http://lenskit.test/", "blob:", "data:"))] == []
    context.close()
