"""A dictionary in training finds what the activations are made of, and goes on from where it stopped."""

import io

import pytest
import torch
from torch import Tensor

from lenskit.transcoders.recipe import Bias, Recipe, Revival
from lenskit.transcoders.training import Training, geometric_median

KINDS = {
    "topk": {"k": 5},
    "batchtopk": {"k": 5},
    "relu": {"sparsity": 2e-2},
    "jumprelu": {"sparsity": 2e-2, "bandwidth": 0.1},
    "gated": {"sparsity": 2e-2},
}


def planted(tokens: int, *, directions: int, d: int, active: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Activations (token, d) made of a few of many known directions, and these (direction, d)."""
    noise = torch.Generator().manual_seed(seed)
    basis = torch.nn.functional.normalize(torch.randn(directions, d, generator=noise), dim=1)
    scores = torch.rand(tokens, directions, generator=noise)
    chosen = scores.topk(active, 1).indices
    sizes = torch.rand(tokens, active, generator=noise) + 0.5
    return (sizes[..., None] * basis[chosen]).sum(1), basis


def trained(recipe: Recipe, x: Tensor, y: Tensor, steps: int, *, tied: bool) -> Training:
    training = Training(recipe, x.shape[1], y.shape[1], tied=tied, steps=steps).begin(x, y)
    for step in range(steps):
        rows = torch.arange(step * recipe.batch, (step + 1) * recipe.batch) % len(x)
        training.step(x[rows], y[rows])
    return training


def test_planted_directions_are_recovered_and_hardly_a_feature_is_dead() -> None:
    x, basis = planted(60_000, directions=256, d=64, active=4)
    recipe = Recipe(256, k=4, lr=3e-3, batch=512, dead_after=10_000)
    training = trained(recipe, x, x, 1200, tied=True)
    found = training.dictionary(("resid_post", 0), ("resid_post", 0))
    cosines = torch.nn.functional.normalize(found.W_dec[0], dim=1) @ basis.T
    assert cosines.amax(0).mean() > 0.95
    assert (training.since > 10_000).double().mean() < 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_learns_and_its_dictionary_says_what_the_learner_said(kind: str) -> None:
    x, _ = planted(6_000, directions=96, d=32, active=4)
    x = x * 3 + 1
    recipe = Recipe(128, activation=kind, batch=256, lr=5e-3, **KINDS[kind])  # pyright: ignore[reportArgumentType]
    training = trained(recipe, x, x, 300, tied=True)
    made = training.dictionary(("resid_post", 0), ("resid_post", 0))
    missed = (made(x) - x).square().mean() / x.var(0).mean()
    assert missed < 0.25
    with torch.no_grad():
        lost = training.learner(training.of_x(x[:500]), training.of_y(x[:500]))
    if kind != "batchtopk":  # whose threshold in training is the batch's own
        error = (x[:500] - made(x[:500])) / training.of_y.scale
        assert torch.allclose(error, lost.error, atol=1e-4)
    assert float(made.encode(x).counts.double().mean()) < 40


def test_a_skip_begins_as_the_best_linear_map() -> None:
    torch.manual_seed(0)
    x = torch.randn(4000, 16) * 2 + 1
    y = x @ torch.randn(16, 8) + 0.1 * torch.randn(4000, 8)
    training = Training(Recipe(32, k=4, skip=True), 16, 8, tied=False, steps=10).begin(x, y)
    linear = training.dictionary(("mlp_in", 0), ("mlp_out", 0))
    linear.W_dec.zero_()
    assert (linear(x) - y).square().mean() / y.var(0).mean() < 1e-2


@pytest.mark.parametrize("revival", ["aux-k", "ghost gradients", "resample"])
def test_features_that_died_come_back(revival: Revival) -> None:
    x, _ = planted(8_000, directions=64, d=32, active=4)
    dead = {}
    for way in (revival, "none"):
        recipe = Recipe(64, k=4, batch=256, lr=3e-3, revival=way, dead_after=2_000, aux_k=32)
        training = Training(recipe, 32, 32, tied=True, steps=400).begin(x, x)
        with torch.no_grad():
            training.learner.b_enc[:32] = -5.0  # no input makes these active
        training.since[:32] = 5_000
        for step in range(400):
            rows = torch.arange(step * 256, (step + 1) * 256) % len(x)
            training.step(x[rows], x[rows])
        dead[way] = int((training.since[:32] > 2_000).sum())
    assert dead["none"] > 24
    assert dead[revival] < 16


@pytest.mark.parametrize("kind", KINDS)
def test_what_goes_on_from_a_saved_state_ends_with_the_very_same_bits(kind: str) -> None:
    x, _ = planted(3_000, directions=48, d=16, active=3)
    recipe = Recipe(64, activation=kind, batch=128, revival="resample", dead_after=500, **KINDS[kind])  # pyright: ignore
    whole = trained(recipe, x, x, 40, tied=True)
    half = Training(recipe, 16, 16, tied=True, steps=40).begin(x, x)
    for step in range(40):
        if step == 17:
            file = io.BytesIO()
            torch.save(half.state(), file)
            file.seek(0)
            half = Training(recipe, 16, 16, tied=True, steps=40)
            half.resume(torch.load(file, weights_only=True))
        rows = torch.arange(step * 128, (step + 1) * 128) % len(x)
        half.step(x[rows], x[rows])
    for name, weight in whole.learner.state_dict().items():
        assert torch.equal(weight, half.learner.state_dict()[name]), name


def test_the_geometric_median_is_not_moved_by_outliers() -> None:
    points = torch.cat([torch.randn(200, 3, generator=torch.Generator().manual_seed(0)) + 2, torch.full((20, 3), 1e4)])
    assert (geometric_median(points) - 2).abs().max() < 0.3
    assert (points.mean(0) - 2).abs().max() > 100


def test_the_decoder_keeps_unit_length_unless_told_otherwise() -> None:
    x, _ = planted(2_000, directions=48, d=16, active=3)
    kept, free = (
        trained(Recipe(64, k=4, batch=128, lr=1e-2, unit_norm=unit_norm), x, x, 20, tied=True).learner.W_dec.norm(dim=1)
        for unit_norm in (True, False)
    )
    assert torch.allclose(kept, torch.ones(64), atol=1e-6)
    assert (free - 1).abs().max() > 1e-2


@pytest.mark.parametrize("bias", ["mean", "geometric median", "zero"])
def test_the_first_bias_is_the_one_asked_for(bias: Bias) -> None:
    x, _ = planted(2_000, directions=48, d=16, active=3)
    x = torch.cat([x, x[:40] + 50])  # outliers, which move the mean and hardly the median
    training = Training(Recipe(64, k=4, start_bias=bias), 16, 16, tied=True, steps=10).begin(x, x)
    made = training.dictionary(("resid_post", 0), ("resid_post", 0))
    expected = {"mean": x.mean(0), "geometric median": geometric_median(x), "zero": x.mean(0)}[bias]
    assert torch.allclose(made.b_dec[0], expected, atol=1e-2)  # standardised, zero is the mean


def test_a_transcoder_does_not_begin_worse_than_its_linear_map() -> None:
    torch.manual_seed(0)
    x = torch.randn(4000, 64)
    y = x @ torch.randn(64, 64) + 4 * (x @ torch.randn(64, 64)).relu()
    training = Training(Recipe(512, k=16, skip=True), 64, 64, tied=False, steps=10).begin(x, y)
    begun = training.dictionary(("mlp_in", 0), ("mlp_out", 0))(x)
    assert training.linear is not None
    linear = training.of_x(x) @ training.linear.T * training.of_y.scale + training.of_y.mean
    missed = [float((each - y).square().sum() / (y - y.mean(0)).square().sum()) for each in (begun, linear)]
    assert missed[0] < missed[1] + 0.02


def test_only_active_rows_of_the_weights_have_gradients() -> None:
    x, _ = planted(64, directions=48, d=16, active=3)
    training = Training(Recipe(512, k=4, revival="none"), 16, 16, tied=True, steps=10).begin(x, x)
    lost = training.learner(training.of_x(x), training.of_y(x))
    lost.loss.backward()
    active = torch.zeros(512, dtype=torch.bool)
    active[lost.active] = True
    assert 0 < int(active.sum()) < 256
    for weight in (training.learner.W_enc, training.learner.W_dec):
        assert weight.grad is not None
        assert not bool(weight.grad[~active].any())
