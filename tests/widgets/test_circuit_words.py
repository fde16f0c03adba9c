"""The few words about a feature of a graph: what it promotes as it is active there, from an index or the weights."""

import numpy as np
import torch

import lenskit as lk
from lenskit.circuits.attributing.asking import attribute
from lenskit.circuits.graph import FEATURE
from lenskit.models.show import show
from lenskit.transcoders.activations import TopK
from lenskit.transcoders.transcoder import Transcoder
from lenskit.widgets.circuit_words import words_of
from tests.models.tiny import tiny, tiny_tokenizer
from tests.widgets.made_up_circuits import graph
from tests.widgets.made_up_features import PROMPT, index, model


def promoted(model: lk.Model, row: torch.Tensor) -> str:
    """The three tokens whose logits a row of the residual stream raises most, by the modules' own weights."""
    inner = model.hf_model
    with torch.no_grad():
        logits = inner.lm_head.weight @ (inner.model.norm.weight * row)
    tokens = logits.topk(3).indices.tolist()
    texts = [model.text.pieces([token])[0] for token in tokens]
    return " · ".join(show((text.strip() or text) if isinstance(text, str) else text) for text in texts)


def test_without_a_model_and_an_index_nothing_has_words() -> None:
    assert words_of(graph(), {}) == {}


def test_neurons_say_what_they_promote_and_those_active_below_0_what_they_suppress_else() -> None:
    expected, signs = {}, set()
    for number in np.flatnonzero(graph().kind == FEATURE):
        node, activation = graph().nodes[number], float(graph().activation[number])
        sign = -1 if activation < 0 else 1
        signs.add(sign)
        column = model().hf_model.model.layers[node.layer].mlp.down_proj.weight[:, node.feature]
        expected[f"{'-' if sign < 0 else ''}{node.layer}.{node.feature}"] = promoted(model(), sign * column)
    assert words_of(graph(), {}, model()) == expected
    assert signs == {-1, 1}, "this graph should have neurons of both signs"


def test_an_index_is_asked_first() -> None:
    known = words_of(graph(), {1: index()})
    both = words_of(graph(), {1: index()}, model())
    assert known.items() <= both.items()
    assert len(both) > len(known) > 0


def test_features_of_a_transcoder_say_what_they_write() -> None:
    noise = torch.Generator().manual_seed(0)
    small = lk.Model(tiny("llama", vocab=300, layers=2), tiny_tokenizer(300), name="tiny")
    W_enc, W_dec = torch.randn(40, 32, generator=noise), torch.randn(40, 32, generator=noise)
    dictionary = Transcoder(W_enc, None, W_dec, None, TopK(5), reads=("mlp_in", 1), writes=("mlp_out", 1))
    made = attribute(small, PROMPT, [dictionary], " the", features=60)
    found = words_of(made, {}, small, [dictionary])
    there = [node for node in made.nodes if node.kind == "feature" and node.layer == 1]
    assert len(there) == 5
    for node in there:
        assert found[f"1.{node.feature}"] == promoted(small, W_dec[node.feature])
