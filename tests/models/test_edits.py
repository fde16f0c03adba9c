"""Every edit at every site equals the same change made by hand; edits are values, and act in their order."""

from typing import Any

import pytest
import torch
from torch import Tensor

import lenskit as lk
from lenskit.models.sites import LAYERED, SINGLE
from tests.models.by_hand import FAMILIES, by_hand
from tests.models.edited_by_hand import (
    LAYER,
    LENGTH,
    ROWS,
    changed_by_hand,
    check,
    close,
    edited,
    layer_of,
    model,
    projected,
    random,
    sites,
    swapped,
    tokens,
)
from tests.models.tiny import tiny

PAIRS = [(family, site) for family in FAMILIES for site in (*LAYERED, *SINGLE) if site in sites(family)]


@pytest.mark.parametrize(("family", "site"), PAIRS)
def test_simple_edits_of_a_whole_site(family: str, site: str) -> None:
    where: Any = layer_of(site)
    size = model(family).run(tokens(), keep=site)[site].shape[-1]
    value, two = random(size), random(2, size, seed=6)
    check(family, site, lk.Set(site, value, **where), lambda x: value.expand_as(x))
    check(family, site, lk.Set(site, 1, **where), lambda x: torch.ones_like(x))
    check(family, site, lk.Add(site, value, scale=2.5, **where), lambda x: x + 2.5 * value)
    check(family, site, lk.Scale(site, 1.5, **where), lambda x: 1.5 * x)
    check(family, site, lk.Zero(site, **where), torch.zeros_like)
    check(family, site, lk.Call(site, lambda x: x.clamp_max(0.1), **where), lambda x: x.clamp_max(0.1))
    check(family, site, lk.Call(site, lambda x: x.clamp_(max=0.1), **where), lambda x: x.clamp_max(0.1))
    if site != "scores":  # minus infinity has no projection
        check(family, site, lk.Project(site, value, **where), lambda x: x - projected(value[None], x))
        check(family, site, lk.Project(site, two, **where), lambda x: x - projected(two, x))
        check(family, site, lk.Project(site, two, keep=True, **where), lambda x: projected(two, x))


@pytest.mark.parametrize(("family", "site"), PAIRS)
def test_edits_among_rows_and_positions(family: str, site: str) -> None:
    where, pos_axis = layer_of(site), 2 if site in ("scores", "pattern") else 1
    for over, axes in (("rows", [0]), ("pos", [pos_axis]), ("both", [0, pos_axis])):
        edit = lk.Mean(site, over=over, **where)  # pyright: ignore[reportArgumentType]
        if site == "pos_embed" and over == "rows":
            continue
        check(
            family, site, edit, lambda x, axes=axes: x.expand(ROWS, *x.shape[1:]).mean(axes, keepdim=True).expand_as(x)
        )
    clean = model(family).run(tokens(seed=2), keep=site)
    source = clean[site, LAYER] if site in LAYERED else clean[site]
    check(family, site, lk.Patch(site, clean, **where), lambda x: source)
    check(family, site, lk.Patch(site, source, **where), lambda x: source)
    one = model(family).run(tokens(seed=2)[1], keep=site)
    check(family, site, lk.Patch(site, one, **where), lambda x: source[1:2].expand_as(x))
    if site in ("scores", "pattern"):
        taken = torch.cat([swapped(site, source)[:, 3:4], swapped(site, source)[:, 0:1]], 1)

        def put(x: Tensor) -> Tensor:
            new = swapped(site, x.clone())
            new[:, [2, 5]] = taken
            return swapped(site, new)
    else:

        def put(x: Tensor) -> Tensor:
            new = x.clone()
            new[:, 2], new[:, 5] = source[:, 3], source[:, 0]
            return new

    check(family, site, lk.Patch(site, clean, pos=[2, 5], source_pos=[3, 0], **where), put)


@pytest.mark.parametrize("site", list(LAYERED))
def test_resampling_gives_each_row_another_row_s_activation(site: str) -> None:
    ids = tokens()
    plain = model("llama").run(ids, keep=(site, LAYER))[site, LAYER]
    for seed in range(5):
        run = model("llama").run(ids, keep=(site, LAYER), edits=lk.Resample(site, seed=seed, layers=LAYER))
        from_row = [next(b for b in range(ROWS) if torch.equal(run[site, LAYER][a], plain[b])) for a in range(ROWS)]
        assert sorted(from_row) == list(range(ROWS))
        assert all(a != b for a, b in enumerate(from_row))
        check("llama", site, lk.Resample(site, seed=seed, layers=LAYER), lambda x, order=from_row: x[order])


