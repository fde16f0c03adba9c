"""What a lens reads equals a naive float64 computation that holds everything at once."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import lenskit as lk
from lenskit.lenses import product, readout
from lenskit.lenses.running import Running
from tests.models.tiny import tiny

FAMILIES = ["llama", "gpt2", "gpt_neox", "gemma2", "granite", "gptj"]


@cache
def model(family: str, vocab: int = 131) -> lk.Model:
    return lk.Model(tiny(family, vocab=vocab))


def naive(family: str, ids: Tensor, vocab: int = 131, site: str = "resid_post", without: Sequence[int] = ()) -> Tensor:
    """Log-probabilities (layer, pos, vocab) in float64, by the whole model in float64."""
    double = lk.Model(copy.deepcopy(model(family, vocab).hf_model).double())
    run = double.run(ids, keep=site)
    states = run[site][:-1, 0] if site == "resid_post" else run[site][:, 0]
    with torch.no_grad():
        logits = torch.stack([*map(double.unembed, states), run.logits[0]])
    logits[..., list(without)] = -torch.inf
    return logits.log_softmax(-1)


@settings(max_examples=60)
@given(
    family=st.sampled_from(FAMILIES),
    ids=st.lists(st.integers(0, 130), min_size=1, max_size=12),
    target=st.one_of(st.none(), st.integers(0, 130)),
    versus=st.one_of(st.none(), st.integers(0, 130)),
    mask_input=st.booleans(),
    site=st.sampled_from(["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"]),
    top_k=st.integers(1, 20),
    rows=st.sampled_from([1, 4, 1024]),
    width=st.sampled_from([16, 64, 1 << 20]),
)
def test_every_statistic_agrees_with_float64(
    family: str,
    ids: list[int],
    target: int | None,
    versus: int | None,
    mask_input: bool,
    site: str,
    top_k: int,
    rows: int,
    width: int,
) -> None:
    """However the work is cut into tiles: chunks of positions, and blocks of the vocabulary down to 16 tokens."""
    if site not in model(family).sites:
        site = "resid_post"
    with cut_into(rows, width):
        read = lk.LogitLens(model(family)).read(
            ids, top_k=top_k, target=target, versus=versus, mask_input=mask_input, site=site
        )
    logp = naive(family, torch.tensor([ids]), site=site, without=ids if mask_input else [])
    p, final = logp.exp(), logp[-1]
    finite = logp.masked_fill(logp == -torch.inf, 0.0)
    assert read.shape == (len(logp), len(ids))

    np.testing.assert_allclose(read.entropy, -(p * finite).sum(-1), atol=1e-5)
    np.testing.assert_allclose(read.kl, (p[-1] * (finite[-1] - finite)).sum(-1), atol=1e-5)
    wanted = final.argmax(-1) if target is None else torch.full((len(ids),), target)
    assert read.target_ids.tolist() == wanted.tolist()
    own = logp.gather(-1, wanted[None, :, None].expand(len(logp), -1, 1))
    np.testing.assert_allclose(read.target_log_prob, own[..., 0], atol=1e-5)
    # Two logits closer than float32 tells apart may stand in either order.
    sure = (logp > own + 1e-5).sum(-1).numpy()
    perhaps = (logp > own - 1e-5).sum(-1).numpy() - (1 if target not in ids or not mask_input else 0)
    assert ((sure <= read.rank) & (read.rank <= perhaps)).all()
    np.testing.assert_allclose(read.top_probs, p.topk(top_k).values, atol=1e-6)
    chosen = p.gather(-1, torch.from_numpy(read.top_ids.astype(np.int64)))
    np.testing.assert_allclose(chosen, p.topk(top_k).values, atol=1e-6)

    following = logp[:, :-1].gather(-1, torch.tensor(ids[1:])[None, :, None].expand(len(logp), -1, 1))[..., 0]
    np.testing.assert_allclose(read.statistic("loss")[:, :-1], -following, atol=1e-5)
    assert np.isnan(read.statistic("loss")[:, -1]).all()
    if versus is None:
        assert read.log_prob_difference is None
        return
    difference = own[..., 0] - logp[..., versus]
    np.testing.assert_allclose(read.statistic("log_prob_difference"), difference, atol=1e-5)
    change = read.statistic("log_prob_difference_change")
    np.testing.assert_allclose(change[1:], difference[1:] - difference[:-1], atol=2e-5)
    assert np.isnan(change[0]).all()


def cut_into(rows: int, width: int) -> AbstractContextManager[object]:
    """Chunks of at most so many rows, blocks of so many tokens."""

    @contextmanager
    def cut() -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(readout, "TILE_ROWS", rows)
            patch.setattr(
                readout, "blocks_of", lambda head, vocab, _: [slice(v, v + width) for v in range(0, vocab, width)]
            )
            yield

    return cut()


def test_a_large_vocabulary_is_read_in_groups_and_gives_the_same_top_k() -> None:
    """Beyond 1,024 columns the top-k is found through the peaks of groups."""
    ids = torch.tensor([[3, 1500, 2047, 9]])
    read = lk.LogitLens(model("llama", 4352)).read(ids, top_k=10)
    p = naive("llama", ids, 4352).exp()
    np.testing.assert_allclose(read.top_probs, p.topk(10).values, rtol=1e-4)
    assert (read.top_ids == p.topk(10).indices.numpy()).mean() > 0.99


@given(st.integers(0, 2**32 - 1), st.sampled_from([1.0, 30.0, 300.0]), st.sampled_from([-1000.0, 0.0, 1000.0]))
def test_running_statistics_survive_logits_of_any_size(seed: int, spread: float, shift: float) -> None:
    """exp() of these would be infinite or nothing; the reference moves when a later block is far larger."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 2, 256, generator=generator) * spread + shift
    logits[..., 128:] += 5 * spread
    final = torch.randn(3, 256, generator=generator).softmax(-1)
    bits = logits * float(np.log2(np.e))
    known = bits.flatten(0, 1).gather(1, torch.tensor([0, 0, 100, 100, 255, 255])[:, None])[:, 0]
    running = Running(3, 2, 5, {"target": torch.tensor([0, 100, 255])}, {"target": known})
    for start in range(0, 256, 64):
        running.add(bits[..., start : start + 64].clone(), start, final[:, start : start + 64])
    results, logp = running.results(), logits.double().log_softmax(-1)
    tolerance = 2e-6 * max(1.0, spread, abs(shift))
    torch.testing.assert_close(results["entropy"], -(logp.exp() * logp).sum(-1), atol=10 * tolerance, rtol=1e-5)
    cross = -(final[:, None].double() * logp).sum(-1)
    torch.testing.assert_close(results["cross_entropy"], cross, atol=10 * tolerance, rtol=1e-5)
    torch.testing.assert_close(results["top_probs"].double(), logp.exp().topk(5).values, atol=1e-3, rtol=1e-3)


