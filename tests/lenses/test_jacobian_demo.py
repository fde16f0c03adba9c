"""The Jacobian lens of the demo model that comes with lenskit reads what the logit lens does not."""

from pathlib import Path

import pytest
import torch

import lenskit as lk
from lenskit.lenses.jacobian import JacobianLens
from lenskit.lenses.jacobian_files.places import find
from lenskit.models.identity import ModelMismatch
from tests.models.tiny import tiny

HOT = "The opposite of hot is"
BOOT = "Fact: The currency used in the country shaped like a boot is the"


def test_it_reads_cold_where_the_logit_lens_does_not(demo: lk.Model) -> None:
    ours, logit = (each.read(HOT) for each in (JacobianLens.load(demo, "demo"), lk.LogitLens(demo)))
    assert {" cold", " colder"} & set(ours.tokens(layer=25, pos=-1)[:5])
    assert not {" cold", " colder"} & set(logit.tokens(layer=25, pos=-1)[:5])


def test_it_reads_the_currency_of_a_country_that_is_not_named(demo: lk.Model) -> None:
    ours, logit = (each.read(BOOT) for each in (JacobianLens.load(demo, "demo"), lk.LogitLens(demo)))
    assert " euro" in ours.tokens(layer=27, pos=-1)
    assert " euro" not in logit.tokens(layer=27, pos=-1)
    assert " currency" in ours.tokens(layer=22, pos=-1)


def test_it_says_how_it_was_made_and_is_small(demo: lk.Model) -> None:
    lens = JacobianLens.load(demo, "demo")
    assert lens.layers == tuple(range(29))
    assert lens.identity.model == demo.name
    assert lens.passages is not None
    assert (lens.about["fit"]["chunk"], lens.about["fit"]["skip_first"]) == (96, 16)
    assert Path(find("demo", demo.name)).stat().st_size < 10.5e6
    said = JacobianLens.inspect("demo")
    assert (said.dtype, said.model, said.target) == ("int8", demo.name, "final")


def test_its_late_layers_agree_with_a_refit_on_two_passages(demo: lk.Model) -> None:
    whole = JacobianLens.load(demo, "demo")
    late = JacobianLens(demo, {layer: whole.matrix(layer) for layer in (24, 26, 28)})
    short = torch.tensor([demo.text.ids(text)[:40] for text in lk.demo_texts()[:2]])
    made = late.check(short)
    assert made.passed, made
    assert [refit.cosine > 0.8 for refit in made.refits.values()] == [True] * 3, made
    assert all(made.kl[layer] < made.logit_kl[layer] for layer in made.kl)


def test_it_is_refused_on_another_model() -> None:
    with pytest.raises(ModelMismatch, match=r"the lens at demo is not one for .*: it has d_model 576"):
        JacobianLens.load(lk.Model(tiny("llama")), "demo")
