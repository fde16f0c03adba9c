"""What a Model reads is what the Hugging Face model computes, and nothing is left behind."""

from functools import cache

import pytest
import torch
from torch import nn

import lenskit as lk
from lenskit.models.sites import Site
from tests.models.tiny import tiny, tiny_tokenizer

SERIES = ["llama", "gpt2", "gemma2", "olmo2", "granite", "mistral"]
PARALLEL = ["gpt_neox", "phi", "gptj", "falcon"]
FAMILIES = SERIES + PARALLEL


@cache
def model(family: str) -> lk.Model:
    return lk.Model(tiny(family))


@cache
def talking() -> lk.Model:
    return lk.Model(tiny("llama", vocab=300), tiny_tokenizer(300), name="tiny")


def hooks(module: nn.Module) -> int:
    """Hooks and stand-ins for a module's own forward: whatever makes a call of the model more than that."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + ("forward" in m.__dict__) for m in module.modules())


def tokens(family: str, length: int = 9, batch: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(1, model(family).anatomy.vocab, (batch, length), generator=generator)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_bit_equal_to_hugging_face(family: str) -> None:
    ids = tokens(family)
    with torch.no_grad():
        plain = model(family).hf_model(input_ids=ids).logits
    everything = [name for name in model(family).sites if name != "logits"]
    assert torch.equal(model(family).run(ids).logits, plain)
    assert torch.equal(model(family).run(ids, keep=everything).logits, plain)


@pytest.mark.parametrize("family", FAMILIES)
def test_residuals_are_those_that_hugging_face_returns(family: str) -> None:
    """An independent path: transformers' own output_hidden_states, on a copy (it leaves hooks on its model)."""
    ids, twin = tokens(family), tiny(family)
    with torch.no_grad():
        hidden = twin(input_ids=ids, output_hidden_states=True).hidden_states
    run = model(family).run(ids, keep="resid_pre")
    # The last hidden state that transformers returns is after the final norm; the others are the blocks' inputs.
    assert torch.equal(run["resid_pre"], torch.stack(hidden[:-1]))
    assert torch.equal(model(family).run(ids, keep="final_norm")["final_norm"], hidden[-1])


