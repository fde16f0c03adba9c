"""A trace: what is read there is what a run keeps, and what is written there is what an edit does."""

import pytest
import torch
from torch import Tensor, nn

import lenskit as lk
from lenskit.models.finding.order import SitePassed
from lenskit.models.sites import HEADED, Site
from tests.models.traced import FAMILIES, ids, model, nothing_left, random_like, sites

ALL = [(family, site) for family in FAMILIES for site in sites(family) if site.layer in (None, 1)]
each_site = pytest.mark.parametrize(("family", "site"), ALL, ids=[f"{family}-{site}" for family, site in ALL])
family_of = pytest.mark.parametrize("family", FAMILIES)


def kept(family: str, site: Site, tokens: Tensor) -> Tensor:
    run = model(family).run(tokens, keep=site if site.name != "logits" else ())
    return run[site]


def edited(family: str, site: Site, tokens: Tensor, value: Tensor) -> Tensor:
    """The logits of a run in which the whole of a site is replaced."""
    return model(family).run(tokens, edits=lk.Call(site.name, lambda _: value.clone(), layers=site.layer)).logits


# Reading


@family_of
def test_every_site_is_read_in_the_order_of_the_forward_and_equals_a_run_bit_for_bit(family: str) -> None:
    run = model(family).run(ids(), keep=[site for site in sites(family) if site.name != "logits"])
    with model(family).trace(ids()) as t:
        for site in sites(family):
            assert torch.equal(t[site], run[site]), site
    assert torch.equal(t.logits, run.logits)
    assert nothing_left(model(family))


@family_of
def test_reading_a_padded_batch_equals_a_run_and_its_logits(family: str) -> None:
    rows = [ids()[0].tolist(), ids()[1, :3].tolist()]
    run = model(family).run(rows, keep=["resid_post", "pattern"])
    with model(family).trace(rows) as t:
        assert t.mask is not None
        for layer in range(3):
            assert torch.equal(t["pattern", layer], run["pattern", layer])
            assert torch.equal(t["resid_post", layer], run["resid_post", layer])
    assert torch.equal(t.logits, run.logits)


def test_a_site_is_named_in_every_usual_way_and_the_same_place_twice_is_one_tensor() -> None:
    with model().trace(ids()) as t:
        h = t["resid_post", 1]
        for way in ("resid_post.1", "blocks.1.hook_resid_post", Site("resid_post", 1), ("resid_post", -2)):
            assert t[way] is h
        assert torch.equal(t["model.layers.1"], h)
        assert t["z", 2].shape == (2, 6, 4, 8)
        assert torch.equal(t["z", 2, 3], t["z", 2][:, :, 3])
        assert torch.equal(t["z.2.-1"], t["z", 2][:, :, 3])


def test_paths_of_modules_and_what_goes_into_them_are_sites() -> None:
    run = model().run(ids(), keep=["model.layers.1.mlp", "model.layers.1.mlp.input", "lm_head"])
    with model().trace(ids()) as t:
        assert torch.equal(t["model.embed_tokens.input"], ids())
        assert torch.equal(t["model.layers.1.mlp.input"], run["model.layers.1.mlp.input"])
        assert torch.equal(t["model.layers.1.mlp"], run["model.layers.1.mlp"])
        assert torch.equal(t["lm_head"], run["lm_head"])


def test_several_sites_of_one_place_may_be_asked_in_any_order() -> None:
    """OLMo 2 has no norm in front of its MLP, so that what enters it is the middle of the stream."""
    with model("olmo2").trace(ids()) as t:
        into = t["mlp_in", 1].clone()
        assert torch.equal(t["resid_mid", 1], into)
        t["resid_mid", 1] = into * 2
        assert torch.equal(t["mlp_in", 1], into * 2)
        t["mlp_in", 1] = into
    want = model("olmo2").run(ids(), edits=[lk.Set("resid_mid", into * 2, layers=1), lk.Set("mlp_in", into, layers=1)])
    assert torch.equal(t.logits, want.logits)


# Writing


@each_site
def test_assigning_equals_an_edit(family: str, site: Site) -> None:
    value = random_like(kept(family, site, ids()))
    with model(family).trace(ids()) as t:
        t[site] = value
        assert torch.equal(t[site], value)
    assert torch.equal(t.logits, edited(family, site, ids(), value))
    assert not torch.equal(t.logits, model(family).run(ids()).logits)


