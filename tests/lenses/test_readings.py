"""Averages over the prompts of a batch are those of the prompts read one by one."""

from functools import cache

import numpy as np
import pytest

import lenskit as lk
from lenskit.lenses.readings import Readings, read_all
from lenskit.lenses.statistic import STATISTICS, Statistic
from tests.models.tiny import tiny, tiny_tokenizer

PROMPTS = ["The capital of France", "The keys", "The key to the cabinets is"]


@cache
def lens() -> lk.LogitLens:
    return lk.LogitLens(lk.Model(tiny("llama", vocab=300), tiny_tokenizer(300), name="tiny"))


@cache
def readings() -> Readings:
    return read_all(lens(), PROMPTS, target="t", versus="e")


def test_each_row_is_what_it_is_alone() -> None:
    assert len(readings()) == 3
    for prompt, row in zip(PROMPTS, readings(), strict=True):
        alone = lens().read(prompt, target="t", versus="e")
        assert row.ids.tolist() == alone.ids.tolist()
        np.testing.assert_allclose(row.kl, alone.kl, atol=1e-4)


@pytest.mark.parametrize("statistic", list(STATISTICS))
def test_the_mean_is_over_the_prompts_that_have_the_position(statistic: Statistic) -> None:
    values = [row.statistic(statistic).astype(np.float64) for row in readings()]
    longest = max(each.shape[1] for each in values)
    for pos in range(longest):
        here = np.stack([each[:, pos] for each in values if pos < each.shape[1]])
        there = [[v for v in column if not np.isnan(v)] for column in here.T]
        expected = [np.mean(column) if column else np.nan for column in there]
        np.testing.assert_allclose(readings().mean(statistic)[:, pos], np.array(expected), atol=1e-6)
    flat = [np.concatenate([each[layer] for each in values]) for layer in range(3)]
    expected = [np.mean(row[~np.isnan(row)]) if (~np.isnan(row)).any() else np.nan for row in flat]
    np.testing.assert_allclose(readings().by_layer(statistic), np.array(expected), atol=1e-6)


def test_a_part_a_table_and_a_figure() -> None:
    part = readings().part((slice(1, None), slice(0, 2)))
    np.testing.assert_allclose(part.mean("kl"), readings().mean("kl")[1:, :2])
    table = readings().to_pandas()
    assert len(table) == sum(row.kl.size for row in readings())
    assert set(table.row) == {0, 1, 2}
    figure = readings().figure("entropy", "kl")
    np.testing.assert_allclose(figure.data[0].z, readings().mean("entropy"))  # pyright: ignore
    heads = figure.layout.xaxis.ticktext
    first = {tuple(row.ids[:1].tolist()) for row in readings()}
    assert (heads[0] == "*") == (len(first) > 1)
    assert "*" in heads
    assert repr(readings()).startswith("Readings(logit lens, 3 prompts, 3 layers x ")
