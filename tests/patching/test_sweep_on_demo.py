"""The indirect object of the demo model, with the figures that others have measured by plain hooks."""

import numpy as np
import pytest
import torch

import lenskit
from lenskit.patching.metrics import logit_diff
from lenskit.patching.sweeps import sweep

CLEAN = "When Mary and John went to the store, John gave a drink to"
CORRUPT = "When Mary and John went to the store, Mary gave a drink to"
SUBJECT, END = 9, 13


def test_the_answer_moves_from_the_second_subject_to_the_end(demo: "lenskit.Model") -> None:
    made = sweep(demo, CLEAN, CORRUPT, "resid_post", logit_diff(" Mary", " John"))
    assert made.engine == "packed rows"
    assert made.values.shape == (30, 14)
    assert made.clean == pytest.approx(6.1, abs=0.1)
    share = made.normalised
    assert np.abs(share[:19, SUBJECT] - 1.0).max() < 0.02
    assert np.abs(share[:19, END]).max() < 0.02
    assert share[21, SUBJECT] == pytest.approx(0.62, abs=0.01)
    assert share[21, END] == pytest.approx(0.36, abs=0.01)
    assert np.abs(share[24:, SUBJECT]).max() < 0.05
    assert share[27, END] == pytest.approx(0.98, abs=0.01)
    assert (made.effect[:, :SUBJECT] == 0).all()
    assert made.axes[1].labels[SUBJECT] == "·Mary"


@torch.no_grad()
def test_it_equals_plain_forwards_with_plain_hooks(demo: "lenskit.Model") -> None:
    places = [(3, 9), (12, 11), (21, 9), (21, 13), (28, 13)]
    made = sweep(demo, CLEAN, CORRUPT, "resid_pre", logit_diff(" Mary", " John"), layers=[3, 12, 21, 28])
    hf = demo.hf_model
    clean, corrupt = (torch.tensor([demo.text.ids(text)]) for text in (CLEAN, CORRUPT))
    mary, john = demo.text.tokens([" Mary", " John"])
    states = hf(clean, output_hidden_states=True).hidden_states
    for layer, pos in places:

        def put(module: object, args: tuple[torch.Tensor], layer: int = layer, pos: int = pos) -> object:
            new = args[0].clone()
            new[:, pos] = states[layer][:, pos]
            return (new, *args[1:])

        handle = hf.model.layers[layer].register_forward_pre_hook(put)
        logits = hf(corrupt).logits[0, -1]
        handle.remove()
        value = made.values[[3, 12, 21, 28].index(layer), pos]
        assert value == pytest.approx(float(logits[mary] - logits[john]), abs=1e-4)


def test_a_few_heads_carry_it(demo: "lenskit.Model") -> None:
    made = sweep(demo, CLEAN, CORRUPT, "z", logit_diff(" Mary", " John"), ("layer", "head"), layers=range(16, 30))
    assert made.best(1)[0].where == {"layer": 23, "head": 3}