@each_site
def test_writing_in_place_equals_an_edit(family: str, site: Site) -> None:
    before = kept(family, site, ids())
    value = random_like(before)
    with model(family).trace(ids()) as t:
        t[site][:] = value
    assert torch.equal(t.logits, edited(family, site, ids(), value))
    part = before.clone()
    part[:, 1] = value[:, 1]
    with model(family).trace(ids()) as t:
        t[site][:, 1] = value[:, 1]
        assert torch.equal(t[site], part)
    torch.testing.assert_close(t.logits, edited(family, site, ids(), part), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("family", "site"), [(f, s) for f, s in ALL if s.name in HEADED], ids=str)
def test_one_head_is_written_by_assignment_and_in_place(family: str, site: Site) -> None:
    before = kept(family, site, ids())
    axis = 1 if site.name in ("scores", "pattern") else 2
    n = min(1, before.shape[axis] - 1)  # Falcon has one head of keys
    head, value, changed = Site(site.name, site.layer, n), random_like(before), before.clone()
    changed.select(axis, n).copy_(value.select(axis, n))
    with model(family).trace(ids()) as a:
        a[head] = value.select(axis, n)
    with model(family).trace(ids()) as b:
        b[head].copy_(value.select(axis, n))
    want = edited(family, site, ids(), changed)
    torch.testing.assert_close(a.logits, want, atol=1e-6, rtol=1e-5)
    assert torch.equal(a.logits, b.logits)


@each_site
def test_data_and_numpy_are_written_too(family: str, site: Site) -> None:
    """Old habits: they change the numbers behind autograd's back."""
    value = random_like(kept(family, site, ids()))
    with model(family).trace(ids()) as t:
        t[site].data.copy_(value)
    with model(family).trace(ids()) as u:
        u[site].numpy()[:] = value.numpy()
    assert torch.equal(t.logits, edited(family, site, ids(), value))
    assert torch.equal(u.logits, t.logits)


def test_what_is_assigned_can_be_written_in_place_afterwards() -> None:
    value = torch.ones(2, 6, 32)
    with model().trace(ids()) as t:
        t["resid_post", 1] = value
        t["resid_post", 1][:, 0] = 5
        t["resid_post", 1] += 1
    want = value + 1
    want[:, 0] = 6
    assert torch.equal(t.logits, edited("llama", Site("resid_post", 1), ids(), want))
    assert torch.equal(value, torch.ones(2, 6, 32))


def test_a_number_a_smaller_shape_and_another_dtype_fit() -> None:
    with model().trace(ids()) as t:
        t["resid_post", 0] = 0
        t["z", 1, 2] = torch.arange(8)
        t["mlp_out", 1] = torch.ones(32, dtype=torch.float64)
        assert t["mlp_out", 1].dtype == torch.float32
        assert t["mlp_out", 1].shape == (2, 6, 32)


def test_a_value_that_does_not_fit_is_refused_at_once_and_the_forward_goes_on() -> None:
    with model().trace(ids()) as t:
        with pytest.raises(ValueError, match=r"z.1.2 has shape \(2, 6, 8\), and the value \(7,\)"):
            t["z", 1, 2] = torch.zeros(7)
        with pytest.raises(ValueError, match=r"resid_post.1 has shape \(2, 6, 32\), and the value \(3, 6, 32\)"):
            t["resid_post", 1] = torch.zeros(3, 6, 32)
        with pytest.raises(ValueError, match=r"holds torch.float32, and the value is of torch.complex64"):
            t["resid_post", 2] = torch.zeros(32, dtype=torch.complex64)
    assert torch.equal(t.logits, model().run(ids()).logits)


def test_assigning_from_another_trace_copies() -> None:
    other = ids(seed=3)
    with model().trace(ids()) as a, model().trace(other) as b:
        h = a["resid_pre", 2]
        b["resid_pre", 2] = h
        h.zero_()
    patched = model().run(other, edits=lk.Patch("resid_pre", model().run(ids(), keep="resid_pre"), layers=2))
    assert torch.equal(b.logits, patched.logits)
    assert torch.equal(a.logits, model().run(ids(), edits=lk.Zero("resid_pre", layers=2)).logits)


