"""Every site, read and written, against five architectures computed by hand."""

import re
from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor

import lenskit as lk
from lenskit.models.sites import LAYERED, Site, axes_of
from tests.models.by_hand import FAMILIES, by_hand
from tests.models.tiny import tiny

LAYER = 1


@cache
def model(family: str) -> lk.Model:
    return lk.Model(tiny(family))


def tokens(rows: int = 2, length: int = 6, seed: int = 1) -> Tensor:
    return torch.randint(1, 131, (rows, length), generator=torch.Generator().manual_seed(seed))


def seen_by_hand(family: str, ids: Tensor) -> dict[tuple[str, int | None], Tensor]:
    seen = dict[tuple[str, int | None], Tensor]()

    def touch(site: str, layer: int | None, x: Tensor) -> Tensor:
        seen[site, layer] = x
        return x

    with torch.no_grad():
        by_hand(model(family).hf_model, ids, touch)
    return seen


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_site_holds_what_it_says(family: str) -> None:
    ids, names = tokens(), list(model(family).sites)
    run = model(family).run(ids, keep=names)
    seen = seen_by_hand(family, ids)
    assert {name for name, _ in seen} == set(names)
    for (name, layer), value in seen.items():
        close(run[name] if layer is None else run[name, layer], value)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_site_is_there_but_for_those_that_the_architecture_lacks(family: str) -> None:
    lacking = {"gpt2": set(), "gpt_neox": {"pos_embed", "resid_mid"}}.get(family, {"pos_embed"})
    assert {name for name, reason in model(family).sites.reasons.items() if reason} == lacking


@pytest.mark.parametrize("head_sites", [("q", 4), ("k", 2), ("v", 2), ("scores", 4), ("pattern", 4), ("z", 4)])
def test_grouped_query_attention_has_fewer_keys_and_values_than_queries(head_sites: tuple[str, int]) -> None:
    name, heads = head_sites
    run = model("llama").run(tokens(), keep=name)
    whole = run[name, LAYER]
    assert whole.shape[axes_of(name).head or 0] == heads
    for head in range(heads):
        one = whole[:, head] if name in ("scores", "pattern") else whole[:, :, head]
        assert torch.equal(run[name, LAYER, head], one)
        assert torch.equal(run[name, LAYER, head - heads], one)
    with pytest.raises(lk.SiteUnavailable, match=f"'{name}.1.{heads}' does not exist: '{name}' has {heads} heads"):
        _ = run[name, LAYER, heads]


@pytest.mark.parametrize(
    ("alias", "site"),
    [
        ("blocks.1.hook_resid_pre", ("resid_pre", 1)),
        ("blocks.1.hook_resid_mid", ("resid_mid", 1)),
        ("blocks.1.hook_resid_post", ("resid_post", 1)),
        ("blocks.1.hook_attn_out", ("attn_out", 1)),
        ("blocks.1.hook_mlp_out", ("mlp_out", 1)),
        ("blocks.1.attn.hook_z", ("z", 1)),
        ("blocks.1.attn.hook_v", ("v", 1)),
        ("blocks.1.attn.hook_rot_q", ("q", 1)),
        ("blocks.1.attn.hook_rot_k", ("k", 1)),
        ("blocks.1.attn.hook_attn_scores", ("scores", 1)),
        ("blocks.1.attn.hook_pattern", ("pattern", 1)),
        ("blocks.1.mlp.hook_pre", ("mlp_pre", 1)),
        ("blocks.1.mlp.hook_post", ("mlp_post", 1)),
        ("hook_embed", "embed"),
    ],
)
def test_transformer_lens_names_are_aliases(alias: str, site: str | tuple[str, int]) -> None:
    ids = tokens()
    run = model("llama").run(ids, keep=alias)
    assert torch.equal(run[alias], model("llama").run(ids, keep=site)[site])
    assert torch.equal(run[alias], run[site])
    edited = model("llama").run(ids, edits=lk.Zero(alias)).logits
    name, layer, _ = Site.parse(site)
    assert torch.equal(edited, model("llama").run(ids, edits=lk.Zero(name, layers=layer)).logits)


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("blocks.1.ln1.hook_normalized", "attn_in.1"),
        ("blocks.1.ln2.hook_normalized", "mlp_in.1"),
        ("ln_final.hook_normalized", "final_norm"),
    ],
)
def test_names_that_changed_their_meaning_in_transformer_lens_are_refused(name: str, ours: str) -> None:
    with pytest.raises(lk.SiteUnavailable, match=f"before them in others. Ask for '{ours}'"):
        model("llama").run(tokens(), keep=name)


def test_queries_before_the_rotary_embedding_are_q_only_where_there_is_none() -> None:
    ids = tokens()
    run = model("gpt2").run(ids, keep=["blocks.1.attn.hook_q", "blocks.1.attn.hook_k"])
    assert torch.equal(run["blocks.1.attn.hook_q"], model("gpt2").run(ids, keep="q")["q", 1])
    one_head = lk.Scale("blocks.1.attn.hook_q", 3.0, heads=2)
    assert torch.equal(
        model("gpt2").run(ids, edits=one_head).logits,
        model("gpt2").run(ids, edits=lk.Scale("q", 3.0, layers=1, heads=2)).logits,
    )
    with pytest.raises(
        lk.SiteUnavailable, match=r"before the rotary embedding.*Ask for 'q.1', or for 'blocks.1.attn.hook_rot_q'"
    ):
        model("llama").run(ids, keep="blocks.1.attn.hook_q")


