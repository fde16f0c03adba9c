"""Pairs: which of two prompts runs, and which one its activations are changed to, as tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from lenskit.models.batch import Prompt
from lenskit.patching.align import alignment
from lenskit.patching.swept import Direction

if TYPE_CHECKING:
    from lenskit.models.model import Model


class Tokens(NamedTuple):
    """The tokens (1, pos) of the prompt that runs, and of the one whose activations are put in."""

    base: Tensor
    source: Tensor


def tokens_of(model: Model, clean: Prompt, corrupt: Prompt, direction: Direction) -> Tokens:
    """The two prompts as one row of tokens each, of one length. Raises `PromptsDiffer` where they are not."""
    if direction not in ("denoise", "noise"):
        raise ValueError(f"direction={direction!r}: 'denoise' runs the corrupt prompt, 'noise' the clean one.")
    if model.edits:
        raise ValueError(
            "the model holds edits of its own, and its parts run alone here: take them off, edited.remove()."
        )
    prompts = (corrupt, clean) if direction == "denoise" else (clean, corrupt)
    base, source = (model.batch(prompt).tokens for prompt in prompts)
    if len(base) != 1 or len(source) != 1:
        raise ValueError(f"one prompt runs at a time, and these are {len(base)} and {len(source)}: ask for each pair.")
    alignment(base[0].tolist(), source[0].tolist(), None, model.text)
    return Tokens(base, source)
