"""Training is plain gradient descent on every layer by itself, only faster; the same arguments give the same lens."""

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import lenskit as lk
from lenskit.data import Chunks
from lenskit.lenses.training.history import History
from lenskit.lenses.training.recipe import Recipe
from lenskit.lenses.training.steps import Training
from lenskit.lenses.translators import Translators
from lenskit.lenses.tuned import TunedLens
from tests.lenses import naive_training
from tests.models.tiny import tiny, tiny_tokenizer

VOCAB = 300
IDS = torch.randint(VOCAB, (40, 12), generator=torch.Generator().manual_seed(4))


@cache
def model(architecture: str = "llama") -> lk.Model:
    return lk.Model(tiny(architecture, vocab=VOCAB), tiny_tokenizer(VOCAB), name="tiny")


@cache
def exact() -> lk.Model:
    return lk.Model(tiny("llama", vocab=VOCAB).double())


def weights(lens: TunedLens) -> torch.Tensor:
    whole = lens.translators.whole()
    assert whole.bias is not None
    return torch.cat([whole.weight, whole.bias[:, :, None]], -1)


def train(of: lk.Model | None = None, **how: Any) -> TunedLens:
    arguments = {"steps": 6, "tokens_per_step": 48, "start": "identity"} | how
    return TunedLens.train(of or model(), IDS, **arguments)


# It is what it says

