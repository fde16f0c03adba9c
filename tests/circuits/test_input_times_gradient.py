"""Input times gradient is, token by token, what differentiation gives where what norms divide by is held."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lenskit.circuits.by_weights.input_times_gradient import InputTimesGradient, mean_input_times_gradient
from lenskit.circuits.by_weights.pullback import connections_of
from lenskit.models.model import Model
from lenskit.models.sites import Site, SiteUnavailable
from lenskit.transcoders.activations import Activation, JumpReLU, ReLU
from lenskit.transcoders.transcoder import Normalisation, Transcoder
from tests.circuits.grown import printed
from tests.circuits.plain_weights import ARCHITECTURES, LAYER_NORMS, D, dictionary, gain, model, norm
from tests.models import weighed
from tests.transcoders.made_up import numbers

VOCAB, LENGTH = 300, 11


def corpus(chunks: int = 6) -> Tensor:
    return torch.randint(1, VOCAB, (chunks, LENGTH), generator=torch.Generator().manual_seed(0))


def with_activation(tc: Transcoder, activation: Activation) -> Transcoder:
    return Transcoder(tc.W_enc, tc.b_enc, tc.W_dec, tc.b_dec, activation, reads=tc.reads, writes=tc.writes)


def held_norm(m: Model, x: Tensor, layer: int) -> Tensor:
    """The norm before an MLP, (d,) in float64, with no gradient through what it divides by."""
    module: Any = norm(m, layer, "mlp_in")
    eps = next(getattr(module, name) for name in ("eps", "variance_epsilon") if hasattr(module, name))
    x = x - x.mean() if any(each in m.name for each in LAYER_NORMS) else x
    x = x / (x.square().mean() + eps).sqrt().detach() * gain(m, module)
    return x + module.bias.detach().double() if getattr(module, "bias", None) is not None else x


def held_pre(tc: Transcoder, x: Tensor, feature: int) -> Tensor:
    """A feature's pre-activation of what a dictionary reads, (d,), its own scale held."""
    if tc.normalise == "norm":
        x = x / (x.norm() / D**0.5).detach()
    if tc.normalise == "layer norm":
        x = (x - x.mean()) / (x.std() + 1e-5).detach()
    return torch.dot(x, tc.W_enc[feature].double()) + tc.b_enc[feature].double()


def by_tokens(m: Model, tc: Transcoder, feature: int, earlier: Transcoder, ids: Tensor, skip: int) -> dict[str, Any]:
    """Each token by itself: activation times gradient of every earlier feature, and what is active."""
    parts, actives, reached = list[Tensor](), list[Tensor](), list[bool]()
    layer = tc.reads.layer
    assert layer is not None
    stream = "resid_pre" if "gpt_neox" in m.name else "resid_mid"
    for chunk in ids:
        run = m.run(chunk[None], keep=[(stream, layer), earlier.reads, tc.reads])
        for pos in range(skip, len(chunk)):
            given = run[earlier.reads][0, pos]
            dense = earlier.encode(given[None]).dense()[0].double().requires_grad_()
            scale = earlier.normalised(given[None]).scale if earlier.restores else None
            wrote = dense @ earlier.W_dec[0].double() * (1.0 if scale is None else float(scale))
            x = run[stream, layer][0, pos].double() + wrote - wrote.detach()
            pre = held_pre(tc, held_norm(m, x, layer), feature)
            (gradient,) = torch.autograd.grad(pre, dense)
            parts.append((dense * gradient).detach())
            actives.append(dense.detach() != 0)
            reached.append(bool(tc.encode(run[tc.reads][0, pos][None]).of(feature)[0] != 0))
    every, chosen = torch.stack(parts), torch.tensor(reached)
    return {
        "mean": every.mean(0).numpy(),
        "mean_where_active": every[chosen].mean(0).numpy(),
        "frequency": torch.stack(actives).double().mean(0).numpy(),
        "tokens": len(every),
        "active_tokens": int(chosen.sum()),
    }


def check(found: InputTimesGradient, expected: dict[str, Any]) -> None:
    for name, value in expected.items():
        assert getattr(found, name) == pytest.approx(value, abs=2e-5), name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_means_are_those_of_differentiating_token_by_token(architecture: str) -> None:
    m, earlier, tc = model(architecture), dictionary(0), dictionary(2)
    for feature, skip in ((4, 1), (17, 3)):
        expected = by_tokens(m, tc, feature, earlier, corpus(), skip)
        assert expected["active_tokens"] > 0
        check(mean_input_times_gradient(m, tc, feature, earlier, corpus(), skip=skip), expected)


