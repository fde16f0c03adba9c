"""What lies between two trajectories equals a naive float64 computation that holds everything at once."""

import copy
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import lenskit as lk
from lenskit.lenses import between, product
from lenskit.lenses.between import Comparison, compare
from lenskit.lenses.statistic import BETWEEN
from tests.lenses.affine import AffineLens
from tests.models.tiny import tiny, tiny_tokenizer

FAMILIES = ["llama", "gpt2", "gemma2", "granite"]


@cache
def model(family: str) -> lk.Model:
    return lk.Model(tiny(family, vocab=300), tiny_tokenizer(300), name=f"tiny {family}")


@cache
def double(family: str) -> lk.Model:
    return lk.Model(copy.deepcopy(model(family).hf_model).double())


def naive(lens_of: type, family: str, ids: list[int], without: list[int]) -> Tensor:
    """Log-probabilities (row, pos, vocab) at resid_pre, in float64."""
    lens = lens_of(double(family))
    run = double(family).run(torch.tensor([ids]), keep="resid_pre")
    with torch.no_grad():
        rows = [
            lens.model.unembed(lens.transport(h, ("resid_pre", layer)))
            for layer, h in enumerate(run["resid_pre"][:, 0])
        ]
    logits = torch.stack([*rows, run.logits[0]])
    logits[..., without] = -torch.inf
    return logits.log_softmax(-1)


@settings(max_examples=40)
@given(
    family=st.sampled_from(FAMILIES),
    ids=st.lists(st.integers(0, 299), min_size=1, max_size=10),
    seed=st.integers(0, 100),
    lenses=st.sampled_from([(lk.LogitLens, AffineLens), (AffineLens, lk.LogitLens), (AffineLens, AffineLens)]),
    mask_input=st.booleans(),
    rows=st.sampled_from([1, 4, 1024]),
    width=st.sampled_from([16, 64, 1 << 20]),
)
def test_every_statistic_between_two_agrees_with_float64(
    family: str, ids: list[int], seed: int, lenses: tuple[type, type], mask_input: bool, rows: int, width: int
) -> None:
    """Two lenses on two prompts, however the work is cut into tiles."""
    other = torch.randint(0, 300, (len(ids),), generator=torch.Generator().manual_seed(seed)).tolist()
    first, second = (each(model(family)) for each in lenses)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(between, "TILE_ROWS", rows)
        patch.setattr(
            between,
            "blocks_of",
            lambda head, vocab, _: [slice(v, min(v + width, vocab)) for v in range(0, vocab, width)],
        )
        made = compare(first, ids, second, other, site="resid_pre", mask_input=mask_input)
    a = naive(lenses[0], family, ids, ids if mask_input else [])
    b = naive(lenses[1], family, other, other if mask_input else [])
    p, q = a.exp(), b.exp()
    middle = ((p + q) / 2).log()

    def expected(x: Tensor) -> Tensor:
        return x.nan_to_num(0.0, posinf=0.0).sum(-1)

    js = (expected(p * (a - middle)) + expected(q * (b - middle))) / 2
    np.testing.assert_allclose(made.js, js, atol=1e-5)
    np.testing.assert_allclose(made.js_distance**2, js, atol=1e-5)
    np.testing.assert_allclose(made.total_variation, (p - q).abs().sum(-1) / 2, atol=1e-5)
    np.testing.assert_allclose(np.abs(made.largest_change), (p - q).abs().amax(-1), atol=1e-5)
    moved = (q - p).gather(-1, torch.from_numpy(made.changed_ids.astype(np.int64))[..., None])[..., 0]
    np.testing.assert_allclose(made.largest_change, moved, atol=1e-5)
    kl = torch.where(p > 0, p * (a - b), 0.0).sum(-1)  # infinite where the second can never say what the first may
    np.testing.assert_allclose(made.kl, kl, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(made.first.entropy, -expected(p * a), atol=1e-5)


@cache
def made() -> Comparison:
    return compare(lk.LogitLens(model("llama")), "The capital of France", AffineLens(model("llama")))


def test_a_comparison_is_a_value_with_parts_a_table_and_a_figure() -> None:
    assert made().shape == (4, len(made().first.ids))
    part = made()[1:3, -2:]
    np.testing.assert_array_equal(part.js, made().js[1:3, -2:])
    assert part.first.positions.tolist() == part.second.positions.tolist() == made().first.positions[-2:].tolist()
    np.testing.assert_array_equal(made()[::-1].kl, made().kl[::-1])
    np.testing.assert_array_equal(made()[::-1][::-1].kl, made().kl)
    table = made().to_pandas()
    assert len(table) == made().js.size
    assert set(BETWEEN) <= set(table.columns)
    figure = made().figure("js", "largest_change")
    np.testing.assert_allclose(figure.data[0].z, made().js)  # pyright: ignore[reportAttributeAccessIssue]
    assert made().first.tokens(1, 2)[0].strip() in figure.data[0].customdata[1][2]  # pyright: ignore
    assert repr(made()).startswith("Comparison(logit and affine lens, 4 layers x ")
    with pytest.raises(ValueError, match="read-only"):
        made().js[0, 0] = 1
    with pytest.raises(ValueError, match="'entropy' is not a statistic between two trajectories"):
        made().statistic("entropy")


def test_a_lens_against_itself_is_nothing_and_the_last_row_of_two_lenses_too() -> None:
    same = compare(lk.LogitLens(model("gpt2")), "The keys", lk.LogitLens(model("gpt2")))
    assert same.kl.max() < 1e-6
    assert same.js.max() < 1e-6
    assert made().total_variation[-1].max() == 0


def test_sides_that_do_not_match_are_refused() -> None:
    lens = lk.LogitLens(model("llama"))
    with pytest.raises(ValueError, match=r"3 rows x 2 tokens .* cannot be compared with 3 x 3"):
        compare(lens, [5, 6], other=[5, 6, 7])
    with pytest.raises(TypeError, match="compare two lenses, or two prompts"):
        compare(lens, "The capital")


def test_comparing_never_holds_layers_x_positions_x_vocabulary() -> None:
    """The largest tensor made while comparing is counted: it stays at a tile, whatever the depth."""
    deep = lk.Model(tiny("llama", layers=40, vocab=4352))
    ids = torch.arange(1, 65)[None]
    runs = [deep.run(each, keep="resid_pre") for each in (ids, ids + 1)]
    _ = deep.anatomy.tail
    with Largest() as largest:
        compare(lk.LogitLens(deep), runs[0], AffineLens(deep), runs[1], site="resid_pre")
    assert 0 < largest.numbers <= 2 * product.TILE_NUMBERS < 40 * 64 * 4352


class Largest(TorchDispatchMode):
    """How many numbers the largest tensor made under it has."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.numbers = max(self.numbers, result.numel())
        return result
