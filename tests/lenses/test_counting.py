"""What is read in a region is counted, and a token's rank has a picture of its own."""

from collections import Counter, defaultdict
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lenskit as lk
from tests.models.tiny import tiny, tiny_tokenizer


@cache
def reading() -> lk.Trajectory:
    model = lk.Model(tiny("llama", vocab=300, layers=6), tiny_tokenizer(300), name="tiny")
    return lk.LogitLens(model).read("The keys to the cabinet are on the table", target="t")


@given(st.data())
def test_counts_are_those_of_a_loop_over_the_cells(data: st.DataObject) -> None:
    traj = reading()
    layers, positions = traj.shape
    a, b = sorted(data.draw(st.lists(st.integers(0, layers), min_size=2, max_size=2, unique=True)))
    c, d = sorted(data.draw(st.lists(st.integers(0, positions), min_size=2, max_size=2, unique=True)))
    top = data.draw(st.integers(1, 10))
    seen, mass = Counter[int](), defaultdict[int, float](float)
    for layer in range(a, b):
        for pos in range(c, d):
            for i, p in zip(traj.top_ids[layer, pos, :top].tolist(), traj.top_probs[layer, pos, :top], strict=True):
                seen[i] += 1
                mass[i] += float(p)
    counts = traj.counts(layers=slice(a, b), pos=slice(c, d), top=top)
    assert dict(zip(counts.ids.tolist(), counts.counts.tolist(), strict=True)) == dict(seen)
    np.testing.assert_allclose(counts.mass, [mass[i] for i in counts.ids.tolist()])
    keys = list(zip(-counts.counts, -counts.mass, strict=True))
    assert keys == sorted(keys)
    assert counts.cells == (b - a) * (d - c)
    for i, places in zip(counts.ids.tolist(), counts.places, strict=True):
        part = traj[a:b, c:d].top_ids[..., :top]
        assert [tuple(each) for each in places] == [tuple(each) for each in np.argwhere((part == i).any(-1))]


def test_counts_are_text_and_a_table_that_say_what_was_counted() -> None:
    counts = reading().counts(layers=slice(2, 5), pos=[0, 3], top=3)
    assert counts.title == "top 3 at layers 2 to 4, positions 0 to 3"
    assert repr(counts).startswith(f"Counts({counts.title}: ")
    table: Any = counts.to_pandas()
    assert table["count"].sum() == 3 * 3 * 2
    assert table.token.tolist() == counts.tokens
    np.testing.assert_allclose(table.share, counts.counts / 6)


def test_more_of_a_cell_than_it_holds_is_refused() -> None:
    with pytest.raises(ValueError, match=r"holds its 10 likeliest tokens, not 11: read with top_k=11"):
        reading().counts(top=11)
    with pytest.raises(IndexError):
        reading().counts(layers=slice(3, 3))


def test_the_rank_s_picture_has_every_rank_as_a_number_and_frames_the_first() -> None:
    traj = reading()
    figure: Any = traj.rank_picture()
    heat, first = figure.data
    assert [[int(text.replace(",", "")) for text in row] for row in heat.text] == traj.rank.tolist()
    np.testing.assert_allclose(heat.z, np.log10(1.0 + traj.rank))
    assert sorted(zip(first.y, first.x, strict=True)) == [tuple(each) for each in np.argwhere(traj.rank == 0)]
    assert figure.layout.title.text == "rank of t, logit lens"


def test_the_rank_s_picture_names_each_position_s_token_where_they_differ() -> None:
    model = lk.Model(tiny("llama", vocab=300), tiny_tokenizer(300), name="tiny")
    figure: Any = lk.LogitLens(model).read("The keys to").rank_picture()
    assert figure.layout.title.text == "rank of what the model finally says, logit lens"
    assert "rank 0" in figure.data[0].customdata[-1][0]
