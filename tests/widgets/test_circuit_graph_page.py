"""The circuit graph in Chromium, without Jupyter, answered by its own Python half: what one sees and does."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, expect

from lenskit.circuits.graph import FEATURE
from lenskit.circuits.nodes import Node
from lenskit.widgets.circuit_graph import CircuitGraph
from lenskit.widgets.circuit_spec import place_of
from tests.widgets.circuit_page import CircuitPage
from tests.widgets.made_up_circuits import graph, strongest, view
from tests.widgets.made_up_features import index
from tests.widgets.view import new_context

Open = Callable[..., CircuitPage]


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = new_context(browser)
    yield context
    context.close()


@pytest.fixture
def open_page(context: BrowserContext) -> Iterator[Open]:
    """Opens graphs with their first answer; after the test none may have had an error."""
    opened: list[CircuitPage] = []

    def open_(shown: CircuitGraph | None = None, *, select: Node | None = None, **chosen: Any) -> CircuitPage:
        shown = shown or view()
        place = None if select is None else place_of(select)
        shown.spec = {**shown.spec, "selection": place, **chosen}
        page = CircuitPage(context, shown)
        opened.append(page)
        page.answer_all()
        page.page.wait_for_selector(".lk-c-layer")
        return page

    yield open_
    for page in opened:
        assert page.troubles == []
        page.page.close()


def counts(page: CircuitPage) -> list[str]:
    return page.page.locator(".lk-c-count").all_text_contents()


def drawn(page: CircuitPage) -> list[str]:
    """How many nodes and edges Python draws with the view's own spec."""
    page.view.spec = page.spec
    small, whole = page.view.shown, page.view.graph
    return [f"{len(small)} of {len(whole)}", f"{len(small.weight):,} of {len(whole.weight):,}"]


def test_it_draws_what_python_prunes_and_asks_for_nothing_but_the_graph(open_page: Open) -> None:
    page = open_page()
    assert counts(page) == drawn(page)
    slider = page.page.get_by_role("slider", name="nodes")
    page.picture.press("/")
    expect(slider).to_be_focused()
    for _ in range(30):
        page.page.keyboard.press("ArrowLeft")
    assert page.spec["nodes"] == pytest.approx(0.5)
    fewer = counts(page)
    assert fewer == drawn(page)
    page.page.get_by_role("slider", name="edges").fill("0.6")
    assert counts(page) == drawn(page) != fewer
    assert [question["kind"] for question in page.sent] == ["graph"]
    slider.press("Control+z")
    assert (page.spec["edges"], counts(page)) == (0.98, fewer)


def test_hovering_says_what_a_node_is_and_lights_what_feeds_it_and_what_it_feeds(open_page: Open) -> None:
    page = open_page()
    found = page.along(1)
    wanted = [node for node, _ in page.view.shown.top(200) if node.layer == 1]
    assert {text.split()[0] for text in found} == {f"1.{node.feature}" for node in wanted}
    assert page.page.evaluate(INK) == 0
    text, (x, y) = next(iter(found.items()))
    page.page.mouse.move(x, y)
    expect(page.page.locator(".lk-c-tip")).to_contain_text("influence")
    expect(page.page.locator(".lk-c-sheet")).to_have_class(re.compile("lk-c-lit"))
    assert page.page.evaluate(INK) > 500
    expect(page.title).to_contain_text(text.split()[0])
    page.page.mouse.move(2, 2)
    expect(page.page.locator(".lk-c-tip")).to_be_hidden()
    assert page.page.evaluate(INK) == 0
    assert page.spec["selection"] is None