@pytest.mark.parametrize("normalise", ["norm", "layer norm"])
@pytest.mark.parametrize("restores", [True, False])
def test_a_dictionarys_own_scales_are_held_too(normalise: Normalisation, restores: bool) -> None:
    m = model("llama")
    tc = dictionary(2, normalise=normalise, restores=restores)
    earlier = dictionary(0, normalise=normalise, restores=restores)
    expected = by_tokens(m, tc, 4, earlier, corpus(), 1)
    check(mean_input_times_gradient(m, tc, 4, earlier, corpus()), expected)


@pytest.mark.parametrize("activation", [ReLU(), JumpReLU(torch.full((24,), -0.3))], ids=["relu", "jumprelu below 0"])
def test_activations_of_any_kind_count_as_they_are(activation: Activation) -> None:
    m, tc = model("llama"), with_activation(dictionary(2), activation)
    earlier = with_activation(dictionary(1), activation)
    check(mean_input_times_gradient(m, tc, 4, earlier, corpus()), by_tokens(m, tc, 4, earlier, corpus(), 1))


def test_with_the_scale_at_1_it_is_the_connection_times_the_mean_activation() -> None:
    m, earlier = model("llama"), dictionary(0)
    sae = dictionary(1, reads=("resid_post", 1), writes=[("resid_post", 1)])
    found = mean_input_times_gradient(m, sae, 4, earlier, corpus(), skip=0)
    run = m.run(corpus(), keep=earlier.reads)
    activation = earlier.encode(run[earlier.reads]).dense().flatten(0, 1).mean(0)
    expected = connections_of(m, sae, 4, earlier).rows[0].weights * activation.numpy()
    assert found.mean == pytest.approx(expected, abs=2e-5)
    assert found.tokens == corpus().numel()


def test_a_batch_of_another_size_makes_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    m, earlier, tc = model("llama"), dictionary(0), dictionary(2)
    once = mean_input_times_gradient(m, tc, 4, earlier, corpus(7))
    monkeypatch.setattr("lenskit.transcoders.evaluate._TOGETHER", 2 * LENGTH)
    again = mean_input_times_gradient(m, tc, 4, earlier, corpus(7))
    for name in ("mean", "mean_where_active", "frequency", "tokens", "active_tokens"):
        assert getattr(again, name) == pytest.approx(getattr(once, name), abs=1e-6)


LONG = """
from lenskit.circuits.by_weights.input_times_gradient import mean_input_times_gradient
from tests.circuits.plain_weights import dictionary, model
m, earlier, tc = model("llama"), dictionary(0, 6000), dictionary(2, 6000)
for chunks in (100, 1000):
    ids = torch.randint(1, 300, (chunks, 32))
    before = peak()
    mean_input_times_gradient(m, tc, 4, earlier, ids)
    print(peak() - before)
"""


def test_ten_times_the_text_takes_no_more_memory() -> None:
    # All activations of the second corpus would be 770 MB.
    first, more = printed(LONG)
    assert first < 200
    assert more < 50


def test_it_can_be_looked_through_and_shown() -> None:
    m, earlier, tc = model("llama"), dictionary(0), dictionary(2)
    found = mean_input_times_gradient(m, tc, 4, earlier, corpus())
    order = np.argsort(-np.abs(found.mean), kind="stable")
    assert [name for name, _ in found.top(5)] == [f"0.{i}" for i in order[:5]]
    where = np.argsort(-np.abs(found.mean_where_active), kind="stable")
    assert found.top(1, where_active=True) == [(f"0.{where[0]}", found.mean_where_active[where[0]])]
    assert found.to_pandas().feature.tolist() == order.tolist()
    assert repr(found).startswith(f"InputTimesGradient(2.4 on 60 tokens: 0.{order[0]} {found.mean[order[0]]:+.3g}, ")
    assert list(found.figure(6).data[0].x) == pytest.approx(found.mean[order[:6]])  # pyright: ignore


