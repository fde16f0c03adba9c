"""A lens's direction of a word is what its reading of a state is multiplied with."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import lenskit as lk
from lenskit.lenses.lens_directions import layers_of, lens_directions, mean_row, pulled_back, state_norms
from lenskit.lenses.translators import Translators
from lenskit.models.directions_by_layer import DirectionsByLayer
from lenskit.models.sites import Site, SiteUnavailable
from tests.lenses.matrix_lens import MatrixLens, random_lens
from tests.models.tiny import tiny, tiny_tokenizer

FAMILIES = ["llama", "gpt2", "gemma2", "gemma", "granite", "gpt_neox", "phi", "cohere"]


@cache
def model(family: str = "llama") -> lk.Model:
    return lk.Model(tiny(family, vocab=300), tiny_tokenizer(300), name=family)


def states(seed: int = 3) -> Tensor:
    return 3 * torch.randn(6, 32, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("family", FAMILIES)
def test_folded_a_state_times_the_direction_is_the_words_logit_but_for_the_norms_scale(family: str) -> None:
    """The gain that is folded in is the norm's own, whatever it adds to its weight, and whatever it takes off."""
    mine, ids = model(family), [5, 77, 201]
    lens, h = random_lens(mine), states()
    v = lens_directions(lens, ids, layers=0, centred=False)[0]
    final = lens.transport(h, ("resid_post", 0))
    tail, norm = mine.anatomy.tail, mine.weights.norm("final_norm")
    scores = tail.head(tail.normed(final))[:, ids] / tail.before_head
    constant = tail.head(tail.normed(final) * 0)[0, ids]
    if norm.bias is not None:
        constant = constant + norm.bias @ tail.head.weight[ids].T  # pyright: ignore
    torch.testing.assert_close(h @ v.T / norm.scale(final), scores - constant, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_centred_differences_between_words_stay_and_their_mean_is_zero(family: str) -> None:
    lens = random_lens(model(family))
    plain = lens_directions(lens, range(300), layers=1, centred=False)[1].double()
    centred = lens_directions(lens, range(300), layers=1)[1].double()
    torch.testing.assert_close(centred, plain - plain.mean(0), atol=1e-5, rtol=1e-5)
    assert float(centred.mean(0).abs().max()) < 1e-5


def test_each_lens_gives_its_own_matrix_transposed() -> None:
    mine = model()
    rows = mine.hf_model.lm_head.weight.detach()[[5, 9]]
    weight = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(1))
    tuned = lk.TunedLens(mine, Translators(weight, None))
    bare: dict[str, Any] = {"folded": False, "centred": False}
    lens = random_lens(mine)
    torch.testing.assert_close(lens_directions(lk.LogitLens(mine), [5, 9], layers=1, **bare)[1], rows)
    torch.testing.assert_close(lens_directions(lens, [5, 9], layers=1, **bare)[1], rows @ lens.matrix(1))
    # The end of layer 1 is what translator 2 reads.
    expected = rows + rows @ weight[2]
    torch.testing.assert_close(lens_directions(tuned, [5, 9], layers=1, **bare)[1], expected)
    assert tuned.directions([5], layers=1) == lens_directions(tuned, [5], layers=1)
    torch.testing.assert_close(lens.directions([5, 9], layers=2, **bare)[2], rows)  # the last layer is the model's own


def test_a_concept_of_several_tokens_is_the_mean_of_their_directions() -> None:
    lens = random_lens(model())
    both = lens_directions(lens, [[5, 9]], layers=0)
    each = lens_directions(lens, [5, 9], layers=0)
    torch.testing.assert_close(both[0][0], each[0].mean(0))
    assert both.tokens == ((5, 9),)
    assert both.concepts == ("%+)",)