@pytest.mark.parametrize("family", FAMILIES)
def test_what_attention_and_mlp_add_makes_up_the_residual_stream(family: str) -> None:
    run = model(family).run(tokens(family), keep=["resid_pre", "attn_out", "mlp_out", "resid_post"])
    made = run["resid_pre"] + run["attn_out"] + run["mlp_out"]
    torch.testing.assert_close(made, run["resid_post"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", SERIES)
def test_the_middle_is_before_plus_attention(family: str) -> None:
    run = model(family).run(tokens(family), keep=["resid_pre", "attn_out", "resid_mid"])
    torch.testing.assert_close(run["resid_pre"] + run["attn_out"], run["resid_mid"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", PARALLEL)
def test_a_parallel_block_has_no_middle_and_says_why(family: str) -> None:
    with pytest.raises(
        lk.SiteUnavailable, match=r"'resid_mid' does not exist .* parallel.* Use 'attn_out' or 'mlp_out'"
    ):
        model(family).run(tokens(family), keep="resid_mid")
    assert "resid_mid" not in model(family).sites
    assert "unavailable: attention and MLP run in parallel" in repr(model(family).sites)


def test_attn_out_of_llama_is_attention_s_own_output() -> None:
    """Against a hook of the test's own, so that the search for sites cannot pick the two the other way round."""
    hf, seen = model("llama").hf_model, []
    handle = hf.model.layers[1].self_attn.register_forward_hook(lambda m, a, out: seen.append(out[0]))
    ids = tokens("llama")
    hf(input_ids=ids)
    handle.remove()
    assert torch.equal(model("llama").run(ids, keep="attn_out")["attn_out", 1], seen[0])


def test_attn_out_is_what_is_added_so_after_a_post_norm_and_times_a_multiplier() -> None:
    spots = {family: model(family).anatomy.spot(Site("attn_out", 0)) for family in ("gemma2", "granite")}
    assert type(spots["gemma2"].point.module).__name__ == "Gemma2RMSNorm"
    assert spots["granite"].factor == pytest.approx(0.4)


@pytest.mark.parametrize("family", FAMILIES)
def test_unembed_of_the_last_residual_is_the_logits(family: str) -> None:
    run = model(family).run(tokens(family), keep=("resid_post", -1))
    with torch.no_grad():
        again = model(family).unembed(run["resid_post", -1])
    torch.testing.assert_close(again, run.logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_padded_row_equals_its_solo_run(family: str, side: str) -> None:
    rows = [tokens(family, 9)[0].tolist(), tokens(family, 4)[1].tolist(), tokens(family, 1)[0].tolist()]
    batch = model(family).run(rows, keep="resid_post", padding_side=side)  # pyright: ignore[reportArgumentType]
    assert batch.mask is not None
    for row, ids in enumerate(rows):
        solo, real = model(family).run(ids, keep="resid_post"), batch.mask[row].bool()
        assert batch.tokens[row, real].tolist() == ids
        torch.testing.assert_close(batch.logits[row, real], solo.logits[0], atol=1e-4, rtol=1e-4)
        for layer in range(model(family).n_layers):
            padded, alone = batch["resid_post", layer][row, real], solo["resid_post", layer][0]
            torch.testing.assert_close(padded, alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_check_measures_every_identity_and_they_hold(family: str) -> None:
    check = model(family).check()
    assert check.passed, check
    assert check["logits = Hugging Face's, bit by bit"].error == 0
    assert len(check.identities) == 17


def test_check_finds_a_model_that_computes_something_else() -> None:
    """A check that cannot fail would be worth nothing: here a hook of the user's adds noise to every call."""
    broken = lk.Model(tiny("llama"))
    assert broken.check().passed
    broken.hf_model.lm_head.register_forward_hook(lambda m, a, out: out + torch.rand_like(out))
    check = broken.check()
    assert not check.passed
    assert "BROKEN logits = Hugging Face's" in repr(check)


def test_no_hook_is_left_after_success_or_failure() -> None:
    ids = tokens("llama")
    model("llama").run(ids, keep=["resid_post", "attn_out"])
    assert hooks(model("llama").hf_model) == 0
    failing = lk.Model(tiny("llama"))
    _ = failing.sites

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    handle = failing.hf_model.model.layers[1].mlp.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        failing.run(ids, keep=["resid_post", "attn_out"])
    handle.remove()
    assert hooks(failing.hf_model) == 0


def test_wrapping_and_running_change_nothing_of_the_model() -> None:
    hf = tiny("gpt2")
    before = {name: value.clone() for name, value in hf.state_dict().items()}
    wrapped = lk.Model(hf)
    wrapped.check()
    assert wrapped.hf_model is hf
    assert all(torch.equal(value, before[name]) for name, value in hf.state_dict().items())


def test_a_run_keeps_only_what_was_asked_for() -> None:
    run = model("llama").run(tokens("llama"), keep=[("resid_post", 1), "embed"])
    assert run["resid_post", 1].shape == (2, 9, 32)
    assert run["embed"].shape == (2, 9, 32)
    with pytest.raises(KeyError, match=r"'attn_out' was not kept: this run kept 'resid_post', 'embed'"):
        _ = run["attn_out"]
    with pytest.raises(KeyError, match=r"kept in layers \[1\] only"):
        _ = run["resid_post"]
    assert repr(run) == "Run(2 x 9 tokens, kept: resid_post[1], embed, Llama)"


def test_a_site_is_named_in_every_usual_way() -> None:
    wanted = Site("resid_post", 1)
    for way in ("resid_post.1", ("resid_post", 1), "blocks.1.hook_resid_post", wanted):
        assert Site.parse(way) == wanted
    run = model("llama").run(tokens("llama"), keep="blocks.1.hook_resid_post")
    assert torch.equal(run["resid_post", 1], run["resid_post.-2"])


@pytest.mark.parametrize(
    ("site", "error"),
    [
        ("resid_past", r"'resid_past' is not a site. Sites are: embed, pos_embed, resid_pre"),
        (("resid_post", 3), r"resid_post.3 does not exist: .* layers 0 to 2"),
        (("logits", 1), r"'logits' exists once"),
    ],
)
def test_a_wrong_site_is_refused_before_anything_runs(site: object, error: str) -> None:
    with pytest.raises(lk.SiteUnavailable, match=error):
        model("llama").run(tokens("llama"), keep=site)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("prompt", "kind", "error"),
    [
        (3.5, TypeError, "a prompt is a text"),
        (None, TypeError, "a prompt is a text"),
        (["one", 2], TypeError, "a prompt is a text"),
        (torch.rand(1, 3), TypeError, "tensor of whole numbers"),
        ("", ValueError, "the prompt is empty"),
        ([], ValueError, "the prompt is empty"),
        (["fine", ""], ValueError, "prompt 1 is empty"),
        ([1, 300], ValueError, r"token id 300, and the vocabulary has ids 0 to 299"),
        ([-1], ValueError, "token id -1"),
        ("word " * 100, ValueError, r"tokens, and the model reads at most 128: shorten it"),
    ],
)
def test_a_wrong_prompt_is_refused_with_the_remedy(prompt: object, kind: type[Exception], error: str) -> None:
    with pytest.raises(kind, match=error):
        talking().run(prompt)  # pyright: ignore[reportArgumentType]


def test_text_without_a_tokenizer_is_refused_and_ids_work() -> None:
    with pytest.raises(TypeError, match="needs a tokenizer"):
        model("llama").run("Hello")
    assert model("llama").run([1, 2, 3]).logits.shape == (1, 3, 131)


def test_a_run_says_where_it_came_from() -> None:
    provenance = talking().run("The capital").provenance
    assert provenance["model"] == "tiny"
    assert provenance["dtype"] == "float32"
    assert provenance["device"] == "cpu"
    assert provenance["edits"] == []
    assert provenance["versions"]["torch"] == torch.__version__


def test_gradients_are_as_the_user_left_them() -> None:
    assert not talking().run("The capital").logits.requires_grad
    assert torch.is_grad_enabled()
