"""Word-like: which tokens of a vocabulary read as words, so that a reading need not show the others."""

from __future__ import annotations

import re
import unicodedata
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from lenskit.models.model import Model
from lenskit.models.text import Piece

_KNOWN: WeakKeyDictionary[Model, Tensor] = WeakKeyDictionary()
# Scripts in which one character can be a word and no space stands between two.
_UNSPACED = re.compile(r"[぀-ヿ㐀-鿿豈-﫿가-힣]")
_INNER = "'’-"


def word_like(model: Model) -> Tensor:
    """(vocab,) whether each token reads as a word, computed once for a model.

    A word has two letters at least (one, in Chinese, Japanese and Korean), nothing else but apostrophes, hyphens and
    accents between them, and begins one: after a space, or with a capital. So "·oven" and "Paris" are words;
    "ikipedia", "·'", "29" and "·a" are not. Where no token of the vocabulary begins with a space (a tokenizer that
    leaves spaces out), any run of letters is a word.
    Source: the word mask of the Jacobian lens's published slices; the rule is this project's.

    Raises `TypeError` for a model without a tokenizer.

    >>> model.text.str_tokens(word_like(model).nonzero()[:3, 0])  # doctest: +SKIP
    """
    known = _KNOWN.get(model)
    if known is None:
        if model.text.tokenizer is None:
            raise TypeError("which tokens are words is told from their text, and this model has no tokenizer.")
        pieces = model.text.pieces(range(model.anatomy.vocab))
        spaced = any(isinstance(piece, str) and piece.startswith(" ") for piece in pieces)
        known = _KNOWN[model] = torch.tensor([is_word(piece, spaced) for piece in pieces])
    return known


def is_word(piece: Piece, spaced: bool = True) -> bool:
    """Whether one token's text reads as a word; `spaced`: whether words begin with a space in its vocabulary.

    >>> [is_word(piece) for piece in (" oven", "Paris", "ikipedia", " '", " don't", " naïve", "29", "猫")]
    [True, True, False, False, True, True, False, True]
    """
    if not isinstance(piece, str):
        return False
    word = piece[1:] if piece.startswith(" ") else piece
    if not word or not word[0].isalpha() or not _is_letter(word[-1]):
        return False
    if not all(_is_letter(char) or char in _INNER for char in word):
        return False
    if _UNSPACED.match(word):
        return True
    return len(word) >= 2 and (not spaced or piece.startswith(" ") or word[0].isupper())


def _is_letter(char: str) -> bool:
    """A letter, or a mark that belongs to one."""
    return char.isalpha() or unicodedata.category(char) in ("Mn", "Mc")