# A pointer comes over a node and presses at once; how often the detail was written, and so its lines made anew.
PRESS = """async ([clientX, clientY]) => {
  const [sheet, title] = ['.lk-c-sheet', '.lk-c-head .lk-f-title'].map((name) => document.querySelector(name));
  let told = 0;
  new MutationObserver(() => (told += 1)).observe(title, { childList: true, characterData: true, subtree: true });
  for (const name of ['pointermove', 'pointerdown', 'pointerup']) {
    sheet.dispatchEvent(new PointerEvent(name, { clientX, clientY, pointerType: 'mouse', button: 0, bubbles: true }));
  }
  await new Promise((resolve) => setTimeout(resolve, 300));
  return told;
}"""


def test_what_a_click_has_told_is_not_told_again_when_the_pointer_rests(open_page: Open) -> None:
    page = open_page()
    text, at = max(page.along(1).items())
    expect(page.title).to_have_text("Nothing chosen")
    page.page.wait_for_timeout(300)  # the pointer has left, and rests
    assert page.page.evaluate(PRESS, list(at)) == 1
    expect(page.title).to_contain_text(text.split()[0])


# How many pixels of the upper sheet have ink.
INK = """() => {
  const canvas = document.querySelector('.lk-c-lighting');
  const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  return data.filter((value, i) => i % 4 === 3 && value > 0).length;
}"""


def test_a_click_chooses_and_shows_the_numbers_of_python(open_page: Open) -> None:
    page = open_page()
    text, (x, y) = max(page.along(1).items())
    page.page.mouse.click(x, y)
    chosen = page.spec["selection"]["node"]
    assert text.startswith(f"{chosen.split('@')[0]} ")
    assert page.spec["selection"] == place_of(Node.parse(chosen))
    small, whole = page.view.shown, page.view.graph
    fed = page.lines("Fed by")
    expected = [edge.weight for edge in small.into(chosen)[:7]]
    numbers = [float(line.split()[-1].replace("−", "-")) for line in fed]
    assert numbers == pytest.approx(expected, abs=0.005)
    feeds = {float(line.split()[-1].replace("−", "-")) for line in page.lines("Feeds")}
    assert feeds <= {round(edge.weight, 2) + 0.0 for edge in small.out_of(chosen)}
    number = whole.number(chosen)
    said = page.page.locator(".lk-c-sum").inner_text().replace("−", "-")
    *parts, value = [float(x) for x in re.findall(r"[+-]?\d+\.\d\d", said)]
    assert value == pytest.approx(whole.value[number], abs=0.006)
    assert sum(parts) == pytest.approx(value, abs=0.03)
    page.page.mouse.click(x, y + 22)
    assert page.spec["selection"] is None
    expect(page.title).to_have_text("Nothing chosen")


def test_a_line_of_a_list_leads_to_the_node_that_it_names(open_page: Open) -> None:
    page = open_page(select=strongest(1)[0])
    page.answer_all()
    best = page.view.shown.into(str(strongest(1)[0]))[0]
    page.page.locator(".lk-c-name").first.click()
    assert page.spec["selection"]["node"] == str(best.source)


def test_pointing_at_a_line_lights_its_node_and_leaves_the_list_as_it_is(open_page: Open) -> None:
    page = open_page()
    before = page.lines("Most influential")
    assert [line.split()[0] for line in before] == [str(node).split("@")[0] for node, _ in graph().top(7)]
    page.page.locator(".lk-c-name").nth(2).hover()
    assert page.page.evaluate(INK) > 0
    assert page.lines("Most influential") == before
    expect(page.title).to_have_text("Nothing chosen")


def test_the_keys_walk_pin_clear_and_undo(open_page: Open) -> None:
    page = open_page()
    page.picture.focus()
    page.page.keyboard.press("ArrowUp")
    (best, _), *_ = graph().top(1, FEATURE)
    assert page.spec["selection"]["node"] == str(best)
    assert f"{best.layer}.{best.feature} at" in page.said
    assert "Fed by" in page.said
    page.page.keyboard.press("Shift+ArrowDown")
    (fed, *_) = page.view.shown.into(str(best))
    assert page.spec["selection"]["node"] == str(fed.source)
    page.page.keyboard.press("Enter")
    assert page.spec["pinned"] == [str(fed.source)]
    expect(page.button("Unpin")).to_be_visible()
    page.page.keyboard.press("Control+z")
    assert page.spec["pinned"] == []
    page.page.keyboard.press("Control+Shift+z")
    assert page.spec["pinned"] == [str(fed.source)]
    page.page.keyboard.press("Escape")
    assert page.spec["selection"] is None


