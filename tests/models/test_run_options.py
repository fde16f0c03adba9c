"""What a run is told beside its prompt: what to keep and how, where to end and to begin, and gradients."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lenskit as lk
from lenskit.models.sites import LAYERED
from tests.models.by_hand import FAMILIES, by_hand
from tests.models.tiny import tiny


@cache
def model(family: str) -> lk.Model:
    return lk.Model(tiny(family))


def tokens(rows: int = 2, length: int = 6, seed: int = 1) -> Tensor:
    return torch.randint(1, 131, (rows, length), generator=torch.Generator().manual_seed(seed))


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def names(family: str) -> list[str]:
    return list(model(family).sites)


# pos, device, dtype


@pytest.mark.parametrize("pos", [0, -1, [1, 4], [4, 1], slice(2, None), slice(-2, None), range(1, 3)])
def test_only_some_positions_are_kept(pos: Any) -> None:
    ids = tokens()
    whole, part = (model("llama").run(ids, keep=names("llama"), pos=p) for p in (None, pos))
    index = list(range(6))[pos] if isinstance(pos, slice) else [pos] if isinstance(pos, int) else list(pos)
    for name in names("llama"):
        if name == "logits":
            continue
        axis = {"scores": 3, "pattern": 3}.get(name, 2) - (name not in LAYERED)
        assert torch.equal(part[name], whole[name].index_select(axis, torch.tensor(index) % 6))
    assert torch.equal(part.logits, whole.logits)


@pytest.mark.parametrize("side", ["left", "right"])
def test_positions_kept_of_a_padded_batch_are_those_of_each_row(side: Any) -> None:
    rows = [tokens()[0].tolist(), tokens()[1, :4].tolist()]
    for pos, count in ((-1, 1), (slice(-3, None), 3), (slice(0, 2), 2), ([0, -1], 2)):
        batch = model("llama").run(rows, keep=["resid_post", "z"], pos=pos, padding_side=side)
        assert batch["resid_post"].shape == (3, 2, count, 32)
        for row, ids in enumerate(rows):
            alone = model("llama").run(ids, keep=["resid_post", "z"], pos=pos)
            close(batch["resid_post"][:, row], alone["resid_post"][:, 0])
            close(batch["z"][:, row], alone["z"][:, 0])
    with pytest.raises(ValueError, match="chooses more positions of one prompt than of another"):
        model("llama").run(rows, keep="resid_post", pos=slice(1, None), padding_side=side)


def test_positions_that_do_not_exist_are_refused_before_anything_runs() -> None:
    calls = list[int]()
    handle = model("llama").hf_model.model.embed_tokens.register_forward_hook(lambda *_: calls.append(1))
    for pos, error in ((6, "pos 6 does not exist"), (-7, "pos -7 does not"), (slice(6, None), "chooses no position")):
        with pytest.raises(IndexError, match=error):
            model("llama").run(tokens(), keep="resid_post", pos=pos)
    handle.remove()
    assert not calls
    with pytest.raises(ValueError, match=r"the tensor of model.rotary_emb is \(1, 6, 8\) and not \(batch, pos, ...\)"):
        model("llama").run(tokens(), keep="model.rotary_emb", pos=1)


def test_what_is_kept_is_put_where_and_in_the_dtype_that_was_asked() -> None:
    ids, edit = tokens(), lk.Scale("resid_mid", 1.5, layers=1)
    plain = model("llama").run(ids, keep=["resid_mid", "pattern"], edits=edit)
    half = model("llama").run(ids, keep=["resid_mid", "pattern"], edits=edit, dtype=torch.float16, device="cpu")
    assert half["resid_mid"].dtype == half["pattern", 1].dtype == torch.float16
    assert torch.equal(half["resid_mid"], plain["resid_mid"].half())
    assert torch.equal(half.logits, plain.logits)
    away = model("llama").run(ids, keep="resid_mid", device="meta")
    assert away["resid_mid"].device.type == "meta"


def test_values_kept_are_the_user_s_own() -> None:
    ids = tokens()
    run = model("gpt2").run(ids, keep=[name for name in names("gpt2") if name != "logits"])
    again = model("gpt2").run(ids, keep=[name for name in names("gpt2") if name != "logits"])
    for name in run.kept:
        run[name].zero_()
    assert torch.equal(model("gpt2").run(ids).logits, again.logits)


# stop_at, start_at


def count_calls(hf: nn.Module) -> tuple[dict[str, int], Callable[[], None]]:
    calls = dict[str, int]()
    handles = [
        module.register_forward_hook(lambda *_, name=name: calls.__setitem__(name, calls.get(name, 0) + 1))
        for name, module in hf.named_modules()
        if not list(module.children())
    ]

    def remove() -> None:
        for handle in handles:
            handle.remove()

    return calls, remove


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_computed_after_stop_at(family: str) -> None:
    ids, mine = tokens(), model(family)
    whole, order = mine.run(ids, keep=names(family)), [name for name in LAYERED if name in names(family)]
    calls, remove = count_calls(mine.hf_model)
    for at in order:
        calls.clear()
        run = mine.run(ids, keep=[(at, 1), "embed"], stop_at=(at, 1))
        assert torch.equal(run[at, 1], whole[at, 1])
        computed = [name for name in calls if any(f"{path}.2." in name for path in ("layers", "h"))]
        assert not computed, (at, computed)
        assert not any("head" in name for name in calls)
        with pytest.raises(ValueError, match=f"this run stopped at {at}.1, before the logits"):
            _ = run.logits
        assert run.provenance["stop_at"] == f"{at}.1"
    remove()
    blocks = {"gpt2": "transformer.h", "gpt_neox": "gpt_neox.layers"}.get(family, "model.layers")
    calls, remove = count_calls(mine.hf_model)
    mine.run(ids, stop_at=f"{blocks}.1.mlp.input")
    assert not any(f"{blocks}.1.mlp" in name for name in calls)
    remove()


def test_stopping_and_keeping() -> None:
    ids = tokens()
    whole = model("llama").run(ids, keep="resid_post")["resid_post"]
    run = model("llama").run(ids, keep="resid_post", stop_at=("resid_post", 1))  # all layers that are computed
    assert torch.equal(run["resid_post", 0], whole[0])
    assert torch.equal(run["resid_post", 1], whole[1])
    for ask in ("resid_post", ("resid_post", 2)):
        with pytest.raises(KeyError, match="was not reached"):
            _ = run[ask]
    with pytest.raises(ValueError, match=r"resid_post.2 cannot be kept: the run stopped at resid_post.1, before"):
        model("llama").run(ids, keep=("resid_post", 2), stop_at=("resid_post", 1))
    with pytest.raises(ValueError, match="final_norm cannot be kept"):
        model("llama").run(ids, keep="final_norm", stop_at="resid_post.-1")
    with pytest.raises(TypeError, match=r"say the layer, such as \('resid_post', 5\)"):
        model("llama").run(ids, stop_at="resid_post")
    assert torch.equal(model("llama").run(ids, stop_at="logits").logits, model("llama").run(ids).logits)


def test_edits_and_stopping() -> None:
    ids, mine = tokens(), lk.Model(model("llama").hf_model)
    stop: Any = {"keep": ("resid_post", 1), "stop_at": ("resid_post", 1)}
    with pytest.raises(lk.NothingEdited, match=r"changed nothing at mlp_out\.2"):
        mine.run(ids, edits=lk.Zero("mlp_out", layers=2), **stop)
    with pytest.raises(lk.NothingEdited, match=r"changed nothing at mlp_out\.2"):
        mine.run(ids, edits=lk.Zero("mlp_out", layers=[1, 2]), **stop)
    everywhere = mine.run(ids, edits=lk.Zero("mlp_out"), **stop)["resid_post", 1]
    assert torch.equal(everywhere, mine.run(ids, keep="resid_post", edits=lk.Zero("mlp_out"))["resid_post", 1])
    with mine.edit(lk.Zero("mlp_out", layers=2)):  # it stays, and this run does not come so far
        assert torch.equal(mine.run(ids, **stop)["resid_post", 1], model("llama").run(ids, **stop)["resid_post", 1])


@pytest.mark.parametrize("padded", [None, "left", "right"])
@pytest.mark.parametrize("family", [*FAMILIES, "phi", "falcon", "olmo2", "gptj"])
def test_running_on_from_a_residual_is_the_rest_of_the_run(family: str, padded: Any) -> None:
    ids: Any = tokens() if padded is None else [tokens()[0].tolist(), tokens()[1, :4].tolist()]
    mine = model(family)
    whole = mine.run(ids, keep=["resid_pre", "resid_post", "final_norm"], padding_side=padded)
    for layer in range(mine.n_layers):
        calls, remove = count_calls(mine.hf_model)
        resid = whole["resid_pre", layer]
        before = resid.clone()
        rest = mine.run(ids, start_at=layer, resid=resid, keep=["resid_pre", "resid_post"], padding_side=padded)
        remove()
        assert torch.equal(rest.logits, whole.logits)
        assert torch.equal(resid, before)
        for later in range(layer, mine.n_layers):
            assert torch.equal(rest["resid_pre", later], whole["resid_pre", later])
            assert torch.equal(rest["resid_post", later], whole["resid_post", later])
        early = [n for n in calls if any(f"{p}.{i}." in n for p in ("layers", "h") for i in range(layer))]
        assert not early
        if layer:
            with pytest.raises(KeyError, match="was not reached"):
                _ = rest["resid_pre", layer - 1]
        assert rest.provenance["start_at"] == layer


def test_running_on_with_another_residual_edits_and_an_end() -> None:
    ids, mine = tokens(), lk.Model(model("llama").hf_model)
    resid = torch.randn(2, 6, 32, generator=torch.Generator().manual_seed(3))
    by_edit = mine.run(ids, edits=[lk.Set("resid_pre", resid, layers=1), lk.Scale("z", 2.0, layers=2)]).logits
    assert torch.equal(mine.run(ids, start_at=1, resid=resid, edits=lk.Scale("z", 2.0, layers=2)).logits, by_edit)
    doubled = mine.run(ids, start_at=1, resid=resid, edits=lk.Scale("resid_pre", 2.0, layers=1)).logits
    assert torch.equal(doubled, mine.run(ids, start_at=1, resid=resid * 2).logits)
    part = mine.run(ids, start_at=1, resid=resid, stop_at=("mlp_in", 1), keep=("mlp_in", 1))["mlp_in", 1]
    assert torch.equal(part, mine.run(ids, edits=lk.Set("resid_pre", resid, layers=1), keep="mlp_in")["mlp_in", 1])
    for edit in (lk.Zero("z", layers=0), lk.Zero("resid_pre", layers=0), lk.Zero("resid_post.0"), lk.Zero("embed")):
        with pytest.raises(lk.NothingEdited, match="changed nothing"):
            mine.run(ids, start_at=1, resid=resid, edits=edit)
        with mine.edit(edit):
            assert torch.equal(
                mine.run(ids, start_at=1, resid=resid).logits, mine.run(ids, start_at=1, resid=resid).logits
            )
    for keep in (("resid_pre", 0), "embed", ("mlp_out", 0)):
        with pytest.raises(ValueError, match="cannot be kept: the run began at layer 1"):
            mine.run(ids, start_at=1, resid=resid, keep=keep)
    with pytest.raises(ValueError, match="the run begins after it, at start_at=1"):
        mine.run(ids, start_at=1, resid=resid, stop_at=("mlp_out", 0))


@pytest.mark.parametrize(
    ("options", "kind", "error"),
    [
        ({"start_at": 1}, TypeError, "needs both"),
        ({"resid": torch.zeros(2, 6, 32)}, TypeError, "needs both"),
        ({"start_at": 3, "resid": torch.zeros(2, 6, 32)}, ValueError, "layers 0 to 2"),
        ({"start_at": 1, "resid": torch.zeros(2, 5, 32)}, ValueError, r"needs \(batch, pos, d_model\)"),
    ],
)
def test_a_beginning_that_cannot_be_is_refused(options: Any, kind: type[Exception], error: str) -> None:
    with pytest.raises(kind, match=error):
        model("llama").run(tokens(), **options)
    assert not any("forward" in m.__dict__ for m in model("llama").hf_model.modules())


# Gradients


def gradients_by_hand(hf: Any, ids: Tensor, loss: Callable[[Tensor], Tensor]) -> dict[tuple[str, int | None], Tensor]:
    """Plain autograd: every tensor is made a leaf's child by hand and its gradient asked for."""
    seen = dict[tuple[str, int | None], Tensor]()

    def touch(site: str, layer: int | None, x: Tensor) -> Tensor:
        seen[site, layer] = x if x.requires_grad else x.detach().requires_grad_()
        return seen[site, layer] * 1

    with torch.enable_grad():
        found = torch.autograd.grad(loss(by_hand(hf, ids, touch)), list(seen.values()), allow_unused=True)
    return {
        key: torch.zeros_like(x) if grad is None else grad for (key, x), grad in zip(seen.items(), found, strict=True)
    }


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_at_every_site_are_those_of_plain_autograd(family: str, frozen: bool) -> None:
    hf, ids = tiny(family).requires_grad_(not frozen), tokens()
    mine = lk.Model(hf)
    by_autograd = gradients_by_hand(hf, ids, lambda logits: logits[0, -1, 7] - logits[1, 3, 5])
    plain = mine.run(ids, keep=names(family))
    run = mine.run(ids, keep=names(family), grads=lambda run: run.logits[0, -1, 7] - run.logits[1, 3, 5])
    close(run.logits, plain.logits)
    for (name, layer), grad in by_autograd.items():
        ours = run.grad[name] if layer is None else run.grad[name, layer]
        close(ours, grad, tolerance=2e-5)
        if name != "logits":
            close(run[name], plain[name])
            assert not run[name].requires_grad
    assert not run.logits.requires_grad
    assert torch.is_grad_enabled()
    assert all(p.grad is None for p in hf.parameters())
    assert all(p.requires_grad is not frozen for p in hf.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_with_gradients_the_logits_are_still_hugging_face_s_bit_by_bit(family: str) -> None:
    sites = [n for n in names(family) if n not in ("scores", "pattern")]
    run = model(family).run(tokens(), keep=sites, grads=lambda run: run.logits[0, -1, 7])
    plain = model(family).run(tokens(), keep=sites)
    with torch.enable_grad():
        assert torch.equal(run.logits, model(family).hf_model(input_ids=tokens()).logits)
    close(run.logits, plain.logits)


def test_gradients_of_one_position_one_head_and_through_edits() -> None:
    ids, mine, v = tokens(), model("llama"), torch.linspace(-1, 1, 32)

    def loss(run: lk.Run) -> Tensor:
        return run.logits[:, -1].logsumexp(-1).sum()

    whole = mine.run(ids, keep=["z", "resid_mid"], grads=loss)
    part = mine.run(ids, keep=["z", "resid_mid"], grads=loss, pos=-1, dtype=torch.float64)
    assert part.grad["z"].dtype == torch.float64
    assert torch.equal(part.grad["resid_mid"], whole.grad["resid_mid"][:, :, -1:].double())
    assert torch.equal(whole.grad["z", 1, 2], whole.grad["z", 1][:, :, 2])
    edit = lk.Add("resid_mid", v, layers=1, pos=2)
    edited = mine.run(ids, keep=["resid_mid", "resid_pre"], grads=loss, edits=[edit, lk.Scale("resid_mid", 2.0)])

    def touch(name: str, layer: int | None, x: Tensor) -> Tensor:
        if name != "resid_mid":
            return x
        x = x.clone()
        if layer == 1:
            x[:, 2] += v
        x = x * 2
        x.retain_grad()
        kept.append(x)
        return x

    kept = list[Tensor]()
    hf = tiny("llama")
    by_hand(hf, ids, touch)[:, -1].logsumexp(-1).sum().backward()
    for layer, x in enumerate(kept):
        assert x.grad is not None
        close(edited.grad["resid_mid", layer], x.grad)
        close(edited["resid_mid", layer], x.detach())


def test_a_loss_may_be_made_of_what_is_kept() -> None:
    ids, mine, v = tokens(), model("granite"), torch.linspace(-1, 1, 32)
    run = mine.run(
        ids,
        keep=["resid_post", "attn_out", "z"],
        stop_at=("resid_post", 1),
        grads=lambda run: (run["resid_post", 1][:, -1] @ v).sum() + run["attn_out", 0].square().sum(),
    )
    seen = dict[tuple[str, int | None], Tensor]()

    def touch(site: str, layer: int | None, x: Tensor) -> Tensor:
        seen[site, layer] = x
        return x

    by_hand(tiny("granite"), ids, touch)
    loss = (seen["resid_post", 1][:, -1] @ v).sum() + seen["attn_out", 0].square().sum()
    sites = [("resid_post", 0), ("resid_post", 1), ("attn_out", 0), ("attn_out", 1), ("z", 0), ("z", 1)]
    for site, grad in zip(sites, torch.autograd.grad(loss, [seen[s] for s in sites]), strict=True):
        close(run.grad[site], grad, tolerance=5e-5)
    stacked = mine.run(ids, keep="resid_post", grads=lambda run: run["resid_post"].sum())
    assert torch.equal(stacked.grad["resid_post", -1], torch.ones(2, 6, 32))


def test_gradients_under_no_grad_and_what_is_refused() -> None:
    ids, mine = tokens(), model("llama")
    with torch.no_grad():
        run = mine.run(ids, keep="resid_pre", grads=lambda run: run.logits.sum())
        assert not torch.is_grad_enabled()
    assert run.grad["resid_pre"].any()
    with pytest.raises(TypeError, match="must give a scalar tensor of the run, and gave a tensor of shape"):
        mine.run(ids, keep="resid_pre", grads=lambda run: run.logits)
    with pytest.raises(TypeError, match="gave float"):
        mine.run(ids, keep="resid_pre", grads=lambda run: 1.0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="does not depend on any kept activation"):
        mine.run(ids, keep="resid_pre", grads=lambda run: torch.zeros(()))
    with pytest.raises(ValueError, match="say where with keep="):
        mine.run(ids, grads=lambda run: run.logits.sum())
    with pytest.raises(TypeError, match="holds whole numbers, which have no gradient"):
        mine.run(ids, keep="model.embed_tokens.input", grads=lambda run: run.logits.sum())
    with pytest.raises(ValueError, match="this run has no gradients"):
        _ = mine.run(ids, keep="resid_pre").grad
    with pytest.raises(KeyError, match="'z' was not kept"):
        _ = run.grad["z"]
    assert torch.is_grad_enabled()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in mine.hf_model.modules())


@pytest.mark.parametrize("side", ["left", "right"])
def test_gradients_of_a_padded_row_are_those_of_its_solo_run(side: Any) -> None:
    rows = [tokens()[0].tolist(), tokens()[1, :4].tolist()]
    batch = model("llama").run(
        rows, keep="resid_pre", pos=-1, grads=lambda run: run["resid_pre", -1].sum(), padding_side=side
    )
    for row, ids in enumerate(rows):
        alone = model("llama").run(ids, keep="resid_pre", pos=-1, grads=lambda run: run["resid_pre", -1].sum())
        close(batch.grad["resid_pre"][:, row], alone.grad["resid_pre"][:, 0])