@pytest.mark.parametrize("side", ["input", "output", ""])
@pytest.mark.parametrize("path", ["model.layers.1.mlp", "model.layers.1.mlp.down_proj", "model.norm", "model.layers.0"])
def test_module_paths_are_read_and_written_as_a_torch_hook_would(path: str, side: str) -> None:
    ids, hf = tokens(), model("llama").hf_model
    module, seen = hf.get_submodule(path), list[Tensor]()

    def before(module: object, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        seen.append(args[0].clone())
        return (args[0] * 2, *args[1:])

    def after(module: object, args: object, output: Tensor) -> Tensor:
        seen.append(output.clone())
        return output * 2

    register: Callable[..., torch.utils.hooks.RemovableHandle]
    register, hook = (
        (module.register_forward_pre_hook, before) if side == "input" else (module.register_forward_hook, after)
    )
    handle = register(hook)
    with torch.no_grad():
        hooked = hf(input_ids=ids).logits
    handle.remove()
    name = f"{path}.{side}" if side else path
    assert torch.equal(model("llama").run(ids, keep=name)[name], seen[0])
    assert torch.equal(model("llama").run(ids, edits=lk.Scale(name, 2.0)).logits, hooked)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ("resid_past", "Did you mean 'resid_post' or 'resid_pre'"),
        ("model.layers.1.mpl", "Did you mean 'model.layers.1.mlp'"),
        ("model.layers.7.mlp", "Did you mean 'model.layers"),
        ("blocks.1.hook_nothing", "'blocks.1.hook_nothing' is not a site"),
        (("mlp_out", 1, 0), "'mlp_out' has no heads: ask for ('mlp_out', layer)"),
        (("logits", 0), "'logits' exists once in a model"),
        (("resid_mid", -4), "resid_mid.-4 does not exist: this model has layers 0 to 2"),
    ],
)
def test_a_wrong_name_says_what_is_near(wrong: lk.Site, error: str) -> None:
    with pytest.raises(lk.SiteUnavailable, match=re.escape(error)):
        model("llama").run(tokens(), keep=wrong)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_was_kept_does_not_change_when_a_later_site_is_edited(family: str) -> None:
    """Values in a run are copies: an edit after a site, in place or not, leaves what was kept there as it was."""
    ids, names = tokens(), [name for name in model(family).sites if name != "logits"]
    plain = model(family).run(ids, keep=names)
    order = [name for name in LAYERED if name in names]
    for at, edited in enumerate(order):
        changed = model(family).run(ids, keep=names, edits=lk.Scale(edited, 2.0, layers=LAYER))
        for name in names:
            if name not in LAYERED:
                continue
            assert torch.equal(plain[name, 0], changed[name, 0])
            # In a parallel block, the MLP comes by itself.
            if order.index(name) < at and not (family == "gpt_neox" and edited.startswith("mlp")):
                assert torch.equal(plain[name, LAYER], changed[name, LAYER]), (name, edited)
        assert torch.equal(2 * plain[edited, LAYER], changed[edited, LAYER])


def test_a_model_that_writes_in_place_changes_nothing_that_was_kept_or_given() -> None:
    """As some models do: here a hook after ours doubles what enters the last block, in its own memory."""
    ids, mine = tokens(), lk.Model(tiny("llama"))
    plain, value = mine.run(ids, keep=["resid_pre", "resid_post", "mlp_out"]), torch.ones(2, 6, 32)
    mlp = mine.hf_model.model.layers[1].mlp
    with torch.no_grad():
        handles = [
            mine.hf_model.model.layers[2].register_forward_pre_hook(lambda m, args: (args[0].mul_(2),)),
            mlp.register_forward_hook(lambda m, args, output: output.mul_(2)),
        ]
        kept = mine.run(ids, keep=["resid_post", "mlp_in", "model.layers.1.mlp.down_proj"])
        for edit in (lk.Set("resid_post", value, layers=1), lk.Patch("resid_post", value, layers=1)):
            given = mine.run(ids, keep="resid_post", edits=edit)
            assert torch.equal(given["resid_post", 1], torch.ones(2, 6, 32))
            assert torch.equal(value, torch.ones(2, 6, 32))
        for handle in handles:
            handle.remove()
    assert torch.equal(kept["resid_post", 0], plain["resid_post", 0])
    assert torch.equal(kept["model.layers.1.mlp.down_proj"], plain["mlp_out", 1])
    close(kept["resid_post", 1], plain["resid_post", 1] + plain["mlp_out", 1])


def test_the_end_of_a_block_and_the_beginning_of_the_next_are_two_sites() -> None:
    ids = tokens()
    plain = model("llama").run(ids, keep=["resid_pre", "resid_post"])
    assert torch.equal(plain["resid_pre"][1:], plain["resid_post"][:-1])
    changed = model("llama").run(ids, keep=["resid_pre", "resid_post"], edits=lk.Zero("resid_pre", layers=1))
    assert torch.equal(changed["resid_post", 0], plain["resid_post", 0])
    assert not changed["resid_pre", 1].any()
    with torch.no_grad():
        handle = model("llama").hf_model.model.layers[1].register_forward_pre_hook(lambda m, args: (args[0] * 3,))
        hooked = model("llama").run(ids, keep=["resid_pre", "resid_post"])
        handle.remove()
    assert torch.equal(hooked["resid_post", 0], plain["resid_post", 0])
    assert torch.equal(hooked["resid_pre", 1], plain["resid_pre", 1] * 3)
