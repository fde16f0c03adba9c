"""Targets: which logits are explained, what they are called, and what their values are."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import lenskit as lk
from lenskit.circuits.attributing.asking import attribute
from lenskit.circuits.attributing.targets import Targets, reading_site
from lenskit.circuits.graph import LOGIT, Graph
from lenskit.models.sites import Site
from tests.models.tiny import tiny, tiny_tokenizer

PROMPT = "The key to the cabinet is the key"
IDS = torch.randint(1, 131, (1, 5), generator=torch.Generator().manual_seed(3))


@cache
def model() -> lk.Model:
    return lk.Model(tiny("llama", vocab=300), tiny_tokenizer(300), name="tiny")


def of(logits: Tensor, target: Any = None, **changes: Any) -> Targets:
    """The targets of some logits (vocab,), at the only position."""
    asked = {"versus": None, "pos": -1, "share": 0.95, "most": 10} | changes
    return Targets.of(model(), logits[None], target, **asked)


def graph(target: Any = None, **options: Any) -> Graph:
    return attribute(model(), PROMPT, target=target, features=4, **options)


def logits_of(*shares: float) -> Tensor:
    """Logits of which the first tokens have these probabilities, and the others the rest together."""
    left = (1 - sum(shares)) / (300 - len(shares))
    return torch.tensor([*shares, *[left] * (300 - len(shares))]).log()


# Which


@pytest.mark.parametrize(
    ("share", "most", "expected"),
    [(0.45, 10, [1]), (0.55, 10, [1, 3]), (0.75, 10, [1, 3, 0]), (0.9, 10, [1, 3, 0, 2]), (0.9, 2, [1, 3])],
)
def test_the_likeliest_up_to_a_share_but_no_more_than_so_many(share: float, most: int, expected: list[int]) -> None:
    found = of(logits_of(0.15, 0.5, 0.1, 0.2), share=share, most=most)
    assert [ids for (ids,) in found.tokens] == expected


def test_all_tokens_are_taken_where_all_of_the_probability_is_asked_for() -> None:
    found = of(logits_of(0.5), share=1.0, most=1000)
    assert len(found.tokens) == 300
    assert sum(found.weights) == pytest.approx(1)


def test_by_default_they_make_up_most_of_the_next_token() -> None:
    made = graph()
    probabilities = model().run(PROMPT).logits[0, -1].double().softmax(-1)
    ids = [ids for (ids,) in made.provenance["circuit"]["ids"]]
    order = probabilities.argsort(descending=True)[:10].tolist()
    assert ids == order  # a random model has no favourite: ten do not have .95
    assert float(probabilities[ids].sum()) < 0.95
    small = graph(share=float(probabilities[order[:3]].sum()) - 1e-6)
    assert [ids for (ids,) in small.provenance["circuit"]["ids"]] == order[:3]


def test_chosen_ones_are_those_each_once_in_their_order() -> None:
    made = graph([" Mary", 259, " John", 289])
    assert made.provenance["circuit"]["ids"] == [[289], [259], [288]]
    assert made.labels == (" Mary", " the", " John")
    assert graph(" the").labels == (" the",)
    assert graph(259).labels == (" the",)


# What they count


def test_each_counts_by_its_probability_and_together_they_are_one() -> None:
    probabilities = model().run(PROMPT).logits[0, -1].double().softmax(-1)
    for made in (graph(), graph([288, 289, 259]), graph(288)):
        ids = [ids for (ids,) in made.provenance["circuit"]["ids"]]
        weights = made.weights[made.kind == LOGIT]
        expected = (probabilities[ids] / probabilities[ids].sum()).numpy()
        assert weights == pytest.approx(expected, rel=1e-5)
        assert weights.sum() == pytest.approx(1, abs=1e-12)
        assert not made.weights[made.kind != LOGIT].any()


def test_tokens_of_no_probability_at_all_count_alike() -> None:
    logits = torch.full((300,), -torch.inf)
    logits[7] = 0.0
    assert of(logits, [1, 2, 3, 4]).weights == (0.25,) * 4


def test_a_difference_counts_whole() -> None:
    made = graph(" Mary", versus=" John")
    assert made.labels == (" Mary - " + " John",)
    assert made.provenance["circuit"]["ids"] == [[289, 288]]
    assert made.weights[made.kind == LOGIT].tolist() == [1.0]
    logits = model().run(PROMPT).logits[0, -1]
    assert made.value[-1] == pytest.approx(float(logits[289] - logits[288]), abs=1e-5)
    turned = graph(" John", versus=" Mary")
    assert turned.value[-1] == pytest.approx(-made.value[-1])


# What their values are


def naive(family: str, hf: Any, token: int, pos: int) -> float:
    """A logit less the mean of all, from the module that unembeds, in float64: before any soft-cap."""
    hf = copy.deepcopy(hf).double()
    head = hf.get_output_embeddings()
    seen: list[Tensor] = []
    handle = head.register_forward_hook(lambda module, given, out: seen.append(out.detach()[0, pos]))
    with torch.no_grad():
        logits = hf(IDS).logits[0, pos]
    handle.remove()
    scale = {"granite": 1 / 2.5, "cohere": hf.config.to_dict().get("logit_scale")}.get(family, 1.0)
    made = seen[0] * scale
    if family != "gemma2":
        torch.testing.assert_close(made, logits)  # so it is the right scale
    return float(made[token] - made.mean())


@pytest.mark.parametrize("pos", [-1, 2])
@pytest.mark.parametrize("family", ["llama", "gemma2", "granite", "cohere", "phi", "gpt2", "opt"])
def test_a_value_is_the_logit_from_the_mean_of_all_before_a_soft_cap(family: str, pos: int) -> None:
    hf = tiny(family, **({"ffn_dim": 96} if family == "opt" else {}))
    made = attribute(lk.Model(hf), IDS, target=[40, 50], pos=pos, features=4)
    for label, token in enumerate((40, 50)):
        (number,) = [n for n in made.of_kind(LOGIT).tolist() if made.feature[n] == label]
        assert made.value[number] == pytest.approx(naive(family, hf, token, pos), abs=2e-5)
        assert made.pos[number] == pos % 5
    assert made.labels == ("40", "50")  # there is no tokenizer to ask for their texts


def test_a_soft_cap_bends_the_logits_and_not_the_values() -> None:
    hf = tiny("gemma2")
    made = attribute(lk.Model(hf), IDS, target=[40], features=4)
    with torch.no_grad():
        capped = hf(IDS).logits[0, -1]
    assert abs(float(capped[40] - capped.mean()) - made.value[-1]) > 0.01
    before = 2.0 * torch.atanh(capped.double() / 2.0)
    assert made.value[-1] == pytest.approx(float(before[40] - before.mean()), abs=1e-4)


def test_it_reads_where_the_unembedding_reads() -> None:
    assert reading_site(model()) == Site("final_norm")
    found = of(torch.zeros(300), [7, 9])
    assert found.read.vectors.shape == (2, 32)
    head = model().hf_model.get_output_embeddings().weight.double()
    expected = head[[7, 9]] - head.mean(0)
    torch.testing.assert_close(found.read.vectors.double(), expected, atol=1e-6, rtol=1e-5)
    assert not found.read.constants.any()


# What is refused


def test_a_text_of_two_tokens_is_no_target() -> None:
    with pytest.raises(ValueError, match=r"' Maryam' is not one token but 3"):
        graph(" Maryam")
    with pytest.raises(ValueError, match=r"' Maryam' is not one token"):
        graph(" Mary", versus=" Maryam")


@pytest.mark.parametrize("pos", [8, 100, -9])
def test_a_position_beyond_the_prompt_is_refused(pos: int) -> None:
    with pytest.raises(IndexError, match=f"pos {pos} does not exist: this prompt has 8 tokens"):
        graph(pos=pos)


@pytest.mark.parametrize("asked", [{"share": 0.0}, {"share": 1.01}, {"share": -1}, {"most": 0}])
def test_no_share_and_more_than_all_are_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a share of the probability up to 1, and one token at least"):
        graph(**asked)


def test_what_is_no_question_is_refused() -> None:
    with pytest.raises(ValueError, match=r"target=\[\]: name one token at least"):
        graph([])
    with pytest.raises(ValueError, match="compared with one target: say which, target="):
        graph(versus=" Mary")
    with pytest.raises(ValueError, match="compared with one target"):
        graph([" Mary", " John"], versus=" the")
    with pytest.raises(ValueError, match="are one token"):
        graph(" Mary", versus=289)
    for token in (300, -1):
        with pytest.raises(IndexError, match=f"token {token} does not exist: this model has 300 tokens"):
            graph([5, token])
    with pytest.raises(IndexError, match="token 999 does not exist"):
        graph(5, versus=999)
