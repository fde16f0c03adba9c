"""Circuits of edges: with all of them the prompt's own run, with none the other's, and what is between by hand."""

import os
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import lenskit as lk
from lenskit.patching.edge_attribution import edges
from lenskit.patching.edge_runs import patched_edges, run_edges
from lenskit.patching.metrics import logit_diff
from tests.models.architectures import DECODERS, build
from tests.models.tiny import tiny
from tests.patching.edges_by_hand import FAMILIES, by_hand

BASE = torch.tensor([[17, 42, 99, 5, 23, 42, 8]])
SOURCE = torch.tensor([[17, 42, 31, 5, 64, 42, 8]])
METRIC = logit_diff(7, 11)
EVERYWHERE = [*FAMILIES, "gemma2", "olmo2", "granite", "falcon", "qwen3", "cohere", "lfm2", "mamba", "olmoe", "afmoe"]


REFUSED = ["bert", "gemma3n_text", "zamba2", "xlstm"]
ALL = bool(os.environ.get("LENSKIT_ALL_ARCHITECTURES"))


def model_of(family: str) -> Any:
    return build(family) if family in ("lfm2", "mamba", "olmoe", "afmoe") else tiny(family, layers=2)


@pytest.mark.parametrize("family", REFUSED)
def test_where_edges_cannot_be_told_apart_they_are_refused_by_name(family: str) -> None:
    model = lk.Model(build(family))
    with pytest.raises(lk.SiteUnavailable, match=model.anatomy.family):
        edges(model, BASE, SOURCE, METRIC)


@pytest.mark.skipif(not ALL, reason="every architecture: LENSKIT_ALL_ARCHITECTURES=1")
@pytest.mark.parametrize("family", DECODERS)
def test_in_every_architecture_edges_are_refused_or_add_up_to_the_run(family: str) -> None:
    model = lk.Model(build(family))
    try:
        logits = model.unembed(run_edges(model, BASE, SOURCE, edges(model, BASE, SOURCE, METRIC)))
    except lk.SiteUnavailable as error:
        pytest.skip(str(error))
    torch.testing.assert_close(logits, model.run(BASE).logits, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("family", EVERYWHERE)
def test_all_edges_are_the_base_run_and_none_the_source(family: str) -> None:
    model = lk.Model(model_of(family))
    circuit = [(edge.sender, edge.receiver) for edge in edges(model, BASE, SOURCE, METRIC)]
    for kept, prompt in ((circuit, BASE), ([], SOURCE)):
        last = run_edges(model, BASE, SOURCE, kept)
        torch.testing.assert_close(model.unembed(last), model.run(prompt).logits, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("family", EVERYWHERE)
def test_all_edges_but_one_is_that_edge_patched_exactly(family: str) -> None:
    model = lk.Model(model_of(family))
    scores = edges(model, BASE, SOURCE, METRIC, method="exact", direction="noise")
    circuit = [(edge.sender, edge.receiver) for edge in scores]
    for gone in [*scores.top(2), *list(scores)[:: max(1, len(scores) // 4)]]:
        kept = [edge for edge in circuit if edge != (gone.sender, gone.receiver)]
        assert patched_edges(model, BASE, SOURCE, kept, METRIC) - scores.base == pytest.approx(gone.score, abs=3e-4)


@settings(max_examples=12)
@given(family=st.sampled_from(FAMILIES), seed=st.integers(0, 1000))
def test_a_circuit_is_a_forward_in_which_each_receiver_reads_the_source_of_others(family: str, seed: int) -> None:
    hf = model_of(family)
    model = lk.Model(hf)
    every = [(edge.sender, edge.receiver) for edge in edges(model, BASE, SOURCE, METRIC)]
    drawn = torch.rand(len(every), generator=torch.Generator().manual_seed(seed)) < 0.6
    kept = {edge for edge, chosen in zip(every, drawn.tolist(), strict=True) if chosen}
    with torch.no_grad():
        source = by_hand(hf, SOURCE[0])[1]

        def read(receiver: str, stream: Tensor, written: Mapping[str, Tensor]) -> Tensor:
            outside = [sender for sender in written if (sender, receiver) not in kept]
            return stream - sum((written[sender] - source[sender] for sender in outside), torch.zeros(()))

        expected = by_hand(hf, BASE[0], read)[0]
    torch.testing.assert_close(model.unembed(run_edges(model, BASE, SOURCE, kept))[0], expected, atol=2e-4, rtol=1e-3)


def test_an_edge_that_the_model_does_not_have_is_refused() -> None:
    model = lk.Model(model_of("gpt2"))
    with pytest.raises(KeyError, match=r"no edge 1.0 -> 0.0.q: 0.0.q is read before 1.0 writes"):
        run_edges(model, BASE, SOURCE, [("1.0", "0.0.q")])
    with pytest.raises(KeyError, match=r"no edge 5.0 -> logits: 5.0 is none of embed, 0.0, ... 1.mlp"):
        run_edges(model, BASE, SOURCE, [("5.0", "logits")])
    with pytest.raises(ValueError, match="is no input"):
        run_edges(model, BASE, SOURCE, [("0.0", "1.0")])
