"""Floor 0: documents -> rectangles of token ids, as models are trained and lenses are fitted on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Chunks:
    """Token ids in rows of one length, and how many bytes of text a token stands for.

    Attributes:
        ids: (chunk, pos) int64.
        bytes_per_token: of the text that was read, in UTF-8; None where only ids were given.
    """

    ids: Tensor
    bytes_per_token: float | None = None

    @property
    def bits_per_byte(self) -> float | None:
        """What to multiply nats per token by to have bits per byte of text; None where the text is not known.

        Two tokenizers cannot be compared in nats per token, since their tokens hold more or less text.
        Source: Gao et al., "The Pile" (2020), section 3.1.
        """
        return None if self.bytes_per_token is None else 1 / (self.bytes_per_token * math.log(2))

    def __len__(self) -> int:
        return len(self.ids)


def chunked(
    documents: Iterable[str],
    encode: Callable[[str], list[int]],
    separator: int | None,
    length: int,
    at_most: int | None = None,
) -> Chunks:
    """Documents in chunks of exactly `length` tokens: long ones are split, short ones share a chunk.

    Args:
        documents: read only as far as they are needed, so that they may be a stream without end.
        encode: a text's token ids, without special tokens.
        separator: the token put before every document, the tokenizer's EOS; None for none.
        length: of every chunk. The tokens left over at the end are not used.
        at_most: how many chunks to make; None for all there is.

    Raises `ValueError` where the documents are too short for a single chunk.

    >>> chunked(["ab", "cde"], lambda text: [ord(c) for c in text], 0, 3).ids.tolist()
    [[0, 97, 98], [0, 99, 100]]
    """
    if length < 2 or (at_most is not None and at_most < 1):
        raise ValueError(f"chunks have at least 2 tokens, and there is at least 1 of them: not {length}, {at_most}.")
    rows: list[list[int]] = []
    rest: list[int] = []
    tokens = bytes_read = 0
    for document in documents:
        ids = encode(document)
        tokens += len(ids)
        bytes_read += len(document.encode())
        rest += ids if separator is None else [separator, *ids]
        whole = len(rest) // length * length
        rows += [rest[at : at + length] for at in range(0, whole, length)]
        rest = rest[whole:]
        if at_most is not None and len(rows) >= at_most:
            break
    if not rows:
        raise ValueError(f"these texts have {tokens:,} tokens, which is not one chunk of {length}: give more text.")
    return Chunks(torch.tensor(rows[:at_most]), bytes_read / max(1, tokens))


def cut(ids: Tensor, length: int, at_most: int | None = None) -> Chunks:
    """Token ids in chunks: (n,) ids are cut into rows of `length`, and (chunk, pos) ids stay as they are.

    >>> cut(torch.arange(7), 3).ids.tolist()
    [[0, 1, 2], [3, 4, 5]]
    """
    if ids.is_floating_point() or ids.dtype == torch.bool or ids.dim() not in (1, 2):
        raise TypeError(f"token ids are (n,) or (chunk, pos) whole numbers, not {tuple(ids.shape)} of {ids.dtype}.")
    if ids.dim() == 1:
        if len(ids) < length:
            raise ValueError(f"{len(ids):,} tokens are not one chunk of {length}: give more.")
        ids = ids[: len(ids) // length * length].view(-1, length)
    return Chunks(ids[:at_most].long())


def documents_in(paths: Iterable[str | Path], column: str = "text") -> Iterator[str]:
    """The documents of files, one after another: a `.jsonl` file holds one in each line, any other text file is one.

    Args:
        paths: the files, read as UTF-8.
        column: where a line of a `.jsonl` file has its text.

    Raises `FileNotFoundError` for a file that is not there, `ValueError` for a line without that text.
    """
    for path in map(Path, paths):
        if path.suffix != ".jsonl":
            yield path.read_text(encoding="utf-8")
            continue
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield text_of(json.loads(line), column, f"{path}:{number}")


def text_of(document: str | Mapping[str, Any], column: str = "text", where: str = "a document") -> str:
    """A document's text: itself, or what a row of a data set has in its text column.

    Raises `ValueError` where there is no such text.
    """
    text = document.get(column) if isinstance(document, Mapping) else document
    if not isinstance(text, str):
        has = ", ".join(map(repr, document)) if isinstance(document, Mapping) else type(document).__name__
        raise ValueError(f"{where} has no text in {column!r}: it has {has or 'nothing'}.")
    return text