def test_what_is_pinned_is_drawn_whatever_the_thresholds_say(open_page: Open) -> None:
    kept = {str(node) for node in graph().pruned(0.3, 0.9).nodes}
    weak = next(node for node, _ in reversed(graph().top(200)) if str(node) not in kept)
    page = open_page(nodes=0.3, edges=0.9, pinned=[str(weak)])
    assert counts(page) == drawn(page)
    assert any(text.startswith(f"{weak.layer}.{weak.feature} ") for text in page.along(weak.layer))
    page.set_spec(pinned=[])
    assert counts(page) == drawn(page)
    assert not any(text.startswith(f"{weak.layer}.{weak.feature} ") for text in page.along(weak.layer))


def test_a_rectangle_gathers_and_a_name_makes_one_node_of_several(open_page: Open) -> None:
    page = open_page()
    found = page.along(1)
    (left, y), *_, (right, _) = sorted(found.values())
    mouse = page.page.mouse
    mouse.move(left - 12, y - 14)
    mouse.down()
    mouse.move(right + 12, y + 14, steps=4)
    mouse.up()
    expect(page.title).to_have_text(f"{len(found)} nodes gathered")
    expect(page.page.get_by_role("textbox", name="name of the group")).to_be_focused()
    page.page.keyboard.type("middle <b>layer</b>")
    page.page.keyboard.press("Enter")
    names = {str(node) for node, _ in page.view.shown.top(200) if node.layer == 1}
    assert {name: set(of) for name, of in page.spec["groups"].items()} == {"middle <b>layer</b>": names}
    assert page.spec["folded"] == ["middle <b>layer</b>"]
    expect(page.title).to_have_text("Group middle <b>layer</b>")
    assert [text.rsplit(" ", 1)[0] for text in page.along(1)] == ["middle <b>layer</b>"]
    assert counts(page) == drawn(page)
    page.page.keyboard.press("f")
    assert (page.spec["folded"], len(page.along(1))) == ([], len(found))
    page.button("Fold").click()
    page.page.get_by_role("textbox", name="name of the group").fill("middle")
    page.button("Rename").click()
    assert list(page.spec["groups"]) == page.spec["folded"] == ["middle"]
    page.page.wait_for_timeout(1050)  # what is done to the same within a second is one step
    page.button("Ungroup").click()
    assert page.spec["groups"] == {}
    page.picture.press("Control+z")
    assert list(page.spec["groups"]) == ["middle"]


def test_the_keyboard_gathers_too(open_page: Open) -> None:
    page = open_page(select=strongest(1)[0])
    page.answer_all()
    fed = page.view.shown.into(str(strongest(1)[0]))[0].source
    page.picture.focus()
    for key in ("Space", "Shift+ArrowDown", "Space", "g"):
        page.page.keyboard.press(key)
    expect(page.title).to_have_text("2 nodes gathered")
    page.page.keyboard.press("Enter")
    assert page.spec["groups"] == {"group 1": [str(strongest(1)[0]), str(fed)]}
    expect(page.picture).to_be_focused()