def test_edits_act_in_their_order() -> None:
    ids, v = tokens(), random(32)
    add, scale = lk.Add("resid_post", v, layers=LAYER), lk.Scale("resid_post", 3.0, layers=LAYER)
    check_order = {
        (add, scale): lambda x: (x + v) * 3,
        (scale, add): lambda x: x * 3 + v,
        (scale, add, scale): lambda x: (x * 3 + v) * 3,
    }
    for edits, change in check_order.items():
        logits, _ = changed_by_hand("llama", ids, "resid_post", change)
        close(model("llama").run(ids, edits=edits).logits, logits)
    with model("llama").edit(add):
        close(
            model("llama").run(ids, edits=scale).logits,
            model("llama").run(ids, edits=[]).logits * 0 + edited(ids, add, scale),
        )
        with model("llama").edit(scale):
            assert model("llama").edits == (add, scale)
            close(model("llama").run(ids).logits, edited(ids, add, scale))


def test_edits_at_points_that_are_one_tensor_act_in_their_order_too() -> None:
    ids, v = tokens(), random(32)
    path = "model.layers.1.self_attn.o_proj.input"
    logits, _ = changed_by_hand("llama", ids, "z", lambda z: (z * 2 + v.view(4, 8)) * 3)
    three = [lk.Scale("z", 2.0, layers=1), lk.Add(path, v), lk.Scale("z", 3.0, layers=1)]
    run = model("llama").run(ids, edits=three, keep=[("z", 1), path])
    close(run.logits, logits)
    assert torch.equal(run["z", 1].flatten(2), run[path])
    two = [lk.Scale("pattern", 0.5, layers=1), lk.Scale("scores", 2.0, layers=1)]  # scores come first in the forward
    both = model("llama").run(ids, keep=["scores", "pattern"], edits=two)
    close(both["pattern", 1], 0.5 * both["scores", 1].softmax(-1))


@pytest.mark.parametrize("family", FAMILIES)
def test_several_edits_at_once_equal_them_all_by_hand(family: str) -> None:
    ids = tokens()
    names = [name for name in LAYERED if name in sites(family)]

    def touch(name: str, layer: int | None, x: Tensor) -> Tensor:
        return x * 1.1 if name in names and layer != 0 else x

    with torch.no_grad():
        logits = by_hand(model(family).hf_model, ids, touch)
    run = model(family).run(ids, edits=[lk.Scale(name, 1.1, layers=slice(1, None)) for name in names])
    close(run.logits, logits)


def test_keys_and_values_shared_between_layers_are_edited_in_one_layer_only() -> None:
    """Gemma 4's last layers read an earlier layer's keys and values: the very same tensors."""
    kinds = ["sliding_attention", "full_attention"] * 2
    sizes = {"layers": 4, "num_kv_shared_layers": 2, "vocab_size_per_layer_input": 131}
    sharing = lk.Model(tiny("gemma4_text", layer_types=kinds, **sizes))
    ids = tokens()
    plain = sharing.run(ids, keep=["k", "v"])
    assert any(torch.equal(plain["k", a], plain["k", b]) for a in range(4) for b in range(a))
    for name in ("k", "v"):
        for layer in range(2):
            run = sharing.run(ids, keep=name, edits=lk.Scale(name, 2.0, layers=layer))
            assert torch.equal(run[name, layer], plain[name, layer] * 2)
            for later in range(2, 4):
                if torch.equal(plain[name, later], plain[name, layer]):
                    assert torch.equal(run[name, later], plain[name, layer])


def test_whole_numbers_are_edited_as_whole_numbers() -> None:
    ids = tokens()
    edited = model("llama").run(ids, edits=lk.Set("model.embed_tokens.input", 7, pos=2)).logits
    ids[:, 2] = 7
    assert torch.equal(edited, model("llama").run(ids).logits)


def test_the_value_of_an_edit_is_never_written_into() -> None:
    ids = tokens()
    value = random(ROWS, LENGTH, 32)
    before = value.clone()
    for site in ("resid_pre", "resid_mid", "resid_post", "attn_out"):
        for edit in (lk.Set(site, value, layers=1), lk.Patch(site, value, layers=1), lk.Call(site, lambda x: value)):
            kept = model("llama").run(ids, keep=site, edits=[edit, lk.Scale("resid_mid", 2.0)])[site]
            kept.zero_()
            assert torch.equal(value, before)


def test_edits_are_values() -> None:
    v = random(32)
    assert lk.Add("resid_post.5", v) == lk.Add("resid_post", v.clone(), layers=5)
    assert hash(lk.Add("resid_post", v)) == hash(lk.Add("resid_post", v.clone()))
    assert lk.Add("resid_post", v) != lk.Add("resid_post", v + 1)
    assert lk.Add("resid_post", v) != lk.Set("resid_post", v)
    assert lk.Zero("blocks.5.attn.hook_z") == lk.Zero("z", layers=5) == lk.Zero("z", layers=torch.tensor(5))  # pyright: ignore
    assert lk.Zero("z.5.3") == lk.Zero("z", layers=5, heads=3)
    assert repr(lk.Add("resid_post", v, scale=4, layers=6, pos=slice(1, None))) == (
        "Add('resid_post', layers=6, pos=slice(1, None, None), value=<32>, scale=4)"
    )
    with pytest.raises(AttributeError):
        lk.Zero("z").layers = 1  # pyright: ignore[reportAttributeAccessIssue]
