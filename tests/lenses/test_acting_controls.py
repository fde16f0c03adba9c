"""A lens and its controls on one prompt: each row is what the lens, the swap and the model give by themselves."""

from functools import cache

import pytest
import torch

import lenskit as lk
from lenskit.lenses.acting.controls import controls
from lenskit.lenses.acting.random_blocks import random_blocks
from lenskit.models.steering import Swap
from tests.lenses.matrix_lens import MatrixLens, random_lens
from tests.models.tiny import tiny, tiny_tokenizer

MODEL = lk.Model(tiny("llama", vocab=300), tiny_tokenizer(300), name="tiny")
LENS = random_lens(MODEL)
IDS = [7, 5, 31, 90, 44, 12]


@cache
def made():
    other = MatrixLens(MODEL, random_lens(MODEL, seed=9).matrices)
    texts = torch.randint(1, 300, (2, 64), generator=torch.Generator().manual_seed(2))
    return controls(LENS, IDS, 5, 9, answers=(20, 30), others={"another": other}, placebos=3, texts=texts)


def test_every_control_has_a_row_and_the_lens_is_the_first() -> None:
    names = [row.name for row in made().rows]
    assert names == ["matrix lens", "another", "logit lens", "random blocks", "placebo 0", "placebo 1", "placebo 2"]
    assert made().layers == [0, 1]
    assert [row.name for row in made().placebos] == names[-3:]
    assert len(made().to_pandas()) == 7
    with pytest.raises(KeyError, match="'tuned lens' is not among 'matrix lens', 'another'"):
        made()["tuned lens"]


def test_ranks_are_those_of_the_lenses_own_readings() -> None:
    run = MODEL.run([IDS], keep="resid_post")
    for name, lens in (("matrix lens", LENS), ("logit lens", lk.LogitLens(MODEL))):
        for layer in (0, 1):
            with torch.no_grad():
                said = MODEL.unembed(lens.transport(run["resid_post", layer][0, -1], ("resid_post", layer)))
            assert made()[name].ranks[layer] == int(said.argsort(descending=True).tolist().index(20))
    assert made()["placebo 0"].ranks == {}
    assert made()["matrix lens"].best == min(made()["matrix lens"].ranks.values())


def test_gains_are_those_of_the_swap_from_the_word_on() -> None:
    before = MODEL.run([IDS]).logits[0, -1]
    edit = Swap(LENS, 5, 9, pos=slice(1, None))
    for name, each in (("matrix lens", edit), ("placebo 1", edit.placebo(1))):
        after = MODEL.run([IDS], edits=each).logits[0, -1]
        row = made()[name]
        assert row.gain == pytest.approx(float((after[30] - after[20]) - (before[30] - before[20])), abs=1e-3)
        assert row.overtook == bool(after[30] > after[20])
        assert row.became == (int(after.argmax()) == 30)


def test_it_reads_well() -> None:
    lines = repr(made()).splitlines()
    assert lines[0].startswith("Controls on 6 tokens: ")
    assert len(lines) == 8
    assert "reads nothing" in lines[-1]


def test_random_blocks_have_the_same_numbers_in_other_places_and_the_model_keeps_its_own() -> None:
    before = MODEL.run([IDS]).logits
    other = random_blocks(MODEL, seed=3)
    for (name, mine), theirs in zip(MODEL.hf_model.named_parameters(), other.hf_model.parameters(), strict=True):
        assert torch.equal(mine.flatten().sort().values, theirs.flatten().sort().values)
        inside = ".layers." in name and mine.dim() > 1
        assert torch.equal(mine, theirs) != inside, name
    assert torch.equal(MODEL.run([IDS]).logits, before)
    assert not torch.allclose(other.run([IDS]).logits, before, atol=0.1)
    assert torch.equal(random_blocks(MODEL, seed=3).run([IDS]).logits, other.run([IDS]).logits)
    assert other.name == "tiny with random blocks"


def test_controls_are_for_one_prompt() -> None:
    with pytest.raises(ValueError, match="for one prompt, and these are 2"):
        controls(LENS, [IDS, IDS], 5, 9, answers=(20, 30))
    with pytest.raises(ValueError, match="is not among the 6 tokens of this prompt"):
        controls(LENS, IDS, 6, 9, answers=(20, 30), passages=0)
