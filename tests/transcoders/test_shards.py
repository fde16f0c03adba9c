"""Shards hold a corpus's activations, each token once, shuffled, without what is no text; on disk too."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from lenskit.models.model import Model
from lenskit.models.sites import Site, SiteUnavailable
from lenskit.transcoders.shards import Shards
from tests.models.tiny import tiny, tiny_tokenizer
from tests.transcoders.training_process import READS, WRITES, ids, model


def test_shards_hold_each_token_once_at_every_site_in_one_order_and_no_first_token() -> None:
    m, given = model(), ids()
    shards = Shards(m, given, [READS, WRITES], per_shard=100)
    run = m.run(given, keep=[READS, WRITES])
    expected = [
        (tuple(a), tuple(b))
        for a, b in zip(
            run[READS][:, 1:].flatten(0, 1).round(decimals=3).tolist(),
            run[WRITES][:, 1:].flatten(0, 1).round(decimals=3).tolist(),
            strict=True,
        )
    ]
    found = []
    for number in range(len(shards)):
        shard = shards[number]
        found += [
            (tuple(a), tuple(b))
            for a, b in zip(
                shard[Site(*READS)].round(decimals=3).tolist(),
                shard[Site(*WRITES)].round(decimals=3).tolist(),
                strict=True,
            )
        ]
        assert len(shard[Site(*READS)]) == shards.sizes[number] <= 100
    assert len(found) == shards.tokens == 40 * 16
    assert sorted(found) == sorted(expected)
    assert found != expected


def test_a_shard_is_the_same_every_time_and_from_disk(tmp_path: Path) -> None:
    m = model()
    shards = Shards(m, ids(), [READS], per_shard=100, folder=tmp_path)
    first = shards[2][Site(*READS)]
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    m.hf_model.model.embed_tokens.weight.data.zero_()  # what is on disk needs no model
    assert torch.equal(shards[2][Site(*READS)], first)


def test_sites_that_cannot_be_read_token_by_token_are_refused() -> None:
    with pytest.raises(SiteUnavailable, match="pair of tokens"):
        Shards(model(), ids(), [("pattern", 0)])[0]
    with pytest.raises(ValueError, match="say which"):
        Shards(model(), ids(), ["mlp_in"])


def rows(tensor: Tensor) -> set[tuple[float, ...]]:
    return {tuple(row) for row in tensor.flatten(0, -2).round(decimals=4).tolist()}


def test_what_marks_a_beginning_or_an_end_and_padding_are_left_out_wherever_they_stand() -> None:
    m = Model(tiny("llama", vocab=300), tiny_tokenizer(300), name="tiny")
    given = torch.randint(1, 300, (6, 12), generator=torch.Generator().manual_seed(0))
    given[0, 5:] = 0  # padding
    given[1, 4] = given[2, 7] = 0  # where one text ends and another begins
    shards = Shards(m, given, [READS], per_shard=40)
    wanted = given != 0
    wanted[:, 0] = False
    run = m.run(given, keep=[READS])[READS]
    assert shards.tokens == sum(shards.sizes) == int(wanted.sum()) == 6 * 11 - 7 - 2
    found = [shards[number][Site(*READS)] for number in range(len(shards))]
    assert [len(each) for each in found] == shards.sizes
    assert set().union(*map(rows, found)) == rows(run[wanted])


def test_tokens_of_one_text_are_dealt_out_over_the_shard() -> None:
    """Neighbours in a text are no neighbours in a shard: their distance is that of a random order."""
    m, given = model(), ids(20)
    order = {
        row: place
        for place, row in enumerate(
            map(tuple, m.run(given, keep=[READS])[READS][:, 1:].flatten(0, 1).round(decimals=4).tolist())
        )
    }
    shard = Shards(m, given, [READS])[0][Site(*READS)].round(decimals=4).tolist()
    places = torch.tensor([order[tuple(row)] for row in shard])
    distances = places.diff().abs().double()
    assert abs(distances.mean() / (len(places) / 3) - 1) < 0.15
    assert int((distances == 1).sum()) < 10


def test_one_shard_is_read_once_however_often_it_is_gone_through(monkeypatch: pytest.MonkeyPatch) -> None:
    m, told = model(), list[float]()
    shards = Shards(m, ids(), [READS], progress=told.append)
    for _ in range(3):
        assert shards[0] is shards[0]
    assert told == [1.0]


def test_a_forward_ends_at_the_last_site_that_is_needed() -> None:
    m, passed = model(), list[int]()
    Shards(m, ids(1), [READS, WRITES])[0]  # the model's anatomy is measured, once, with whole forwards
    for number, layer in enumerate(m.hf_model.model.layers):
        layer.register_forward_pre_hook(lambda *_, number=number: passed.append(number))
    Shards(m, ids(), [READS, WRITES])[0]
    assert passed == [0, 1]