def test_a_change_of_what_attention_reads_is_not_seen_by_the_mlp_beside_it() -> None:
    """In a parallel block with one norm both read the same tensor."""
    for family in ("phi", "falcon"):
        run = model(family).run(ids(), keep=["mlp_in", "mlp_out"])
        with model(family).trace(ids()) as t:
            t["attn_in", 0].zero_()
            assert torch.equal(t["mlp_in", 0], run["mlp_in", 0])
            assert torch.equal(t["mlp_out", 0], run["mlp_out", 0])


def test_what_was_read_and_is_held_stays_what_it_was_when_the_model_writes_into_its_own() -> None:
    """Falcon adds attention's output to the MLP's in place."""
    run = model("falcon").run(ids(), keep="mlp_out")
    with model("falcon").trace(ids()) as t:
        held = t["mlp_out", 1]
    assert torch.equal(held, run["mlp_out", 1])


def test_no_weight_can_be_written_by_accident() -> None:
    class Gives(nn.Module):
        """A module whose output is its own weight."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.weight

    gives = Gives()
    plain = nn.Sequential(nn.Linear(3, 3), gives, nn.Linear(3, 3))
    wrapped, x = lk.Model(plain), torch.randn(2, 3)
    with wrapped.trace(x) as t:
        t["1"].mul_(7)
    with torch.no_grad():
        assert torch.equal(t.logits, plain[2](torch.full((3,), 7.0)))
    assert torch.equal(gives.weight, torch.ones(3))


# Order


def test_a_site_that_has_passed_says_the_order_and_the_forward_still_stands() -> None:
    with model().trace(ids()) as t:
        _ = t["attn_out", 1]
        with pytest.raises(SitePassed) as error:
            _ = t["q", 1]
        assert str(error.value) == (
            "'q.1' has passed: the forward stands at attn_out.1. The sites of a layer come in this order: resid_pre, "
            "attn_in, q, k, v, scores, pattern, z, attn_out, resid_mid, mlp_in, mlp_pre, mlp_post, mlp_out, "
            "resid_post. Ask for it earlier, or begin a new trace."
        )
        with pytest.raises(
            SitePassed, match=r"'embed' has passed.* that exist once come in this order: embed, final_n"
        ):
            _ = t["embed"]
        with pytest.raises(SitePassed, match=r"'model.layers.0.mlp' has passed: the forward stands at attn_out.1. Ask"):
            t["model.layers.0.mlp"] = 0
        assert repr(t) == "Trace(2 x 6 tokens, at attn_out.1, Llama)"
        t["resid_post", 1] *= 2
    assert torch.equal(t.logits, model().run(ids(), edits=lk.Scale("resid_post", 2.0, layers=1)).logits)


def test_a_wrong_site_is_refused_and_the_forward_still_stands() -> None:
    with model().trace(ids()) as t:
        _ = t["resid_post", 0]
        with pytest.raises(TypeError, match="has several layers: say which"):
            _ = t["resid_post"]
        with pytest.raises(lk.SiteUnavailable, match=r"resid_post.3 does not exist"):
            _ = t["resid_post", 3]
        with pytest.raises(lk.SiteUnavailable, match=r"'z.1.4' does not exist"):
            _ = t["z", 1, 4]
        with pytest.raises(lk.SiteUnavailable, match="is not a site"):
            _ = t["resid_pots", 1]
        _ = t["resid_post", 1]
    assert torch.equal(t.logits, model().run(ids()).logits)


def test_a_module_that_the_forward_does_not_call_is_not_reached() -> None:
    class Sometimes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x)

    with lk.Model(Sometimes()).trace(torch.randn(2, 3)) as t:
        assert t["a"].shape == (2, 3)
        with pytest.raises(lk.SiteUnavailable, match=r"'b' was not reached.*has come to its end"):
            _ = t["b"]
    assert t.logits.shape == (2, 3)


def test_a_module_that_is_called_more_than_once_is_met_once_more() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(self.b(self.a(x)))

    net, x = Twice(), torch.randn(2, 3)
    with torch.no_grad():
        first = net.a(x)
        second = net.a(net.b(first))
    with lk.Model(net).trace(x) as t:
        assert torch.equal(t["a"], first)
        _ = t["b"]
        assert torch.equal(t["a"], second)