def test_an_ablation_shows_what_the_graph_says_what_the_model_does_and_what_random_features_do(open_page: Open) -> None:
    node = strongest(1)[0]
    page = open_page(select=node)
    page.picture.press("a")
    assert page.spec["ablated"] == [str(node)]
    asked = [question["kind"] for question in page.answer_all()]
    assert sorted(asked) == ["ablate", "card", "panel"] or sorted(asked) == ["ablate"]
    page.page.wait_for_selector(".lk-c-effects")
    ablated = page.view.ablated
    assert ablated is not None
    rows = [
        [float(x) for x in re.findall(r"[+-]?\d+\.\d\d", row.replace("−", "-"))]
        for row in page.page.locator(".lk-c-effects tbody tr").all_inner_texts()
    ]
    for n, row in enumerate(rows):
        change = ablated.value_after[n] - ablated.value_before[n]
        random = [ablated.placebo[:, n].mean(), ablated.placebo[:, n].std(ddof=1)]
        assert row == pytest.approx([ablated.predicted[n], change, *random], abs=0.006)
    first = page.page.locator(".lk-c-odds .lk-f-number").first.inner_text().split(" → ")
    assert [float(text) for text in first] == pytest.approx([ablated.before[0], ablated.after[0]], abs=0.0006)
    page.button("As it is").click()
    assert page.spec["ablated"] == []
    expect(page.page.locator(".lk-c-ablation")).to_be_hidden()
    assert page.sent[-1]["nodes"] == []


def test_a_group_is_ablated_as_one(open_page: Open) -> None:
    both = [str(node) for node in strongest(1, 2)]
    page = open_page(select=strongest(1)[0], groups={"both": both}, folded=["both"])
    expect(page.title).to_have_text("Group both")
    page.button("Ablate").click()
    expect(page.button("Ablate")).to_have_attribute("aria-pressed", "true")
    asked = next(question for question in page.sent if question["kind"] == "ablate")
    assert sorted(asked["nodes"]) == sorted(both)


def test_the_card_of_the_chosen_feature_stands_beside_the_graph(open_page: Open) -> None:
    node = strongest(1)[0]
    page = open_page(select=node)
    page.page.wait_for_function("() => sent.length > 2")
    page.answer_all()
    card = page.page.locator(".lk-c-card")
    expect(card.locator(".lk-f-example")).not_to_have_count(0)
    promoted = card.locator(".lk-f-logits.lk-f-for .lk-token").all_text_contents()
    assert promoted == [token[0] for token in index().promotes(node.feature)[:6]]
    page.set_spec(selection=place_of(next(n for n in graph().nodes if n.kind == "embed")))
    expect(card).to_be_hidden()


def test_what_python_or_a_linked_view_chooses_is_chosen_here(open_page: Open) -> None:
    page = open_page()
    node = strongest(2)[0]
    page.set_spec(selection=place_of(node))
    expect(page.title).to_contain_text(f"{node.layer}.{node.feature} at")
    link = [{"group": "g", "on": ["layer", "pos"]}]
    page.page.evaluate("(links) => { model.set('links', links); }", link)
    other = strongest(1)[0]
    say = """(fields) => globalThis[Symbol.for('lenskit.linked')].dispatchEvent(
      new CustomEvent('g', { detail: { from: {}, fields, reached: new Set(['g']) } }))"""
    page.page.evaluate(say, {"layer": other.layer, "pos": other.pos})
    there = [n for n, _ in graph().top(200) if (n.layer, n.pos) == (other.layer, other.pos)]
    assert page.spec["selection"]["node"] == str(there[0])


def test_an_error_takes_the_place_of_the_foot_and_the_graph_stays(open_page: Open) -> None:
    page = open_page(select=strongest(1)[0])
    page.button("Ablate").click()
    question = next(question for question in page.sent if question["kind"] == "ablate")
    page.deliver({"v": 1, "kind": "error", "id": question["id"], "message": "no memory: ablate fewer nodes"})
    expect(page.page.get_by_role("alert")).to_have_text("no memory: ablate fewer nodes")
    expect(page.page.locator(".lk-c-layer").first).to_be_visible()
    page.picture.press("Escape")
    page.picture.press("Escape")
    expect(page.page.get_by_role("alert")).to_be_hidden()
