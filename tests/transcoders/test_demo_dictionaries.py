"""The dictionaries that come with lenskit: small, of the demo model, better than a straight line, and readable."""

import pytest
import torch

import lenskit as lk
from lenskit.models.sites import Site
from lenskit.transcoders.demo_dictionaries import demo_path
from lenskit.transcoders.evaluate import evaluate
from lenskit.transcoders.splicing import spliced
from lenskit.transcoders.transcoder import Transcoder
from tests.models.tiny import tiny

LAYERS = [19, 20, 21, 22, 23, 24]


def test_they_are_of_an_unbroken_run_of_layers_each_from_what_enters_an_mlp_to_what_leaves_it(demo: lk.Model) -> None:
    found = Transcoder.load_all("demo", demo)
    assert [(tc.reads, tc.writes) for tc in found] == [
        (Site("mlp_in", layer), (Site("mlp_out", layer),)) for layer in LAYERS
    ]
    assert all(repr(tc).endswith("3,072 features, topk 32, skip)") for tc in found)
    assert [tc.reads.layer for tc in Transcoder.load_all("demo", demo, layers=[20, 22])] == [20, 22]


def test_one_is_named_by_its_layer(demo: lk.Model) -> None:
    tc = Transcoder.load("demo/20", demo)
    assert tc.reads == Site("mlp_in", 20)
    assert torch.equal(tc.W_enc, Transcoder.load_all("demo", layers=[20])[0].W_enc)
    with pytest.raises(lk.LoadError, match=r'layer 3: there is "demo/19", .*"demo/24"'):
        Transcoder.load("demo/3")
    with pytest.raises(lk.LoadError, match="holds 6 dictionaries"):
        Transcoder.load("demo")


def test_no_other_place_is_taken_for_them() -> None:
    assert [demo_path(where) for where in ("./demo", "demo/gpt2", "demo/", "org/demo/20", "demo/20/x")] == [None] * 5


def test_another_model_refuses_them() -> None:
    with pytest.raises(lk.ModelMismatch, match="SmolLM2"):
        Transcoder.load("demo/20", lk.Model(tiny("llama"), name="org/tiny"))


def test_they_are_small_and_say_how_they_were_made() -> None:
    folder = demo_path("demo")
    assert folder is not None
    sizes = [path.stat().st_size for path in folder.iterdir()]
    assert len(sizes) == len(LAYERS)
    assert max(sizes) < 5e6
    for layer in LAYERS:
        about = Transcoder.inspect(folder / f"layer_{layer}.safetensors").about
        assert about["tokens"] > 40_000
        assert about["recipe"]["skip"]


def test_in_the_place_of_six_mlps_they_spare_most_of_what_these_are_worth(demo: lk.Model) -> None:
    """On passages that they were not trained on; beside them the skips alone, which are linear."""
    found = Transcoder.load_all("demo", demo)
    text = lk.demo_texts()[10:20]
    whole = evaluate(demo, found, text, tokens=512)
    assert whole.recovered > 0.5
    assert all(fit.explained[0] > 0.5 for fit in whole.fits)
    ids = torch.tensor([demo.text.ids(text[0])[:128]])
    run = demo.run(ids, keep=[site for tc in found for site in (tc.reads, *tc.writes)])
    for tc in found:
        x, y = run[tc.reads][0, 1:], run[tc.writes[0]][0, 1:]
        assert tc.W_skip is not None
        straight = x @ tc.W_skip[0].T + tc.b_dec[0]
        missed = [(y - made).square().sum() for made in (tc(x), straight)]
        assert missed[0] < 0.8 * missed[1]


def test_with_what_they_miss_the_model_says_what_it_says(demo: lk.Model) -> None:
    prompt = "The capital of France is"
    edits = spliced(Transcoder.load_all("demo", demo), errors_on=(demo, prompt))
    assert torch.allclose(demo.run(prompt, edits=edits).logits, demo.run(prompt).logits, atol=1e-2)


READABLE = [
    (155, "I could not help smiling", " help", " but"),
    (498, "She asked him whether it was so", " whether", " or"),
    (723, "He was an old friend of mine", " of", " mine"),
    (1358, "She had thrown herself into it", " thrown", " herself"),
    (1680, "We have never seen each other", " each", " other"),
    (1735, "The town was then known as York", " known", " name"),
    (2309, "They have been friends for years", " for", " years"),
]


@pytest.mark.parametrize(("feature", "text", "fires_at", "promotes"), READABLE)
def test_its_features_mean_something(demo: lk.Model, feature: int, text: str, fires_at: str, promotes: str) -> None:
    tc = Transcoder.load("demo/20", demo)
    ids = demo.text.ids(text)
    activity = tc.encode(demo.run(text, keep=tc.reads, stop_at=tc.reads)[tc.reads]).of(feature)[0]
    assert demo.text.decode([ids[int(activity[1:].argmax()) + 1]]) == fires_at
    gain = demo.weights.norm("final_norm").gain
    assert gain is not None
    logits = (tc.W_dec[0, feature] * gain) @ demo.weights.W_U
    best = [demo.text.decode([token]) for token in logits.topk(8).indices.tolist()]
    assert promotes in best
