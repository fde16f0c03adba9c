"""Edges: scored by gradients as the papers say, exactly as a model written out reader by reader gives it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import lenskit as lk
from lenskit.patching.align import PromptsDiffer
from lenskit.patching.edge_attribution import Edges, edges
from lenskit.patching.edge_scores import Exchange, estimated
from lenskit.patching.metrics import kl, log_prob, logit_diff
from tests.models.architectures import build
from tests.models.tiny import tiny
from tests.patching.edges_by_hand import FAMILIES, by_hand

CLEAN = torch.tensor([[17, 42, 99, 5, 23, 42, 8]])
CORRUPT = torch.tensor([[17, 42, 31, 5, 64, 42, 8]])
METRIC = logit_diff(7, 11)


def model_of(family: str, seed: int = 0) -> Any:
    return tiny(family, seed=seed, layers=2)


def diff(logits: Tensor) -> Tensor:
    return logits[-1, 7] - logits[-1, 11]


@pytest.fixture(scope="module", params=FAMILIES)
def hf(request: pytest.FixtureRequest) -> Any:
    return model_of(request.param)


def test_a_model_written_out_is_the_model(hf: Any) -> None:
    with torch.no_grad():
        torch.testing.assert_close(by_hand(hf, CLEAN[0])[0], hf(CLEAN).logits[0], atol=1e-5, rtol=1e-4)


# By hand


def written_more(hf: Any) -> dict[str, Tensor]:
    with torch.no_grad():
        (_, clean), (_, corrupt) = by_hand(hf, CLEAN[0]), by_hand(hf, CORRUPT[0])
    return {sender: clean[sender] - corrupt[sender] for sender in clean}


def slopes_by_hand(hf: Any) -> dict[str, tuple[Tensor, list[str]]]:
    """Of each receiver the gradient of the metric at its own input, and the senders before it."""
    leaves, before = dict[str, Tensor](), dict[str, list[str]]()

    def read(receiver: str, stream: Tensor, written: Mapping[str, Tensor]) -> Tensor:
        leaves[receiver] = torch.zeros_like(stream).requires_grad_()
        before[receiver] = list(written)
        return stream + leaves[receiver]

    grads = torch.autograd.grad(diff(by_hand(hf, CORRUPT[0], read)[0]), list(leaves.values()))
    return {receiver: (grad, before[receiver]) for receiver, grad in zip(leaves, grads, strict=True)}


def test_eap_is_what_a_sender_writes_more_times_the_gradient_at_the_receivers_own_input(hf: Any) -> None:
    found = edges(lk.Model(hf), CLEAN, CORRUPT, METRIC, method="eap")
    more, slopes = written_more(hf), slopes_by_hand(hf)
    expected = {(s, r): float((more[s] * grad).sum()) for r, (grad, before) in slopes.items() for s in before}
    assert {(e.sender, e.receiver) for e in found} == set(expected)
    for edge in found:
        assert edge.score == pytest.approx(expected[edge.sender, edge.receiver], abs=2e-4)


def test_exact_is_a_forward_in_which_one_receiver_alone_reads_one_senders_other_output(hf: Any) -> None:
    found, more = edges(lk.Model(hf), CLEAN, CORRUPT, METRIC, method="exact"), written_more(hf)
    with torch.no_grad():
        base = float(diff(by_hand(hf, CORRUPT[0])[0]))
        for edge in list(found)[:: max(1, len(found) // 40)]:

            def read(receiver: str, stream: Tensor, _: object, edge: Any = edge) -> Tensor:
                return stream + more[edge.sender] if receiver == edge.receiver else stream

            assert edge.score == pytest.approx(float(diff(by_hand(hf, CORRUPT[0], read)[0])) - base, abs=1e-4), edge
    assert found.base == pytest.approx(base, abs=1e-4)


def test_noising_runs_the_clean_prompt(hf: Any) -> None:
    model = lk.Model(hf)
    there, back = (edges(model, a, b, METRIC, direction=d) for a, b, d in _both_ways())
    np.testing.assert_allclose(there.scores, back.scores, atol=1e-5)
    assert there.base == pytest.approx(back.base)
    assert there.direction == "noise"


def _both_ways() -> list[tuple[Tensor, Tensor, Any]]:
    return [(CLEAN, CORRUPT, "noise"), (CORRUPT, CLEAN, "denoise")]


# How good the estimates are


def default_weights(kind: str, seed: int) -> Any:
    """A random two-layer model with the weights that its architecture starts from."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "gpt2":
            small = GPT2Config(n_layer=2, n_embd=64, n_head=4, vocab_size=200, bos_token_id=0, eos_token_id=0)
            return GPT2LMHeadModel(small).eval()
        config = LlamaConfig(
            num_hidden_layers=2,
            hidden_size=64,
            intermediate_size=128,
            vocab_size=200,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
        return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_eap_ig_ranks_the_edges_of_a_random_two_layer_model_as_exact_patching_does(kind: str) -> None:
    corrupt = CLEAN.clone()
    corrupt[0, 4] = 64
    ranks = list[float]()
    for seed in range(4):
        model = lk.Model(default_weights(kind, seed))
        eap, ig, exact = (edges(model, CLEAN, corrupt, METRIC, method=m) for m in ("eap", "eap_ig", "exact"))
        assert ig.correlation(exact) > max(0.99, eap.correlation(exact))
        ranks.append(ig.rank_correlation(exact))
    assert np.mean(ranks) > 0.95


def test_one_step_of_eap_ig_is_the_gradient_halfway(hf: Any) -> None:
    model = lk.Model(hf)
    found = edges(model, CLEAN, CORRUPT, METRIC, method="eap_ig", steps=1)
    with torch.no_grad():
        ends = [model.run(ids, keep="embed")["embed"] for ids in (CLEAN, CORRUPT)]
    halfway = lk.Set("embed", (ends[0] + ends[1]) / 2)
    expected = estimated(Exchange(model, CORRUPT, CLEAN), METRIC, [halfway])
    np.testing.assert_allclose(found.scores, expected, atol=1e-5)


# Other architectures


def test_attention_with_a_gate_of_its_own_is_one_receiver() -> None:
    found = edges(lk.Model(build("afmoe")), CLEAN, CORRUPT, METRIC)
    assert "0.attn" in found.receivers
    assert "it reads by more than its q, k and v" in str(found.why)


@pytest.mark.parametrize("family", ["gemma2", "olmo2", "lfm2"])
def test_attention_that_cannot_be_told_apart_is_one_sender_and_says_so(family: str) -> None:
    hf = build(family) if family == "lfm2" else model_of(family)
    found = edges(lk.Model(hf), CLEAN, CORRUPT, METRIC)
    assert "0.attn" in found.senders
    assert "0.0" not in found.senders
    assert "one sender" in str(found.why)
    assert ("0.0.q" in found.receivers) == (family != "lfm2")


def test_grouped_queries_share_a_receiver() -> None:
    found = edges(lk.Model(model_of("llama")), CLEAN, CORRUPT, METRIC)
    assert {"1.3.q", "1.1.k"} <= set(found.receivers)
    assert "1.2.k" not in found.receivers
    assert found.why is None


# The value


@pytest.fixture(scope="module")
def found() -> Edges:
    return edges(lk.Model(model_of("gpt2")), CLEAN, CORRUPT, METRIC)


def test_the_value_names_its_edges(found: Edges) -> None:
    top = found.top(3)
    assert abs(top[0].score) >= abs(top[1].score) >= abs(top[2].score)
    assert found[top[0].sender, top[0].receiver] == top[0].score
    assert len(found) == len(list(found)) == len(found.to_pandas())
    assert found.nodes == (*found.senders, *found.receivers)
    assert repr(found) == repr(edges(lk.Model(model_of("gpt2")), CLEAN, CORRUPT, METRIC))
    assert repr(found).startswith(f"Edges(logit_diff(7, 11) by eap, denoise: {len(found)} edges, {top[0].sender} -> ")
    assert found.provenance["method"] == "eap"
    with pytest.raises(ValueError, match="read-only"):
        found.scores[0, 0] = 1.0


def test_an_edge_that_is_not_there_is_refused(found: Edges) -> None:
    with pytest.raises(KeyError, match=r"there is no sender '9.9'"):
        found["9.9", "logits"]
    with pytest.raises(KeyError, match=r"there is no receiver '0.9.q'"):
        found["embed", "0.9.q"]
    with pytest.raises(KeyError, match="does not come later"):
        found["1.mlp", "0.0.q"]


@pytest.mark.parametrize("metric", [log_prob(7), kl(), lambda run: run.logits[0, -1, 7] - run.logits[0, -1, 11]])
def test_any_metric_with_a_gradient(metric: Any, found: Edges) -> None:
    made = edges(lk.Model(model_of("gpt2")), CLEAN, CORRUPT, metric)
    assert np.isfinite(made.scores[~np.isnan(found.scores)]).all()
    if callable(metric):
        np.testing.assert_allclose(made.scores, found.scores, atol=1e-5)


def test_what_cannot_be_done_is_refused() -> None:
    model = lk.Model(model_of("gpt2"))
    with pytest.raises(PromptsDiffer):
        edges(model, CLEAN, CORRUPT[:, :-1], METRIC)
    with pytest.raises(ValueError, match="'eap', 'eap_ig' or 'exact'"):
        edges(model, CLEAN, CORRUPT, METRIC, method="acdc")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="at least one step"):
        edges(model, CLEAN, CORRUPT, METRIC, method="eap_ig", steps=0)
    with pytest.raises(ValueError, match="one prompt runs at a time"):
        edges(model, CLEAN.repeat(2, 1), CORRUPT, METRIC)
    with (
        model.edit(lk.Zero("attn_out", layers=0)),
        pytest.raises(ValueError, match="the model holds edits of its own"),
    ):
        edges(model, CLEAN, CORRUPT, METRIC)


def test_nothing_is_left_behind() -> None:
    hf = model_of("llama")
    before = hf(CLEAN).logits
    for method in ("eap", "eap_ig", "exact"):
        edges(lk.Model(hf), CLEAN, CORRUPT, METRIC, method=method)
    assert torch.equal(hf(CLEAN).logits, before)
    assert all(parameter.grad is None for parameter in hf.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in hf.modules())