VARIANTS: dict[str, dict[str, Any]] = {
    "adam": {},
    "adam decayed": {"weight_decay": 0.3},
    "sgd": {"optimizer": "sgd"},
    "sgd decayed, warmed up": {"optimizer": "sgd", "weight_decay": 0.1, "warmup": 3, "lr": 0.5},
    "ce": {"loss": "ce"},
    "ce of this token": {"loss": "ce", "token_shift": 0},
    "ce of the token before": {"loss": "ce", "token_shift": -1, "skip_first": 0},
    "kl a token later": {"token_shift": 1},
    "kl two tokens before": {"token_shift": -2},
    "bias only": {"bias_only": True, "lr": 0.1},
    "some layers": {"layers": [0, 2]},
    "in passes": {"accumulate": 2},
    "hardly clipped": {"clip": 50.0, "optimizer": "sgd"},
    "not clipped": {"clip": None},
    "all positions": {"skip_first": 0},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_is_plain_gradient_descent_on_each_layer(variant: str) -> None:
    how = VARIANTS[variant]
    layers = how.get("layers", [0, 1, 2])
    rng = torch.Generator().manual_seed(5)
    begin = (0.1 * torch.randn(*shape, generator=rng) for shape in ((3, 32, 32), (3, 32)))
    start = TunedLens(exact(), Translators(*begin))
    lens = train(exact(), start=start, **how)
    recipe: dict[str, Any] = lens.about["train"] | {"layers": tuple(layers)}
    training = Training(exact(), Chunks(IDS), Recipe(**recipe), lambda: Translators.identity(3, 32))
    batches = [training.batches(step) for step in range(6)]
    whole = start.translators.whole()
    assert whole.bias is not None
    weight, bias, losses = naive_training.train(
        exact(), batches, (whole.weight[layers], whole.bias[layers]), layers, recipe
    )
    expected = whole.with_layers(layers, Translators(weight, bias))
    assert expected.bias is not None
    torch.testing.assert_close(weights(lens)[..., :-1], expected.weight, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(weights(lens)[..., -1], expected.bias, rtol=1e-5, atol=1e-7)
    assert lens.history is not None
    np.testing.assert_allclose(lens.history.losses, losses, rtol=1e-7)


def test_layers_do_not_touch_each_other() -> None:
    together, alone = train(optimizer="sgd"), train(optimizer="sgd", layers=[1])
    assert torch.equal(weights(together)[1], weights(alone)[1])
    assert (weights(alone)[[0, 2]] == 0).all()


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("loss", ["kl", "ce"])
def test_every_layer_s_loss_falls(architecture: str, loss: str) -> None:
    lens = train(model(architecture), loss=loss, steps=40, tokens_per_step=480, lr=3e-3)
    assert lens.history is not None
    assert (lens.history.losses[-1] < lens.history.losses[0]).all()


def test_the_closed_form_is_a_better_beginning_than_the_identity() -> None:
    closed, identity = train(start="closed form", steps=1), train(start="identity", steps=1)
    assert closed.history is not None
    assert identity.history is not None
    assert (closed.history.losses[0] < identity.history.losses[0]).all()


def test_for_cross_entropy_the_closed_form_is_of_what_predicts_the_token() -> None:
    fit = TunedLens.fit(model(), IDS, tokens=None)
    began = train(start="closed form", loss="ce", lr=1e-30)
    torch.testing.assert_close(weights(began), weights(fit), rtol=1e-4, atol=1e-5)


def test_the_same_arguments_give_the_same_lens_and_another_seed_another() -> None:
    assert torch.equal(weights(train()), weights(train()))
    assert not torch.equal(weights(train()), weights(train(seed=1)))


def test_every_chunk_comes_once_each_time_round_in_an_order_of_its_own() -> None:
    recipe = Recipe(**train(tokens_per_step=120).about["train"] | {"layers": (0, 1, 2)})
    training = Training(model(), Chunks(IDS), recipe, lambda: Translators.identity(3, 32))
    rounds = [[row.tolist() for step in steps for batch in training.batches(step) for row in batch]
              for steps in (range(4), range(4, 8))]  # fmt: skip
    for each in rounds:
        assert sorted(each) == sorted(IDS.tolist())
    assert rounds[0] != rounds[1]


def test_the_model_is_only_read() -> None:
    before = {name: value.clone() for name, value in model().hf_model.state_dict().items()}
    wanted = [parameter.requires_grad for parameter in model().hf_model.parameters()]
    train()
    assert all(torch.equal(value, before[name]) for name, value in model().hf_model.state_dict().items())
    assert [parameter.requires_grad for parameter in model().hf_model.parameters()] == wanted
    assert all(parameter.grad is None for parameter in model().hf_model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model().hf_model.modules())
    assert torch.is_grad_enabled()


# What it tells


def test_after_every_step_it_tells_the_losses_so_far() -> None:
    seen: list[History] = []
    lens = train(on_step=seen.append)
    assert [each.step for each in seen] == [1, 2, 3, 4, 5, 6]
    assert lens.history is not None
    np.testing.assert_array_equal(seen[-1].losses, lens.history.losses)
    np.testing.assert_array_equal(seen[2].losses, lens.history.losses[:3])
    assert lens.history.nats.shape == (6,)
    assert lens.history.bits is None


def test_from_a_text_it_tells_bits_per_byte() -> None:
    text = "When Mary and John went to the store, John gave a drink to Mary. " * 20
    history = TunedLens.train(model(), text, steps=2, tokens_per_step=32, chunk=16, start="identity").history
    assert history is not None
    assert history.bits is not None
    tokens = len(model().text.ids(text))
    np.testing.assert_allclose(history.bits, history.nats * tokens / len(text) / math.log(2))
    assert str(history).endswith("bits per byte")


def test_the_history_is_a_figure_and_a_table() -> None:
    history = train(layers=[0, 2]).history
    assert history is not None
    figure: Any = history.figure()
    assert [trace.name for trace in figure.data] == ["layer 0", "layer 2", "mean"]
    np.testing.assert_allclose(figure.data[2].y, history.losses.mean(-1))
    table = history.to_pandas()
    assert len(table) == 12
    assert table[(table.step == 3) & (table.layer == 2)].nats.item() == history.losses[3, 1]
    assert repr(history).startswith("History(KL from the final prediction, step 6 of 6: ")
    empty = History(np.empty((0, 2)), (0, 2), 5, 48, "kl", None)
    assert len(empty.figure().data) == 3  # pyright: ignore[reportArgumentType] -- what a live view begins with


# What is refused


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ({"loss": "mse"}, "loss is 'kl' or 'ce', not 'mse'"),
        ({"optimizer": "muon"}, "optimizer is 'sgd' or 'adam', not 'muon'"),
        ({"tokens_per_step": 50}, "tokens_per_step=50 cannot be made of 1 equal passes of whole chunks of 12"),
        ({"accumulate": 3}, "take a multiple of 36"),
        ({"layers": [0, 3]}, r"layers=\[0, 3\]: this model has layers 0 to 2"),
        ({"layers": []}, r"layers=\[\]"),
        ({"start": "zero"}, "start is 'closed form', 'identity' or a TunedLens, not 'zero'"),
        ({"steps": 0}, "steps is more than 0, not 0"),
        ({"token_shift": 12}, "no position past 1 with another 12 ahead"),
    ],
)
def test_what_does_not_go_together_is_refused(how: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        train(**how)


def test_a_loss_that_is_no_number_stops_the_training() -> None:
    start = TunedLens(model(), Translators(torch.full((3, 32, 32), math.nan), torch.zeros(3, 32)))
    with pytest.raises(FloatingPointError, match=r"layers \[0, 1, 2\] is no number at step 0: take a smaller lr"):
        train(start=start)