def test_a_feature_that_is_never_active_has_no_mean_where_it_is() -> None:
    m, earlier = model("llama"), dictionary(0)
    silent = with_activation(dictionary(2), JumpReLU(torch.full((24,), 1e9)))
    found = mean_input_times_gradient(m, silent, 4, earlier, corpus())
    assert found.active_tokens == 0
    assert np.isnan(found.mean_where_active).all()
    assert np.isfinite(found.mean).all()
    with pytest.raises(ValueError, match="active at none of the 60 tokens"):
        found.top(3, where_active=True)
    with pytest.raises(ValueError, match="active at none"):
        found.figure(where_active=True)


def test_what_has_no_such_gradient_is_refused_with_the_reason() -> None:
    m, earlier, tc = model("llama"), dictionary(0), dictionary(2)
    with pytest.raises(ValueError, match="not earlier"):
        mean_input_times_gradient(m, earlier, 4, tc, corpus())
    with pytest.raises(IndexError, match="features 0 to 23"):
        mean_input_times_gradient(m, tc, 24, earlier, corpus())
    with pytest.raises(ValueError, match="leaves nothing of chunks of 11"):
        mean_input_times_gradient(m, tc, 4, earlier, corpus(), skip=11)
    with pytest.raises(SiteUnavailable, match="does not write the residual stream as it is"):
        mean_input_times_gradient(m, tc, 4, dictionary(0, reads=("z", 0), writes=[("z", 0)]), corpus())


def test_nothing_is_left_on_the_model() -> None:
    m = model("gpt2")
    before = m.run(corpus()).logits
    mean_input_times_gradient(m, dictionary(2), 4, dictionary(0), corpus())
    assert torch.equal(m.run(corpus()).logits, before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in m.hf_model.modules())


def test_the_demo_models_own_dictionaries_agree_with_their_pre_activations(demo: Model) -> None:
    # What all features give together is what the dictionary writes, but for its bias and skip, as the feature reads it.
    earlier, tc = Transcoder.load("demo/22", demo), Transcoder.load("demo/23", demo)
    ids = torch.tensor(demo.text.ids("The doctor measured the heart rate for several years, and wrote it down."))[None]
    found = mean_input_times_gradient(demo, tc, 40, earlier, ids)
    run = demo.run(ids, keep=[earlier.reads, ("resid_mid", 23)])
    x, resid = run[earlier.reads][0, 1:], run["resid_mid", 23][0, 1:]
    assert earlier.W_skip is not None
    features = earlier(x) - x @ earlier.W_skip[0].T - earlier.b_dec[0]
    norm = demo.weights.norm("mlp_in", 23)
    assert norm.gain is not None
    given = (features / norm.scale(resid) * norm.gain) @ tc.W_enc[40]
    assert float(found.mean.sum()) == pytest.approx(float(given.mean()), rel=1e-3)


@pytest.mark.parametrize("family", [*weighed.SERIES, *weighed.PARALLEL])
def test_what_the_norm_divides_by_is_found_in_every_family(family: str) -> None:
    # It is refused where the norm of the stream is not what the MLP reads: here none is.
    m = weighed.model(family)
    width, last = m.weights.W_E.shape[1], m.n_layers - 1
    earlier, tc = (
        Transcoder(
            numbers(24, width), None, numbers(24, width), None, ReLU(), reads=("mlp_in", at), writes=("mlp_out", at)
        )
        for at in (0, last)
    )
    found = mean_input_times_gradient(m, tc, 4, earlier, weighed.tokens(family))
    assert np.abs(found.mean).max() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision_gives_about_the_same(dtype: torch.dtype) -> None:
    m, earlier, tc = model("llama"), dictionary(0), dictionary(2)
    activation = ReLU()
    earlier, tc = with_activation(earlier, activation), with_activation(tc, activation)
    exact = mean_input_times_gradient(m, tc, 4, earlier, corpus()).mean
    half = Model(m.hf_model.to(dtype), m.tokenizer, name="half")
    assert mean_input_times_gradient(half, tc, 4, earlier, corpus()).mean == pytest.approx(exact, abs=0.01)
    assert np.abs(exact).max() > 0.2


def test_where_what_is_read_is_not_the_norm_of_the_stream_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    m = model("llama")
    monkeypatch.setattr(
        "lenskit.circuits.by_weights.input_times_gradient._stream_before",
        lambda model, read: Site("resid_pre", read.layer),
    )
    with pytest.raises(SiteUnavailable, match="what it divides by cannot be held"):
        mean_input_times_gradient(m, dictionary(2), 4, dictionary(0), corpus())