def test_named_scales_give_named_lengths() -> None:
    lens = random_lens(model())
    ids = torch.randint(1, 300, (12, 64), generator=torch.Generator().manual_seed(2))
    raw = lens_directions(lens, [5, 9])
    assert raw.layers == [0, 1]
    norms = state_norms(model(), [0, 1], ids)
    runs = [model().run(each[None], keep="resid_post") for each in ids[[0, 1, 3, 4, 6, 7, 9, 10]]]  # 8 of 12
    for layer in (0, 1):
        seen = torch.cat([run["resid_post", layer][0, 1:].norm(dim=-1) for run in runs])
        wanted = {"unit": 1.0, "mean": float(seen.mean()), "median": float(seen.median())}
        for scale, length in wanted.items():
            made = lens_directions(lens, [5, 9], layer, scale=scale, texts=ids)[layer]  # pyright: ignore
            torch.testing.assert_close(made.norm(dim=-1), torch.full((2,), length), atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(
                torch.nn.functional.normalize(made), torch.nn.functional.normalize(raw[layer]), atol=1e-5, rtol=1e-5
            )
        assert norms["mean"][layer] == pytest.approx(wanted["mean"], rel=1e-5)
    assert lens_directions(lens, [5], 0, scale="mean")[0].norm() > 0  # on passages that come with lenskit


def test_turned_directions_keep_their_lengths_and_angles_also_between_layers() -> None:
    made = lens_directions(random_lens(model()), [5, 9])
    turned = made.turned(seed=4)
    whole, other = (torch.cat([each[layer] for layer in (0, 1)]) for each in (made, turned))
    torch.testing.assert_close(other @ other.T, whole @ whole.T, atol=1e-4, rtol=1e-4)
    assert float(torch.nn.functional.cosine_similarity(whole, other).abs().max()) < 0.8
    assert turned == made.turned(seed=4)
    assert turned != made.turned(seed=5)
    assert "turned at random (4)" in repr(turned)


def test_the_mean_of_the_vocabulary_does_not_depend_on_blocks() -> None:
    head = torch.randn(20_000, 7, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(mean_row(head), head.double().mean(0), atol=1e-7, rtol=1e-5)


def test_directions_are_the_same_in_inference_mode_and_without_gradients() -> None:
    lens = random_lens(model())
    made = lens_directions(lens, [5])
    with torch.inference_mode():
        assert lens_directions(lens, [5]) == made
    with torch.no_grad():
        assert lens_directions(lens, [5]) == made
    assert not any(v.requires_grad for v in made.vectors.values())
    assert all(p.grad is None for p in model().hf_model.parameters())


class Bent(MatrixLens):
    def transport(self, h, site):
        return h.tanh()


class Short(MatrixLens):
    def transport(self, h, site):
        return h[..., :5]


def test_what_has_no_one_direction_is_refused() -> None:
    lens = random_lens(model())
    with pytest.raises(TypeError, match="is not affine"):
        lens_directions(Bent(model(), lens.matrices), [5])
    with pytest.raises(ValueError, match="no direction is read"):
        pulled_back(Short(model(), lens.matrices), torch.ones(1, 32), Site("resid_post", 0))
    with pytest.raises(ValueError, match="is not one token but"):
        lens_directions(lens, [" cabinets and keys"])
    with pytest.raises(TypeError, match=r"concepts are a list, such as \[' Paris'\]"):
        lens_directions(lens, " Paris")
    with pytest.raises(ValueError, match="no word is given"):
        lens_directions(lens, [])
    with pytest.raises(ValueError, match=r"layer 9 does not exist: there are 3, 0 to 2\. Name layers of llama"):
        lens_directions(lens, [5], layers=9)
    with pytest.raises(ValueError, match="scale is one of 'raw', 'unit'"):
        lens_directions(lens, [5], scale="long")  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="this model reads none: give ids"):
        state_norms(lk.Model(tiny("llama")), [0])
    with pytest.raises(SiteUnavailable, match="cannot be taken apart"):
        lens_directions(lk.LogitLens(_with_two_norms()), [5], layers=0)


def _with_two_norms() -> lk.Model:
    hf = tiny("llama", vocab=300)
    first = hf.model.norm
    hf.model.norm = torch.nn.Sequential(first, torch.nn.Tanh())
    return lk.Model(hf, tiny_tokenizer(300))


def test_layers_are_those_that_the_lens_has_unless_others_are_named() -> None:
    lens = random_lens(model())
    assert layers_of(lens, None) == [0, 1]
    assert layers_of(lk.LogitLens(model()), None) == [0, 1, 2]
    assert layers_of(lens, slice(-2, None)) == [1, 2]


def test_directions_that_do_not_belong_together_are_refused() -> None:
    how: dict[str, Any] = {"lens": "own", "scale": "raw", "folded": False, "centred": False}
    with pytest.raises(ValueError, match="of 1 concepts and at least one layer"):
        DirectionsByLayer({0: torch.ones(2, 4)}, ("a",), ((1,),), **how)
    with pytest.raises(ValueError, match="at least one layer"):
        DirectionsByLayer({}, ("a",), ((1,),), **how)
    with pytest.raises(ValueError, match="in layer 1 are not finite, or one of them is zero"):
        DirectionsByLayer({0: torch.ones(1, 4), 1: torch.zeros(1, 4)}, ("a",), ((1,),), **how)
    with pytest.raises(KeyError, match=r"directions of layers \[0\], and not of 3"):
        DirectionsByLayer({0: torch.ones(1, 4)}, ("a",), ((1,),), **how)[3]
