"""Generation is Hugging Face's own, token for token; with edits by step, and with what is kept at each."""

from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM, GenerationConfig

import lenskit as lk
from lenskit.models.finding.order import SitePassed
from lenskit.models.generate import Generation
from lenskit.models.sites import LAYERED
from tests.models.tiny import tiny, tiny_tokenizer
from tests.models.traced import FAMILIES, ids, model, nothing_left, sites

# Sliding windows, and the positions in biases.
MORE = [*FAMILIES, "mistral", "mpt", "gptj"]
N = 5


def by_hugging_face(family: str, tokens: Tensor, n: int = N, **options: Any) -> Tensor:
    hf = model(family).hf_model
    options = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None, **options}
    return hf.generate(input_ids=tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=n, **options)


def generate(family: str, prompt: Any = None, n: int = N, **options: Any) -> Generation:
    prompt = ids() if prompt is None else prompt
    return model(family).generate(prompt, n, **{"eos_token_id": None, **options})


@cache
def talking() -> lk.Model:
    return lk.Model(tiny("llama", vocab=300), tiny_tokenizer(300), name="tiny")


# What it writes


@pytest.mark.parametrize("family", MORE)
def test_it_equals_hugging_face_token_for_token(family: str) -> None:
    plain = by_hugging_face(family, ids())
    assert torch.equal(generate(family).tokens, plain)
    kept = generate(family, keep=["resid_post", "z", "logits"])
    assert torch.equal(kept.tokens, plain)
    assert len(kept.steps) == N
    assert nothing_left(model(family))


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7, "top_k": 20}, {"num_return_sequences": 3, "top_p": 0.8}])
def test_sampling_with_a_seed_equals_hugging_face_with_the_same(options: dict[str, Any]) -> None:
    torch.manual_seed(3)
    plain = by_hugging_face("llama", ids(), do_sample=True, **options)
    torch.manual_seed(3)
    gen = generate("llama", do_sample=True, keep="resid_post", **options)
    assert torch.equal(gen.tokens, plain)
    assert gen["resid_post", 1].shape == (*(plain.shape[0], plain.shape[1] - 1), 32)


def test_beams_equal_hugging_face_and_take_no_edits() -> None:
    assert torch.equal(generate("llama", num_beams=3).tokens, by_hugging_face("llama", ids(), num_beams=3))
    refused: list[dict[str, Any]] = [{"edits": lk.Zero("z", layers=1)}, {"keep": "z"}]
    for options in refused:
        with pytest.raises(ValueError, match="no edits and nothing to keep with num_beams"):
            generate("llama", num_beams=3, **options)
    with pytest.raises(ValueError, match="num_beams"):
        model().trace(ids(), generate=3, num_beams=2).finish()


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "mistral", "gpt_neox", "mpt", "bloom", "falcon", "gptj"])
def test_a_padded_batch_equals_one_by_one(family: str) -> None:
    rows = [ids(12)[0].tolist(), ids(5)[1].tolist(), ids(1)[0].tolist()]
    gen = generate(family, rows, 8, keep="resid_post")
    for row, prompt in enumerate(rows):
        solo = generate(family, prompt, 8, keep="resid_post")
        assert gen.tokens[row, gen.prompt_length :].tolist() == solo.tokens[0, len(prompt) :].tolist()
        real = gen["resid_post"][:, row, gen.prompt_length - len(prompt) :]
        torch.testing.assert_close(real, solo["resid_post"][:, 0], atol=1e-4, rtol=1e-4)


def test_each_row_ends_at_its_own_end() -> None:
    plain = generate("llama", n=12).new_tokens
    end = plain[0][3]
    gen = generate("llama", n=12, eos_token_id=end, pad_token_id=end)
    assert gen.new_tokens[0] == plain[0][: plain[0].index(end) + 1]
    assert gen.new_tokens[1] == (plain[1][: plain[1].index(end) + 1] if end in plain[1] else plain[1])
    assert torch.equal(gen.tokens, by_hugging_face("llama", ids(), 12, eos_token_id=end, pad_token_id=end))


def test_a_generation_config_is_followed() -> None:
    config = GenerationConfig(do_sample=True, temperature=0.8, pad_token_id=0, eos_token_id=None)
    torch.manual_seed(5)
    plain = model().hf_model.generate(
        ids(), attention_mask=torch.ones_like(ids()), max_new_tokens=N, generation_config=config
    )
    torch.manual_seed(5)
    assert torch.equal(model().generate(ids(), N, generation_config=config, return_dict_in_generate=True).tokens, plain)