def test_a_head_that_is_no_plain_linear_layer_is_read_whole() -> None:
    class Odd(nn.Linear):
        pass

    hf = tiny("llama")
    ids = [5, 80, 9]
    expected = lk.LogitLens(lk.Model(tiny("llama"))).read(ids, target=7)
    hf.lm_head.__class__ = Odd
    read = lk.LogitLens(lk.Model(hf)).read(ids, target=7)
    np.testing.assert_allclose(read.entropy, expected.entropy, atol=1e-5)
    np.testing.assert_allclose(read.kl, expected.kl, atol=1e-5)
    assert (read.rank == expected.rank).all()


def test_reading_never_holds_layers_x_positions_x_vocabulary() -> None:
    """The largest tensor made while reading is counted, not guessed: it stays at a tile, whatever the depth."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        numbers = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor):
                Largest.numbers = max(Largest.numbers, result.numel())
            return result

    deep = lk.Model(tiny("llama", layers=40, vocab=4352))
    run = deep.run(torch.arange(1, 65)[None], keep="resid_post")
    _ = deep.anatomy.tail
    with Largest():
        lk.LogitLens(deep).read(run)
    assert 0 < Largest.numbers <= 2 * product.TILE_NUMBERS < 40 * 64 * 4352


def test_reading_in_half_precision_stays_close_to_float32() -> None:
    ids = torch.tensor([[3, 50, 99, 12]])
    exact = lk.LogitLens(model("llama")).read(ids)
    half = lk.LogitLens(lk.Model(copy.deepcopy(model("llama").hf_model).to(torch.bfloat16))).read(ids)
    np.testing.assert_allclose(half.entropy, exact.entropy, atol=0.05)


def test_a_model_of_one_layer_is_its_own_final_prediction() -> None:
    shallow = lk.Model(tiny("gpt2", layers=1))
    read = lk.LogitLens(shallow).read([5, 6, 7])
    assert read.shape == (1, 3)
    np.testing.assert_allclose(
        read.top_probs[0], shallow.run([5, 6, 7]).logits[0].softmax(-1).topk(10).values, atol=1e-6
    )
