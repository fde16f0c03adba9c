"""Directions: what a model's head reads for a token, as vectors of the residual stream."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from torch import Tensor, nn

from lenskit.models.finding.placed import is_plain

if TYPE_CHECKING:
    from lenskit.models.model import Model


def directions(model: Model, tokens: Iterable[str | int]) -> Tensor:
    """The rows of the unembedding for some tokens (n, d_model): along each, its token's logit grows fastest.

    A score is `final_norm @ direction`, plus the head's bias where it has one. **The final norm is not in it**: a state
    of the residual stream has to go through the norm first, or be divided by the norm's scale at its position
    and multiplied by the norm's weight. Nor are a scale or a soft-cap of the logits. The rows are a copy, in the
    head's dtype and on its device, without gradient.

    Raises:
        TypeError: the head is no `nn.Linear` of ordinary numbers, or `tokens` is a single one.
        ValueError: a text is not one token, an id is outside the vocabulary, or no token is given.
        SiteUnavailable: the way to the logits could not be verified.

    >>> directions(model, [" Mary", " John"]).shape  # doctest: +SKIP
    torch.Size([2, 576])
    """
    ids, weight = model.text.tokens(tokens), _unembedding(model)
    if not ids:
        raise ValueError("no token is given: name at least one, as [' Mary'].")
    wrong = next((i for i in ids if not 0 <= i < len(weight)), None)
    if wrong is not None:
        raise ValueError(f"{wrong} is no token: the head has rows 0 to {len(weight) - 1}.")
    return weight[ids]


def direction_between(model: Model, token: str | int, other: str | int) -> Tensor:
    """The direction (d_model,) along which the first token wins over the second: the difference of their rows.

    Its product with `final_norm` is the difference of their logits, as far as `directions` says: **the final norm is
    not in it**, nor are bias, scale and soft-cap. Raises as `directions` does.

    >>> direction_between(model, " Mary", " John").shape  # doctest: +SKIP
    torch.Size([576])
    """
    first, second = directions(model, [token, other])
    return first - second


def _unembedding(model: Model) -> Tensor:
    head = model.anatomy.tail.head
    if not isinstance(head, nn.Linear) or not is_plain(head.weight):
        kind = type(head).__name__
        kind += f" of {_kind(head.weight)}" if isinstance(head, nn.Linear) else ""
        raise TypeError(
            f"the head of {model.name} is a {kind}, whose rows cannot be read as directions: that takes an nn.Linear "
            "of floating-point numbers. Load the model without quantization, adapters or offloading, or take gradients "
            "of logits."
        )
    return head.weight.detach()


def _kind(weight: Tensor) -> str:
    if weight.device.type == "meta":
        return "offloaded numbers"
    return str(weight.dtype).removeprefix("torch.") if isinstance(weight, nn.Parameter) else type(weight).__name__