def test_text_comes_out_as_text_and_tokens_come_as_they_are_written() -> None:
    heard = list[list[int]]()
    gen = talking().generate("The capital of France is", N, on_token=heard.append, eos_token_id=None)
    assert gen.text == [talking().text.decode(gen.new_tokens[0])]
    assert [token for (token,) in heard] == gen.new_tokens[0]
    assert repr(gen) == f"Generation({gen.text[0]!r}, 5 new tokens)"
    two = talking().generate(["The capital", "the keys to the"], 2, on_token=heard.append, eos_token_id=None)
    assert heard[-2:] == two.tokens[:, -2:].T.tolist()
    assert repr(two) == "Generation(2 rows, 2 new tokens)"


def test_what_a_callback_raises_comes_out_and_nothing_is_left() -> None:
    def stop(_: list[int]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate("llama", on_token=stop, edits=lk.Zero("pattern", layers=1, heads=0))
    assert nothing_left(model())


@pytest.mark.parametrize(
    ("options", "kind", "error"),
    [
        ({"n": 0}, ValueError, "max_new_tokens must be at least 1"),
        ({"streamer": object()}, TypeError, "on_token=fn is called"),
        ({"edits": lk.Zero("z", pos=40)}, lk.NothingEdited, "changed nothing|never reached"),
        ({"edits": lk.Zero("z", steps=9)}, lk.NothingEdited, "changed nothing|never reached"),
        (
            {"prompt": [1, 2, 3, 4, 1, 2, 3], "prompt_lookup_num_tokens": 2, "keep": "z"},
            ValueError,
            "reads . tokens in",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(options: dict[str, Any], kind: type[Exception], error: str) -> None:
    with pytest.raises(kind, match=error):
        generate("llama", **options)
    assert nothing_left(model())


def test_a_model_that_cannot_generate_and_gradients_are_refused() -> None:
    encoder = BertForMaskedLM(BertConfig(vocab_size=131, hidden_size=32, num_hidden_layers=2, num_attention_heads=4))
    with pytest.raises(TypeError, match="BertForMaskedLM cannot generate: transformers gives it no generate method"):
        lk.Model(encoder.eval()).generate([1, 2], 3)
    with pytest.raises(TypeError, match="generates without gradients"):
        model().trace(ids(), grads=True, generate=3)
    with pytest.raises(TypeError, match="need generate=n"):
        model().trace(ids(), do_sample=True)


# What is kept


@pytest.mark.parametrize("family", MORE)
def test_what_is_kept_is_what_a_run_of_the_whole_text_keeps(family: str) -> None:
    # MPT's biases count from the last key, so that its scores are others by a number for each row.
    names = [name for name in model(family).sites if name != "logits" and (family, name) != ("mpt", "scores")]
    gen = generate(family, ids(10), keep=[*names, "logits"])
    run = model(family).run(gen.tokens[:, :-1], keep=names)
    close = partial(torch.testing.assert_close, atol=1e-5, rtol=1e-4)
    for name in [*names, "logits"]:
        close(gen[name], run[name])
        if name in LAYERED:
            close(gen[name, 1], run[name, 1])
        if name in ("z", "pattern"):
            close(gen[name, 1, 2], run[name, 1, 2])


def test_each_step_is_a_run_of_what_it_read() -> None:
    gen = generate("llama", keep=["resid_post", ("z", 1)])
    assert [step.tokens.shape[1] for step in gen.steps] == [6, 1, 1, 1, 1]
    assert torch.equal(gen.steps[2].tokens, gen.tokens[:, 7:8])
    assert gen.steps[2]["resid_post"].shape == (3, 2, 1, 32)
    assert gen.steps[2].provenance["step"] == 2
    with pytest.raises(KeyError, match="'logits' was not kept: generate again with keep='logits'"):
        _ = gen.steps[0].logits
    with pytest.raises(KeyError, match=r"'q.1' was not kept"):
        _ = gen["q", 1]
    with pytest.raises(KeyError):
        _ = gen["z", 2]


def test_paths_are_kept_too() -> None:
    gen = generate("llama", keep=["lm_head", "model.layers.1.mlp.input"])
    run = model().run(gen.tokens[:, :-1], keep=["lm_head", "model.layers.1.mlp.input"])
    for path in ("lm_head", "model.layers.1.mlp.input"):
        torch.testing.assert_close(gen[path], run[path], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("pos", [-1, [0, 2], slice(4, None), 7])
def test_positions_device_and_dtype_of_what_is_kept(pos: Any) -> None:
    gen = generate("llama", keep="resid_post", pos=pos, dtype=torch.float64, device="cpu")
    run = model().run(gen.tokens[:, :-1], keep="resid_post")["resid_post"]
    chosen = {-1: slice(5, None), 7: slice(7, 8)}.get(pos, pos) if isinstance(pos, int) else pos
    assert gen["resid_post"].dtype == torch.float64
    torch.testing.assert_close(gen["resid_post"], run[:, :, chosen].double(), atol=1e-5, rtol=1e-4)


def test_without_a_cache_every_step_reads_everything_and_what_is_kept_is_the_same() -> None:
    names = ["resid_post", "pattern", "scores", "k"]
    gen = generate("llama", keep=names, use_cache=False)
    assert [step.tokens.shape[1] for step in gen.steps] == [6, 7, 8, 9, 10]
    cached = generate("llama", keep=names)
    assert torch.equal(gen.tokens, cached.tokens)
    for name in names:
        torch.testing.assert_close(gen[name], cached[name], atol=1e-5, rtol=1e-4)


# Edits


def by_hand(family: str, n: int, edits: list[lk.Edit] | None = None, at: Any = None) -> Tensor:
    """Greedy generation by runs of the whole text, an independent way: `at(step)` gives the edits of a step."""
    tokens = ids()
    for step in range(n):
        now = edits if at is None else at(step)
        tokens = torch.cat([tokens, model(family).run(tokens, edits=now or ()).logits[:, -1:].argmax(-1)], 1)
    return tokens


@pytest.mark.parametrize(
    "site", ["resid_post", "q", "k", "v", "z", "scores", "pattern", "attn_out", "mlp_post", "logits"]
)
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "bloom"])
def test_edits_act_at_every_step_as_if_the_whole_text_were_read_anew(family: str, site: str) -> None:
    layer = {} if site == "logits" else {"layers": 1}
    edits: list[lk.Edit] = [lk.Scale(site, -1.5, **layer)]
    if site in ("scores", "pattern"):
        edits = [lk.Scale(site, 0.3, layers=1, heads=[0, 1])]
    assert torch.equal(generate(family, edits=edits).tokens, by_hand(family, N, edits))
    assert torch.equal(generate(family, edits=edits, use_cache=False).tokens, by_hand(family, N, edits))
    with model(family).edit(*edits):
        assert torch.equal(generate(family).tokens, by_hand(family, N))


@pytest.mark.parametrize("pos", [2, 7, [1, 8], slice(5, 9), slice(7, None)])
@pytest.mark.parametrize("site", ["resid_post", "k", "v", "z"])
def test_positions_also_those_yet_to_come(pos: Any, site: str) -> None:
    """Position 7 of a prompt of six tokens is read in step 2."""

    def at(step: int) -> list[lk.Edit]:
        there = [p for p in range(6 + step) if p in _positions(pos, 6 + step)]
        return [lk.Scale(site, -2.0, layers=1, pos=there)] if there else []

    gen = generate("llama", edits=lk.Scale(site, -2.0, layers=1, pos=pos))
    assert torch.equal(gen.tokens, by_hand("llama", N, at=at))
    assert torch.equal(
        gen.tokens, generate("llama", edits=lk.Scale(site, -2.0, layers=1, pos=pos), use_cache=False).tokens
    )


def _positions(pos: Any, length: int) -> list[int]:
    return list(range(length))[pos] if isinstance(pos, slice) else [pos] if isinstance(pos, int) else pos


@pytest.mark.parametrize("steps", [0, 2, [1, 3], slice(2, None), slice(None, None, 2), range(1, 3)])
def test_steps_choose_which_forwards_are_edited(steps: Any) -> None:
    seen = list[int]()

    def note(part: Tensor) -> Tensor:
        seen.append(part.shape[1])
        return part * 0

    edit = lk.Call("resid_post", note, layers=1, steps=steps)
    gen = generate("llama", edits=edit, keep=("resid_post", 1))
    chosen = list(range(N))[steps] if isinstance(steps, slice) else [steps] if isinstance(steps, int) else list(steps)
    assert len(seen) == len(chosen)
    for n, step in enumerate(gen.steps):
        assert bool((step["resid_post", 1] == 0).all()) is (n in chosen)


def test_one_row_is_edited_in_a_padded_batch() -> None:
    rows = [ids()[0].tolist(), ids()[1, :3].tolist()]
    edit = lk.Scale("resid_post", -1.0, layers=1, rows=1, pos=4)
    gen = generate("llama", rows, edits=edit, keep="resid_post")
    assert gen.tokens[0].tolist() == generate("llama", rows[0]).tokens[0].tolist()
    solo = generate("llama", rows[1], edits=lk.Scale("resid_post", -1.0, layers=1, pos=4))
    assert gen.tokens[1, 6:].tolist() == solo.tokens[0, 3:].tolist()


# Traces that generate


def test_a_trace_reads_every_step() -> None:
    gen = generate("llama", keep=["resid_post", "pattern"])
    with model().trace(ids(), generate=N, eos_token_id=None) as t:
        seen = list[int]()
        for step in t.steps:
            seen.append(step)
            assert torch.equal(t["pattern", 0], gen.steps[step]["pattern", 0])
            assert torch.equal(t["resid_post", 1], gen.steps[step]["resid_post", 1])
            with pytest.raises(SitePassed):
                _ = t["z", 0]
            assert repr(t).startswith("Trace(2 x 6 tokens, at resid_post.1" + (f" in step {step}" if step else ""))
    assert seen == list(range(N))
    assert torch.equal(t.generated.tokens, gen.tokens)
    assert t.logits.shape == (2, 1, 131)
    assert nothing_left(model())


@pytest.mark.parametrize("site", ["resid_post", "mlp_in", "v", "scores", "z"])
@pytest.mark.parametrize("family", ["llama", "falcon", "bloom"])
def test_what_a_trace_writes_in_every_step_is_what_an_edit_does(family: str, site: str) -> None:
    want = generate(family, edits=lk.Scale(site, 0.25, layers=1)).tokens
    with model(family).trace(ids(), generate=N, eos_token_id=None) as t:
        for _ in t.steps:
            t[site, 1] *= 0.25
    assert torch.equal(t.generated.tokens, want)
    with model(family).trace(ids(), generate=N, eos_token_id=None, edits=lk.Scale(site, 0.5, layers=1)) as t:
        for _ in t.steps:
            t[site, 1] = t[site, 1] * 0.5
    assert torch.equal(t.generated.tokens, want)


def test_writing_in_one_step_only() -> None:
    with model().trace(ids(), generate=N, eos_token_id=None) as t:
        for step in t.steps:
            if step == 2:
                t["resid_post", 1] = 0
    want = generate("llama", edits=lk.Zero("resid_post", layers=1, steps=2)).tokens
    assert torch.equal(t.generated.tokens, want)


def test_a_site_may_be_asked_for_without_the_loop_and_the_rest_is_written_at_the_end() -> None:
    with model().trace(ids(), generate=N, eos_token_id=None) as t:
        t["resid_post", 1] = 0
        assert list(t.steps)[:2] == [1, 2]
        assert list(t.steps) == []
    want = generate("llama", edits=lk.Zero("resid_post", layers=1, steps=0)).tokens
    assert torch.equal(t.generated.tokens, want)


def test_stopping_in_a_step_leaves_nothing() -> None:
    seen = list[int]()
    with model().trace(ids(), generate=N) as t:
        for step in t.steps:
            seen.append(step)
            _ = t["pattern", 1]
            if step == 2:
                t.stop()
    assert seen == [0, 1, 2]
    assert nothing_left(model())
    with pytest.raises(ValueError, match="is stopped"):
        _ = t.generated
    assert torch.equal(generate("llama").tokens, by_hugging_face("llama", ids()))


def test_leaving_the_loop_lets_the_rest_be_written() -> None:
    with model().trace(ids(), generate=N, eos_token_id=None) as t:
        for _ in t.steps:
            break
    assert torch.equal(t.generated.tokens, by_hugging_face("llama", ids()))


def test_two_that_generate_side_by_side() -> None:
    a_want, b_want = (
        generate("llama", keep="resid_post"),
        generate("llama", ids(seed=4), edits=lk.Zero("mlp_out", layers=0)),
    )
    a = model().trace(ids(), generate=N, eos_token_id=None)
    b = model().trace(ids(seed=4), generate=N, eos_token_id=None)
    with a, b:
        for step, _ in zip(a.steps, b.steps, strict=True):
            assert torch.equal(a["resid_post", 0], a_want.steps[step]["resid_post", 0])
            b["mlp_out", 0] = 0
    assert torch.equal(a.generated.tokens, a_want.tokens)
    assert torch.equal(b.generated.tokens, b_want.tokens)


def test_the_sites_of_every_step_come_in_order() -> None:
    with model().trace(ids(), generate=2, eos_token_id=None) as t:
        for _ in t.steps:
            for site in sites("llama"):
                assert t[site].shape[0] == 2, site
        assert t.generated.tokens.shape == (2, 8)
