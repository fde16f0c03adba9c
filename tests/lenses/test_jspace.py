"""A state taken apart into words: the weights are the best there are, and chance is shown beside them."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import lenskit as lk
from lenskit.lenses.jspace.decompose import decompose
from lenskit.lenses.jspace.dictionary import Dictionary
from lenskit.lenses.jspace.nnls import nnls
from lenskit.lenses.jspace.pursuit import pursue
from lenskit.lenses.lens_directions import lens_directions
from tests.lenses.matrix_lens import random_lens
from tests.models.tiny import tiny, tiny_tokenizer

MODEL = lk.Model(tiny("llama", vocab=300), tiny_tokenizer(300), name="tiny")
LENS = random_lens(MODEL)
IDS = torch.randint(1, 300, (1, 9), generator=torch.Generator().manual_seed(1))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_trying_every_set(atoms: Tensor, x: Tensor) -> float:
    """The least square that any non-negative weights leave: the plain least squares of every set of atoms."""
    best = float(x.square().sum())
    for size in range(1, len(atoms) + 1):
        for chosen in itertools.combinations(range(len(atoms)), size):
            some = atoms[list(chosen)]
            weights = torch.linalg.lstsq(some.T, x[:, None]).solution[:, 0]
            if bool((weights >= 0).all()):
                best = min(best, float((x - weights @ some).square().sum()))
    return best


@settings(max_examples=40)
@given(st.integers(1, 6), st.integers(2, 9), st.integers(0, 10_000), st.booleans())
def test_weights_leave_as_little_as_any_do(count: int, width: int, seed: int, alike: bool) -> None:
    atoms, x = random(5, count, width, seed=seed), random(5, width, seed=seed + 1)
    if alike:  # nearly parallel, as the directions of words are
        atoms = atoms * 0.1 + random(5, 1, width, seed=seed + 2)
    a = nnls(atoms @ atoms.mT, (atoms @ x[..., None])[..., 0])
    assert bool((a >= 0).all())
    left = (x - (a[..., None] * atoms).sum(1)).square().sum(-1)
    for row in range(5):
        assert float(left[row]) == pytest.approx(by_trying_every_set(atoms[row], x[row]), rel=1e-6, abs=1e-8)


@given(st.integers(2, 25), st.integers(0, 10_000))
def test_no_weight_could_be_better_a_little_more_or_less(count: int, seed: int) -> None:
    """The conditions of Karush, Kuhn and Tucker: no pull on a positive weight, none upwards on a zero."""
    atoms, x = random(7, count, 30, seed=seed), random(7, 30, seed=seed + 1)
    gram, right = atoms @ atoms.mT, (atoms @ x[..., None])[..., 0]
    a = nnls(gram, right)
    pull = right - (gram @ a[..., None])[..., 0]
    assert float(pull.max()) < 1e-7
    assert float((pull * (a > 0)).abs().max()) < 1e-7
    warm = nnls(gram, right, torch.nn.functional.pad(nnls(gram[:, :-1, :-1], right[:, :-1]), (0, 1)))
    torch.testing.assert_close(warm, a, atol=1e-7, rtol=1e-7)


def test_an_atom_that_is_there_twice_does_no_harm() -> None:
    atoms = random(1, 2, 6).repeat(1, 2, 1)
    x = atoms[0, 0] * 2 + atoms[0, 1]
    a = nnls(atoms @ atoms.mT, (atoms @ x[:, None])[..., 0])[0]
    torch.testing.assert_close(a[:2] + a[2:], torch.tensor([2.0, 1.0]).double(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("folded", [True, False])
@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma"])
def test_a_dictionary_has_the_direction_of_every_token(family: str, folded: bool, centred: bool) -> None:
    lens = random_lens(lk.Model(tiny(family, vocab=300), tiny_tokenizer(300)))
    made = Dictionary.of(lens, 1, folded=folded, centred=centred)
    every = lens_directions(lens, range(300), layers=1, folded=folded, centred=centred)[1]
    torch.testing.assert_close(made.norms, every.norm(dim=-1), atol=1e-4, rtol=1e-4)
    unit = torch.nn.functional.normalize(every, dim=-1)
    torch.testing.assert_close(made.atoms(torch.arange(300)), unit, atol=1e-4, rtol=1e-4)
    x = random(4, 32).float()
    scores = x @ unit.T
    which, product = made.nearest(x, torch.full((4, 1), -1))
    torch.testing.assert_close(product, scores.amax(-1), atol=1e-4, rtol=1e-4)
    second, _ = made.nearest(x, which[:, None])
    assert second.tolist() == scores.scatter(1, which[:, None], -torch.inf).argmax(-1).tolist()


def test_blocks_of_the_vocabulary_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pursue(Dictionary.of(LENS, 1), random(5, 32).float(), 6)
    monkeypatch.setattr("lenskit.lenses.jspace.dictionary._BLOCK", 77)
    monkeypatch.setattr("lenskit.lenses.jspace.pursuit._ROWS", 2)
    parts = pursue(Dictionary.of(LENS, 1), random(5, 32).float(), 6)
    assert torch.equal(parts.ids, whole.ids)
    torch.testing.assert_close(parts.captured, whole.captured, atol=1e-5, rtol=1e-5)


def naive(every: Tensor, x: Tensor, k: int) -> tuple[list[int], list[float]]:
    """The same by the plainest means: all directions at once, and weights by trying out every set."""
    unit = torch.nn.functional.normalize(every.double(), dim=-1)
    taken, shares, left = list[int](), list[float](), x.double()
    for _ in range(k):
        scores = unit @ left
        scores[taken] = -torch.inf
        taken.append(int(scores.argmax()))
        best, weights = np.inf, None
        for size in range(1, len(taken) + 1):
            for chosen in itertools.combinations(range(len(taken)), size):
                some = unit[[taken[j] for j in chosen]]
                w = torch.linalg.lstsq(some.T, x.double()[:, None]).solution[:, 0]
                over = float((x.double() - w @ some).square().sum())
                if bool((w >= 0).all()) and over < best:
                    best, weights = over, (chosen, w)
        assert weights is not None
        chosen, w = weights
        left = x.double() - w @ unit[[taken[j] for j in chosen]]
        shares.append(1 - float(left.square().sum() / x.double().square().sum()))
    return taken, shares


def test_what_is_found_is_what_the_plainest_search_finds() -> None:
    every = lens_directions(LENS, range(300), layers=1)[1]
    x = 5 * random(6, 32, seed=4).float()
    found = pursue(Dictionary.of(LENS, 1), x, 6)
    for row in range(6):
        ids, shares = naive(every, x[row], 6)
        assert found.ids[row].tolist() == ids
        torch.testing.assert_close(found.captured[row].double(), torch.tensor(shares).double(), atol=1e-4, rtol=1e-4)
    unit = torch.nn.functional.normalize(every, dim=-1)
    made = (found.weights[..., None] * unit[found.ids]).sum(1)
    torch.testing.assert_close(made, found.component, atol=1e-3, rtol=1e-3)
    assert bool((found.captured.diff(dim=1) > -1e-6).all())


def test_a_state_made_of_three_words_is_those_three_words() -> None:
    every = torch.nn.functional.normalize(lens_directions(LENS, range(300), layers=1)[1], dim=-1)
    x = 4 * every[17] + 3 * every[99] + 2 * every[250]
    found = pursue(Dictionary.of(LENS, 1), x[None], 12)
    heavy = dict(zip(found.ids[0].tolist(), found.weights[0].tolist(), strict=True))
    assert {i for i, w in heavy.items() if w > 0.5} == {17, 99, 250}
    assert heavy[17] == pytest.approx(4, abs=0.2)
    assert float(found.captured[0, -1]) > 0.99


def test_where_nothing_is_left_to_take_nothing_is_taken() -> None:
    made = Dictionary(torch.eye(4)[:2], torch.zeros(4), torch.eye(4))
    found = pursue(made, torch.tensor([[1.0, 2.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [-1.0, 1.0, 0.0, 0.0]]), 3)
    assert found.ids.tolist() == [[1, 0, -1], [-1, -1, -1], [1, -1, -1]]
    torch.testing.assert_close(found.captured[:, -1], torch.tensor([1.0, 0.0, 0.5]))
    assert found.weights[1].tolist() == [0, 0, 0]


def test_a_turned_dictionary_has_the_same_covariance_and_other_directions() -> None:
    lens = lk.LogitLens(MODEL)
    made = Dictionary.of(lens, 0)
    turned = made.turned(3)
    every, other = ((each.head - each.shift) @ each.matrix for each in (made, turned))
    torch.testing.assert_close(other.T @ other, every.T @ every, atol=1e-2, rtol=1e-2)
    assert float(torch.nn.functional.cosine_similarity(every, other).abs().mean()) < 0.4
    assert torch.equal(turned.matrix, made.turned(3).matrix)


def test_a_shift_of_all_directions_changes_nothing_where_they_are_centred() -> None:
    """The softmax does not see it, and left in it would be what every direction is."""
    shifted = tiny("llama", vocab=300)
    with torch.no_grad():
        shifted.lm_head.weight += 5 * random(1, 32, seed=9).float()
    other = random_lens(lk.Model(shifted, tiny_tokenizer(300)))
    x = random(3, 32).float()
    plain, moved = (pursue(Dictionary.of(lens, 1), x, 5) for lens in (LENS, other))
    assert torch.equal(plain.ids, moved.ids)
    torch.testing.assert_close(plain.weights, moved.weights, atol=1e-3, rtol=1e-3)
    bare = pursue(Dictionary.of(other, 1, centred=False), x, 5)
    assert not torch.equal(bare.ids, plain.ids)


def test_a_decomposition_says_what_it_took_apart_and_what_chance_does() -> None:
    made = decompose(LENS, IDS, layer=1, k=6, controls=3)
    assert made.ids.shape == made.weights.shape == made.captured.shape == (8, 6)
    assert made.control.shape == (3, 8, 6)
    assert made.positions.tolist() == list(range(1, 9))
    run = MODEL.run(IDS, keep=("resid_post", 1))
    again = decompose(LENS, run, layer=-2, k=6, controls=3)
    assert np.array_equal(again.ids, made.ids)
    x = run["resid_post", 1][0, 1:]
    left = (x - torch.tensor(made.components)).square().sum(-1) / x.square().sum(-1)
    np.testing.assert_allclose(1 - left.numpy(), made.share, atol=1e-4)
    np.testing.assert_allclose(made.norms, x.norm(dim=-1).numpy(), rtol=1e-4)
    table = made.to_pandas()
    assert len(table) == 48
    assert set(table.columns) == {"layer", "pos", "token", "step", "word", "id", "weight", "captured", "control"}
    heaviest = made.words(-1, 2)
    assert heaviest[0][1] == pytest.approx(float(made.weights[-1].max()))
    assert len(heaviest) == 2
    assert repr(made).startswith("Decomposition(layer 1, 8 positions, 6 words make up")
    assert "of random directions" in repr(made)
    assert made.provenance["lens"] == "matrix"


def test_occupancy_is_where_words_leave_random_directions_behind() -> None:
    """States made of three words each are found to hold three, and random states none in particular."""
    every = torch.nn.functional.normalize(lens_directions(LENS, range(300), layers=1)[1], dim=-1)
    dictionary = Dictionary.of(LENS, 1)
    x = torch.stack([4 * every[a] + 4 * every[b] + 4 * every[c] for a, b, c in ((3, 50, 120), (7, 88, 201))])
    real = pursue(dictionary, x, 12).captured.numpy()
    control = np.stack([pursue(dictionary.turned(seed), x, 12).captured.numpy() for seed in range(4)])
    made = decompose(LENS, IDS, layer=1, k=12, controls=4, pos=[1, 2])
    planted = type(made)(**{**vars(made), "captured": real, "control": control})
    assert set(planted.occupancy.tolist()) <= {2, 3, 4}
    assert (planted.separation.max(-1) > 0.1).all()
    none = type(made)(**{**vars(made), "captured": control[0] * 0.9, "control": control})
    assert none.occupancy.tolist() == [0, 0]


def test_what_cannot_be_taken_apart_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one word and one random dictionary, and not k=0"):
        decompose(LENS, IDS, layer=1, k=0)
    with pytest.raises(ValueError, match="this run has 2 prompts: say which to take apart"):
        decompose(LENS, IDS.expand(2, -1), layer=1)
    with pytest.raises(IndexError, match="pos 30 does not exist"):
        decompose(LENS, IDS, layer=1, pos=30)
    with pytest.raises(IndexError, match="layer 7 does not exist"):
        decompose(LENS, IDS, layer=7)
    made = decompose(LENS, IDS, layer=1, k=2, controls=1, pos=3)
    with pytest.raises(IndexError, match="position 5 was not taken apart"):
        made.words(5)


def test_no_array_of_positions_by_vocabulary_outlives_its_block() -> None:
    lens, largest = lk.LogitLens(MODEL), 0
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for each in out if isinstance(out, tuple | list) else [out]:
                if isinstance(each, Tensor):
                    largest = max(largest, each.numel())
            return out

    import lenskit.lenses.jspace.dictionary as module

    block, module._BLOCK = module._BLOCK, 64
    try:
        with Watch():
            pursue(Dictionary.of(lens, 0), random(128, 32).float(), 3)
    finally:
        module._BLOCK = block
    assert largest <= 128 * 3 * 32  # the atoms of 128 positions; all their products would be 128 x 300
