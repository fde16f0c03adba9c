"""A spliced model is the model with its MLPs exchanged by hand, and the evaluation says what that costs."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import lenskit.transcoders.evaluate as evaluating
from lenskit.models.edits import Set
from lenskit.models.model import Model
from lenskit.models.sites import Site
from lenskit.transcoders.activations import TopK
from lenskit.transcoders.evaluate import evaluate
from lenskit.transcoders.splicing import spliced
from lenskit.transcoders.transcoder import Transcoder
from tests.models.tiny import tiny
from tests.transcoders.made_up import numbers


def model(d_model: int = 16) -> Model:
    return Model(tiny("llama", layers=3, d_model=d_model), name="tiny")


def of_mlp(layer: int, d: int = 16, writes: int = 1) -> Transcoder:
    return Transcoder(
        numbers(40, d, seed=layer) / 4,
        numbers(40, seed=layer + 1) / 4,
        numbers(writes, 40, d, seed=layer + 2) / 4,
        numbers(writes, d, seed=layer + 3) / 4,
        TopK(6),
        reads=("mlp_in", layer),
        writes=[("mlp_out", layer + each) for each in range(writes)],
    )


class Instead(nn.Module):
    def __init__(self, fn) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(x)


def ids() -> Tensor:
    return torch.randint(1, 90, (2, 9), generator=torch.Generator().manual_seed(1))


def test_a_spliced_run_is_the_model_with_other_mlps() -> None:
    m = model()
    first, last = of_mlp(0), of_mlp(2)
    found = m.run(ids(), edits=spliced([last, first])).logits
    by_hand = tiny("llama", layers=3, d_model=16)
    by_hand.load_state_dict(m.hf_model.state_dict())
    by_hand.model.layers[0].mlp, by_hand.model.layers[2].mlp = Instead(first), Instead(last)
    with torch.no_grad():
        assert torch.allclose(found, by_hand(ids()).logits, atol=1e-5)


def test_cross_layer_ones_add_up_at_each_site() -> None:
    m = model()
    tcs = [of_mlp(0, writes=3), of_mlp(1, writes=2), of_mlp(2)]
    found = m.run(ids(), edits=spliced(tcs)).logits
    by_hand = tiny("llama", layers=3, d_model=16)
    by_hand.load_state_dict(m.hf_model.state_dict())
    read: list[Tensor] = []

    def at(layer: int):
        def write(x: Tensor) -> Tensor:
            read[layer:] = [x]
            return sum((tcs[i].written(read[i], layer - i) for i in range(layer + 1)), torch.zeros(()))

        return write

    for layer in range(3):
        by_hand.model.layers[layer].mlp = Instead(at(layer))
    with torch.no_grad():
        assert torch.allclose(found, by_hand(ids()).logits, atol=1e-5)


def test_with_its_errors_a_spliced_run_is_the_models_own_run() -> None:
    m = model()
    for tcs in ([of_mlp(1)], [of_mlp(0, writes=3), of_mlp(1, writes=2), of_mlp(2)]):
        edits = spliced(tcs, errors_on=(m, ids()))
        assert torch.allclose(m.run(ids(), edits=edits).logits, m.run(ids()).logits, atol=1e-4)


def test_it_works_in_traces_and_while_generating() -> None:
    m, edits = model(), spliced(of_mlp(1))
    with m.trace(ids(), edits=edits) as t:
        assert torch.allclose(t["mlp_out", 1], of_mlp(1)(t_in(m)), atol=1e-5)
    written = m.generate(ids()[:1], 4, edits=edits).tokens
    again = ids()[:1]
    for _ in range(4):
        again = torch.cat([again, m.run(again, edits=edits).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(written[0], again[0])


def t_in(m: Model) -> Tensor:
    return m.run(ids(), keep=("mlp_in", 1))["mlp_in", 1]


def test_what_cannot_stand_together_is_refused() -> None:
    with pytest.raises(ValueError, match=r"two dictionaries write mlp_out.1 from mlp_in.1"):
        spliced([of_mlp(1), of_mlp(1)])
    with pytest.raises(ValueError, match="its own layer, too"):
        spliced([of_mlp(0, writes=2)])


def test_the_evaluation_says_what_plain_runs_say() -> None:
    m, tc = model(), of_mlp(1)
    found = evaluate(m, tc, ids(), skip=1)
    truth = m.run(ids(), keep=["mlp_in", "mlp_out"])
    y = truth["mlp_out", 1][:, 1:]

    def logits(new: Tensor) -> Tensor:
        whole = truth["mlp_out", 1].clone()
        whole[:, 1:] = new
        with m.trace(ids()) as t:
            t["mlp_out", 1] = whole
        return t.logits

    ways = {
        "original": truth.logits,
        "spliced": logits(tc(truth["mlp_in", 1])[:, 1:]),
        "mean ablated": logits(y.mean((0, 1)).expand_as(y)),
        "zero ablated": logits(torch.zeros_like(y)),
    }
    assert found.names == tuple(ways)
    for name, loss, kl in zip(found.names, found.loss, found.kl, strict=True):
        rows = ways[name][:, 1:-1].double().log_softmax(-1)
        of = truth.logits[:, 1:-1].double().log_softmax(-1)
        assert loss == pytest.approx(float(-rows.gather(-1, ids()[:, 2:, None]).mean()), abs=1e-5)
        assert kl == pytest.approx(float((of.exp() * (of - rows)).sum(-1).mean()), abs=1e-5)
    fit = found.fits[0]
    missed = (tc(truth["mlp_in", 1])[:, 1:] - y).square().sum() / (y - y.mean((0, 1))).square().sum()
    assert fit.explained[0] == pytest.approx(1 - float(missed), abs=1e-4)
    assert fit.active == pytest.approx(float(tc.encode(truth["mlp_in", 1][:, 1:]).counts.double().mean()))
    assert 0 <= fit.linear[0] <= 1
    assert "recovered" in repr(found)


def test_the_linear_map_is_the_baseline() -> None:
    """Where what is written is linear in what is read, the linear map explains all of it."""
    m = model()
    with torch.no_grad():
        for layer in m.hf_model.model.layers:
            layer.mlp.down_proj.weight.zero_()
    sae = Transcoder(
        numbers(8, 16), None, numbers(8, 16), None, TopK(2), reads=("resid_mid", 1), writes=("resid_post", 1)
    )
    long = torch.randint(1, 90, (8, 30), generator=torch.Generator().manual_seed(1))
    assert evaluate(m, sae, long).fits[0].linear[0] > 0.99
    assert sae.writes == (Site("resid_post", 1),)


def centred(tc: Transcoder) -> Transcoder:
    """Of what stands there less its mean over the last axis."""
    tc.W_dec.sub_(tc.W_dec.mean(-1, keepdim=True))
    tc.b_dec.sub_(tc.b_dec.mean(-1, keepdim=True))
    tc.centred_output = True
    return tc


def test_where_the_output_is_centred_the_mean_stays_the_models_own() -> None:
    m, tc = model(), centred(of_mlp(1))
    truth = m.run(ids(), keep=["mlp_in", "mlp_out"])
    mean = truth["mlp_out", 1].mean(-1, keepdim=True)
    found = m.run(ids(), keep=["mlp_out"], edits=spliced(tc))["mlp_out", 1]
    assert mean.abs().min() > 1e-4
    assert torch.allclose(found, tc(truth["mlp_in", 1]) + mean, atol=1e-6)
    with_errors = m.run(ids(), edits=spliced(tc, errors_on=(m, ids())))
    assert torch.allclose(with_errors.logits, truth.logits, atol=1e-5)


def test_the_fit_of_a_centred_dictionary_is_to_what_it_was_made_for() -> None:
    m, tc = model(), centred(of_mlp(1))
    found = evaluate(m, tc, ids(), skip=0)
    run = m.run(ids(), keep=["mlp_in", "mlp_out"])
    y = run["mlp_out", 1] - run["mlp_out", 1].mean(-1, keepdim=True)
    missed = (tc(run["mlp_in", 1]) - y).square().sum() / (y - y.mean((0, 1))).square().sum()
    assert found.fits[0].explained[0] == pytest.approx(1 - float(missed), abs=1e-4)
    ablated = m.run(ids(), edits=[Set("mlp_out", run["mlp_out", 1].mean((0, 1)), layers=1)]).loss
    assert found.loss[2] == pytest.approx(float(ablated), abs=1e-5)  # mean ablation is of the whole


def test_with_and_without_the_mean_they_do_not_belong_together() -> None:
    with pytest.raises(ValueError, match=r"mlp_out.1 is written by dictionaries with and without its mean"):
        spliced([centred(of_mlp(0, writes=2)), of_mlp(1)])


def test_an_autoencoder_of_heads_side_by_side_is_spliced_and_judged() -> None:
    m = model()
    sae = Transcoder(numbers(40, 16), None, numbers(40, 16), None, TopK(6), reads=("z", 1), writes=("z", 1))
    found = evaluate(m, sae, ids(), skip=0)
    z = m.run(ids(), keep=["z"])["z", 1]
    with m.trace(ids()) as t:
        t["z", 1] = sae(z)
    log_p = t.logits[:, :-1].double().log_softmax(-1)
    assert found.loss[1] == pytest.approx(float(-log_p.gather(-1, ids()[:, 1:, None]).mean()), abs=1e-5)


def test_the_evaluation_looks_at_a_bounded_number_of_logits_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few rows at a time give the same, and no tensor of float64 is larger than allowed."""
    m, tc = model(), of_mlp(1)
    expected = evaluate(m, tc, ids())
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            made = func(*args, **(kwargs or {}))
            if isinstance(made, Tensor) and made.dtype == torch.float64 and made.shape[-1:] == (131,):
                largest = max(largest, made.numel())
            return made

    monkeypatch.setattr(evaluating, "_COMPARED", 3 * 131)
    monkeypatch.setattr(evaluating, "_LOGITS", 9 * 131)  # one of the two chunks
    with Watch():
        found = evaluate(m, tc, ids())
    assert largest == 3 * 131
    assert found.loss == pytest.approx(expected.loss)
    assert found.kl == pytest.approx(expected.kl)
