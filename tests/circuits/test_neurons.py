"""Neurons as features: how each comes about is exact, whatever the MLP is made of."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import lenskit as lk
from lenskit.circuits.attributing.asking import attribute
from lenskit.circuits.attributing.neurons import Neurons
from lenskit.circuits.attributing.replacement import Replacement
from lenskit.circuits.graph import FEATURE
from lenskit.models.sites import Site
from tests.models.tiny import tiny

IDS = torch.randint(1, 131, (1, 6), generator=torch.Generator().manual_seed(5))
GATED = ["llama", "llama with biases", "gemma2", "phi3", "qwen3", "granite"]
PLAIN = ["gpt2", "gpt_neox", "opt", "phi"]


def model_of(family: str) -> lk.Model:
    """In float64, so that what is exact is seen to be exact."""
    config: dict[str, Any] = {"opt": {"ffn_dim": 96}, "llama with biases": {"mlp_bias": True}}.get(family, {})
    return lk.Model(tiny(family.split()[0], **config).double())


def neurons(model: lk.Model, layer: int) -> tuple[Neurons, Replacement]:
    basis = Neurons(model, layer)
    return basis, Replacement.of(model, IDS, basis.writes, [basis.reads])


def made(basis: Neurons, replacement: Replacement, features: Tensor, pos: Tensor) -> Tensor:
    """`vector @ x + constant`, of what the basis says and what the MLP reads."""
    read = basis.read(replacement, features, pos)
    x = replacement.read[basis.reads].detach()[0, pos]
    return torch.stack([v @ at for v, at in zip(read.vectors.double(), x, strict=True)]) + read.constants


@pytest.mark.parametrize("family", GATED)
def test_of_a_gated_mlp_the_value_is_what_the_down_projection_reads(family: str) -> None:
    model = model_of(family)
    run = model.run(IDS, keep="mlp_post")
    for layer in range(model.n_layers):
        basis, replacement = neurons(model, layer)
        active = basis.active(replacement)
        assert len(active.features) == int(run["mlp_post", layer].count_nonzero()) > 550
        expected = run["mlp_post", layer][0, active.pos, active.features]
        # The model's own norms compute in float32 whatever the model is, and the held ones do not.
        torch.testing.assert_close(active.activations, expected, atol=1e-5, rtol=1e-5)
        value = made(basis, replacement, active.features, active.pos)
        torch.testing.assert_close(value, active.activations, atol=1e-10, rtol=1e-8)


def test_the_biases_of_a_gated_neuron_are_the_constant() -> None:
    basis, replacement = neurons(model_of("llama with biases"), 1)
    active = basis.active(replacement)
    assert basis.read(replacement, active.features, active.pos).constants.abs().max() > 0.01
    whole = attribute(model_of("llama with biases"), IDS, features=10**6, whole_first=False)
    told = np.bincount(whole.target, whole.weight, len(whole)) + whole.bias + whole.rest
    targets = ~np.isnan(whole.value)
    np.testing.assert_allclose(told[targets], whole.value[targets], atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_half_of_a_gated_neuron_comes_by_its_gate_and_half_by_what_the_gate_multiplies(family: str) -> None:
    model = model_of(family)
    basis, replacement = neurons(model, 1)
    mlp: Any = model.anatomy.blocks[1].mlp
    x = replacement.read[basis.reads].detach()[0]
    if family == "phi3":  # one matrix, the gate first
        gate, up = mlp.gate_up_proj.weight.detach().chunk(2)
    else:
        gate, up = mlp.gate_proj.weight.detach(), mlp.up_proj.weight.detach()
    for feature, pos in ((0, 0), (17, 3), (95, 5)):
        (a, b) = gate[feature] @ x[pos], up[feature] @ x[pos]
        slope = a.sigmoid()  # of silu, silu(a) / a
        expected = 0.5 * slope * (b * gate[feature] + a * up[feature])
        read = basis.read(replacement, torch.tensor([feature]), torch.tensor([pos]))
        torch.testing.assert_close(read.vectors[0].double(), expected, atol=1e-10, rtol=1e-8)
        assert float(read.constants) == 0.0


@pytest.mark.parametrize("family", PLAIN)
def test_of_a_plain_mlp_the_value_is_what_enters_the_nonlinearity(family: str) -> None:
    model = model_of(family)
    run = model.run(IDS, keep=["mlp_pre", "mlp_post"])
    for layer in range(model.n_layers):
        basis, replacement = neurons(model, layer)
        active = basis.active(replacement)
        expected = run["mlp_pre", layer].reshape(IDS.shape[1], -1)[active.pos, active.features]
        value = made(basis, replacement, active.features, active.pos)
        torch.testing.assert_close(value, expected, atol=1e-10, rtol=1e-8)  # these norms are float64 throughout
        read = basis.read(replacement, active.features, active.pos)
        torch.testing.assert_close(read.constants.double(), model.weights.b_in[layer].double()[active.features])
        assert read.constants.abs().max() > 0.1


def test_neurons_that_a_relu_has_silenced_are_no_nodes() -> None:
    model = model_of("opt")
    post = model.run(IDS, keep="mlp_post")["mlp_post", 1].reshape(IDS.shape[1], -1)
    basis, replacement = neurons(model, 1)
    active = basis.active(replacement)
    there = set(zip(active.pos.tolist(), active.features.tolist(), strict=True))
    assert there == {(int(pos), int(feature)) for pos, feature in (post > 0).nonzero()}
    assert 0 < len(there) < post.numel()


def test_a_closed_gate_leaves_no_nan_and_no_node() -> None:
    hf = tiny("llama")
    mlp = hf.model.layers[1].mlp
    with torch.no_grad():
        mlp.gate_proj.weight[:7] = 0.0  # silu(0) is 0, and its slope is 0 / 0
        mlp.up_proj.weight[7:9] = 0.0
    model = lk.Model(hf)
    basis, replacement = neurons(model, 1)
    assert not set(basis.active(replacement).features.tolist()) & set(range(9))
    read = basis.read(replacement, torch.arange(12), torch.full((12,), 3))
    assert bool(read.vectors.isfinite().all())
    assert bool(read.constants.isfinite().all())
    assert not read.vectors[:9].any()
    assert read.vectors[9:].any(-1).all()
    graph = attribute(model, IDS, features=10**6)
    features = graph.kind == FEATURE
    assert not set(graph.feature[features & (graph.layer == 1)].tolist()) & set(range(9))
    for name in ("value", "activation", "bias", "rest", "size"):
        assert bool(torch.from_numpy(getattr(graph, name)[features].copy()).isfinite().all()), name
    assert bool(torch.from_numpy(graph.weight.copy()).isfinite().all())


def test_every_neuron_is_read_where_the_mlp_reads_and_put_in_where_it_writes() -> None:
    basis = Neurons(model_of("llama"), 2)
    assert (basis.reads, basis.writes) == (Site("mlp_in", 2), (Site("mlp_post", 2),))
    assert (basis.kind, basis.past()) == ("neurons", [])
