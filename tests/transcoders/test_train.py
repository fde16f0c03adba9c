"""Training on a model's own activations: what comes of it, and what was seen on the way."""

from typing import get_type_hints

import pytest
import torch
from torch import nn

from lenskit.models.corpus import chunks_of
from lenskit.models.model import Model
from lenskit.models.sites import Site
from lenskit.transcoders.evaluate import evaluate
from lenskit.transcoders.history import History
from lenskit.transcoders.recipe import Options, Recipe
from lenskit.transcoders.train import Wanted, train
from lenskit.transcoders.transcoder import Transcoder
from tests.models.tiny import tiny, tiny_tokenizer
from tests.transcoders.training_process import READS, STREAM, WRITES, ids, model


def test_several_dictionaries_learn_in_one_pass() -> None:
    seen: list[list[History]] = []
    m, given = model(), ids(200)
    asked = [
        Wanted(READS, WRITES, Recipe(96, k=6, batch=64, lr=3e-3, skip=True)),
        Wanted(STREAM, STREAM, Recipe(64, k=4, batch=64, lr=3e-3)),
    ]
    made = train(m, given, asked, epochs=16, held_out=0, on_step=seen.append)
    assert len(seen) == 16 * (200 * 16 // 64)
    run = m.run(given, keep=[READS, WRITES, STREAM])
    for tc, x, y in zip(made, (run[READS], run[STREAM]), (run[WRITES], run[STREAM]), strict=True):
        missed = (tc(x[:, 1:]) - y[:, 1:]).square().mean() / (y[:, 1:] - y[:, 1:].mean((0, 1))).square().mean()
        assert missed < 0.5
    assert made[0].about["recipe"]["n_features"] == 96
    assert (made[0].reads, made[0].writes) == (Site(*READS), (Site(*WRITES),))
    assert made[1].is_sae


OPTIONS: Options = {"n_features": 48, "k": 4, "batch": 64, "lr": 3e-3, "skip": True}


def trained(m: Model, **more: object) -> Transcoder:
    return Transcoder.train(m, ids(), reads=READS, writes=WRITES, epochs=3, look_every=10, **OPTIONS, **more)


def test_the_public_face_trains_one_or_one_for_each_layer_and_remembers_what_it_saw() -> None:
    m, steps = model(), list[int]()
    one = trained(m, on_step=lambda history: steps.append(history.step))
    assert steps == list(range(1, 25))
    assert isinstance(one.history, History)
    assert [look.step for look in one.history.looks] == [10, 20, 24]
    assert one.identity is not None
    both = Transcoder.train_all(m, ids(), [0, 1], epochs=3, look_every=10, **OPTIONS)
    assert [str(tc.reads) for tc in both] == ["mlp_in.0", "mlp_in.1"]
    assert torch.equal(both[1].W_dec, one.W_dec)


def test_on_a_dictionary_train_is_what_it_is_on_every_module() -> None:
    tc = trained(model())
    whole = nn.Sequential(tc)
    assert whole.eval() is whole
    assert not tc.training
    assert tc.train() is tc
    assert tc.training


def test_the_options_of_train_are_the_fields_of_a_recipe() -> None:
    assert get_type_hints(Options) == get_type_hints(Recipe)
    with pytest.raises(TypeError, match="breadth"):
        trained(model(), breadth=3)


def test_what_was_held_out_is_not_learned_from_and_judged_as_evaluate_judges() -> None:
    m, given = model(), ids()
    tc = trained(m)
    unseen = given[torch.arange(8) * 5]
    found = evaluate(m, tc, unseen)
    assert tc.history is not None
    last = tc.history.looks[-1]
    assert last.explained == pytest.approx(found.fits[0].explained[0], abs=1e-5)
    assert last.recovered == pytest.approx(found.recovered, abs=1e-4)
    other = given.clone()
    other[torch.arange(8) * 5] = 7
    again = Transcoder.train(m, other, reads=READS, writes=WRITES, epochs=3, look_every=10, **OPTIONS)
    assert torch.equal(again.W_dec, tc.W_dec)


def test_the_baseline_is_the_linear_map_that_the_skip_began_as() -> None:
    m = model()
    tc = Transcoder.train(  # one step, and none of it: the rate is as good as 0
        m,
        ids(),
        reads=READS,
        writes=WRITES,
        tokens=16 * 17,
        length=17,
        **{**OPTIONS, "lr": 1e-12},
    )
    assert tc.history is not None
    run = m.run(ids()[torch.arange(16) * 40 // 16][torch.arange(8) * 2], keep=[READS, WRITES])
    x, y = run[READS][:, 1:].flatten(0, 1), run[WRITES][:, 1:].flatten(0, 1)
    tc.W_dec.zero_()
    missed = (tc(x) - y).square().sum() / (y - y.mean(0)).square().sum()
    assert tc.history.linear == pytest.approx(1 - float(missed), abs=1e-4)


def test_density_is_the_share_of_tokens_in_which_each_feature_is_active() -> None:
    m = model()
    tc = trained(m, held_out=0)
    assert tc.history is not None
    counts = torch.bincount(tc.encode(m.run(ids(), keep=[READS])[READS][:, 1:]).features, minlength=48)
    assert tc.history.density.sum() == pytest.approx(4, abs=0.2)  # k
    now = counts / (40 * 16)
    assert torch.corrcoef(torch.stack([now, torch.from_numpy(tc.history.density)]))[0, 1] > 0.9


def test_texts_are_read_with_the_tokenizer_and_their_ends_left_out() -> None:
    m = Model(tiny("llama", vocab=300), tiny_tokenizer(300), name="tiny")
    texts = ["When Mary and John went to the store, John gave a drink to Mary. "] * 60
    tc = Transcoder.train(m, texts, reads=READS, writes=READS, length=32, **{**OPTIONS, "skip": False})
    assert tc.is_sae
    chunks = chunks_of(m, texts, 32).ids
    learned = [row for n, row in enumerate(chunks) if n not in {k * len(chunks) // 8 for k in range(8)}]
    assert tc.about["tokens"] == int((torch.stack(learned)[:, 1:] != 0).sum())
    assert tc.history is not None
    assert tc.history.looks[-1].explained > 0.3


def test_a_dictionary_that_cannot_stand_in_its_place_has_no_recovered_loss() -> None:
    m = model()
    tc = Transcoder.train(m, ids(), reads=("mlp_in", 0), writes=WRITES, **OPTIONS)
    assert tc.history is not None
    assert tc.history.looks[-1].recovered != tc.history.looks[-1].recovered  # NaN
    assert "recovered" not in str(tc.history)


def test_too_little_text_is_refused() -> None:
    with pytest.raises(ValueError, match="not one batch of 64"):
        train(model(), ids(2), [Wanted(READS, WRITES, Recipe(8, k=2, batch=64))], held_out=0)
    with pytest.raises(ValueError, match=r"of 8 chunks of text, 8 cannot be held out: .* held_out=0"):
        train(model(), ids(8), [Wanted(READS, WRITES, Recipe(8, k=2, batch=64))])
