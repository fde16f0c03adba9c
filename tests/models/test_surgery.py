"""Layers deleted, replaced or in another order: as a model made so by hand, and the model is as it was afterwards."""

import copy
import os
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lenskit as lk
from lenskit.models.edited import Edited
from lenskit.models.prefix import Prefix
from lenskit.models.sites import SiteUnavailable
from lenskit.models.surgery import Permute, delete_layers, permute_layers, replace_layers
from tests.models.architectures import DECODERS, build
from tests.models.tiny import tiny, tiny_tokenizer

SAMPLE = [
    "llama",
    "gpt2",
    "gpt_neox",
    "gemma2",
    "granite",
    "mistral",
    "mixtral",
    "cohere",
    "bloom",
    "opt",
    "qwen3_next",
]
ALL = bool(os.environ.get("LENSKIT_ALL_ARCHITECTURES"))
MODEL = lk.Model(tiny("llama", vocab=300, layers=5), tiny_tokenizer(300), name="tiny")
IDS = torch.randint(3, 150, (2, 9), generator=torch.Generator().manual_seed(0))
ORDER = [0, 3, 2, 4, 1]


def made_by_hand(model: lk.Model, order: Sequence[int]) -> Any:
    """A copy of the Hugging Face model whose list of blocks is another."""
    path = next(path for path, module in model.hf_model.named_modules() if module is model.anatomy.blocks)
    made = copy.deepcopy(model.hf_model)
    blocks = made.get_submodule(path)
    made.set_submodule(path, nn.ModuleList([blocks[layer] for layer in order]))
    return made


def logits_of(hf: Any, ids: Tensor = IDS) -> Tensor:
    with torch.no_grad():
        return hf(input_ids=ids, use_cache=False).logits


def state(model: lk.Model) -> list[object]:
    return [
        *(dict(module.__dict__) for module in model.hf_model.modules()),
        *(id(block) for block in model.anatomy.blocks),
        model.edits,
    ]


def test_deleted_layers_are_not_there() -> None:
    with delete_layers(MODEL, [1, 3]):
        torch.testing.assert_close(MODEL.run(IDS).logits, logits_of(made_by_hand(MODEL, [0, 2, 4])))
        run = MODEL.run(IDS, keep=["resid_pre", "resid_post"])
        assert torch.equal(run["resid_pre", 3], run["resid_post", 3])


def test_a_deleted_first_layer_does_not_spoil_the_cache_of_a_generation() -> None:
    with delete_layers(MODEL, 0):
        cached = MODEL.generate(IDS, 6).tokens
        assert torch.equal(cached, MODEL.generate(IDS, 6, use_cache=False).tokens)
    hand = made_by_hand(MODEL, [1, 2, 3, 4])
    assert torch.equal(cached, hand.generate(IDS, max_new_tokens=6, do_sample=False, use_cache=False))


def test_a_replaced_layer_is_the_function_that_was_given() -> None:
    module = nn.Linear(32, 32)
    with replace_layers(MODEL, {2: module, 4: torch.tanh}):
        run = MODEL.run(IDS, keep=["resid_pre", "resid_post"])
        torch.testing.assert_close(run["resid_post", 2], module(run["resid_pre", 2]))
        torch.testing.assert_close(run.logits, MODEL.unembed(torch.tanh(run["resid_pre", 4])))


def test_layers_in_another_order_are_the_model_made_so_by_hand() -> None:
    hand = made_by_hand(MODEL, ORDER)
    with permute_layers(MODEL, ORDER):
        run = MODEL.run(IDS, keep=["resid_pre", "resid_post", "mlp_out"])
        torch.testing.assert_close(run.logits, logits_of(hand))
        # A residual belongs to its place, what is inside a block to the block.
        before = lk.Model(hand).run(IDS, keep=["resid_post", "mlp_out"])
        torch.testing.assert_close(run["resid_post"], before["resid_post"])
        torch.testing.assert_close(run["mlp_out", 3], before["mlp_out", 1])
        made = MODEL.generate(IDS, 5).tokens
        with MODEL.trace(IDS) as trace:
            torch.testing.assert_close(trace["resid_post", 1], run["resid_post", 1])
    assert torch.equal(made, hand.generate(IDS, max_new_tokens=5, do_sample=False))


