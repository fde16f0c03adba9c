"""link: selections that go together in Python, without echoes."""

import asyncio
from functools import cache
from typing import Any

import pytest

import lenskit as lk
from lenskit.widgets import AttentionCell, AttentionView, LensTable, link
from tests.models.tiny import tiny, tiny_tokenizer

PROMPT = "The key to the cabinet"


@cache
def model() -> lk.Model:
    return lk.Model(tiny("llama", vocab=300), tiny_tokenizer(300), name="tiny")


def pair(other: str = PROMPT) -> tuple[Any, Any]:
    return LensTable(model(), PROMPT), AttentionView(model(), other)


def choose(view: Any, *cell: int) -> None:
    view.selection = cell


def hear(view: Any) -> list[Any]:
    heard: list[Any] = []
    view.observe(lambda change: heard.append(change["new"]), names="selection")
    return heard


def test_what_is_chosen_in_one_is_chosen_in_the_other_in_both_directions_and_once() -> None:
    table, view = pair()
    link(table, view)
    in_table, in_view = hear(table), hear(view)
    choose(table, 1, 3)
    assert (view.selection.layer, view.selection.pos) == (1, 3)
    choose(view, 2, 0, 1, 0)
    assert (table.selection.layer, table.selection.pos) == (2, 1)
    assert (len(in_table), len(in_view)) == (2, 2)


def test_fields_that_a_view_lacks_or_that_are_not_linked_are_left_alone() -> None:
    table, view = pair()
    choose(view, 0, 2, 3, 1)
    link(table, view, on="layer")
    choose(table, 1, 0)
    assert view.selection == AttentionCell(1, 2, 3, 1)


def test_values_that_do_not_exist_in_the_other_view_are_left_alone_and_do_not_come_back() -> None:
    table, view = pair("The")
    link(table, view)
    choose(table, 1, 4)
    assert (view.selection.layer, view.selection.pos) == (1, None)
    assert table.selection.pos == 4


def test_a_view_that_lets_go_leaves_the_others_their_selection() -> None:
    table, view = pair()
    link(table, view)
    choose(table, 1, 3)
    table.selection = None
    assert view.selection.pos == 3


def test_at_first_the_others_follow_the_first_that_has_chosen() -> None:
    table, view = pair()
    choose(view, 1, 2, 3, 0)
    link(table, view)
    assert (table.selection.layer, table.selection.pos) == (1, 3)


def test_unlink_ends_it_and_links_in_a_ring_do_not_run_for_ever() -> None:
    views: list[Any] = [LensTable(model(), PROMPT) for _ in range(3)]
    ring = [link(views[i], views[(i + 1) % 3]) for i in range(3)]
    assert all(len(view.links) == 2 for view in views)
    choose(views[0], 1, 2)
    assert all(view.selection.pos == 2 for view in views)
    for each in ring:
        each.unlink()
        each.unlink()
    assert all(view.links == [] for view in views)
    choose(views[0], 2, 0)
    assert views[1].selection.layer == 1


def test_what_a_front_end_says_is_brought_together_when_it_has_settled() -> None:
    """A pointer moves over three cells; the linked front-end tells its own half, later than the first."""
    table, view = pair()
    link(table, view)

    def says(widget: Any, **cell: Any) -> None:
        widget.set_state({"spec": {**widget.spec, "selection": {**(widget.spec["selection"] or {}), **cell}}})

    async def move() -> list[Any]:
        heard = hear(view)
        for pos in range(3):
            says(table, layer=1, pos=pos)
            await asyncio.sleep(0.01)
        says(view, layer=1, pos=2)
        await asyncio.sleep(0.25)
        return heard

    assert len(asyncio.run(move())) == 1
    assert (view.selection.layer, view.selection.pos) == (1, 2)

    async def alone() -> None:
        says(table, layer=2, pos=4)
        await asyncio.sleep(0.25)

    asyncio.run(alone())  # the other view is in another frame: nobody tells it but Python
    assert (view.selection.layer, view.selection.pos) == (2, 4)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda t, v: link(t, v, on=("layer", "token")),
            "'token' is no field of a selection: .* layer, pos, head, key",
        ),
        (lambda t, v: link(t, v, on=()), "on is empty"),
        (lambda t, v: link(t), "two or more different views"),
        (lambda t, v: link(t, t), "two or more different views"),
    ],
)
def test_what_cannot_be_linked_is_refused(make: Any, said: str) -> None:
    table, view = pair()
    with pytest.raises(ValueError, match=said):
        make(table, view)
    assert table.links == []
    with pytest.raises(TypeError, match="cannot be linked"):
        link(table, "view")  # pyright: ignore[reportArgumentType]


def test_the_repr_is_the_same_each_time() -> None:
    table, view = pair()
    assert repr(link(table, view)) == "Link(LensTable, AttentionView, on=('layer', 'pos', 'head'))"
