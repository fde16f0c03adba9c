"""Targets: the logits that an attribution graph explains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lenskit.circuits.attributing.basis import Read
from lenskit.models.sites import Site
from lenskit.models.weighing.norms import wide

if TYPE_CHECKING:
    from lenskit.models.model import Model

Token = str | int
_COLUMNS = 16_384  # of the unembedding at once: a few dozen megabytes


@dataclass(frozen=True)
class Targets:
    """Some logits at one position, each as a vector of what the unembedding reads.

    A single token's logit is taken less the mean of all logits, which the softmax does not see.

    Attributes:
        tokens: of each its token, or of a difference its two tokens.
        labels: of each its name.
        weights: of each how much it counts; together 1.
        pos: the position.
        read: the vectors and constants.
    """

    tokens: tuple[tuple[int, ...], ...]
    labels: tuple[str, ...]
    weights: tuple[float, ...]
    pos: int
    read: Read

    @classmethod
    def of(
        cls,
        model: Model,
        logits: Tensor,
        target: Token | Sequence[Token] | None,
        versus: Token | None,
        pos: int,
        share: float,
        most: int,
    ) -> Targets:
        """What is asked for, of a prompt's logits (pos, vocab): see `attribute`."""
        if not -len(logits) <= pos < len(logits):
            raise IndexError(f"pos {pos} does not exist: this prompt has {len(logits)} tokens.")
        pos %= len(logits)
        probabilities = logits[pos].double().softmax(-1)
        if versus is not None:
            if target is None or not isinstance(target, str | int):
                raise ValueError(f"versus={versus!r} is compared with one target: say which, target=.")
            pair = (_token(model, target, len(probabilities)), _token(model, versus, len(probabilities)))
            if pair[0] == pair[1]:
                raise ValueError(f"target={target!r} and versus={versus!r} are one token: nothing lies between them.")
            labels = (" - ".join(names_of(model, pair)),)
            return cls((pair,), labels, (1.0,), pos, read_of(model, [pair]))
        chosen = _likeliest(probabilities, share, most) if target is None else _named(model, target, len(probabilities))
        shares = probabilities[chosen]
        weights = tuple((shares / shares.sum()).tolist()) if float(shares.sum()) else (1 / len(chosen),) * len(chosen)
        labels = names_of(model, chosen)
        tokens = [(token,) for token in chosen]
        return cls(tuple(tokens), labels, weights, pos, read_of(model, tokens))


def reading_site(model: Model) -> Site:
    """Where the unembedding reads: after the final norm, or at the end of the stream where there is none."""
    return Site("final_norm") if "final_norm" in model.sites else Site("resid_post", model.n_layers - 1)


def _likeliest(probabilities: Tensor, share: float, most: int) -> list[int]:
    """The likeliest tokens that together have this share of the probability, but no more than so many."""
    if not 0 < share <= 1 or most < 1:
        raise ValueError(f"share={share!r}, most={most!r}: a share of the probability up to 1, and one token at least.")
    values, tokens = probabilities.topk(min(most, len(probabilities)))
    count = int((values.cumsum(0) < share).sum()) + 1
    return tokens[:count].tolist()


def _named(model: Model, target: Token | Sequence[Token], vocab: int) -> list[int]:
    given = [target] if isinstance(target, str | int) else list(target)
    if not given:
        raise ValueError("target=[]: name one token at least, or leave it out for the likeliest ones.")
    return list(dict.fromkeys(_token(model, each, vocab) for each in given))


def _token(model: Model, token: Token, vocab: int) -> int:
    found = model.text.token(token)
    if not 0 <= found < vocab:
        raise IndexError(f"token {found} does not exist: this model has {vocab:,} tokens.")
    return found


def names_of(model: Model, tokens: Sequence[int]) -> tuple[str, ...]:
    """Tokens by their text; by their numbers where there is no tokenizer."""
    if model.tokenizer is None:
        return tuple(map(str, tokens))
    return tuple(piece if isinstance(piece, str) else repr(piece) for piece in model.text.pieces(tokens))


@torch.no_grad()
def read_of(model: Model, tokens: Sequence[tuple[int, ...]]) -> Read:
    """How logits come about, of single tokens less the mean of all, of two tokens their difference."""
    unembedding, biases = model.weights.W_U, wide(model.weights.b_U[:])
    mean: Tensor | None = None
    vectors, constants = list[Tensor](), list[Tensor]()
    for ids in tokens:
        columns = wide(unembedding[:, list(ids)])
        if len(ids) == 2:
            vectors.append(columns[:, 0] - columns[:, 1])
            constants.append(biases[ids[0]] - biases[ids[1]])
            continue
        mean = _mean_column(model) if mean is None else mean
        vectors.append(columns[:, 0] - mean)
        constants.append(biases[ids[0]] - biases.mean())
    return Read(torch.stack(vectors), torch.stack(constants))


def _mean_column(model: Model) -> Tensor:
    """(d_model,): the mean of the unembedding over the vocabulary, without a copy of all of it."""
    unembedding = model.weights.W_U
    vocab = unembedding.shape[1]
    parts = [wide(unembedding[:, start : start + _COLUMNS]).sum(-1) for start in range(0, vocab, _COLUMNS)]
    return torch.stack(parts).sum(0) / vocab