@pytest.mark.parametrize("model_type", DECODERS if ALL else SAMPLE)
def test_on_every_architecture_two_layers_change_places_exactly_or_not_at_all(model_type: str) -> None:
    model = lk.Model(build(model_type))
    order = [1, 0, *range(2, model.n_layers)]
    before = state(model)
    refused, given = "", None
    try:
        with permute_layers(model, order):
            given = logits_of(model.hf_model)
    except (ValueError, SiteUnavailable) as error:
        refused = str(error)
    assert state(model) == before
    if given is None:
        assert "cannot run in the place of" in refused or "does not exist" in refused
    else:
        torch.testing.assert_close(given, logits_of(made_by_hand(model, order)))


@pytest.mark.parametrize("model_type", DECODERS if ALL else SAMPLE)
def test_on_every_architecture_a_layer_is_deleted_exactly_or_refused(model_type: str) -> None:
    model = lk.Model(build(model_type))
    try:
        with delete_layers(model, 1):
            run = model.run(IDS, keep=["resid_pre", "resid_post"])
    except SiteUnavailable:
        return
    assert torch.equal(run["resid_pre", 1], run["resid_post", 1])
    assert not torch.equal(run.logits, logits_of(model.hf_model))


def surgeries() -> list[Any]:
    return [
        lambda: delete_layers(MODEL, [1, 3]),
        lambda: replace_layers(MODEL, {2: torch.tanh}),
        lambda: permute_layers(MODEL, ORDER),
    ]


@pytest.mark.parametrize("operate", surgeries())
def test_the_model_is_as_it_was_also_after_an_exception(operate: Any) -> None:
    before, logits = state(MODEL), MODEL.run(IDS).logits
    with pytest.raises(RuntimeError), operate() as made:
        fails_inside(made, logits)
    assert state(MODEL) == before
    assert torch.equal(MODEL.run(IDS).logits, logits)
    on = operate()
    on.remove()
    on.remove()
    assert state(MODEL) == before


def fails_inside(made: Edited, before: Tensor) -> None:
    assert MODEL.edits == made.edits
    assert not torch.equal(MODEL.run(IDS).logits, before)
    assert MODEL.run(IDS).provenance["edits"] == [repr(edit) for edit in made.edits]
    MODEL.run(IDS, edits=[lk.Call("resid_post", fails, layers=2)])


def fails(_: Tensor) -> Tensor:
    raise RuntimeError


@pytest.mark.parametrize("operate", surgeries())
def test_what_a_prefix_remembers_is_not_used_across_surgery(operate: Any) -> None:
    ids = IDS[0].tolist()
    prefix = Prefix(MODEL)
    prefix.run(ids[:-1], keep="resid_post", known=0)
    with operate():
        assert prefix.run(ids, keep="resid_post", known=8).tokens.shape[1] == len(ids)
        expected = MODEL.run(IDS[:1]).logits
        torch.testing.assert_close(prefix.run(ids, keep=(), known=8).logits, expected)


def test_a_forward_can_begin_in_the_middle_again_afterwards() -> None:
    run = MODEL.run(IDS, keep="resid_pre")
    with permute_layers(MODEL, ORDER), pytest.raises(SiteUnavailable):
        MODEL.run(IDS, start_at=2, resid=run["resid_pre", 2])
    again = MODEL.run(IDS, start_at=2, resid=run["resid_pre", 2]).logits
    torch.testing.assert_close(again, run.logits)


def test_what_cannot_be_done_is_refused() -> None:
    with pytest.raises(ValueError, match="an order names each of the layers 0 to 4 once"):
        permute_layers(MODEL, [0, 1, 2, 3, 3])
    with permute_layers(MODEL, ORDER), pytest.raises(ValueError, match="in another order already"):
        permute_layers(MODEL, ORDER)
    with pytest.raises(lk.NothingEdited):
        delete_layers(MODEL, 9)
    with pytest.raises(ValueError, match="say which layers to replace"):
        replace_layers(MODEL, {})
    for edit in (Permute(order=(1, 0, 2, 3, 4)),):
        with pytest.raises(TypeError, match="is no edit for a run"):
            MODEL.run(IDS, edits=[edit])
        with pytest.raises(TypeError, match="is no edit for a run"):
            MODEL.edit(edit)
    windows = lk.Model(build("gemma2"))  # its layers see a window and the whole text by turns
    with pytest.raises(ValueError, match=r"sliding_attention and full_attention|full_attention and sliding_attention"):
        permute_layers(windows, [1, 0, *range(2, windows.n_layers)])
