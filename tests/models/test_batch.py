"""How prompts begin is passed on to every row of a batch."""

import pytest
import torch

from lenskit.models.anatomy import Anatomy
from lenskit.models.batch import to_batch
from lenskit.models.text import Text
from tests.models.tiny import tiny
from tests.models.tiny_tokenizers import byte_level

END = "<|end|>"
TEXT = Text(byte_level(before=END))
ANATOMY = Anatomy(tiny("llama", vocab=300))


def test_the_choice_of_bos_reaches_every_row() -> None:
    for bos, first in ((None, 0), (True, 0), (False, TEXT.ids("a")[1])):
        assert to_batch("a", TEXT, ANATOMY, bos=bos).tokens[:, 0].tolist() == [first]
    both = to_batch(["a", "to the store"], TEXT, ANATOMY, "right", bos=False)
    assert both.tokens[:, 0].tolist() == [TEXT.ids("a")[1], TEXT.ids("to the store")[1]]
    assert both.mask is not None
    assert both.mask.sum(1).tolist() == [1, len(TEXT.ids("to the store")) - 1]


def test_a_choice_of_bos_is_refused_with_ids() -> None:
    for ids in ([1, 2], [[1, 2]], torch.tensor([[1, 2]])):
        with pytest.raises(TypeError, match="bos is for a text"):
            to_batch(ids, TEXT, ANATOMY, bos=True)


def test_a_prompt_that_becomes_empty_without_its_bos_is_refused() -> None:
    assert to_batch("", TEXT, ANATOMY).tokens.tolist() == [[0]]
    with pytest.raises(ValueError, match="the prompt is empty"):
        to_batch("", TEXT, ANATOMY, bos=False)
