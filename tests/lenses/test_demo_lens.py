"""The lens of the demo model that comes with lenskit says early what the model says late."""

from pathlib import Path

import numpy as np
import pytest

import lenskit as lk
from lenskit.lenses.files.places import find
from lenskit.lenses.tuned import TunedLens
from lenskit.models.identity import ModelMismatch
from tests.models.tiny import tiny

SENTENCES = [
    "The capital of France is Paris, and the capital of Italy is Rome.",
    "She opened the window, looked at the rain, and decided to stay at home until the evening.",
    "Water boils at a hundred degrees when the pressure is that of the sea level.",
]


def test_it_lowers_the_divergence_at_every_layer_on_text_that_is_not_austen_s(demo: lk.Model) -> None:
    tuned, logit = TunedLens.load(demo, "demo"), TunedLens(demo)
    kl = [np.concatenate([lens.read(each).kl[:-1, 1:] for each in SENTENCES], 1).mean(1) for lens in (tuned, logit)]
    assert (kl[0] < kl[1]).all()
    assert kl[0][5:26].mean() < 0.25 * kl[1][5:26].mean()


def test_it_knows_paris_before_the_logit_lens_does(demo: lk.Model) -> None:
    tuned = TunedLens.load(demo, "demo").read("The capital of France is", target=" Paris")
    logit = lk.LogitLens(demo).read("The capital of France is", target=" Paris")
    # resid_pre of a layer is resid_post of the one before.
    assert tuned.rank[25, -1] < 5
    assert (tuned.target_probability[1:-1, -1] > logit.target_probability[:-1, -1]).mean() > 0.8


def test_it_says_how_it_was_made_and_is_small(demo: lk.Model) -> None:
    lens = TunedLens.load(demo, "demo")
    assert lens.about["train"]["loss"] == "kl"
    assert lens.identity.model == demo.name
    assert Path(find("demo", demo.name)).stat().st_size < 10.5e6


def test_it_is_refused_on_another_model() -> None:
    with pytest.raises(
        ModelMismatch, match=r"the lens at demo is not one for .*: it has d_model 576, and this model 32"
    ):
        TunedLens.load(lk.Model(tiny("llama")), "demo")
