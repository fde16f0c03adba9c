"""Generation from a layer: at every step the likeliest token of the lens there, and the model's own from the last."""

from functools import cache
from typing import Any

import pytest
import torch

import lenskit as lk
from lenskit.lenses.generating import generate_from
from lenskit.lenses.lens import Lens
from lenskit.lenses.reading import rows_of
from tests.lenses.affine import AffineLens
from tests.models.tiny import tiny, tiny_tokenizer

FAMILIES = ["llama", "gpt2", "gemma2"]
IDS = torch.randint(1, 300, (1, 6), generator=torch.Generator().manual_seed(3))


@cache
def model(family: str) -> lk.Model:
    return lk.Model(tiny(family, vocab=300), tiny_tokenizer(300), name=f"tiny {family}")


def one_by_one(lens: Lens, ids: torch.Tensor, row: int, count: int) -> list[int]:
    """Greedily, every token by a whole forward of the plain Hugging Face model."""
    hf: Any = lens.model.hf_model
    site, ids = rows_of(lens)[row], ids.clone()
    assert site.layer is not None
    for _ in range(count):
        with torch.no_grad():
            states = hf(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
            h = states[site.layer + (site.name == "resid_post")][0, -1]
            ids = torch.cat([ids, lens.model.unembed(lens.transport(h, site)).argmax()[None, None]], 1)
    return ids[0, -count:].tolist()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", [lk.LogitLens, AffineLens])
def test_from_the_last_row_it_is_the_model_s_own_generation(family: str, kind: type) -> None:
    lens = kind(model(family))
    own = model(family).generate(IDS, 8)
    assert torch.equal(generate_from(lens, IDS, -1, 8).tokens, own.tokens)
    assert torch.equal(generate_from(lens, IDS, len(rows_of(lens)) - 1, 8).tokens, own.tokens)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize("kind", [lk.LogitLens, AffineLens])
def test_greedily_every_token_is_the_likeliest_of_the_lens(family: str, row: int, kind: type) -> None:
    lens, given = kind(model(family)), IDS.clone()
    made = generate_from(lens, given, row, 6, eos_token_id=None)
    assert made.tokens[0, 6:].tolist() == one_by_one(lens, IDS, row, 6)
    assert torch.equal(given, IDS)
    assert torch.equal(made.tokens[:, :6], IDS)


def test_each_row_of_a_batch_is_as_it_is_alone() -> None:
    lens, prompts = AffineLens(model("llama")), ["The capital of France", "The keys", "The"]
    made = generate_from(lens, prompts, 1, 5)
    assert made.new_tokens == [generate_from(lens, prompt, 1, 5).new_tokens[0] for prompt in prompts]


def test_it_ends_with_the_text() -> None:
    lens = AffineLens(model("llama"))
    said = generate_from(lens, IDS, 1, 6, eos_token_id=None).tokens[0, 6:].tolist()
    made = generate_from(lens, IDS, 1, 6, eos_token_id=said[2])
    assert made.new_tokens == [said[: said.index(said[2]) + 1]]


def test_it_is_sampled_if_asked() -> None:
    lens = AffineLens(model("llama"))
    torch.manual_seed(0)
    first = generate_from(lens, IDS, 1, 8, do_sample=True, top_k=0)
    torch.manual_seed(0)
    assert torch.equal(generate_from(lens, IDS, 1, 8, do_sample=True, top_k=0).tokens, first.tokens)
    many = {tuple(generate_from(lens, IDS, 1, 3, do_sample=True, top_k=0).tokens[0].tolist()) for _ in range(5)}
    assert len(many) > 1
    cold = generate_from(lens, IDS, 1, 4, do_sample=True, top_k=0, temperature=1e-6, eos_token_id=None)
    assert cold.tokens[0, 6:].tolist() == one_by_one(lens, IDS, 1, 4)


def test_edits_act_before_the_lens_looks_and_nothing_is_left() -> None:
    lens, before = lk.LogitLens(model("llama")), model("llama").run(IDS).logits
    with pytest.raises(IndexError, match="this lens has rows 0 to 2"):
        generate_from(lens, IDS, 3)
    plain = generate_from(lens, IDS, 1, 4, eos_token_id=None).tokens
    edited = generate_from(lens, IDS, 1, 4, edits=lk.Add("resid_post", torch.ones(32), layers=1, scale=9.0)).tokens
    assert not torch.equal(plain, edited)
    assert torch.equal(model("llama").run(IDS).logits, before)
    assert model("llama").edits == ()
