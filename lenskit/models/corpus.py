"""What a person gives to fit a lens to, as chunks of the model's tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from lenskit.data import Chunks, chunked, cut, text_of
from lenskit.models.model import Model

Texts = str | Iterable[str] | Iterable[Mapping[str, Any]] | Tensor | Chunks

CHUNK = 128


def chunks_of(model: Model, texts: Texts, length: int, tokens: int | None = None) -> Chunks:
    """Chunks of `length` tokens from texts, rows of a data set, or ids; no more than `tokens` hold.

    Every document begins with the tokenizer's EOS token, where it has one. A stream is read only as far as needed; of a
    text, a list of texts or ids, which are all there, chunks are taken at equal distances over the whole. Raises
    `TypeError` for texts without a tokenizer, `ValueError` where there is not one chunk of them or where the model does
    not know a token.
    """
    at_most = None if tokens is None else max(1, tokens // length)
    if isinstance(texts, Chunks):
        found = texts
    elif isinstance(texts, Tensor):
        found = cut(texts, length)
    else:
        there = isinstance(texts, str | list | tuple)
        found = _of_documents(model, texts, length, None if there else at_most)
    found = Chunks(spread(found.ids, at_most), found.bytes_per_token)
    unknown = found.ids[(found.ids < 0) | (found.ids >= model.anatomy.vocab)]
    if unknown.numel():
        last = model.anatomy.vocab - 1
        raise ValueError(f"the id {int(unknown[0])} is no token: the vocabulary has ids 0 to {last}.")
    return found


def spread(ids: Tensor, at_most: int | None) -> Tensor:
    """No more than so many chunks, at equal distances, since neighbours tell of the same thing."""
    if at_most is None or len(ids) <= at_most:
        return ids
    return ids[torch.arange(at_most) * len(ids) // at_most]


def _of_documents(
    model: Model, texts: Iterable[str] | Iterable[Mapping[str, Any]], length: int, at_most: int | None
) -> Chunks:
    tokenizer = model.text.tokenizer
    if tokenizer is None:
        raise TypeError("texts need a tokenizer, and this model has none: give token ids, (n,) or (chunk, pos).")

    def encode(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    documents = [texts] if isinstance(texts, str) else (text_of(each) for each in texts)
    return chunked(documents, encode, tokenizer.eos_token_id, length, at_most)
