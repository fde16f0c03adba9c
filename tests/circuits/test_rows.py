"""Rows: of what reaches a target layer by layer, what is largest stays, and all of it is counted."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from lenskit.circuits.attributing.rows import Row


@given(
    layers=st.lists(st.integers(0, 40), max_size=12),
    width=st.integers(1, 30),
    targets=st.integers(1, 3),
    seed=st.integers(0, 10**6),
)
def test_a_row_keeps_the_largest_of_all_layers_and_counts_every_one(
    layers: list[int], width: int, targets: int, seed: int
) -> None:
    noise = torch.Generator().manual_seed(seed)
    given = [torch.randn(targets, count, generator=noise) for count in layers]
    row, begin = Row.empty(targets, 5, width), 100
    row.put_fixed(0, torch.full((targets, 5), -2.0))
    for parts in given:
        row.put_features(begin, parts)
        begin += parts.shape[1]
    which, parts = row.largest()
    everything = torch.cat([torch.zeros(targets, 0), *given], 1)
    for target in range(targets):
        found = dict(zip(which[target].tolist(), parts[target].tolist(), strict=True))
        order = everything[target].abs().argsort(descending=True)[:width].tolist()
        wanted = {100 + at: float(everything[target, at]) for at in order}
        assert found == (wanted | {-1: 0.0} if len(order) < width else wanted)
    torch.testing.assert_close(row.sums, everything.double().sum(1) - 10)
    torch.testing.assert_close(row.sizes, everything.double().abs().sum(1) + 10)
